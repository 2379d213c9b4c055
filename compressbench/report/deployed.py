"""What runtimes computed for each state, beside its simulation in torch: accuracy, and time, twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from compressbench.report.numbers import MISSING
from compressbench.report.panels import Panel, Reading
from compressbench.report.speed import BRACKETS, speed_cell
from compressbench.report.states import Line, Pick, columns_of, every, lines, table_of, unit_shown
from compressbench.report.tables import Cell, Table, cell
from compressbench.report.wording import examples, moment_name, title_of

PROBE = "deployed"
LATENCIES = (
    ("simulated_latency", "simulated"),
    ("deployed_latency", "deployed"),
    ("deployed_latency_min", "its fastest"),
    ("reference_fp32_latency", "dense fp32"),
    ("reference_bf16_latency", "dense bf16"),
)
SPEEDUPS = (
    ("deployed_speedup", "over fp32"),
    ("deployed_speedup_over_bf16", "over bf16"),
    ("deployed_over_simulated", "over simulated"),
)
FACTS = ("layers_in_float", "compile_seconds", "artefact_bytes")


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
    simulated = _readings(found, "simulated_top1", "", environment)
    columns.add("Top-1", "%", [cell(r) for r in simulated], "Simulated")
    for runtime in runtimes:
        top1 = _readings(found, "deployed_top1", runtime, environment)
        columns.add("Top-1", "%", [cell(r, notes=not (r and r.spread)) for r in top1], runtime)
        gaps = _readings(found, "deployed_gap", runtime, environment)
        columns.add("apart", "points", [_flagged(r) for r in gaps], runtime)
        same = _readings(found, "deployed_agreement", runtime, environment)
        columns.add("same answers", "%", [cell(r) for r in same], runtime)
        for metric in FACTS:
            readings = _readings(found, metric, runtime, environment)
            unit = unit_shown(readings)
            columns.add(title_of(metric), unit, [cell(r) for r in readings], runtime)
    notes = [f"{examples(simulated)} test examples."] if examples(simulated) else []
    notes.append("apart: deployed less simulated; marked where it is more than 0.2 points.")
    title = f"Simulated in torch, and deployed, {moment_name(moment)}"
    return table_of(panel, title, found, columns, notes, spanning=True)


def _times(
    panel: Panel, title: str, found: Sequence[Line], runtime: str, batch: int, environment: str
) -> Table | None:
    columns = columns_of(found)
    repeats: list[Reading | None] = []
    for metric, name in LATENCIES:
        readings = _readings(found, f"{metric}_b{batch}", runtime, environment)
        repeats += readings
        columns.add(name, unit_shown(readings), [cell(r) for r in readings], "Latency")
    for metric, name in SPEEDUPS:
        cells = [speed_cell(x.point, f"{metric}_b{batch}", environment, PROBE, runtime) for x in found]
        columns.add(name, "×", cells, "Speed")
    notes = []
    if count := examples(repeats):
        notes.append(
            f"Latencies: wall-clock of {count} forwards each, all of one row in turns in one run; medians, and the "
            f"fastest of the state’s. {BRACKETS}"
        )
    notes.append("A speed-up is within one runtime. Simulated: torch rounds in float, so it pretends.")
    return table_of(panel, title, found, columns, notes, spanning=True)


def _flagged(reading: Reading | None) -> Cell:
    found = cell(reading, signed=True)
    return replace(found, flag=found.text != MISSING and bool(found.notes))


def _readings(found: Sequence[Line], metric: str, runtime: str, environment: str) -> list[Reading | None]:
    return [line.point.reading(PROBE, metric, runtime, environment) for line in found]


def _batches(panel: Panel, runtime: str) -> list[int]:
    """Batch sizes that a runtime was timed at."""
    found = {
        int(hit[1])
        for r in panel.rows
        if r.probe == PROBE and r.group == runtime and (hit := re.fullmatch(r".+_b(\d+)", r.metric))
    }
    return sorted(found)
