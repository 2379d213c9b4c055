"""Pictures that get worse: accuracy, corruption error beside the dense model, and loyalty, by kind and severity."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from compressbench.report.heat import group_heat
from compressbench.report.numbers import number, percentage
from compressbench.report.panels import Panel, Point, Reading, Series, paired
from compressbench.report.section import Section, both, kept
from compressbench.report.states import Column, Key, Pick, metric_table, of, some
from compressbench.report.tables import LOSS, Cell, Row, Table, cell, diverging, shade, spread_cell
from compressbench.report.wording import difference_unit, examples, moment_name, title_of

PROBE, ACCURACY, ERROR = "corruptions", "corrupted_top1", "corruption_error_ratio"
WHOLE = (
    Column(PROBE, ACCURACY, notes=False),
    Column(PROBE, ERROR, notes=False),
    *of(PROBE, "relative_corruption_error"),
    Column(PROBE, "corruption_relative_change", notes=False),
    *(
        Column(PROBE, name, notes=False)
        for name in ("corrupted_label_loyalty", "corrupted_probability_loyalty")
    ),
)
BY_KIND = (ERROR, "corruption_relative_change", "corrupted_label_loyalty", "corrupted_probability_loyalty")
PLACE = re.compile(r"(.+), severity ([1-5])\Z", re.DOTALL)
SAYS = (
    "mCE: errors on corrupted pictures over the dense model’s on the same ones, of each kind over all severities, mean "
    "over the kinds; above 100 % it errs more. Relative mCE: the same of what corruption adds to the errors. Relative "
    "change: the share of its clean accuracy that a state keeps, over the dense model’s, less 1; below 0 it is more "
    "fragile."
)
HEATS = {
    ERROR: "Above 100 % (orange) it errs more than the dense model of the same seed.",
    "corruption_relative_change": "Below 0 (orange) it keeps less of its clean accuracy than the dense model.",
    "corrupted_label_loyalty": "Share of corrupted pictures on which both models name the same class.",
    "corrupted_probability_loyalty": "Natural logarithm; 100 %: the same probabilities.",
}


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {*(c.key for c in WHOLE), (PROBE, ACCURACY, True), *((PROBE, name, True) for name in BY_KIND)}


def section(panel: Panel, suffix: str) -> Section:
    def build(moment: str, pick: Pick) -> Table | None:
        table = metric_table(panel, moment, "Corrupted pictures", WHOLE, pick)
        return table and replace(table, notes=(*table.notes, *_means(panel, moment), SAYS))

    made = both(panel, "Corrupted pictures", "corruptions", build)
    moment = panel.moments[0]
    heats = severity_tables(panel, moment)
    kinds = kept(kind_table(panel, moment, metric) for metric in BY_KIND)
    return replace(made, tables=(*made.tables, *heats[:1]), more=(*heats[1:], *kinds, *made.more))


def _means(panel: Panel, moment: str) -> list[str]:
    """Over which kinds and severities, as the probe notes it of the dense model's change."""
    points = [p for series in panel.everything() for p in series.at(moment)]
    told = (r.notes for p in points if (r := p.reading(PROBE, "corruption_relative_change")))
    return list(dict.fromkeys(f"{n[:1].upper()}{n[1:]}." for notes in told for n in notes))


def severity_tables(panel: Panel, moment: str) -> list[Table]:
    """Kind against severity for the lead's states, the smallest first: change against the dense model, and its own."""
    series = panel.lead
    if series is None:
        return []
    smallest = series.lowest(moment)
    points = [smallest, *(p for p in some(series, moment)[::-1] if p is not smallest)]
    return list(kept(_severities(panel, series, p, moment) for p in points if p))


def _severities(panel: Panel, series: Series, point: Point, moment: str) -> Table | None:
    dense = panel.dense_of(series, moment)
    places = [m for p, name, g in point.readings if (p, name) == (PROBE, ACCURACY) and (m := PLACE.match(g))]
    kinds, levels = (list(dict.fromkeys(m[k] for m in places)) for k in (1, 2))
    if dense is None or not kinds:
        return None
    grid = [[f"{kind}, severity {level}" for level in levels] for kind in kinds]
    changes = {g: paired(_at(point, g), _at(dense, g)) for row in grid for g in row}
    limit = max((abs(c.mean) for c in changes.values() if c), default=0.0)

    def change(group: str) -> Cell:
        figure = changes[group]
        found = spread_cell(figure, difference_unit("%"), signed=True)
        return replace(found, shade=diverging(figure.mean, limit)) if figure else found

    rows = tuple(
        Row(
            kind.replace("_", " "),
            (*(change(g) for g in row), *(cell(_at(dense, g), notes=False) for g in row)),
        )
        for kind, row in zip(kinds, grid, strict=True)
    )
    count = examples(_at(point, g) for row in grid for g in row)
    where = f"{series.label}, {percentage(point.density)} % density"
    return Table(
        title=f"Corrupted top-1 against the dense model’s, points, {moment_name(moment)}: {where}",
        stub="Kind",
        heads=tuple((level, "") for level in [*levels, *levels]),
        rows=rows,
        groups=(("Change, by severity", len(levels)), ("Dense, %, by severity", len(levels))),
        notes=(
            *((f"{count} test images a kind and severity.",) if count else ()),
            f"Orange: the dense model of the same seed gets more of them right; blue: fewer; shaded by the square root, "
            f"full at {number(limit, 'points')} points.",
        ),
        heat=True,
    )


def _at(point: Point, group: str) -> Reading | None:
    return point.reading(PROBE, ACCURACY, group)


def kind_table(panel: Panel, moment: str, metric: str) -> Table | None:
    """A metric by kind, for the states of all series."""
    heat = group_heat(panel, moment, PROBE, metric)
    if heat is None:
        return None
    columns, groups, kinds, states = heat
    means = [r.spread.mean for p in states for k in kinds if (r := p.reading(PROBE, metric, k)) and r.spread]
    shading = _shading(metric, means)
    return Table(
        title=f"{title_of(metric)} by kind, %, {moment_name(moment)}",
        stub="Kind",
        heads=columns,
        rows=tuple(
            Row(k.replace("_", " "), tuple(_shaded(p.reading(PROBE, metric, k), shading) for p in states))
            for k in kinds
        ),
        groups=groups,
        notes=(f"{HEATS[metric]} By density in %, by setting where that is the same.",),
        heat=True,
    )


def _shading(metric: str, means: Iterable[float]) -> Callable[[float], str]:
    values = list(means)
    if metric in (ERROR, "corruption_relative_change"):
        middle, sign = (100.0, -1) if metric == ERROR else (0.0, 1)
        limit = max((abs(v - middle) for v in values), default=0.0)
        return lambda value: diverging(sign * (value - middle), limit)
    lowest = min(values, default=0.0)
    return lambda value: shade((100 - value) / (100 - lowest) if lowest < 100 else 0.0, LOSS)


def _shaded(reading: Reading | None, shading: Callable[[float], str]) -> Cell:
    found = cell(reading)
    return replace(found, shade=shading(reading.spread.mean)) if reading and reading.spread else found
