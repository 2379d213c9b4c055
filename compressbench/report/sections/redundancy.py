"""Redundancy: nets with parts deleted, and what pruning costs in robustness at equal clean accuracy.

A *net* is an unpruned state in which parts were deleted. Its *lines* are the series that begin with it: one for each way
of pruning, ``no dropout`` and ``no dropout, units removed``. The clean accuracy at which two lines are compared is chosen
by no state's test figure: each seed's own line is read between neighbouring states, straight over clean accuracy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressbench.report.drawing import (
    Chart,
    accuracy_words,
    bands,
    bars,
    canvas,
    clean,
    draw,
    finish,
    mark,
    shortened,
    when,
)
from compressbench.report.estimates import over_seeds, values_of
from compressbench.report.numbers import MISSING, Spread, from_text, number, spread
from compressbench.report.panels import Panel, Point, Series
from compressbench.report.section import Section, kept, moment_suffix, slug
from compressbench.report.states import Key
from compressbench.report.styles import Style, styles
from compressbench.report.tables import EMPTY, Cell, Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import examples, moment_name, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROBE, ACCURACY = "deletion", "deletion_accuracy"
NOISE = "gaussian_noise, "
HALF = "units, 50 %"
DROPS = (0.0, 1.0, 2.0, 5.0)
"""Points of clean accuracy; at 0 the less accurate of two nets is compared as it is: nothing is its cost there."""
WHOLE = 0.9999
BESIDE = ", "
WORDS = 30
"""Letters at most of what was deleted, in a chart's title."""
SAID = (
    "Deleted: a random share of the units (or weights) of each layer answers nothing; nothing is trained then. A line "
    "is one net, pruned further and further. Robustness at equal clean accuracy is read off each seed’s own lines, "
    "straight between neighbouring states: no state is picked by its test accuracy. In brackets: the 95 % interval over "
    "seeds (Student’s), paired by seed."
)
Curve = Sequence[tuple[float, float, float]]
"""Density, clean accuracy, what is compared: of one seed's states of a line."""


@dataclass(frozen=True)
class Measure:
    """Something that is compared at equal clean accuracy.

    Attributes:
        of: from a point to its values by seed; empty where it wasn't measured.
    """

    name: str
    of: Callable[[Point], Mapping[int, float]]


@dataclass(frozen=True)
class Line:
    """One way of pruning one net.

    Attributes:
        net: label of the net.
        points: the net itself, then its pruned states.
    """

    net: str
    series: Series
    points: tuple[Point, ...]


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {
        *((PROBE, f"{ACCURACY}{end}", True) for end in ("", "_low", "_high")),
        (PROBE, "deleted", True),
    }


def section(panel: Panel, suffix: str) -> Section:
    """Charts and tables; none where nothing was deleted."""
    charts: list[Chart | None] = []
    tables: list[Table | None] = []
    more: list[Table | None] = []
    for moment in panel.moments:
        found = nets(panel, moment)
        if not found:
            continue
        end = moment_suffix(panel, moment) + suffix
        kinds = dict.fromkeys(g.partition(BESIDE)[0] for g in groups_of(found))
        for what, name in zip(kinds, file_names(kinds), strict=True):
            charts.append(against_share(panel, moment, what, f"deleted_{name}{end}"))
        tables.append(deleted(panel, moment))
        for place, (way, lines) in enumerate(ways(panel, moment).items()):
            for k, measure in enumerate(measures(lines)[:3] if not place else ()):
                charts.append(against_clean(panel, moment, lines, measure, f"robust_{k}{end}"))
            (more if place else tables).append(at_equal_clean(panel, moment, way, lines))
            (more if place else tables).append(cost_of_pruning(panel, moment, way, lines))
    return Section("Redundancy", "redundancy", kept(charts), kept(tables), kept(more), SAID)


def nets(panel: Panel, moment: str) -> dict[str, tuple[Series, Point]]:
    """Unpruned states in which parts were deleted, by label of the first series of each; dense if no series has it."""
    found: dict[str, tuple[Series, Point]] = {}
    seen: set[str] = set()
    for series in (*panel.series, *panel.dense.values()):
        for point in series.at(moment):
            whole = point.density >= WHOLE and not seen & set(point.states)
            if whole and any(key[:2] == (PROBE, ACCURACY) for key in point.readings):
                seen |= set(point.states)
                found.setdefault(series.label, (series, point))
    return found


def groups_of(found: Mapping[str, tuple[Series, Point]]) -> list[str]:
    """What was deleted, ``units, 50 %``, in the order of the records."""
    return list(
        dict.fromkeys(k[2] for _, p in found.values() for k in p.readings if k[:2] == (PROBE, ACCURACY))
    )


