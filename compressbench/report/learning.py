"""States whose training curve is an earlier state's: they were not trained since, and their speed of learning is its."""

from __future__ import annotations

from collections.abc import Iterator

from compressbench.report.panels import Panel, Point, Series, smallness

PROBE = "learning"


def carried(panel: Panel, series: Series, point: Point) -> bool:
    """Whether a point of a series has the learning figures of a larger state, dense or other, at the same compute."""
    own = _figures(point)
    if not own or series.label in panel.dense:
        return False
    return any(
        smallness(other) > smallness(point) and other.compute == point.compute and _figures(other) == own
        for other in _beside(panel, point)
    )


def carriers(panel: Panel, moment: str) -> list[str]:
    """Labels of the series with such points at a moment."""
    return [s.label for s in panel.series if any(carried(panel, s, p) for p in s.at(moment))]


def _beside(panel: Panel, point: Point) -> Iterator[Point]:
    for series in (*panel.dense.values(), *panel.series):
        yield from (p for p in series.at(point.moment) if p is not point)


def _figures(point: Point) -> dict[str, dict[int, float]]:
    return {
        metric: dict(reading.by_seed)
        for (probe, metric, group), reading in point.readings.items()
        if probe == PROBE and not group and reading.by_seed
    }
