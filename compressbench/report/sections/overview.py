"""How to choose: families of methods side by side, each at its strongest setting that validation allows, and in words.

A family is a series whose states are settings of one method, from weak to strong. What speaks for it and against it is
said of figures whose interval leaves no doubt; of the others it is said that it can't be told.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from compressbench.declared import batch_of
from compressbench.records import Record
from compressbench.report.answers import ATTACKS, LOYALTY, SHIFTS, floor_reading
from compressbench.report.estimates import (
    Estimate,
    accuracy_change,
    change,
    class_changes,
    over_seeds,
    values_of,
)
from compressbench.report.intervals import of_mean
from compressbench.report.naming import told_apart
from compressbench.report.numbers import MISSING, Spread, number, spread
from compressbench.report.panels import Panel, Point, Reading, Series, relative_compute
from compressbench.report.picks import encoded
from compressbench.report.section import Section, kept
from compressbench.report.speed import (
    BRACKETS,
    FASTER,
    NOT_SHOWN,
    SLOWER,
    Speed,
    figure_in_words,
    speed_cell,
    speed_of,
)
from compressbench.report.states import Key
from compressbench.report.styles import styles
from compressbench.report.tables import EMPTY, Cell, Columns, Row, Table, cell, spread_cell
from compressbench.report.varied import axis_of
from compressbench.report.wording import each_once, moment_name

DENSE = "dense"
PROBE, TIMED = "validation", "targets"
METRICS = ("validation_accuracy", "validation_lost", "validation_allowed", "validation_within")
BEST, WORST = " ▲", " ▼"
SAME = 1e-9
"""Share by which the training of a state that nothing was trained for may differ from dense's: rounding."""
TAUGHT = "a teacher’s own training not counted"
SMALLER = 0.99
"""Share of dense's bytes from which on a file isn't smaller."""
MARKED = (
    "▲ best and ▼ worst of the families, where the differences to all others, paired by seed, have intervals on one "
    "side of 0 (Student’s, 95 % for a column’s comparisons together); of times where the intervals in brackets don’t "
    "overlap with any other’s."
)
UNMARKED = f"Training: {TAUGHT}, so that nobody is marked."
CAUTION = (
    "Ranges of roundings and thresholds of exits were set on the validation split too, which flatters these there a "
    "little."
)


@dataclass(frozen=True)
class Family:
    """One series at the strength at which it is compared.

    Attributes:
        point: None where no strength lost few enough points.
        lost: points lost on validation at each strength, mean over seeds, weakest first.
    """

    series: Series
    point: Point | None
    lost: tuple[tuple[Point, float], ...]
    allowed: float

    @property
    def label(self) -> str:
        return self.series.label

    def name_of(self, point: Point) -> str:
        """What the series varies, at one strength: density, bits or MACs, or else what tells its states apart."""
        points = [p for p, _ in self.lost]
        if len(points) < 2:
            return self.label
        names = [axis_of(points).name(p) for p in points]
        if len(set(names)) < len(names):
            names = told_apart([p.states[0] for p in points])
        return names[points.index(point)]


@dataclass(frozen=True)
class Said:
    """What the records say of a family: for it, against it, and what can't be told."""

    family: Family
    pro: tuple[str, ...] = ()
    con: tuple[str, ...] = ()
    open: tuple[str, ...] = ()

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """What speaks for it, against it, and what can't be told, each by itself; of a family not compared, why."""
        if self.family.point is None:
            least, lost = min(self.family.lost, key=lambda x: x[1])
            return (
                f"{self.family.label}: not compared. No strength that was tried loses at most {self.family.allowed:g} "
                f"{_points(self.family.allowed)} on validation; {self.family.name_of(least)} loses least, "
                f"{number(lost, 'points')} points.",
            )
        named = self.family.name_of(self.family.point)
        who = self.family.label if named == self.family.label else f"{self.family.label} ({named})"
        return tuple(
            f"{who}, {words}: {'; '.join(told)}."
            for words, told in (("for it", self.pro), ("against it", self.con), ("can’t be told", self.open))
            if told
        )


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {(PROBE, metric, False) for metric in METRICS}


