"""Answers put together from many random parts: accuracy against the number of features, or of trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressbench.report.drawing import (
    Chart,
    Lines,
    accuracy_axis,
    accuracy_words,
    bands,
    counts_of,
    dense_lines,
    line_chart,
    main_of,
    when,
)
from compressbench.report.panels import Panel, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
PARTS = {"features": "random features that the last layer reads", "trees": "trees"}
"""Metrics of the probe ``parts``, and what they count."""


def part_of(point: Point, metric: str) -> float | None:
    """How many parts a state's answer is made of."""
    reading = point.reading("parts", metric)
    return reading.spread.mean if reading and reading.spread else None


def accuracy_vs_parts(panel: Panel, moment: str, name: str) -> list[Chart]:
    """A chart for each kind of part of which some series has several numbers, more to the right."""
    return [c for metric in PARTS if (c := _against(panel, moment, metric, f"{name}_{metric}"))]


def _against(panel: Panel, moment: str, metric: str, name: str) -> Chart | None:
    lines = []
    for series in panel.series:
        points = [
            (x, figure)
            for p in series.at(moment)
            if (x := part_of(p, metric)) and (figure := main_of(panel, p))
        ]
        if len({x for x, _ in points}) > 1:
            lines.append((series, sorted(points, key=lambda found: found[0])))
    if not lines:
        return None
    label, _ = accuracy_words(panel)

    def dress(axes: Axes, _: Lines) -> None:
        dense_lines(panel, axes, moment, lambda p: main_of(panel, p))
        rising_axis(
            axes, [x for _, points in lines for x, _ in points], f"{PARTS[metric]} (log scale, more →)"
        )
        accuracy_axis(axes, panel, lines)

    counts = counts_of(panel, lines, moment, lambda p: main_of(panel, p))
    caption = f"More to the right. {bands(counts)} Black: the dense model."
    return line_chart(panel, name, f"{label} against {metric}{when(moment)}", lines, dress, caption)


def rising_axis(axes: Axes, values: Sequence[float], label: str) -> None:
    """Logarithmic, larger to the right, marked at the values themselves, every second or third where they are many."""
    from matplotlib.ticker import FixedLocator, NullLocator

    known = sorted(set(values))
    step = -(-len(known) // 10)
    axes.set_xscale("log")
    axes.set_xlim(known[0] / 1.15, known[-1] * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(known[::-1][::step]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
