"""Tables over states: one row a state, its dense model and the floor beside it; pure functions of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from compressbench.report.exits import SHOWN, batches, moment_of
from compressbench.report.naming import told_apart
from compressbench.report.numbers import MISSING, counted, percentage
from compressbench.report.numbers import bits as bits_shown
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
from compressbench.report.speed import BRACKETS, speed_cell, whose_end
from compressbench.report.styles import styles
from compressbench.report.tables import Cell, Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import LOYALTY, difference_unit, examples, moment_name, title_of

LEVELS_SHOWN = 6
GROUPS_SHOWN = 24
QUALITY = (
    ("accuracy", "top5"),
    ("accuracy", "nll"),
    ("accuracy", "ece"),
    ("forgetting", "forgotten"),
    ("forgetting", "learned"),
)
LOYAL = (
    ("label_loyalty", "L-L", "%"),
    ("probability_loyalty", "P-L", "nat. log"),
    ("probability_loyalty_base2", "P-L", "base 2"),
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
LEARNING = tuple(
    ("learning", metric)
    for metric in (
        "early_stop_iteration",
        "early_stop_validation_top1",
        "validation_top1_by_reference_stop",
        "final_validation_top1",
        "iterations",
    )
)
CONNECTED = (("connectivity", "barrier"),)
RELATED = tuple(
    ("relations", metric)
    for metric in ("entropy", "entropy_share", "relation_agreement", "relation_confusion")
)
RESCALED = tuple(
    ("rescaling", f"rescaling_{metric}") for metric in ("mean", "median", "hard", "easy", "rank_correlation")
)
STRUCTURE = tuple(
    ("structure", metric)
    for metric in ("parameters", "prunable", "nonzero", "density", "density_all", "empty_layers")
)
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
SAID = ("majority_top1",)  # shown in no table: findings mention it where the dense net is no better
WHOLE = ("deployed", "targets")  # probes that have a table for all they say
Pick = Callable[[Series, str], Sequence[Point]]


@dataclass(frozen=True)
class Line:
    """One row to be: a point with the series it belongs to."""

    series: Series
    point: Point
    first: bool

    @property
    def kind(self) -> str:
        return self.series.name


def every(series: Series, moment: str) -> Sequence[Point]:
    """All points of a series."""
    return series.at(moment)


def some(series: Series, moment: str) -> Sequence[Point]:
    """At most six points of a series, evenly over its order, first and last among them."""
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
        found += [Line(series, point, place == 0) for place, point in enumerate(points)]
    return found


def thinned(panel: Panel, moment: str) -> bool:
    """True if the short tables leave levels out."""
    return any(len(s.at(moment)) > LEVELS_SHOWN for s in panel.everything())


def lecture_table(panel: Panel, moment: str, pick: Pick = every) -> Table | None:
    """Method, speed, accuracy, L-L, P-L, after-attack accuracies, queries; dense of the same seeds beside each state."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    for environment in panel.environments:
        where = f" {environment}" if environment else ""
        for batch in batches(panel):
            speed = [speed_cell(x.point, f"speedup_b{batch}", environment) for x in found]
            columns.add(f"Speed{where}", f"×, batch {batch}", speed)
    notes = [BRACKETS] if any(name.startswith("Speed") for name, _ in columns.heads) else []
    if panel.main:
        name, main = title_of(panel.main[1]), [panel.main_reading(x.point) for x in found]
        unit = _unit(main)
        columns.add(name, unit, [cell(r) for r in main])
        beside, change = [], []
        for line, reading in zip(found, main, strict=True):
            dense = None if line.kind == DENSE else panel.main_reading(panel.dense_of(line.series, moment))
            beside.append(spread_cell(restricted(dense, reading.by_seed if reading else ()), unit))
            change.append(spread_cell(paired(reading, dense), difference_unit(unit), signed=True))
        columns.add("Dense", "same seeds", beside)
        columns.add("Change", difference_unit(unit), change)
        if count := examples(main):
            notes.append(f"{name}: {count} test examples.")
    shifted = _readings(found, "shifted", "shifted_top1")
    columns.add("Shifted", "test set, %", [cell(r, notes=False) for r in shifted])
    notes += list(dict.fromkeys(f"Shifted: {note}." for r in shifted if r for note in r.notes))
    for metric, name, unit in LOYAL:
        columns.add(name, unit, [cell(r, notes=False) for r in _readings(found, "loyalty", metric)])
    if any(name == "P-L" for name, _ in columns.heads):
        notes.append(LOYALTY)
        if panel.floors:
            notes.append("floor: a dense model of another seed, the loyalty that retraining alone leaves.")
    attack = _readings(found, "robustness", "pgd_accuracy")
    columns.add("After attack", "PGD, %", [cell(r) for r in attack])
    if any(attack):
        images = examples(attack)
        notes.append(
            f"After attack: accuracy under PGD{f' on {images} test images' if images else ''}; "
            "the dense row is what it is to be read against."
        )
    square, queries = (_readings(found, "square", m) for m in ("square_accuracy", "square_queries"))
    columns.add("After attack", "Square, %", [cell(r) for r in square])
    columns.add("#Q", "queries", [cell(r, notes=False) for r in queries])
    if any(square):
        told = dict.fromkeys(note for r in queries if r for note in r.notes)
        notes.append(
            f"After the Square attack, which asks for no gradient, on {examples(square)} test images; "
            f"#Q: mean number of queries, {'; '.join(told)}."
        )
    return table_of(
        panel,
        f"Speed, accuracy, loyalty and after-attack accuracy, {moment_name(moment)}",
        found,
        columns,
        notes,
    )


