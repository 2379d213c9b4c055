"""By sub-group: dense error, and how errors change relative to it, the sub-group rarest in training first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressbench.declared import title_of
from compressbench.records import Record
from compressbench.report.drawing import PALE, Chart, canvas, clean, mark, multiples, percent_ticks, saved
from compressbench.report.numbers import MINUS, MISSING, Spread, counted, number, spread
from compressbench.report.panels import Panel, Point, beside_lead
from compressbench.report.section import Section
from compressbench.report.states import Key
from compressbench.report.styles import COLOURS, INK, MARKERS, Style, styles
from compressbench.report.tables import EMPTY, Cell, Row, Table, spread_cell
from compressbench.report.wording import moment_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
PROBE = "subgroups"
SHARE = "group_training_share"
RATES = ("group_error", "group_fpr", "group_fnr")
ENDS = ("", "_sd", "_change", "_change_low", "_change_high")
METRICS = (SHARE, *(rate + end for rate in RATES for end in ENDS))
CROSSED = " & "
ROWS_SHOWN = 24
CHARTS = 2
WIDE = 1000
SAID = (
    "Change is (compressed − dense) / dense: +100 % means twice as many errors as the dense model makes there. "
    "The smaller the dense error, the less it takes."
)
OVER = (
    "Mean over the nets of a population ± sample standard deviation; in brackets the change’s 95 % interval "
    "(Fieller’s, by Student’s t over nets)."
)


@dataclass(frozen=True)
class Figure:
    """One figure of one sub-group: over seeds, or of a population with its spread, and the ends of its interval."""

    value: Spread | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    n: int = 0


Points = list[tuple[float, Figure]]
"""Share in training and change of the error."""


@dataclass(frozen=True)
class Arm:
    """A state, or a population, with its figures by (metric, sub-group)."""

    label: str
    figures: Mapping[tuple[str, str], Figure]
    dense: bool = False

    def at(self, metric: str, group: str) -> Figure | None:
        return self.figures.get((metric, group))


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {(PROBE, metric, True) for metric in METRICS}


def section(panel: Panel, suffix: str) -> Section:
    """Of populations where there are any, with single states folded away; else of single states."""
    many = arms_of_populations(panel)
    single = arms_of_states(panel, panel.moments[0])
    arms = many or single
    if not arms:
        return Section("By sub-group", "subgroups")
    charts, tables, more = [], [], []
    over = OVER if many else ""
    what = "populations" if many else moment_name(panel.moments[0])
    for place, (grouping, groups) in enumerate(_groupings(arms).items()):
        if place < CHARTS:
            chart = against_share(
                panel, arms, grouping, groups, f"subgroups{'' if not place else f'_{place}'}{suffix}"
            )
            charts += [chart] if chart else []
        first, *rest = _tables(panel, arms, grouping, groups, what, over)
        tables.append(first)
        more += rest
    if many and single:
        for grouping, groups in _groupings(single).items():
            more += _tables(
                panel, single, grouping, groups, f"single nets, {moment_name(panel.moments[0])}", ""
            )
    return Section("By sub-group", "subgroups", tuple(charts), tuple(tables), tuple(more), SAID)


def arms_of_populations(panel: Panel) -> list[Arm]:
    """Populations of one run stay apart from those of another."""
    found: dict[tuple[str, str, int, str], list[Record]] = {}
    for row in panel.populations:
        if row.probe == PROBE and row.metric in METRICS:
            found.setdefault((row.recipe, row.series, row.seed, row.key), []).append(row)
    recipes, seeds = ({place[k] for place in found} for k in (0, 2))
    arms = []
    for (recipe, series, seed, key), rows in found.items():
        label = (f"{recipe}: " if len(recipes) > 1 else "") + series
        label += f", run of seed {seed}" if len(seeds) > 1 else ""
        arms.append(Arm(label, _figures(rows), any(r.reference == key for r in rows)))
    return _dense_first(arms)


def _figures(rows: Sequence[Record]) -> dict[tuple[str, str], Figure]:
    values = {(r.metric, r.group): r for r in rows}
    found = {}
    for (metric, group), row in values.items():
        sd, low, high = (
            r.value if (r := values.get((f"{metric}{end}", group))) else None
            for end in ("_sd", "_low", "_high")
        )
        value = None if row.value is None else Spread(row.value, sd, row.n)
        found[metric, group] = Figure(value, low, high, row.note, row.n)
    return found


def arms_of_states(panel: Panel, moment: str) -> list[Arm]:
    """Dense, and each series where it stands beside the first one's lowest density."""
    arms = []
    for dense in panel.dense.values():
        arms += [Arm(dense.label, _of_point(p), True) for p in dense.at(moment)[:1]]
    for series in panel.series:
        point = beside_lead(panel, series, moment)
        arms += [Arm(series.label, _of_point(point))] if point else []
    return _dense_first([a for a in arms if a.figures])


