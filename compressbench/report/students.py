"""Students of several sizes: series that have the same students in the same order; pure functions of records."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressbench.report.drawing import Chart, accuracy_words, canvas, clean, finish, short, when
from compressbench.report.numbers import between, number
from compressbench.report.panels import Panel, Point, Series, paired
from compressbench.report.styles import INK, MUTED, styles
from compressbench.report.tables import Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import difference_unit, moment_name, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
SIZES = 3
BRANCH = re.compile(r"[^_.]*_([^.]+)(?:\..*)?")
NAME_WIDTH = 0.036


def families(panel: Panel, moment: str) -> list[tuple[Series, ...]]:
    """Series of one recipe whose students, dense ones of three sizes or more, are equally large one by one.

    Two series or more; the first is what the others are compared with.
    """
    alike: dict[tuple[object, ...], list[Series]] = {}
    for series in panel.series:
        sizes = tuple(map(size_of, series.at(moment)))
        dense = all(p.density == 1 for p in series.at(moment))
        if dense and None not in sizes and len(set(sizes)) >= SIZES:
            alike.setdefault((series.recipe, *sizes), []).append(series)
    return [tuple(family) for family in alike.values() if len(family) > 1]


def size_of(point: Point) -> float | None:
    """Parameters of a point's net."""
    reading = point.reading("structure", "parameters")
    return reading.spread.mean if reading and reading.spread else None


def branch(point: Point) -> str:
    """A student's name: ``mlp12`` of the state ``student_mlp12.ce``; that of the state where it has no such part."""
    state = point.states[0]
    found = BRANCH.fullmatch(state)
    return found[1] if found else state


def gain_vs_parameters(panel: Panel, moment: str, name: str) -> list[Chart]:
    """What each later series gains over the first one by the size of the student; one chart a family of students."""
    found = [
        _gain(panel, moment, family, name + (f"_{place + 1}" if place else ""))
        for place, family in enumerate(families(panel, moment))
    ]
    return [chart for chart in found if chart]


def _gain(panel: Panel, moment: str, family: Sequence[Series], name: str) -> Chart | None:
    base, *others = family
    pairs = [[(p, b) for p, b in zip(s.at(moment), base.at(moment), strict=True)] for s in others]
    lines = []
    for series, both in zip(others, pairs, strict=True):
        gains = [(size_of(p), paired(panel.main_reading(p), panel.main_reading(b))) for p, b in both]
        points = sorted(((x, d) for x, d in gains if x and d), key=lambda point: point[0])
        if points:
            lines.append((series, points))
    if not lines:
        return None
    label, unit = accuracy_words(panel)
    figure, axes = canvas(f"Gain against the student’s capacity{when(moment)}")
    looks, errors = styles(panel), []
    low, high = (math.log10(f(x for _, points in lines for x, _ in points)) for f in (min, max))
    for place, (series, points) in enumerate(lines):
        look, shift = looks[series.label], (place - (len(lines) - 1) / 2) * 0.008 * (high - low)
        bars = [(d.sd or 0) / math.sqrt(d.n) if d.n > 2 else 0.0 for _, d in points]
        errors += [(d.mean - e, d.mean + e) for (_, d), e in zip(points, bars, strict=True)]
        xs, ys = [x * 10**shift for x, _ in points], [d.mean for _, d in points]
        axes.plot(xs, ys, color=look.colour, linestyle=look.dash, linewidth=0.8, alpha=0.6)
        axes.errorbar(xs, ys, bars, color=look.colour, fmt=look.marker, elinewidth=1, capsize=2, zorder=3)
    axes.axhline(0, color=INK, linewidth=1.2)
    bottom, top = min([0.0, *(a for a, _ in errors)]), max([0.0, *(b for _, b in errors)])
    room = (top - bottom) or 1.0
    axes.set_ylim(bottom - 0.06 * room, top + 0.4 * room)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - 0.06 * (high - low)), 10 ** (high + 0.06 * (high - low)))
    _count_ticks(axes)
    _name_students(axes, [(size_of(p) or 1.0, branch(p)) for p in base.at(moment)])
    axes.set_xlabel("parameters of the student (log scale)")
    axes.set_ylabel(
        f"{label} over {short(clean(base.label), 30)}, {'points' if unit == '%' else unit}".rstrip(", ")
    )
    counts = {d.n for _, points in lines for _, d in points}
    spread_words = (
        f"Bars: mean ± standard error over {between(n for n in counts if n > 2)} seeds."
        if max(counts) > 2
        else "Two seeds: too few for an error."
        if max(counts) == 2
        else "One seed: no spread."
    )
    caption = f"Each series minus “{base.label}”, seed by seed, for each student. {spread_words}"
    return finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])


def _count_ticks(axes: Axes) -> None:
    """1, 2 and 5 of each decade of a logarithmic x axis, as counts are written elsewhere."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    axes.xaxis.set_major_locator(
        FixedLocator([t for d in decades for s in steps if low <= (t := s * 10.0**d) <= high])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, "1")))


def _name_students(axes: Axes, students: Sequence[tuple[float, str]]) -> None:
    """Names upright under the top edge, at their place on the x axis or, where another stands there, beside it."""
    low, high = map(math.log10, axes.get_xlim())
    known = sorted(students)
    places = apart([(math.log10(x) - low) / (high - low) for x, _ in known], NAME_WIDTH)
    for (x, text), place in zip(known, places, strict=True):
        axes.axvline(x, color="#e4e6e8", linewidth=0.6, zorder=0)
        axes.text(
            place, 0.985, short(clean(text), 16), rotation=90, ha="center", va="top", fontsize=7,
            color=MUTED, transform=axes.transAxes,
        )  # fmt: skip


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places in [0, 1], moved as little to the right, then to the left, as leaves the gap between them."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    limit = 1.0
    for k in range(len(moved) - 1, -1, -1):
        moved[k] = min(moved[k], limit)
        limit = moved[k] - gap
    return moved


def gain_tables(panel: Panel, moment: str) -> list[Table]:
    """For each family: students by size, accuracy of each series, and its difference to the first, paired by seed."""
    if panel.main is None:
        return []
    return [_gains(panel, moment, family) for family in families(panel, moment)]


def _gains(panel: Panel, moment: str, family: tuple[Series, ...]) -> Table:
    base, *others = family
    points = base.at(moment)
    order = sorted(range(len(points)), key=lambda k: size_of(points[k]) or 0)
    columns = Columns()
    sizes = [points[k].reading("structure", "parameters") for k in order]
    columns.add("Parameters", "", [cell(r, notes=False) for r in sizes], always=True)
    readings = {s.label: [panel.main_reading(s.at(moment)[k]) for k in order] for s in family}
    unit = next((r.unit for found in readings.values() for r in found if r), "")
    name = title_of(panel.main[1]) if panel.main else ""
    for series in family:
        columns.add(series.label, unit, [cell(r, notes=False) for r in readings[series.label]], name)
    gain = difference_unit(unit)
    for series in others:
        gains = [paired(a, b) for a, b in zip(readings[series.label], readings[base.label], strict=True)]
        columns.add(
            series.label, gain, [spread_cell(g, gain, signed=True) for g in gains], f"Gain over {base.label}"
        )
    return Table(
        title=f"Gain over {base.label} by the student’s size, {moment_name(moment)}",
        stub="Student",
        heads=tuple(columns.heads),
        rows=tuple(Row(branch(points[k]), columns.row(place)) for place, k in enumerate(order)),
        groups=columns.spanning,
        notes=("Gains are differences of the same seed: what seeds share cancels.",),
    )
