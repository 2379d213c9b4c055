"""Tables over states: one row a state, its dense model and the floor beside it; pure functions of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compressbench.report.numbers import MISSING, between, counted, percentage
from compressbench.report.panels import (
    DENSE,
    FINAL,
    FLOOR,
    Panel,
    Point,
    Reading,
    Series,
    paired,
    relative_compute,
    restricted,
)
from compressbench.report.styles import styles
from compressbench.report.tables import EMPTY, Cell, Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import LOYALTY, difference_unit, examples, moment_name, title_of

LEVELS_SHOWN = 6
GROUPS_SHOWN = 24
THEORETICAL = ("parameters", "nonzero_parameters", "macs", "macs_nonzero")
ON_DISK = ("dense_bytes", "sparse_bytes")
MEASURED = ("latency_min", "latency_median", "latency_p90", "speedup", "throughput")
COMPUTE = ("train_macs", "train_examples", "train_seconds", "train_cost_ratio")
LOAD = "machine_load"
LECTURE = {
    ("loyalty", "label_loyalty"),
    ("loyalty", "probability_loyalty"),
    ("loyalty", "probability_loyalty_base2"),
}
Pick = Callable[[Series, str], Sequence[Point]]


@dataclass(frozen=True)
class Line:
    """One row to be: a point with the series it belongs to."""

    series: Series
    point: Point
    first: bool
    kind: str


def every(series: Series, moment: str) -> Sequence[Point]:
    """All points of a series."""
    return series.at(moment)


def some(series: Series, moment: str) -> Sequence[Point]:
    """At most six points of a series, evenly over its order, the last always among them."""
    points = series.at(moment)
    if len(points) <= LEVELS_SHOWN:
        return points
    last = len(points) - 1
    places = sorted({round(k * last / (LEVELS_SHOWN - 1)) for k in range(LEVELS_SHOWN)})
    return [points[p] for p in places]


def lines(panel: Panel, moment: str, pick: Pick = every) -> list[Line]:
    """Rows of a table over states: dense, then each series, then the floor."""
    found = []
    for series in panel.everything():
        points = pick(series, moment)
        found += [Line(series, point, place == 0, series.name) for place, point in enumerate(points)]
    return found


def thinned(panel: Panel, moment: str) -> bool:
    """True if the short tables leave levels out."""
    return any(len(s.at(moment)) > LEVELS_SHOWN for s in panel.everything())


def _rows(panel: Panel, found: Sequence[Line], columns: Columns) -> tuple[Row, ...]:
    looks = styles(panel)
    return tuple(
        Row(
            label=line.series.label,
            cells=columns.row(place),
            colour=looks[line.series.label].colour,
            first=line.first,
            reference=line.kind in (DENSE, FLOOR),
        )
        for place, line in enumerate(found)
    )


def _density_column(columns: Columns, found: Sequence[Line]) -> None:
    columns.add("Density", "%", [Cell(percentage(line.point.density)) for line in found], always=True)


def lecture_table(panel: Panel, moment: str, pick: Pick = every) -> Table | None:
    """Method, speed, accuracy, L-L, P-L, after-attack accuracy; dense of the same seeds beside each state."""
    found = lines(panel, moment, pick)
    if not found:
        return None
    columns = Columns()
    _density_column(columns, found)
    for environment in panel.environments:
        where = f" {environment}" if environment else ""
        for batch in batches(panel):
            speed = [_reading(x, "cost", f"speedup_b{batch}", environment) for x in found]
            columns.add(f"Speed{where}", f"×, batch {batch}", [cell(r) for r in speed])
    notes = []
    if panel.main:
        name, main = title_of(panel.main[1]), [panel.main_reading(x.point) for x in found]
        dense = [panel.main_reading(panel.dense_of(x.series, moment)) for x in found]
        unit = next((r.unit for r in main if r), "")
        columns.add(name, unit, [cell(r) for r in main])
        beside = [
            EMPTY if x.kind == DENSE else spread_cell(restricted(d, r.by_seed if r else ()), unit)
            for x, r, d in zip(found, main, dense, strict=True)
        ]
        columns.add("Dense", "same seeds", beside)
        change = [
            EMPTY if x.kind == DENSE else spread_cell(paired(r, d), difference_unit(unit), signed=True)
            for x, r, d in zip(found, main, dense, strict=True)
        ]
        columns.add("Change", difference_unit(unit), change)
        notes.append(f"{name}: {examples(main)} test examples." if examples(main) else "")
    loyal = [[_reading(x, *key) for x in found] for key in sorted(LECTURE)]
    for readings, (name, unit) in zip(
        loyal, (("L-L", "%"), ("P-L", "nat. log"), ("P-L", "base 2")), strict=True
    ):
        columns.add(name, unit, [cell(r, notes=False) for r in readings])
    if any(r for readings in loyal for r in readings):
        notes.append(LOYALTY)
        if panel.floors:
            notes.append("floor: a dense model of another seed, the loyalty that retraining alone leaves.")
    attack = [_reading(x, "robustness", "pgd_accuracy") for x in found]
    columns.add("After attack", "PGD, %", [cell(r) for r in attack])
    if any(attack):
        images = examples(attack)
        notes.append(
            f"After attack: accuracy under PGD{f' on {images} test images' if images else ''}; "
            "the dense row is its reference."
        )
    return Table(
        title=f"Speed, accuracy, loyalty and after-attack accuracy, {moment_name(moment)}",
        stub="Method",
        heads=tuple(columns.heads),
        remarks=tuple(columns.remarks),
        rows=_rows(panel, found, columns),
        notes=tuple(n for n in notes if n),
        name="lecture",
    )


def _reading(line: Line, probe: str, metric: str, environment: str = "") -> Reading | None:
    return line.point.reading(probe, metric, "", environment)


def metric_table(
    panel: Panel, moment: str, title: str, wanted: Sequence[tuple[str, str]], name: str, pick: Pick = every
) -> Table | None:
    """States against the given (probe, metric) pairs of the whole, for all that were measured."""
    found = lines(panel, moment, pick)
    columns = Columns()
    _density_column(columns, found)
    for probe, metric in wanted:
        readings = [_reading(x, probe, metric) for x in found]
        unit = next((r.unit for r in readings if r), "")
        columns.add(title_of(metric), "" if unit == "1" else unit, [cell(r) for r in readings])
    if len(columns.heads) < 2:
        return None
    kept = [k for k in range(len(found)) if columns.filled(k)]
    rows = _rows(panel, found, columns)
    basis = between(n for k in kept for p, m in wanted if (r := _reading(found[k], p, m)) for n in r.examples)
    return Table(
        title=f"{title}, {moment_name(moment)}",
        stub="Method",
        heads=tuple(columns.heads),
        remarks=tuple(columns.remarks),
        rows=tuple(rows[k] for k in kept),
        notes=(f"{basis} examples.",) if basis else (),
        name=name,
    )


def cost_table(panel: Panel, moment: str, environment: str, pick: Pick = every) -> Table | None:
    """Theoretical, on disk and measured cost in columns that are never mixed."""
    found = lines(panel, moment, pick)
    columns = Columns()
    _density_column(columns, found)
    repeats = []
    for group, metrics in COST.items():
        for metric in metrics:
            readings = [_reading(x, "cost", metric, environment) for x in found]
            unit = next((r.unit for r in readings if r), "")
            if group.startswith("Measured"):
                repeats += readings
            columns.add(_cost_name(metric), _cost_unit(unit), [cell(r) for r in readings], group)
    if len(columns.heads) < 2:
        return None
    kept = [k for k in range(len(found)) if columns.filled(k)]
    rows = _rows(panel, found, columns)
    notes = ["Figures without ± are the same for every seed."]
    counts = examples(repeats)
    if counts:
        notes.append(f"Timings: {counts} repetitions each; min, median and 90th percentile.")
    if "load" in COST["Machine"] and any(h[0] == "Load" for h in columns.heads):
        notes.append(
            "Load: the machine's own while it measured; near or above its number of cores, timings are not to be trusted."
        )
    return Table(
        title=f"Cost, {moment_name(moment)}{f', {environment}' if environment else ''}",
        stub="Method",
        heads=tuple(columns.heads),
        remarks=tuple(columns.remarks),
        rows=tuple(rows[k] for k in kept),
        groups=columns.spanning,
        notes=tuple(notes),
        name="cost",
    )


def _cost_name(metric: str) -> str:
    for short, name in (
        ("latency_min", "min"),
        ("latency_median", "median"),
        ("latency_p90", "p90"),
        ("speedup", "speed"),
        ("throughput", "throughput"),
    ):
        if metric.startswith(short):
            return name
    return {"parameters": "Parameters", "load": "Load"}.get(metric, title_of(metric))


def _cost_unit(unit: str) -> str:
    return {"1": "", "x": "×", "load": "", "MACs": ""}.get(unit, unit)


def compute_table(panel: Panel, moment: str, pick: Pick = every) -> Table | None:
    """Training compute of the whole lineage, absolute and in dense trainings."""
    found = lines(panel, moment, pick)
    columns = Columns()
    _density_column(columns, found)
    ratio = [relative_compute(x.point, panel.dense_of(x.series, FINAL)) for x in found]
    columns.add("Lineage", "× dense", [spread_cell(r, "x") for r in ratio])
    for metric in ("train_macs", "train_examples", "train_seconds", "train_cost_ratio"):
        for environment in panel.environments if metric == "train_seconds" else ("",):
            readings = [_reading(x, "compute", metric, environment) for x in found]
            unit = next((r.unit for r in readings if r), "")
            where = f", {environment}" if environment else ""
            columns.add(
                title_of(metric) + where, "" if unit in ("1", "MACs") else unit, [cell(r) for r in readings]
            )
    if len(columns.heads) < 2:
        return None
    return Table(
        title=f"Training compute of the lineage, {moment_name(moment)}",
        stub="Method",
        heads=tuple(columns.heads),
        remarks=tuple(columns.remarks),
        rows=_rows(panel, found, columns),
        name="compute",
    )


def leftover_tables(panel: Panel, moment: str) -> list[Table]:
    """Whatever no other table shows: metrics of probes that this report does not know."""
    known = _shown()
    wanted: dict[str, dict[str, None]] = {}
    grouped_: dict[tuple[str, str], dict[str, None]] = {}
    for row in panel.rows:
        if row.moment != moment or (row.probe, row.metric, bool(row.group)) in known:
            continue
        if panel.main == (row.probe, row.metric) and not row.group:
            continue
        if row.group:
            grouped_.setdefault((row.probe, row.metric), {}).setdefault(row.group)
        else:
            wanted.setdefault(row.probe, {}).setdefault(row.metric)
    found = []
    for probe, metrics in wanted.items():
        for environment in panel.environments:
            table = _generic(panel, moment, probe, tuple(metrics), environment)
            if table is not None and table not in found:
                found.append(table)
    for (probe, metric), names in grouped_.items():
        table = _generic_groups(panel, moment, probe, metric, list(names))
        if table is not None:
            found.append(table)
    return found


def _generic(panel: Panel, moment: str, probe: str, metrics: Sequence[str], environment: str) -> Table | None:
    found = lines(panel, moment)
    columns = Columns()
    _density_column(columns, found)
    for metric in metrics:
        readings = [_reading(x, probe, metric, environment) for x in found]
        unit = next((r.unit for r in readings if r), "")
        columns.add(title_of(metric), unit, [cell(r) for r in readings])
    if len(columns.heads) < 2:
        return None
    kept = [k for k in range(len(found)) if columns.filled(k)]
    rows = _rows(panel, found, columns)
    return Table(
        title=f"{probe}, {moment_name(moment)}",
        stub="Method",
        heads=tuple(columns.heads),
        remarks=tuple(columns.remarks),
        rows=tuple(rows[k] for k in kept),
        name="other",
    )


def _generic_groups(panel: Panel, moment: str, probe: str, metric: str, names: list[str]) -> Table | None:
    found = [
        x
        for x in lines(panel, moment, some)
        if any(x.point.reading(probe, metric, n, e) for n in names for e in panel.environments)
    ]
    if not found:
        return None
    shown = names[:GROUPS_SHOWN]
    columns = Columns()
    _density_column(columns, found)
    unit = ""
    for name in shown:
        for environment in panel.environments:
            readings = [x.point.reading(probe, metric, name, environment) for x in found]
            unit = next((r.unit for r in readings if r), unit)
            columns.add(name, environment, [cell(r) for r in readings])
    left = len(names) - len(shown)
    return Table(
        title=f"{probe}: {metric.replace('_', ' ')}{f' ({unit})' if unit not in ('', '1') else ''}, {moment_name(moment)}",
        stub="Method",
        heads=tuple(columns.heads),
        remarks=tuple(columns.remarks),
        rows=_rows(panel, found, columns),
        notes=(f"{counted(left, 'more group')} in the records.",) if left else (),
        name="other",
    )


QUALITY = (
    ("accuracy", "top5"),
    ("accuracy", "nll"),
    ("accuracy", "ece"),
    ("forgetting", "forgotten"),
    ("forgetting", "learned"),
)
ROBUSTNESS = tuple(
    ("robustness", metric)
    for metric in (
        "clean_accuracy",
        "fgsm_accuracy",
        "pgd_accuracy",
        "pgd_transfer_accuracy",
        "fgsm_label_loyalty",
        "pgd_label_loyalty",
        "fgsm_probability_loyalty",
        "pgd_probability_loyalty",
    )
)
STRUCTURE = tuple(
    ("structure", metric)
    for metric in ("parameters", "prunable", "nonzero", "density", "density_all", "empty_layers")
)


def _shown() -> set[tuple[str, str, bool]]:
    """(probe, metric, has a group) of all that the named tables show."""
    known = {(p, m, False) for p, m in (*QUALITY, *ROBUSTNESS, *STRUCTURE, *LECTURE)}
    known |= {("cost", m, False) for metrics in COST.values() for m in metrics}
    known |= {
        ("compute", m, False) for m in ("train_macs", "train_examples", "train_seconds", "train_cost_ratio")
    }
    known |= {("forgetting", m, True) for m in ("recall", "recall_change", "forgotten", "learned")}
    known |= {("structure", "layer_density", True)}
    return known