def file_names(kinds: Iterable[str]) -> list[str]:
    """A part of a file name for each, which records may call what they like; those alike have their place behind."""
    names = [slug(what) for what in kinds]
    return [name if names.count(name) == 1 else f"{name}__{k}" for k, name in enumerate(names)]


def share_of(text: str) -> float | None:
    """``50 %`` as 50; ``None`` for what is no share in [0, 100]."""
    share = from_text(text.removesuffix(" %"))
    return share if share is not None and 0 <= share <= 100 else None


def ways(panel: Panel, moment: str) -> dict[str, list[Line]]:
    """Lines of two states or more by how they are pruned: what their labels say behind that of their net."""
    found: dict[str, list[Line]] = {}
    known = nets(panel, moment)
    for series in panel.series:
        points = tuple(sorted(series.at(moment), key=lambda p: -p.density))
        fitting = [n for n in known if series.label == n or series.label.startswith(n + BESIDE)]
        if not fitting or len(points) < 2 or points[0].states != known[max(fitting, key=len)][1].states:
            continue
        net = max(fitting, key=len)
        way = series.label[len(net) :].removeprefix(BESIDE)
        found.setdefault(way, []).append(Line(net, series, points))
    return found


def measures(lines: Sequence[Line]) -> list[Measure]:
    """What was measured of robustness at all states of the lines; the attack's own noise where there is no stronger."""

    def plain(probe: str, metric: str, group: str = "") -> Callable[[Point], Mapping[int, float]]:
        return lambda point: values_of(point.reading(probe, metric, group))

    def noise(point: Point) -> Mapping[int, float]:
        """Mean over severities."""
        own = [
            r.by_seed
            for (probe, metric, group), r in point.readings.items()
            if (probe, metric) == ("corruptions", "corrupted_top1") and group.startswith(NOISE)
        ]
        common = set.intersection(*map(set, own)) if own else set()
        return {seed: sum(values[seed] for values in own) / len(own) for seed in sorted(common)}

    noises = (
        Measure("Gaussian noise", noise),
        Measure("Noise of the attack’s size", plain("robustness", "noise_accuracy")),
    )
    known = (
        Measure(title_of("corrupted_top1"), plain("corruptions", "corrupted_top1")),
        Measure(title_of("pgd_accuracy"), plain("robustness", "pgd_accuracy")),
        Measure("Half of the units deleted", plain(PROBE, ACCURACY, HALF)),
    )

    def measured(measure: Measure) -> bool:
        return all(measure.of(p) for line in lines for p in line.points)

    return [*list(filter(measured, noises))[:1], *filter(measured, known)]


def curves(panel: Panel, line: Line, measure: Measure) -> dict[int, list[tuple[float, float, float]]]:
    """Seed -> the line as a curve, of the seeds at which all its states were measured."""
    columns = [(values_of(panel.main_reading(p)), measure.of(p), p.density) for p in line.points]
    common = set.intersection(*(set(c) & set(m) for c, m, _ in columns))
    return {s: [(density, c[s], m[s]) for c, m, density in columns] for s in sorted(common)}


def at_clean(curve: Curve, wanted: float) -> tuple[float, float] | None:
    """Density and value where clean accuracy first falls below ``wanted`` on the way down; straight in between.

    That of the unpruned net is the net itself, even where pruning a little raises accuracy. ``None`` where the
    unpruned net is below already, or no state falls so low.
    """
    points = sorted(curve, key=lambda p: -p[0])
    if not points or points[0][1] < wanted:
        return None
    if points[0][1] == wanted:
        return points[0][0], points[0][2]
    for (high, one, before), (low, other, after) in itertools.pairwise(points):
        if other < wanted:
            share = (one - wanted) / (one - other)
            return high + share * (low - high), before + share * (after - before)
    return None


def against_share(panel: Panel, moment: str, what: str, name: str) -> Chart | None:
    """Accuracy against the share deleted, a line a net; 0 is the net as it is."""
    found, lines = nets(panel, moment), []
    groups = groups_of(found)
    for series, point in found.values():
        main = panel.main_reading(point)
        spots = [(0.0, main.spread)] if main and main.spread else []
        for group in groups:
            reading = point.reading(PROBE, ACCURACY, group)
            kind, _, share = group.partition(BESIDE)
            place = share_of(share)
            if kind == what and place is not None and reading and reading.spread:
                spots.append((place, reading.spread))
        if len(spots) > 1:
            lines.append((series, sorted(spots, key=lambda s: s[0])))
    if not lines:
        return None
    (what,) = shortened([what], WORDS)
    figure, axes = canvas(f"Accuracy with {what} deleted{when(moment)}")
    counts = draw(panel, axes, lines)
    axes.set_xlabel(f"{what} of each layer that are deleted at random, %")
    axes.set_ylabel(f"{accuracy_words(panel)[0]}, %")
    caption = f"Each net as it was trained, mean over draws. {bands(counts)}"
    return finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])