def _of_point(point: Point) -> dict[tuple[str, str], Figure]:
    found = {}
    for (probe, metric, group), reading in point.readings.items():
        if probe != PROBE or metric not in METRICS:
            continue
        low, high = None, None
        if len(reading.by_seed) == 1:
            low, high = (
                s.mean if (r := point.reading(PROBE, f"{metric}{end}", group)) and (s := r.spread) else None
                for end in ("_low", "_high")
            )
        n = max(reading.examples, default=0)
        found[metric, group] = Figure(
            spread(reading.by_seed.values()), low, high, "; ".join(reading.notes), n
        )
    return found


def _dense_first(arms: Sequence[Arm]) -> list[Arm]:
    return sorted(arms, key=lambda a: not a.dense)


def _groupings(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Grouping -> its sub-groups, the rarest in training first."""
    found: dict[str, dict[str, float]] = {}
    for arm in arms:
        for (metric, group), figure in arm.figures.items():
            if metric == SHARE:
                own = found.setdefault(grouping_of(group), {})
                own.setdefault(group, figure.value.mean if figure.value else -1.0)
    return {name: sorted(own, key=lambda g: (own[g], g)) for name, own in found.items()}


def grouping_of(group: str) -> str:
    """The attributes that a sub-group's name speaks of: ``Male & Young`` of ``Male=1 & Young=0``."""
    return CROSSED.join(part.partition("=")[0] if "=" in part else "class" for part in group.split(CROSSED))


def _tables(
    panel: Panel, arms: Sequence[Arm], grouping: str, groups: Sequence[str], what: str, over: str
) -> list[Table]:
    """A table each of error, false positives, false negatives; what is beyond 24 rows in one of its own."""
    tables = []
    shared = any((f := _share(arms, group)) is not None and f.value is not None for group in groups)
    for rate in RATES:
        rows = [_row(arms, rate, group, shared) for group in groups]
        if rate != RATES[0] and not any(c.text != MISSING for row in rows for c in row.cells[shared:]):
            continue
        dense, others = _parts(arms)
        heads = [("in training", "%")] if shared else []
        heads += [(a.label, f"{title_of(rate).lower()}, %") for a in dense]
        heads += [(a.label, "change, %") for a in others]
        table = Table(
            f"{title_of(rate)} by {grouping}, {what}",
            "Sub-group, rarest first" if shared else "Sub-group",
            tuple(heads),
            tuple(rows[:ROWS_SHOWN]),
            notes=tuple(x for x in (over,) if x),
        )
        tables.append(table)
        if left := rows[ROWS_SHOWN:]:
            title = f"{table.title}: {counted(len(left), 'more sub-group')}"
            tables.append(replace(table, title=title, rows=tuple(left)))
    return tables


def _parts(arms: Sequence[Arm]) -> tuple[list[Arm], list[Arm]]:
    return [a for a in arms if a.dense], [a for a in arms if not a.dense]


def _share(arms: Sequence[Arm], group: str) -> Figure | None:
    return next((f for a in arms if (f := a.at(SHARE, group))), None)


def _row(arms: Sequence[Arm], rate: str, group: str, shared: bool) -> Row:
    """``shared``: with the share in training first."""
    dense, others = _parts(arms)
    cells = [_cell(_share(arms, group))] if shared else []
    cells += [_cell(a.at(rate, group)) for a in dense]
    cells += [_cell(a.at(f"{rate}_change", group), signed=True) for a in others]
    return Row(group, tuple(cells))


def _cell(figure: Figure | None, signed: bool = False) -> Cell:
    """Mean and spread, or the change with its interval in brackets; what is undefined keeps its note."""
    if figure is None:
        return EMPTY
    if figure.value is None:
        return Cell(MISSING, notes=(figure.note,) if figure.note else ())
    shown = replace(spread_cell(figure.value, "%", signed), n=0)
    if figure.low is None or figure.high is None:
        return shown
    ends = " to ".join(number(end, "%", signed) for end in (figure.low, figure.high))
    return replace(shown, sd=f" ({ends})")


def against_share(
    panel: Panel, arms: Sequence[Arm], grouping: str, groups: Sequence[str], name: str
) -> Chart | None:
    """Normalised change of the error against the share in training, a small chart an arm; None of nothing."""
    _, others = _parts(arms)
    lines: list[tuple[Arm, Points]] = []
    for arm in others:
        points: Points = []
        for group in groups:
            share, change = arm.at(SHARE, group), arm.at("group_error_change", group)
            if share and share.value and share.value.mean > 0 and change and change.value:
                points.append((share.value.mean, change))
        if points:
            lines.append((arm, points))
    if not lines:
        return None
    title = f"Change of error by {clean(grouping)}"
    file = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    caption = (
        f"Each mark is a sub-group ({clean(grouping)}). 0: as many errors as the dense model; thin bars: 95 % "
        "intervals, cut at the edge. "
        "Marks that lie higher the further to the left say that the rare ones pay."
    )
    looks = [
        styles(panel).get(arm.label) or Style(COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)], "-")
        for k, (arm, _) in enumerate(lines)
    ]

    def paint(axes: Axes, place: int) -> None:
        for arm, points in lines[:place] + lines[place + 1 :]:
            pale = axes.plot(*_means(points), ".", color=PALE, markersize=3.5, zorder=1)
            mark(pale, arm.label)
        (arm, points), look = lines[place], looks[place]
        for x, found in points:
            if found.low is not None and found.high is not None:
                bar = axes.plot([x, x], [found.low, found.high], color=look.colour, linewidth=0.8, alpha=0.5)
                mark(bar, arm.label)
        mark(axes.plot(*_means(points), look.marker or "o", color=look.colour, zorder=3), arm.label)
        _share_axes(axes, [_means(own) for _, own in lines])

    if len(lines) > 1:
        return multiples(file, title, [arm.label for arm, _ in lines], paint, caption, height=1.5)
    figure, axes = canvas(title)
    paint(axes, 0)
    return saved(figure, file, title, f"{clean(lines[0][0].label)}. {caption}", [])