def section(panel: Panel, suffix: str) -> Section:
    moment = panel.moments[0]
    found = families(panel, moment)
    if not found:
        return Section("How to choose", "overview")
    sizes = timed_batches(panel)
    tables = [overview_table(panel, found, moment, sizes[0] if sizes else None)]
    more = [time_table(panel, found, moment, batch) for batch in sizes[1:]]
    words = [
        text
        for family in found
        for text in said(panel, family, moment, sizes[0] if sizes else None).paragraphs
    ]
    return Section(
        "How to choose", "overview", (), kept(tables), kept(more), lead(found), sentences=tuple(words)
    )


def families(panel: Panel, moment: str) -> list[Family]:
    """Series of chosen states whose loss on validation is known, in the records' order."""
    made = []
    for series in panel.series:
        lost = [
            (p, r.spread.mean)
            for p in series.at(moment)
            if (r := p.reading(PROBE, "validation_lost")) and r.spread
        ]
        limits = [
            r.spread.mean for p, _ in lost if (r := p.reading(PROBE, "validation_allowed")) and r.spread
        ]
        if not lost or not limits or series.is_random:
            continue
        allowed = min(limits)
        near = [p for p, points in lost if points <= allowed]
        made.append(Family(series, near[-1] if near else None, tuple(lost), allowed))
    return made


def lead(found: Sequence[Family]) -> str:
    """At which strength families are compared."""
    allowed = " or ".join(dict.fromkeys(f"{f.allowed:g} {_points(f.allowed)}" for f in found))
    return (
        "Each family of methods at equal accuracy: its strongest setting, of those that were tried, that loses on "
        f"average at most {allowed} of accuracy on the validation split. The figures beside it are of the test split, "
        f"which chose nothing. {CAUTION}"
    )


def _points(count: float) -> str:
    return "point" if count == 1 else "points"


# the table ------------------------------------------------------------------------------------------------------------


def overview_table(panel: Panel, found: Sequence[Family], moment: str, batch: int | None) -> Table | None:
    """A row for dense and for each family; what all that one weighs comes to."""
    rows = _rows(panel, found, moment)
    columns = Columns(reference=(True, *(False for _ in found)))
    columns.add("Strength", "", [Cell("–"), *(_strength(f) for f in found)], always=True)
    lost = [_of(f, lambda p: cell(p.reading(PROBE, "validation_lost"), True)) for f in found]
    columns.add("lost", "points", [EMPTY, *lost], "Validation")
    gaps = {f.label: e for f in found if f.point and (e := accuracy_change(panel, f.series, f.point))}
    own = {f.label: values_of(panel.main_reading(f.point)) for f in found if f.point}
    columns.add("accuracy", "%", _marked([cell(panel.main_reading(p)) for p in rows], found, own, 1), "Test")
    columns.add(
        "beside dense", "points [95 %]", [EMPTY, *(_estimate(gaps.get(f.label)) for f in found)], "Test"
    )
    for title, unit, better, read in MERITS:
        values = {f.label: read(panel, p) for f in found if (p := f.point)}
        cells = [
            spread_cell(spread(v.values()), unit) if p and (v := read(panel, p)) else EMPTY for p in rows
        ]
        columns.add(title, unit, _marked(cells, found, values, better), "Weighed")
    costs = [
        spread_cell(relative_compute(f.point, panel.dense_of(f.series, moment)) if f.point else None, "x")
        for f in found
    ]
    columns.add(
        "training", "× dense", [EMPTY, *costs], "Weighed"
    )  # unmarked: a teacher's isn't in the records
    if batch is not None:
        _add_times(columns, panel, found, batch)
    notes = [MARKED, UNMARKED] + ([BRACKETS] if batch is not None else [])
    if len(panel.seeds) < 2:
        notes.append("One seed: only times have intervals of their own, so that only they are marked.")
    return _table(panel, f"How to choose, {moment_name(moment)}", found, columns, notes)


def time_table(panel: Panel, found: Sequence[Family], moment: str, batch: int) -> Table | None:
    """Speeds at a further batch size."""
    columns = Columns(reference=(True, *(False for _ in found)))
    columns.add("Strength", "", [Cell("–"), *(_strength(f) for f in found)], always=True)
    _add_times(columns, panel, found, batch)
    if len(columns.heads) < 2:
        return None
    return _table(
        panel, f"How to choose: speed at batch {batch}, {moment_name(moment)}", found, columns, [BRACKETS]
    )