def metric_table(
    panel: Panel, moment: str, title: str, wanted: Sequence[tuple[str, str]], pick: Pick = every
) -> Table | None:
    """States against the given (probe, metric) pairs of the whole, for all that were measured."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    used: list[Reading | None] = []
    for probe, metric in wanted:
        readings = _readings(found, probe, metric)
        used += readings
        columns.add(title_of(metric), unit_shown(readings), [cell(r) for r in readings])
    count = examples(used)
    notes = [f"{count} examples."] if count else []
    return table_of(panel, f"{title}, {moment_name(moment)}", found, columns, notes)


def size_table(panel: Panel, moment: str, pick: Pick = every) -> Table | None:
    """Theoretical cost and bytes on disk, in columns that are never mixed."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    for group, metrics in (("Theoretical", THEORETICAL), ("On disk", ON_DISK)):
        for metric in metrics:
            readings = _readings(found, "cost", metric)
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
            readings = _readings(found, "cost", f"{metric}_b{batch}", environment)
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
            readings = _readings(found, "compute", metric, environment)
            where = f", {environment}" if environment else ""
            unit = unit_shown(readings)
            columns.add(title_of(metric) + where, unit, [cell(r) for r in readings])
    return table_of(panel, f"Training compute of the lineage, {moment_name(moment)}", found, columns, ())


def leftover_tables(panel: Panel, moment: str) -> list[Table]:
    """Whatever no other table shows: metrics of probes that this report does not know."""
    known = _known(panel, moment)
    figures = {(row.probe, row.metric) for row in panel.rows}
    wanted: dict[str, dict[str, None]] = {}
    by_group: dict[tuple[str, str], dict[str, None]] = {}
    for row in panel.rows:
        if (
            row.metric in SAID
            or row.probe in WHOLE
            or row.moment != moment
            or (row.probe, whose_end(row.metric)) in figures
        ):
            continue  # the end of an interval, shown beside the figure itself
        if (row.probe, row.metric, bool(row.group)) in known:
            continue
        if row.group:
            by_group.setdefault((row.probe, row.metric), {}).setdefault(row.group)
        else:
            wanted.setdefault(row.probe, {}).setdefault(row.metric)
    found = [
        _generic(panel, moment, probe, tuple(metrics), environment)
        for probe, metrics in wanted.items()
        for environment in panel.environments
    ]
    found += [
        _generic_groups(panel, moment, probe, metric, list(names))
        for (probe, metric), names in by_group.items()
    ]
    tables: list[Table] = []
    for table in found:
        if table is not None and table not in tables:
            tables.append(table)
    return tables


def _generic(panel: Panel, moment: str, probe: str, metrics: Sequence[str], environment: str) -> Table | None:
    found = lines(panel, moment)
    columns = columns_of(found)
    for metric in metrics:
        readings = _readings(found, probe, metric, environment)
        basis = next((r.basis for r in readings if r and r.basis != "measured"), "")
        words = ", ".join(x for x in (unit_shown(readings), basis) if x)
        columns.add(title_of(metric), words, [cell(r) for r in readings])
    return table_of(panel, f"{probe}, {moment_name(moment)}", found, columns, ())


def _generic_groups(panel: Panel, moment: str, probe: str, metric: str, names: list[str]) -> Table | None:
    found = lines(panel, moment, some)
    columns = columns_of(found)
    unit = ""
    for name in names[:GROUPS_SHOWN]:
        for environment in panel.environments:
            readings = [x.point.reading(probe, metric, name, environment) for x in found]
            unit = unit or unit_shown(readings)
            columns.add(name, environment, [cell(r) for r in readings])
    left = len(names) - GROUPS_SHOWN
    notes = [f"{counted(left, 'more group')} in the records."] if left > 0 else []
    title = f"{probe}: {metric.replace('_', ' ')}{f' ({unit})' if unit else ''}, {moment_name(moment)}"
    return table_of(panel, title, found, columns, notes)


