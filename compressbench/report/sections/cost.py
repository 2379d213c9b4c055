"""Cost: in theory, on disk, by the clock, and of training."""

from __future__ import annotations

from compressbench.report.deployed import deployed_tables
from compressbench.report.panels import FINAL, Panel, Reading, relative_compute
from compressbench.report.section import Section, all_levels, kept
from compressbench.report.speed import BRACKETS, batches, speed_cell
from compressbench.report.states import (
    Pick,
    columns_of,
    every,
    lines,
    readings_of,
    some,
    table_of,
    thinned,
    unit_shown,
)
from compressbench.report.tables import Table, cell, spread_cell
from compressbench.report.wording import examples, moment_name, title_of

THEORETICAL = ("parameters", "nonzero_parameters", "macs", "macs_nonzero")
ON_DISK = ("dense_bytes", "sparse_bytes", "quantized_bytes", "huffman_bytes", "compression_ratio")
MEASURED = {
    "latency_min": "min",
    "latency_median": "median",
    "latency_p90": "p90",
    "speedup": "speed",
    "throughput": "throughput",
}
COMPUTE = ("train_macs", "train_examples", "train_seconds", "train_cost_ratio")


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
    for group, metrics in (("Theoretical", THEORETICAL), ("On disk", ON_DISK)):
        for metric in metrics:
            readings = readings_of(found, "cost", metric)
            columns.add(title_of(metric), unit_shown(readings), [cell(r) for r in readings], group)
    notes = ["Figures without ± are the same for every seed."] if len(panel.seeds) > 1 else []
    title = f"Cost in theory and on disk, {moment_name(moment)}"
    return table_of(panel, title, found, columns, notes, spanning=True)


def timing_table(panel: Panel, moment: str, environment: str, pick: Pick = every) -> Table | None:
    """Measured cost: latency, speed-up and throughput by batch size."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    repeats: list[Reading | None] = []
    for batch in batches(panel):
        for metric, name in MEASURED.items():
            readings = readings_of(found, "cost", f"{metric}_b{batch}", environment)
            unit, group = unit_shown(readings), f"Measured, batch {batch}"
            if metric == "speedup":
                cells = [speed_cell(x.point, f"{metric}_b{batch}", environment) for x in found]
                columns.add(name, unit, cells, group)
                continue
            repeats += readings
            columns.add(name, unit, [cell(r) for r in readings], group)
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
    for metric in COMPUTE:
        for environment in panel.environments if metric == "train_seconds" else ("",):
            readings = readings_of(found, "compute", metric, environment)
            where = f", {environment}" if environment else ""
            unit = unit_shown(readings)
            columns.add(title_of(metric) + where, unit, [cell(r) for r in readings])
    return table_of(panel, f"Training compute of the lineage, {moment_name(moment)}", found, columns, ())