def against_clean(
    panel: Panel, moment: str, lines: Sequence[Line], measure: Measure, name: str
) -> Chart | None:
    """Robustness against clean accuracy, a mark a state: what lies above each other was equally accurate."""
    looks, counts = styles(panel), set()
    figure, axes = canvas(f"{measure.name} against clean accuracy{when(moment)}")
    for line in lines:
        spots = []
        for point in line.points:
            x, y = spread(values_of(panel.main_reading(point)).values()), spread(measure.of(point).values())
            if x and y:
                spots.append((x, y))
                counts.add(y.n)
        _marks(axes, looks[line.series.label], line.series.label, spots)
    axes.set_xlabel(f"{accuracy_words(panel)[0]}, %")
    axes.set_ylabel(f"{clean(measure.name)}, %")
    caption = (
        "Each mark is a state, the ringed one the net as it was trained; along a line more and more is pruned. What lies "
        f"above each other is equally accurate. {bars(counts)}"
    )
    return finish(figure, axes, panel, name, caption, drawn=[line.series for line in lines])


def _marks(axes: Axes, look: Style, label: str, spots: Sequence[tuple[Spread, Spread]]) -> None:
    """A line through marks with bars for the spread on both axes, its first mark ringed."""
    if not spots:
        return
    xs, ys = [x.mean for x, _ in spots], [y.mean for _, y in spots]
    bars_ = axes.errorbar(
        xs, ys, xerr=[x.sd or 0 for x, _ in spots], yerr=[y.sd or 0 for _, y in spots], color=look.colour,
        marker=look.marker, linestyle=look.dash, elinewidth=0.7, zorder=3,
    )  # fmt: skip
    mark(bars_.get_children(), label)
    ring = axes.plot(xs[:1], ys[:1], "o", markersize=9, markerfacecolor="none", markeredgecolor=look.colour)
    mark(ring, label)


def deleted(panel: Panel, moment: str) -> Table | None:
    """Each net's accuracy, and that with parts deleted: spread over seeds, of one seed the interval over draws."""
    found, looks = nets(panel, moment), styles(panel)
    columns = Columns()
    if panel.main:
        own = [cell(panel.main_reading(p), notes=False) for _, p in found.values()]
        columns.add(title_of(panel.main[1]), "%", own, always=True)
    for group in groups_of(found):
        what, _, share = group.partition(BESIDE)
        columns.add(
            share or what,
            "deleted" if share else "",
            [_of_draws(p, group) for _, p in found.values()],
            f"{what} deleted",
        )
    rows = [Row(label, columns.row(k), looks[label].colour) for k, label in enumerate(found)]
    rows = [row for k, row in enumerate(rows) if columns.filled(k)]
    if not rows:
        return None
    count = examples(p.reading(PROBE, ACCURACY, g) for _, p in found.values() for g in groups_of(found))
    return Table(
        f"Accuracy with parts deleted, {moment_name(moment)}",
        "Net",
        tuple(columns.heads),
        tuple(rows),
        columns.spanning,
        (f"{count} examples. Of one seed, in brackets: the 95 % interval over draws.",) if count else (),
        remarks=tuple(columns.remarks),
    )


def _of_draws(point: Point, group: str) -> Cell:
    reading = point.reading(PROBE, ACCURACY, group)
    own = cell(reading)
    if reading is None or len(reading.by_seed) != 1:
        return own
    ends = [
        r.spread.mean
        for end in ("_low", "_high")
        if (r := point.reading(PROBE, ACCURACY + end, group)) and r.spread
    ]
    if len(ends) != 2:
        return own
    return Cell(own.text, f" ({' to '.join(number(e, '%') for e in ends)})", own.n, own.notes)


@dataclass(frozen=True)
class Meeting:
    """Where two lines are equally accurate at one seed.

    Attributes:
        clean: that accuracy.
        value, density: of the one line there; ``beside`` and ``density_beside`` of the other.
    """

    clean: float
    density: float
    value: float
    density_beside: float
    beside: float