def _means(points: Points) -> tuple[list[float], list[float]]:
    """Shares in training and mean changes."""
    return [x for x, _ in points], [f.value.mean for _, f in points if f.value]


def _share_axes(axes: Axes, drawn: Sequence[tuple[list[float], list[float]]]) -> None:
    """Share in training below, on a log scale; the change beside it, on one that bends at 100 % where it is wide."""
    xs = [x for own, _ in drawn for x in own]
    ys = [y for _, own in drawn for y in own]
    spans = min(xs) < max(xs)
    if spans:
        axes.set_xscale("log")
        axes.set_xlim(min(xs) / 1.15, max(xs) * 1.15)
        percent_ticks(axes.xaxis, [min(xs), max(xs)])
    axes.axhline(0, color=INK, linewidth=1.0)
    low, high = min([0.0, *ys]), max([0.0, *ys])
    if max(high, -low) > WIDE:
        axes.set_yscale("symlog", linthresh=100)
        axes.set_ylim(min(2 * low, -100.0), 2 * high + 10)
    else:
        room = 0.15 * max(high - low, 10.0)
        axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}".replace(",", " ").replace("-", MINUS))
    axes.set_xlabel("share of the sub-group in training, %" + (" (log scale)" if spans else ""))
    axes.set_ylabel("change of error, % of the dense error")
