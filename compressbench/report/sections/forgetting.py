"""What was forgotten, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compressbench.records import Record
from compressbench.report.drawing import (
    ROWS_SHOWN,
    Chart,
    bars,
    by_group,
    dot_chart,
    lowest_at,
    when,
)
from compressbench.report.gallery import gallery
from compressbench.report.heat import group_heat
from compressbench.report.numbers import Spread, number, percentage
from compressbench.report.panels import Panel, Point, Series, beside_lead
from compressbench.report.section import Gallery, Section, kept
from compressbench.report.states import Key
from compressbench.report.styles import INK
from compressbench.report.tables import Cell, Row, Table, cell, diverging
from compressbench.report.wording import moment_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
CLASSES_SHOWN = 20
CHANGE = ("forgetting", "recall_change")
CHOSEN = (
    "Test examples that the dense net gets right and this one gets wrong, those first of which both are surest; "
    "behind each answer the probability that its net gives it."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {("forgetting", m, True) for m in ("recall", "recall_change", "forgotten", "learned")}


def section(panel: Panel, suffix: str) -> Section:
    drawn, tables, more = [], [], []
    for moment in panel.moments:
        first, rest = forgetting_table(panel, moment)
        if moment == panel.moments[0]:
            drawn.append(forgetting(panel, moment, f"forgetting{suffix}"))
            tables.append(first)
        else:
            more.append(first)
        more.append(rest)
    return Section(
        "What was forgotten, class by class",
        "forgetting",
        kept(drawn),
        kept(tables),
        kept(more),
        galleries=tuple(forgotten_pictures(panel, panel.moments[0])),
    )


def forgotten_pictures(panel: Panel, moment: str) -> list[Gallery]:
    """What the lead's smallest state has forgotten, then, folded, what each series has beside it; the first seed's."""
    found: list[Gallery] = []
    for series in sorted(panel.series, key=lambda s: s is not panel.lead):
        point = beside_lead(panel, series, moment)
        rows = [] if point is None else _examples(panel, series, point)
        if not rows or point is None:
            continue
        title = f"Forgotten: {series.label}, {percentage(point.density)} %, seed {rows[0].seed}"
        one = gallery(title, rows, CHOSEN)
        if one is not None:
            found.append(replace(one, folded=bool(found)))
    return found


def _examples(panel: Panel, series: Series, point: Point) -> list[Record]:
    """Records of a point's forgotten examples in their order, of its first seed alone."""
    rows = [
        r
        for r in panel.examples
        if r.probe == CHANGE[0]
        and (r.series, r.moment) == (series.name, point.moment)
        and r.order == point.order
        and r.state in point.states
    ]
    rows = [r for r in rows if r.recipe == series.recipe] or rows
    first = min(((r.seed, r.key) for r in rows), default=None)
    return sorted((r for r in rows if (r.seed, r.key) == first), key=lambda r: int(r.group or 0))


def forgetting(panel: Panel, moment: str, name: str) -> Chart | None:
    """Recall change per class at the lead's lowest density, the classes in the order of the table."""
    lines = by_group(panel, moment, "forgetting", "recall_change")
    if not lines:
        return None
    drawn = {c for _, _, found in lines for c in found}
    classes = [c for c in worst_first(panel, moment) if c in drawn]
    shown = classes[:ROWS_SHOWN]
    title = "Recall change per class" + (
        "" if len(shown) == len(classes) else f", the {len(shown)} worst of {len(classes)}"
    )

    def dress(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set_xlabel("points, against the dense model of the same seed")

    counts = {found[c].n for _, _, found in lines for c in shown if c in found}
    caption = f"{lowest_at(panel, lines)}; on top the class of which any state loses most. {bars(counts)}"
    return dot_chart(panel, name, title + when(moment), lines, shown, dress, caption)


def forgetting_table(panel: Panel, moment: str) -> tuple[Table | None, Table | None]:
    """Recall change per class and state, the worst class first; then the rest of it."""
    heat = group_heat(panel, moment, *CHANGE)
    if heat is None:
        return None, None
    columns, groups, names, states = heat
    dense = next((d for s in panel.series if (d := panel.dense_of(s, moment))), None)
    known = [r.spread for p in states for n in names if (r := p.reading(*CHANGE, n))]
    limit = max((abs(s.mean) for s in known if s), default=0.0)
    rows = [
        Row(
            name,
            (
                cell(dense.reading("forgetting", "recall", name) if dense else None, notes=False),
                *(_change_cell(point, name, limit) for point in states),
            ),
        )
        for name in sorted(names, key=lambda n: _worst(states, n))
    ]
    first = Table(
        title=f"Recall change per class, points, {moment_name(moment)}",
        stub="Class, worst first",
        heads=(("Dense", "recall, %"), *columns),
        rows=tuple(rows[:CLASSES_SHOWN]),
        groups=(("", 1), *groups),
        notes=(
            "Change of recall against the dense model of the same seed, by density in %, by setting where "
            "that is the same. Orange: forgotten; "
            f"blue: learned; shaded by the square root, full at {number(limit, 'points')} points.",
        ),
        heat=True,
    )
    left = rows[CLASSES_SHOWN:]
    return first, replace(first, title=f"The other {len(left)} classes", rows=tuple(left)) if left else None


def _change_cell(point: Point, name: str, limit: float) -> Cell:
    reading = point.reading(*CHANGE, name)
    figure = reading.spread if reading else None
    shown = cell(reading, signed=True, notes=False)
    return replace(shown, shade=diverging(figure.mean, limit)) if figure else shown


def changes_of(point: Point) -> dict[str, Spread]:
    """Recall change by class at a point."""
    found = {g: r.spread for (p, m, g), r in point.readings.items() if (p, m) == CHANGE and g}
    return {name: figure for name, figure in found.items() if figure}


def worst_classes(panel: Panel, moment: str) -> list[tuple[str, Series, Spread]]:
    """(class, the series that loses most of it, its recall change), the worst class first.

    Each series is taken where it stands beside the lead's lowest density.
    """
    worst: dict[str, tuple[Series, Spread]] = {}
    for series in panel.series:
        point = beside_lead(panel, series, moment)
        for name, change in (changes_of(point) if point else {}).items():
            if name not in worst or change.mean < worst[name][1].mean:
                worst[name] = (series, change)
    found = [(name, series, change) for name, (series, change) in worst.items()]
    return sorted(found, key=lambda x: (x[2].mean, x[0]))


def worst_first(panel: Panel, moment: str) -> list[str]:
    """Classes in the order of ``forgetting_table``: by the most that any state of any series loses."""
    heat = group_heat(panel, moment, *CHANGE)
    return sorted(heat[2], key=lambda n: _worst(heat[3], n)) if heat else []


def _worst(states: Sequence[Point], name: str) -> tuple[float, str]:
    return min((c[name].mean for p in states if name in (c := changes_of(p))), default=0.0), name