def at_equal_clean(panel: Panel, moment: str, way: str, lines: Sequence[Line]) -> Table | None:
    """Each line beside the first one, both pruned to the same clean accuracy: below that of the less accurate net."""
    base, *others = lines
    found = measures(lines)
    places = [(line, drop) for line in others for drop in DROPS]
    if not places or not found:
        return None
    columns = Columns()
    columns.add("Below", "points", [Cell(f"{drop:g}") for _, drop in places], always=True)

    def met_by(measure: Measure) -> list[list[Meeting]]:
        beside, own = curves(panel, base, measure), [curves(panel, line, measure) for line in others]
        return [_meet(beside, other, drop) for other in own for drop in DROPS]

    meetings = {m.name: met_by(m) for m in found}
    first = meetings[found[0].name]
    columns.add("Clean", "%", [_over([m.clean for m in met], "%") for met in first], always=True)
    columns.add("Density", "%", [_over([100 * m.density for m in met], "%") for met in first])
    columns.add(f"of {base.net}", "%", [_over([100 * m.density_beside for m in met], "%") for met in first])
    for measure in found:
        own = [_over([m.value for m in met], "%") for met in meetings[measure.name]]
        columns.add("accuracy", "%", own, measure.name)
        apart = [_change([m.value - m.beside for m in met]) for met in meetings[measure.name]]
        columns.add(f"minus {base.net}", "points", apart, measure.name)
    note = (
        "Below: how many points of clean accuracy below the less accurate of the two unpruned nets of that seed both "
        f"are; clean: that accuracy. “{MISSING}”: at one seed or more a line doesn’t reach it."
    )
    title = f"Robustness at equal clean accuracy, {way or 'weights pruned'}, {moment_name(moment)}"
    return _table(panel, title, columns, [line for line, _ in places], note)


def _meet(base: Mapping[int, Curve], other: Mapping[int, Curve], drop: float) -> list[Meeting]:
    """Where two lines are equally accurate, seed by seed; empty unless all seeds that both have reach it."""
    met: list[Meeting] = []
    for seed in sorted(set(base) & set(other)):
        wanted = min(curve[seed][0][1] for curve in (base, other)) - drop
        one, two = at_clean(other[seed], wanted), at_clean(base[seed], wanted)
        if one is None or two is None:
            return []
        met.append(Meeting(wanted, *one, *two))
    return met


def cost_of_pruning(panel: Panel, moment: str, way: str, lines: Sequence[Line]) -> Table | None:
    """What each line has lost in robustness where it is so much less accurate than its own net, beside the first line."""
    found = measures(lines)
    places = [(line, drop) for line in lines for drop in DROPS[1:]]
    if not found:
        return None
    columns = Columns()
    columns.add("Below", "points", [Cell(f"{drop:g}") for _, drop in places], always=True)
    lost = {
        m.name: [_lost(own, drop) for own in [curves(panel, line, m) for line in lines] for drop in DROPS[1:]]
        for m in found
    }
    densities = [_over([100 * d for d, _ in here.values()], "%") for here in lost[found[0].name]]
    columns.add("Density", "%", densities)
    for measure in found:
        hits = lost[measure.name]
        own, beside = [_change([v for _, v in here.values()]) for here in hits], []
        for (line, _), here, there in zip(places, hits, hits[: len(DROPS[1:])] * len(lines), strict=True):
            common = sorted(set(here) & set(there)) if line is not lines[0] else []
            beside.append(_change([here[s][1] - there[s][1] for s in common]))
        columns.add("change", "points", own, measure.name)
        columns.add(f"minus {lines[0].net}’s", "points", beside, measure.name)
    note = (
        "Below: how many points of clean accuracy below its own unpruned net of that seed the line is. Change: "
        f"robustness there minus that of the unpruned net. “{MISSING}”: at one seed or more the line doesn’t reach it."
    )
    title = f"What pruning costs in robustness, {way or 'weights pruned'}, {moment_name(moment)}"
    return _table(panel, title, columns, [line for line, _ in places], note)


def _lost(found: Mapping[int, Curve], drop: float) -> dict[int, tuple[float, float]]:
    """Seed -> density, and the change against the unpruned net; empty unless all seeds reach it."""
    out = {}
    for seed, curve in found.items():
        hit = at_clean(curve, curve[0][1] - drop)
        if hit is None:
            return {}
        out[seed] = hit[0], hit[1] - curve[0][2]
    return out


def _over(values: Sequence[float], unit: str) -> Cell:
    return spread_cell(spread(values), unit)


def _change(values: Sequence[float]) -> Cell:
    """A mean difference in points with its interval over seeds; of one seed without."""
    if not values:
        return EMPTY
    found = over_seeds(values, "points")
    text = number(found.value, "points", signed=True)
    ends = " to ".join(number(end, "points", signed=True) for end in (found.low, found.high))
    return Cell(text, f" ({ends})" if found.known else "", found.seeds)


def _table(panel: Panel, title: str, columns: Columns, lines: Sequence[Line], note: str) -> Table | None:
    looks, rows, last = styles(panel), [], ""
    if len(columns.heads) <= columns.naming:
        return None
    for place, line in enumerate(lines):
        rows.append(
            Row(line.net, columns.row(place), looks[line.series.label].colour, first=line.net != last)
        )
        last = line.net
    return Table(
        title,
        "Net",
        tuple(columns.heads),
        tuple(rows),
        columns.spanning,
        (note,),
        remarks=tuple(columns.remarks),
    )