def _table(
    panel: Panel, title: str, found: Sequence[Family], columns: Columns, notes: Sequence[str]
) -> Table:
    looks = styles(panel)
    dense = next(iter(panel.dense), "dense")
    labels = [
        (dense, looks[dense].colour if dense in looks else ""),
        *((f.label, looks[f.label].colour) for f in found),
    ]
    rows = tuple(
        Row(label, columns.row(k), colour, first=True, reference=k == 0)
        for k, (label, colour) in enumerate(labels)
    )
    return Table(
        title,
        "Family",
        tuple(columns.heads),
        rows,
        columns.spanning,
        tuple(notes),
        remarks=tuple(columns.remarks),
    )


def _rows(panel: Panel, found: Sequence[Family], moment: str) -> list[Point | None]:
    dense = panel.dense_of(found[0].series, moment)
    return [dense, *(f.point for f in found)]


def _strength(family: Family) -> Cell:
    if family.point is None:
        return Cell(f"none loses ≤ {family.allowed:g}")
    return Cell(family.name_of(family.point))


def _of(family: Family, made: Callable[[Point], Cell]) -> Cell:
    return made(family.point) if family.point else EMPTY


def _estimate(found: Estimate | None) -> Cell:
    if found is None:
        return EMPTY
    ends = (
        f" [{number(found.low, found.unit, True)} to {number(found.high, found.unit, True)}]"
        if found.known
        else ""
    )
    return Cell(f"{number(found.value, found.unit, True)}{ends}", n=found.seeds)


def _first(point: Point, kinds: Sequence[tuple[str, str, str]]) -> tuple[Reading, str] | None:
    """The first of several figures that was measured, and in words where it is of."""
    for probe, metric, where in kinds:
        reading = point.reading(probe, metric)
        if reading and reading.by_seed:
            return reading, where
    return None


def lowest_recall(point: Point) -> Mapping[int, float]:
    """Seed -> recall of the class that is recognised worst, in percent."""
    found: dict[int, float] = {}
    for (probe, metric, group), reading in point.readings.items():
        if (probe, metric) == ("forgetting", "recall") and group:
            for seed, value in reading.by_seed.items():
                found[seed] = min(value, found.get(seed, value))
    return found


def _bytes(panel: Panel, point: Point) -> Mapping[int, float]:
    _, metric = encoded(point)
    return values_of(point.reading("cost", metric)) if metric else {}


def _read(kinds: Sequence[tuple[str, str, str]]) -> Callable[[Panel, Point], Mapping[int, float]]:
    def values(panel: Panel, point: Point) -> Mapping[int, float]:
        found = _first(point, kinds)
        return found[0].by_seed if found else {}

    return values


MERITS: tuple[tuple[str, str, int, Callable[[Panel, Point], Mapping[int, float]]], ...] = (
    ("bytes", "bytes", -1, _bytes),
    ("L-L", "%", 1, lambda _, point: values_of(point.reading(*LOYALTY))),
    ("worst class", "%", 1, lambda _, point: lowest_recall(point)),
    ("attacked", "%", 1, _read(ATTACKS)),
    ("corrupted", "%", 1, _read(SHIFTS)),
)


def _marked(
    cells: Sequence[Cell], found: Sequence[Family], values: Mapping[str, Mapping[int, float]], better: int
) -> list[Cell]:
    """Cells of dense and the families, the best and the worst of these marked where that is sure."""
    best, worst = surest(values, better), surest(values, -better)
    return _with_marks(cells, found, best, worst)


def _with_marks(cells: Sequence[Cell], found: Sequence[Family], best: str, worst: str) -> list[Cell]:
    marks = [""] + [BEST if f.label == best else WORST if f.label == worst else "" for f in found]
    return [
        replace(c, sd=c.sd + m) if m and c.text != MISSING else c for c, m in zip(cells, marks, strict=True)
    ]


