"""Cost: in theory, on disk, by the clock, and of training."""

from __future__ import annotations

from dataclasses import replace

from compressbench.report.deployed import deployed_tables
from compressbench.report.panels import FINAL, Panel, relative_compute
from compressbench.report.section import Section, all_levels, kept
from compressbench.report.speed import BRACKETS, batches
from compressbench.report.states import (
    Column,
    Key,
    Pick,
    add,
    columns_of,
    every,
    lines,
    of,
    some,
    table_of,
    thinned,
)
from compressbench.report.tables import Table, spread_cell
from compressbench.report.wording import examples, moment_name, title_of

THEORETICAL = (
    Column("cost", "parameters"),
    Column("cost", "nonzero_parameters", terminal="nonzero parameters"),
    Column("cost", "macs"),
    Column("cost", "macs_nonzero", terminal="MACs if zeros were free"),
)
ON_DISK = (
    Column("cost", "dense_bytes"),
    Column("cost", "sparse_bytes", terminal="bytes, sparse-encoded"),
    Column("cost", "quantized_bytes", terminal="bytes, as codes"),
    Column("cost", "huffman_bytes", terminal="bytes, Huffman-coded"),
    Column("cost", "compression_ratio"),
)
MEASURED = (
    Column("cost", "latency_min", "min"),
    Column("cost", "latency_median", "median"),
    Column("cost", "latency_p90", "p90"),
    Column("cost", "speedup", "speed"),
    Column("cost", "throughput", "throughput"),
    Column("cost", "token_throughput", "tokens"),
)
"""At one batch size, by which their metrics' names end."""
COMPUTE = of("compute", "train_macs", "train_examples", "train_seconds", "train_cost_ratio")


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    timed = {c.key for b in batches(panel) for c in measured(b)}
    return timed | {c.key for c in (*THEORETICAL, *ON_DISK, *COMPUTE)}


def measured(batch: int, environment: str = "") -> tuple[Column, ...]:
    """Columns of what a clock said at a batch size."""
    over = f"Measured, batch {batch}"
    return tuple(
        replace(c, metric=f"{c.metric}_b{batch}", over=over, environment=environment) for c in MEASURED
    )


def section(panel: Panel, suffix: str) -> Section:
    moment = panel.moments[0]
    short = thinned(panel, moment)
    tables = _costs(panel, moment, some if short else every)
    more = [compute_table(panel, moment)]
    if short:
        more += [all_levels(t) for t in _costs(panel, moment, every)]
    lead = (
        "Three kinds of cost, never mixed: what the arithmetic needs in theory, what a file takes, "
        "what a clock said."
    )
    return Section("Cost", "cost", (), kept(tables), kept(more), lead if kept(tables) else "")


def _costs(panel: Panel, moment: str, pick: Pick) -> list[Table | None]:
    found = [size_table(panel, moment, pick)]
    for environment in panel.environments:
        found.append(timing_table(panel, moment, environment, pick))
        found += deployed_tables(panel, moment, environment, pick)
    return list(dict.fromkeys(found))


def size_table(panel: Panel, moment: str, pick: Pick = every) -> Table | None:
    """Theoretical cost and bytes on disk, in columns that are never mixed."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    for over, wanted in (("Theoretical", THEORETICAL), ("On disk", ON_DISK)):
        add(columns, found, [replace(c, over=over) for c in wanted])
    notes = ["Figures without ± are the same for every seed."] if len(panel.seeds) > 1 else []
    title = f"Cost in theory and on disk, {moment_name(moment)}"
    return table_of(panel, title, found, columns, notes, spanning=True)


def timing_table(panel: Panel, moment: str, environment: str, pick: Pick = every) -> Table | None:
    """Measured cost: latency, speed-up and throughput by batch size."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    wanted = [c for batch in batches(panel) for c in measured(batch, environment)]
    add(columns, found, wanted)
    repeats = [r for c in wanted if not c.is_ratio for r in c.readings(found)]
    notes = []
    if count := examples(repeats):
        notes.append(
            f"Latency: {count} forwards each, wall-clock; fastest, median and 90th percentile. {BRACKETS}"
        )
    title = f"Cost measured, {moment_name(moment)}{f', {environment}' if environment else ''}"
    return table_of(panel, title, found, columns, notes, spanning=True)


def compute_table(panel: Panel, moment: str, pick: Pick = every) -> Table | None:
    """Training compute of the whole lineage, absolute and in dense trainings."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    ratio = [relative_compute(x.point, panel.dense_of(x.series, FINAL)) for x in found]
    columns.add("Lineage", "× dense", [spread_cell(r, "x") for r in ratio])
    for column in COMPUTE:
        for environment in panel.environments if column.is_timing else ("",):
            title = title_of(column.metric) + (f", {environment}" if environment else "")
            add(columns, found, [replace(column, title=title, environment=environment)])
    return table_of(panel, f"Training compute of the lineage, {moment_name(moment)}", found, columns, ())
