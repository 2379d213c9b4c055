"""What runtimes computed for each state, beside its simulation in torch: accuracy, and time, twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from compressbench.report.numbers import MISSING
from compressbench.report.panels import Panel
from compressbench.report.speed import BRACKETS
from compressbench.report.states import GAPS, Column, Line, Pick, add, columns_of, every, lines, of, table_of
from compressbench.report.tables import Cell, Table
from compressbench.report.wording import examples, moment_name

PROBE = "deployed"
SIMULATED = Column(PROBE, "simulated_top1", "Top-1", "%", "Simulated", "Top-1 simulated")
COMPARED = (
    Column(PROBE, "deployed_top1", "Top-1", "%", terminal="deployed", notes=GAPS),
    Column(PROBE, "deployed_gap", "apart", "points", marked=True),
    Column(PROBE, "deployed_agreement", "same answers", "%"),
)
LATENCIES = (
    Column(PROBE, "simulated_latency", "simulated"),
    Column(PROBE, "deployed_latency", "deployed"),
    Column(PROBE, "deployed_latency_min", "its fastest"),
    Column(PROBE, "reference_fp32_latency", "dense fp32"),
    Column(PROBE, "reference_bf16_latency", "dense bf16"),
)
SPEEDUPS = (
    Column(PROBE, "deployed_speedup", "over fp32", terminal="Speed x"),
    Column(PROBE, "deployed_speedup_over_bf16", "over bf16"),
    Column(PROBE, "deployed_over_simulated", "over simulated"),
)
FACTS = (
    Column(PROBE, "layers_in_float", terminal="layers in float"),
    *of(PROBE, "compile_seconds", "artefact_bytes"),
)


def on(wanted: Sequence[Column], runtime: str, environment: str) -> list[Column]:
    """Columns as a runtime's, under its name."""
    return [replace(c, group=runtime, environment=environment, over=runtime) for c in wanted]


def timed(runtime: str, batch: int, environment: str) -> list[Column]:
    """Columns of a runtime's times at a batch size."""
    return [
        replace(
            c,
            metric=f"{c.metric}_b{batch}",
            group=runtime,
            environment=environment,
            over=over,
            terminal=f"{c.terminal}, batch {batch}" if c.terminal else "",
        )
        for over, wanted in (("Latency", LATENCIES), ("Speed", SPEEDUPS))
        for c in wanted
    ]


def for_terminal(panel: Panel, found: Sequence[Line], runtime: str) -> list[tuple[str, list[Cell]]]:
    """(heading, cells) of what a terminal shows of a runtime, columns that no line fills left out."""
    environment = panel.environments[0]
    columns = [SIMULATED, *on(COMPARED, runtime, environment)]
    columns += [c for batch in _batches(panel, runtime) for c in timed(runtime, batch, environment)]
    columns += on(FACTS, runtime, environment)
    made = [(c.terminal, c.short(found)) for c in columns if c.terminal]
    return [(name, cells) for name, cells in made if any(c.text != MISSING for c in cells)]


def deployed_tables(panel: Panel, moment: str, environment: str, pick: Pick = every) -> list[Table | None]:
    """One table of accuracy over all runtimes, then one of time a runtime and batch size."""
    found = lines(panel, moment, pick)
    runtimes = list(dict.fromkeys(r.group for r in panel.rows if r.probe == PROBE and r.group))
    where = f", {environment}" if environment else ""
    tables = [_accuracy(panel, moment, found, runtimes, environment)]
    for runtime in runtimes:
        for batch in _batches(panel, runtime):
            title = f"Time on {runtime}, batch {batch}, {moment_name(moment)}{where}"
            tables.append(_times(panel, title, found, runtime, batch, environment))
    return tables


def _accuracy(
    panel: Panel, moment: str, found: Sequence[Line], runtimes: Sequence[str], environment: str
) -> Table | None:
    columns = columns_of(found)
    simulated = SIMULATED.readings(found)
    add(columns, found, [SIMULATED])
    for runtime in runtimes:
        add(columns, found, on((*COMPARED, *FACTS), runtime, environment))
    notes = [f"{examples(simulated)} test examples."] if examples(simulated) else []
    notes.append("apart: deployed less simulated; marked where it is more than 0.2 points.")
    title = f"Simulated in torch, and deployed, {moment_name(moment)}"
    return table_of(panel, title, found, columns, notes, spanning=True)


def _times(
    panel: Panel, title: str, found: Sequence[Line], runtime: str, batch: int, environment: str
) -> Table | None:
    columns = columns_of(found)
    wanted = timed(runtime, batch, environment)
    add(columns, found, wanted)
    repeats = [r for c in wanted if not c.is_ratio for r in c.readings(found)]
    notes = []
    if count := examples(repeats):
        notes.append(
            f"Latencies: wall-clock of {count} forwards each, all of one row in turns in one run; medians, and the "
            f"fastest of the state’s. {BRACKETS}"
        )
    notes.append("A speed-up is within one runtime. Simulated: torch rounds in float, so it pretends.")
    return table_of(panel, title, found, columns, notes, spanning=True)


def _batches(panel: Panel, runtime: str) -> list[int]:
    """Batch sizes that a runtime was timed at."""
    found = {
        int(hit[1])
        for r in panel.rows
        if r.probe == PROBE and r.group == runtime and (hit := re.fullmatch(r".+_b(\d+)", r.metric))
    }
    return sorted(found)
