"""The states that the first page speaks of: the smallest file that is on average no more than a point below dense.

Of what is no share of examples, as perplexity, it is one per cent of the dense figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compressbench.records import ENCODINGS
from compressbench.report.estimates import Estimate, accuracy_change
from compressbench.report.judged import judged, loss
from compressbench.report.panels import Panel, Point, Series, macs_of, smallness
from compressbench.report.speed import FASTER, Speed, batches, speed_of
from compressbench.report.varied import axis_of

WITHIN = 1.0
"""Points, or per cent of the dense figure, by which a state that counts as near is worse."""


@dataclass(frozen=True)
class State:
    """One state of a series with what it is chosen by.

    Attributes:
        change: accuracy against dense; None where that can't be had.
        size: bytes of the shortest encoding, mean over seeds; infinite where unknown.
        speed: measured against dense at the smallest batch size, in the first environment that has it.
        loss: how much worse than dense, in points or, of what is no share, in per cent; None where that isn't known.
    """

    series: Series
    point: Point
    change: Estimate | None
    size: float
    speed: Speed | None
    loss: float | None = None

    @property
    def near(self) -> bool:
        """Whether it is on average no more than one point, or one per cent, worse than dense."""
        return self.loss is not None and self.loss <= WITHIN

    @property
    def name(self) -> str:
        """``ticket at 3.6 %``; the series alone where it has but one state."""
        points = self.series.at(self.point.moment)
        return (
            f"{self.series.label} at {axis_of(points).name(self.point)}"
            if len(points) > 1
            else self.series.label
        )

    @property
    def pace(self) -> float:
        """How many times faster than dense, where that is shown; else 1."""
        shown = self.speed is not None and self.speed.verdict == FASTER and self.speed.figure
        return self.speed.figure.mean if shown and self.speed and self.speed.figure else 1.0

    @property
    def order(self) -> tuple[float, ...]:
        """What is smaller comes first: bytes, then time, then what is computed."""
        return (self.size, -self.pace, macs_of(self.point), *smallness(self.point))


def states_of(panel: Panel, moment: str) -> list[State]:
    """All compressed states that have an accuracy."""
    found, better = [], judged(panel).better
    for series in panel.series:
        dense = panel.main_reading(panel.dense_of(series, moment))
        whole = dense.spread.mean if dense and dense.spread else None
        for point in series.at(moment):
            if not ((reading := panel.main_reading(point)) and reading.by_seed):
                continue
            change = accuracy_change(panel, series, point)
            lost = loss(change.value, change.unit, whole, better) if change else None
            found.append(State(series, point, change, size_of(point), first_speed(panel, point)[0], lost))
    return found


def chosen(states: Iterable[State]) -> State | None:
    """The smallest that is near dense, else the one that lost least; None where nothing can be compared."""
    known = [s for s in states if s.change is not None]
    near = [s for s in known if s.near]
    if near:
        return min(near, key=lambda s: s.order)
    return min(known, key=lambda s: math.inf if s.loss is None else s.loss, default=None)


def picks(states: Sequence[State]) -> list[State]:
    """One a series, in the panel's order."""
    labels = dict.fromkeys(s.series.label for s in states)
    found = (chosen(s for s in states if s.series.label == label) for label in labels)
    return [s for s in found if s is not None]


def fastest(states: Iterable[State]) -> State | None:
    """Of the states near dense the one that is shown to be fastest; None where none is shown to be faster than dense."""
    return max((s for s in states if s.near and s.pace > 1), key=lambda s: s.pace, default=None)


def unbeaten(states: Sequence[State]) -> list[State]:
    """States that no other beats in accuracy, bytes or shown speed without losing in another; the smallest first."""

    def beats(one: State, other: State) -> bool:
        a, b = _merits(one), _merits(other)
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    known = [s for s in states if s.change is not None]
    return sorted(
        (s for s in known if not any(beats(o, s) for o in known)), key=lambda s: (s.order, s.series.label)
    )


def _merits(state: State) -> tuple[float, float, float]:
    return -math.inf if state.loss is None else -state.loss, -state.size, state.pace


def size_of(point: Point | None) -> float:
    """Bytes of the shortest encoding of a state, mean over seeds; infinite where none is known."""
    return encoded(point)[0]


def encoded(point: Point | None) -> tuple[float, str]:
    """The same with the metric of the encoding."""
    found = [
        (r.spread.mean, metric)
        for metric in ENCODINGS
        if point and (r := point.reading("cost", metric)) and r.spread
    ]
    return min(found, default=(math.inf, ""))


def first_speed(panel: Panel, point: Point | None) -> tuple[Speed | None, int, str]:
    """Speed, batch size and environment: at the smallest batch size, in the first environment that has a ratio.

    Without any ratio it is the first that says why.
    """
    found = [
        (speed, batch, environment)
        for batch in batches(panel)
        for environment in panel.environments
        if (speed := speed_of(point, f"speedup_b{batch}", environment))
    ]
    return next((x for x in found if x[0].figure), found[0] if found else (None, 0, ""))
