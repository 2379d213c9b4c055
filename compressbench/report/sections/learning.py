"""Speed of learning: early-stop iteration, and accuracy by the dense net's early stop, of what was trained since.

States whose training curve is an earlier state's were not trained since: their speed of learning is its.
"""

from __future__ import annotations

from collections.abc import Iterator

from compressbench.report.drawing import metric_vs_density
from compressbench.report.panels import Panel, Point, Series, smallness
from compressbench.report.section import Section, all_levels, kept
from compressbench.report.states import Key, Pick, every, metric_table, of, some, thinned

PROBE = "learning"
LEARNING = of(
    "learning",
    "early_stop_iteration",
    "early_stop_validation_top1",
    "validation_top1_by_reference_stop",
    "final_validation_top1",
    "iterations",
)
LEARNED = (
    (
        "early_stop_iteration",
        ("Early stop against density", "iteration of minimum validation loss", "Lower is faster."),
        "early_stop_vs_density",
    ),
    (
        "validation_top1_by_reference_stop",
        (
            "Accuracy by the dense net’s early stop",
            "validation top-1, %",
            "At the iteration of the dense net’s own early stop, or the last validation before it.",
        ),
        "accuracy_by_dense_stop",
    ),
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in LEARNING}


def section(panel: Panel, suffix: str) -> Section:
    """Speed of learning: early-stop iteration, and accuracy by the dense net's early stop, of what was trained since."""
    moment = panel.moments[0]

    def own(series: Series, point: Point) -> bool:
        return not carried(panel, series, point)

    def shown(pick: Pick) -> Pick:
        return lambda series, at: [p for p in pick(series, at) if own(series, p)]

    drawn = [
        metric_vs_density(panel, moment, ("learning", metric), words, f"{stem}{suffix}", own)
        for metric, words, stem in LEARNED
    ]
    if not kept(drawn):
        return Section("Speed of learning", "learning")
    short = thinned(panel, moment)
    tables = [metric_table(panel, moment, "Speed of learning", LEARNING, shown(some if short else every))]
    more = (
        [all_levels(metric_table(panel, moment, "Speed of learning", LEARNING, shown(every)))]
        if short
        else []
    )
    lead = (
        "Early stop: the iteration of minimum validation loss; nothing was stopped or chosen by it. By the lottery "
        "ticket hypothesis a subnetwork, trained alone, reaches the dense net’s accuracy in as many iterations or fewer."
    )
    if left := carriers(panel, moment):
        lead += f" Left out are states of {', '.join(left)} that were not trained since an earlier state."
    return Section("Speed of learning", "learning", kept(drawn), kept(tables), kept(more), lead)


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