def surest(values: Mapping[str, Mapping[int, float]], better: int) -> str:
    """Who is best beyond doubt: empty where an interval of a difference to any other holds 0, or there is one seed.

    Args:
        values: by name, seed -> value.
        better: 1 where more is better, -1 where less is.
    """
    known = {name: own for name, own in values.items() if own}
    if len(known) < 2:
        return ""
    first = max(known, key=lambda name: better * statistics.fmean(known[name].values()))
    share = 1 - 0.05 / (len(known) - 1)
    for name, own in known.items():
        common = sorted(set(own) & set(known[first]))
        gaps = [better * (known[first][s] - own[s]) for s in common]
        if name != first and (len(gaps) < 2 or of_mean(gaps, share)[0] <= 0):
            return ""
    return first


# time -----------------------------------------------------------------------------------------------------------------


def timed_batches(panel: Panel) -> list[int]:
    """Batch sizes at which targets were measured, the smallest first."""
    found = {batch_of(r.metric) for r in _timed(panel)}
    return sorted(batch for batch in found if batch is not None)


def _timed(panel: Panel) -> list[Record]:
    return [
        r
        for r in panel.rows
        if (r.probe, r.basis) == (TIMED, "measured") and r.metric.startswith("speedup_b")
    ]


def targets(panel: Panel) -> list[tuple[str, str]]:
    """(target, environment) of those on which something was timed, also where all ratios were withheld."""
    names = dict.fromkeys(r.group for r in _timed(panel))
    return [(name, environment) for name in names for environment in panel.environments]


def _add_times(columns: Columns, panel: Panel, found: Sequence[Family], batch: int) -> None:
    metric = f"speedup_b{batch}"
    for name, environment in targets(panel):
        cells = [
            _of(f, lambda p, n=name, e=environment: speed_cell(p, metric, e, TIMED, n, notes=False))  # type: ignore[misc]
            for f in found
        ]
        speeds = {
            f.label: s
            for f in found
            if f.point and (s := speed_of(f.point, metric, environment, TIMED, name))
        }
        words = f"{name}, {environment}" if environment and len(panel.environments) > 1 else name
        marked = _with_marks([EMPTY, *cells], found, quickest(speeds), quickest(speeds, slowest=True))
        columns.add(words, "× dense", marked, f"Speed, batch {batch}")


def quickest(speeds: Mapping[str, Speed], slowest: bool = False) -> str:
    """Whose interval lies above (or below) all others'; empty where it doesn't."""
    known = {name: s.ends for name, s in speeds.items() if s.ends and s.figure}
    if len(known) < 2:
        return ""
    if slowest:
        name = min(known, key=lambda k: known[k][1])
        return name if all(known[name][1] < low for k, (low, _) in known.items() if k != name) else ""
    name = max(known, key=lambda k: known[k][0])
    return name if all(known[name][0] > high for k, (_, high) in known.items() if k != name) else ""


# in words -------------------------------------------------------------------------------------------------------------


def said(panel: Panel, family: Family, moment: str, batch: int | None) -> Said:
    """What speaks for a family, against it, and what can't be told, at the strength at which it is compared."""
    point, dense = family.point, panel.dense_of(family.series, moment)
    if point is None or dense is None:
        return Said(family)
    told = _Told()
    told.sorted(accuracy_change(panel, family.series, point), "top-1 accuracy", "is higher by", "is lower by")
    told.bytes(encoded(point), encoded(dense))
    told.speeds(panel, point, batch)
    told.loyalty(point, floor_reading(panel, moment))
    told.classes(panel, point, dense)
    for kinds in (ATTACKS, SHIFTS):
        beside = _first(dense, kinds)
        own = _first(point, kinds)
        if own and beside:
            told.sorted(change(own[0], beside[0]), f"accuracy {own[1]}", "is higher by", "is lower by")
    told.training(relative_compute(point, dense))
    return Said(family, tuple(told.pro), tuple(told.con), tuple(told.open))


