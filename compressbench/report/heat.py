"""Tables of groups against states, shaded: their columns, rows and states; a pure function of records."""

from __future__ import annotations

from collections.abc import Sequence

from compressbench.report.naming import told_apart
from compressbench.report.numbers import percentage
from compressbench.report.panels import Panel, Point
from compressbench.report.states import some


def group_heat(
    panel: Panel, moment: str, probe: str, metric: str
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, int], ...], list[str], list[Point]] | None:
    names: dict[str, None] = {}
    columns, groups, states = [], [], []
    for series in panel.series:
        points = [p for p in some(series, moment) if any(k[:2] == (probe, metric) for k in p.readings)]
        for point in points:
            names.update(dict.fromkeys(g for p, m, g in point.readings if (p, m) == (probe, metric) and g))
        columns += [(name, "") for name in _heads(points)]
        states += points
        if points:
            groups.append((series.label, len(points)))
    if not states or not names:
        return None
    return tuple(columns), tuple(groups), list(names), states


def _heads(points: Sequence[Point]) -> list[str]:
    """Densities, or what else tells the points apart where these are all alike."""
    densities = [percentage(p.density).removesuffix(".0") for p in points]
    alike = len(points) > 1 and len(set(densities)) == 1
    return told_apart([p.states[0] for p in points]) if alike else densities
