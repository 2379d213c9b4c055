"""Tables over states: one row a state, its dense model and the floor beside it; pure functions of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from compressbench.declared import declared
from compressbench.report.naming import told_apart
from compressbench.report.numbers import MISSING, percentage
from compressbench.report.numbers import bits as bits_shown
from compressbench.report.panels import DENSE, FLOOR, Panel, Point, Reading, Series
from compressbench.report.speed import speed_cell
from compressbench.report.styles import styles
from compressbench.report.tables import Cell, Columns, Row, Table, cell
from compressbench.report.wording import examples, moment_name, title_of

LEVELS_SHOWN = 6
GAPS = "gaps"
Key = tuple[str, str, bool]
"""Probe, metric, and whether it is of a group: what a section shows."""
Pick = Callable[[Series, str], Sequence[Point]]


class OfPoint(Protocol):
    """A row to be, whatever else it knows of its point."""

    @property
    def point(self) -> Point: ...


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


@dataclass(frozen=True)
class Column:
    """A column of a table over states: one metric of each, declared once for the page and for the terminal.

    Attributes:
        group, environment: of the records it is read from; a timing has an environment.
        title: its heading; empty for the metric's own.
        unit: under it; ``None`` for that of the records.
        over: what spans it and its neighbours on the page.
        terminal: its heading in a terminal, in few words; empty for a column of the page alone.
        notes: whether cells carry what the probe had to say; ``GAPS``: those without a figure.
        marked: with a sign, and marked where the probe had something to say.
        yes_no: 1 and 0 are told as ``2 of 3`` seeds with Wilson's interval, not as a mean.
        done: what a seed with a figure did (``reached``); where not all did there is no mean, but how many did.
    """

    probe: str
    metric: str
    title: str = ""
    unit: str | None = None
    over: str = ""
    terminal: str = ""
    notes: bool | str = True
    marked: bool = False
    group: str = ""
    environment: str = ""
    yes_no: bool = False
    done: str = ""

    @property
    def key(self) -> Key:
        return self.probe, self.metric, bool(self.group)

    @property
    def is_timing(self) -> bool:
        known = declared(self.metric)
        return known is not None and known.timing

    @property
    def is_ratio(self) -> bool:
        """Of timings taken in turns, which has an interval."""
        known = declared(self.metric)
        return known is not None and known.timing and known.unit == "x"

    def readings(self, found: Iterable[OfPoint]) -> list[Reading | None]:
        """What it is read from, one a line."""
        return [x.point.reading(self.probe, self.metric, self.group, self.environment) for x in found]

    def cells(self, found: Sequence[OfPoint]) -> list[Cell]:
        """As the page has them, one a line."""
        if self.is_ratio:
            return self._ratios(found, notes=bool(self.notes))
        return [self._cell(r) for r in self.readings(found)]

    def short(self, found: Sequence[OfPoint], brackets: bool = True) -> list[Cell]:
        """As a terminal has them: without notes, and without intervals where there is no room for brackets."""
        if self.is_ratio:
            return self._ratios(found, notes=False, brackets=brackets)
        return [cell(r, notes=False) for r in self.readings(found)]

    def _ratios(self, found: Sequence[OfPoint], notes: bool, brackets: bool = True) -> list[Cell]:
        place = self.metric, self.environment, self.probe, self.group
        return [speed_cell(x.point, *place, notes=notes, brackets=brackets) for x in found]

    def _cell(self, reading: Reading | None) -> Cell:
        if self.yes_no and reading and reading.by_seed:
            return yes_no_cell(reading)
        if self.done and reading and reading.by_seed and not every_seed(reading):
            return Cell(f"{len(reading.by_seed)} of {len(reading.asked)} {self.done}", notes=reading.notes)
        told = not (reading and reading.spread) if self.notes == GAPS else bool(self.notes)
        shown = cell(reading, signed=self.marked, notes=told)
        return replace(shown, flag=shown.text != MISSING and bool(shown.notes)) if self.marked else shown


def every_seed(reading: Reading) -> bool:
    """Whether each seed at which something was measured has a figure."""
    return set(reading.asked) <= set(reading.by_seed)


def yes_no_cell(reading: Reading) -> Cell:
    """Of figures 1 and 0, a seed each: how many are 1, and Wilson's 95 % interval of their share."""
    from compressbench.proportions import wilson

    yes, n = sum(value > 0.5 for value in reading.by_seed.values()), len(reading.by_seed)
    low, high = (100 * float(end) for end in wilson(yes, n))
    return Cell(f"{yes} of {n}", f" ({low:.0f} to {high:.0f} %)", notes=reading.notes)


def of(probe: str, *metrics: str) -> tuple[Column, ...]:
    """Metrics of a probe, each under its own title."""
    return tuple(Column(probe, metric) for metric in metrics)


def add(columns: Columns, found: Sequence[OfPoint], wanted: Iterable[Column]) -> None:
    """Adds declared columns, in order, those that any line can fill."""
    for column in wanted:
        unit = unit_shown(column.readings(found)) if column.unit is None else column.unit
        columns.add(column.title or title_of(column.metric), unit, column.cells(found), column.over)


def metric_table(
    panel: Panel, moment: str, title: str, wanted: Sequence[Column], pick: Pick = every
) -> Table | None:
    """States against the given columns, for all that were measured."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    add(columns, found, wanted)
    count = examples(r for column in wanted for r in column.readings(found))
    notes = [f"{count} examples."] if count else []
    return table_of(panel, f"{title}, {moment_name(moment)}", found, columns, notes)


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
    names = [(x.series.label, round(x.point.density, 5), *bits[k : k + 1]) for k, x in enumerate(found)]
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


def readings_of(
    found: Iterable[Line], probe: str, metric: str, environment: str = ""
) -> list[Reading | None]:
    return [line.point.reading(probe, metric, "", environment) for line in found]


def unit_of(readings: Iterable[Reading | None]) -> str:
    return next((r.unit for r in readings if r), "")


def unit_shown(readings: Iterable[Reading | None]) -> str:
    """The unit of a column as its head shows it."""
    return _shown_unit(unit_of(readings))


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