def _known(panel: Panel, moment: str) -> set[tuple[str, str, bool]]:
    """(probe, metric, has a group) of all that the named tables show at a moment."""
    named = (*QUALITY, *ROBUSTNESS, *STRUCTURE, *LEARNING, *CONNECTED, *RELATED, *RESCALED)
    known = {(p, m, False) for p, m in named}
    known |= {("loyalty", m, False) for m, _, _ in LOYAL}
    known |= {("cost", m, False) for m in (*THEORETICAL, *ON_DISK)}
    known |= {("cost", f"{m}_b{b}", False) for m in MEASURED for b in batches(panel)}
    known |= {("compute", m, False) for m in COMPUTE}
    known |= {("shifted", "shifted_top1", False)}
    known |= {("square", m, False) for m in ("square_accuracy", "square_queries")}
    known |= {("forgetting", m, True) for m in ("recall", "recall_change", "forgotten", "learned")}
    known |= {
        ("connectivity", "error_at", True),
        ("relations", "relation", True),
        ("structure", "layer_density", True),
        ("structure", "weight_bits", False),
        ("structure", "input_bits", False),
        ("accuracy", "n", False),
    }
    if moment == moment_of(panel):
        known |= {("exits", metric, False) for metric in SHOWN}
        known |= {
            ("batching", r.metric, True) for r in panel.rows if r.probe == "batching" and r.value is not None
        }
    if panel.main:
        known.add((*panel.main, False))
    return known


def columns_of(found: Sequence[Line]) -> Columns:
    """The columns that name a row: density, bits where anything was rounded, the state where these leave it open."""
    columns = Columns(reference=tuple(line.kind in (DENSE, FLOOR) for line in found))
    columns.add("Density", "%", [Cell(percentage(line.point.density)) for line in found], always=True)
    bits = rounded_to(found)
    if bits:
        columns.add("Bits", "weights/inputs", [Cell(text) for text in bits], always=True)
    if told := settings_of(found, bits):
        columns.add("State", "", [Cell(text) for text in told], always=True)
    return columns


def settings_of(found: Sequence[Line], bits: Sequence[str]) -> list[str]:
    """What tells lines of one series, density and number of bits apart; empty where there are none such."""
    names = [(x.series.label, percentage(x.point.density), *bits[k : k + 1]) for k, x in enumerate(found)]
    if len(set(names)) == len(names):
        return []
    told = [MISSING] * len(found)
    for label in {x.series.label for x in found}:
        alike = [k for k, x in enumerate(found) if x.series.label == label and names.count(names[k]) > 1]
        for k, text in zip(alike, told_apart([found[k].point.states[0] for k in alike]), strict=True):
            told[k] = text
    return told


def rounded_to(found: Sequence[Line]) -> list[str]:
    """Mean bits of weights and inputs of each line, like ``8/8``; empty where nothing was rounded."""
    told = []
    for line in found:
        readings = [line.point.reading("structure", metric) for metric in ("weight_bits", "input_bits")]
        means = [r.spread.mean for r in readings if r and r.spread]
        told.append("/".join(map(bits_shown, means)) or MISSING)
    return told if {"32/32", MISSING} < {*told, "32/32", MISSING} else []


def _readings(found: Iterable[Line], probe: str, metric: str, environment: str = "") -> list[Reading | None]:
    return [line.point.reading(probe, metric, "", environment) for line in found]


def _unit(readings: Iterable[Reading | None]) -> str:
    return next((r.unit for r in readings if r), "")


def unit_shown(readings: Iterable[Reading | None]) -> str:
    """The unit of a column as its head shows it."""
    return _shown_unit(_unit(readings))


def _shown_unit(unit: str) -> str:
    return {"1": "", "x": "×", "MACs": "", "load": "", "examples": "", "iterations": ""}.get(unit, unit)


def table_of(
    panel: Panel,
    title: str,
    found: Sequence[Line],
    columns: Columns,
    notes: Sequence[str],
    spanning: bool = False,
) -> Table | None:
    """Rows that have anything beside what names them; ``None`` if no row has."""
    if len(columns.heads) <= columns.naming:
        return None
    looks = styles(panel)
    rows = []
    seen: set[str] = set()
    for place, line in enumerate(found):
        if not columns.filled(place):
            continue
        label = line.series.label
        rows.append(
            Row(
                label=label,
                cells=columns.row(place),
                colour=looks[label].colour,
                first=label not in seen,
                reference=line.kind in (DENSE, FLOOR),
            )
        )
        seen.add(label)
    if not rows:
        return None
    return Table(
        title=title,
        stub="Method",
        heads=tuple(columns.heads),
        rows=tuple(rows),
        groups=columns.spanning if spanning else (),
        notes=tuple(notes),
        remarks=tuple(columns.remarks),
    )
