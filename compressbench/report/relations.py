"""Relations between classes as matrices, of the dense net and of each series; pure functions of records."""

from __future__ import annotations

from dataclasses import dataclass

from compressbench.report.panels import Panel, Point, beside_lead
from compressbench.report.students import branch

RELATION = ("relations", "relation")
SEPARATOR = " · "


@dataclass(frozen=True)
class Matrix:
    """Relations of one state, the mean over seeds.

    Attributes:
        title: the series, and the state where the series has several.
        classes: names, in label order.
        values: rows of cosines; None where it could not be had.
        counts: the distinct numbers of seeds behind them.
        notes: what the probe had to say.
    """

    title: str
    classes: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    counts: tuple[int, ...]
    notes: tuple[str, ...]


def matrices(panel: Panel, moment: str) -> list[Matrix]:
    """Dense first, then each series, of several states the one beside the lead's lowest density."""
    found = []
    for series in (*panel.dense.values(), *panel.series):
        point = beside_lead(panel, series, moment)
        if point and any(key[:2] == RELATION for key in point.readings):
            several = len(series.at(moment)) > 1
            found.append(_matrix(point, f"{series.label}, {branch(point)}" if several else series.label))
    return found


def _matrix(point: Point, title: str) -> Matrix:
    readings = {group: r for (*key, group), r in point.readings.items() if tuple(key) == RELATION}
    classes = tuple(name for group in readings if (name := _diagonal(group)) is not None)
    spreads = {group: r.spread for group, r in readings.items()}
    cells = [[spreads.get(f"{a}{SEPARATOR}{b}") for b in classes] for a in classes]
    return Matrix(
        title=title,
        classes=classes,
        values=tuple(tuple(c.mean if c else None for c in row) for row in cells),
        counts=tuple(sorted({c.n for row in cells for c in row if c})),
        notes=tuple(dict.fromkeys(n for r in readings.values() if r.by_seed for n in r.notes)),
    )


def _diagonal(group: str) -> str | None:
    """The class of a group like ``a · a``, whatever its name holds; None for two different classes."""
    half = (len(group) - len(SEPARATOR)) // 2
    name = group[: max(half, 0)]
    return name if group == f"{name}{SEPARATOR}{name}" else None