class _Told:
    """Collects phrases by what their intervals show."""

    def __init__(self) -> None:
        self.pro: list[str] = []
        self.con: list[str] = []
        self.open: list[str] = []

    def sorted(self, found: Estimate | None, what: str, up: str, down: str) -> None:
        """What a change from dense shows."""
        if found is not None:
            self._side(
                found, f"whether {what} differs from dense", f"{what} {up} {{}}", f"{what} {down} {{}}"
            )

    def _side(self, found: Estimate, unsure: str, more: str, less: str) -> None:
        """By the side of 0 on which the interval of a change lies.

        Args:
            more, less: what it is called above and below 0, ``{}`` for its size.
        """
        size = f"{replace(found, value=abs(found.value)).figure(False)} ({found.ends()})"
        if not found.known or found.low <= 0 <= found.high:
            self.open.append(f"{unsure}, {found.words()}")
        elif found.low > 0:
            self.pro.append(more.format(size))
        else:
            self.con.append(less.format(size))

    def bytes(self, own: tuple[float, str], dense: tuple[float, str]) -> None:
        """Of the shortest encodings."""
        if not own[1] or not dense[1] or own[0] <= 0 or dense[0] <= 0:  # no file has no bytes
            return
        text = f"{number(dense[0] / own[0], 'x')} × smaller than dense’s ({number(own[0], 'bytes')}B, shortest encoding)"
        if own[0] < SMALLER * dense[0]:
            self.pro.append(f"its file is {text}")
        else:
            self.con.append(f"its file is no smaller than dense’s ({number(own[0], 'bytes')}B)")

    def training(self, cost: Spread | None) -> None:
        """Beside one dense training. Records count no teacher's own, so that less is no proof of less."""
        if cost is None:
            return
        times = f"{number(cost.mean, 'x')} × the dense net’s, {TAUGHT}"
        if abs(cost.mean - 1) <= SAME and (cost.sd or 0) <= SAME:
            self.pro.append("nothing is trained after the dense net")
        elif cost.mean > 1:
            self.con.append(f"its training costs {times}")
        else:
            self.open.append(f"whether its training costs less: {times}")

    def speeds(self, panel: Panel, point: Point, batch: int | None) -> None:
        """On each measured target, by what the ratio in turns shows; why where it runs dense or can't run."""
        if batch is None:
            return
        by: dict[str, list[str]] = {}
        for name, environment in targets(panel):
            speed = speed_of(point, f"speedup_b{batch}", environment, TIMED, name)
            where = f"{name} on {environment}" if environment and len(panel.environments) > 1 else name
            if speed is None or speed.figure is None:
                latency = point.reading(TIMED, f"latency_b{batch}", name, environment)
                notes = each_once((speed.notes if speed else ()) or (latency.notes if latency else ()))
                if notes:
                    by.setdefault("none", []).append(f"{where} ({'; '.join(notes)})")
                continue
            kind, why = (DENSE, ", zeros run dense there") if speed.dense else (speed.verdict, "")
            by.setdefault(kind, []).append(f"{where} {figure_in_words(speed)}{why}")
        for verdict, into, words in (
            (FASTER, self.pro, "faster at batch {}"),
            (SLOWER, self.con, "slower at batch {}"),
            (DENSE, self.con, "not shown to be faster at batch {}"),
            (NOT_SHOWN, self.open, "whether it is faster at batch {}"),
            ("none", self.open, "speed at batch {}"),
        ):
            if by.get(verdict):
                into.append(f"{words.format(batch)}: {', '.join(by[verdict])}")

    def loyalty(self, point: Point, floor: Reading | None) -> None:
        """Beside how far two dense nets agree that nobody compressed."""
        own = point.reading(*LOYALTY)
        if own is None or not own.by_seed:
            return
        gap = change(own, floor)
        if gap is None:
            self.open.append(
                "whether it agrees with the dense net more than another training would: no floor was measured"
            )
            return
        self._side(
            gap,
            "whether it agrees with the dense net more than another training of it would",
            "its answers agree with the dense net’s by {} more than another dense net’s do",
            "its answers agree with the dense net’s by {} less than another dense net’s do",
        )

    def classes(self, panel: Panel, point: Point, dense: Point) -> None:
        """Classes that surely lost, after Holm's correction; else the recall of the worst class beside dense's."""
        lost = [c for c in class_changes(point) if c.lost]
        if lost:
            listed = ", ".join(f"“{c.name}” {c.change.figure()}" for c in lost[:3])
            rest = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            self.con.append(f"classes that are shown to lose recall (Holm’s correction): {listed}{rest}")
            return
        own, other = lowest_recall(point), lowest_recall(dense)
        common = sorted(set(own) & set(other))
        if common:
            gap = over_seeds([own[s] - other[s] for s in common], "points")
            self.sorted(gap, "recall of the worst class", "is higher by", "is lower by")
