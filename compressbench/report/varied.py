"""What a series varies: its density, or, where all its states have the same, their bits or their MACs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compressbench.report.numbers import bits, number, percent, percentage
from compressbench.report.panels import Point, bits_of, macs_of


@dataclass(frozen=True)
class Axis:
    """How sentences order and name the states of a series.

    Attributes:
        least: of what the smallest state has the least, e.g. ``lowest density``.
        higher: of what larger states have more: one of them, and several.
        level: of a point; equal for states that the axis doesn't tell apart.
        name: of a point, e.g. ``12.5 %``.
    """

    least: str
    higher: tuple[str, str]
    level: Callable[[Point], tuple[float, ...]]
    name: Callable[[Point], str]

    @property
    def among(self) -> str:
        """What the states differ in, of which there are several: ``density``."""
        return self.higher[0].partition(" ")[2]


def axis_of(points: Sequence[Point]) -> Axis:
    """The axis of a series' states at one moment."""
    shown = {percentage(p.density) for p in points}
    if len(shown) > 1 or len(points) < 2:
        return Axis("lowest density", ("higher density", "higher densities"), _density, _named_among(points))
    if len({bits_of(p) for p in points}) > 1:
        return Axis(
            "fewest bits",
            ("larger number of bits", "larger numbers of bits"),
            bits_of,
            lambda p: f"{_bits(p)} bits",
        )
    if len({macs_of(p) for p in points}) > 1:
        return Axis(
            "fewest MACs",
            ("larger number of MACs", "larger numbers of MACs"),
            lambda p: (macs_of(p),),
            lambda p: f"{number(macs_of(p), 'MACs')} MACs",
        )
    return Axis("lowest density", ("higher density", "higher densities"), _density, _named_among(points))


def _density(point: Point) -> tuple[float, ...]:
    return (float(percentage(point.density)), *bits_of(point))


def _named_among(points: Sequence[Point]) -> Callable[[Point], str]:
    """Densities; with the bits where states of one density differ in them; of policies of one net what they cost."""
    costs = {_cost(p) for p in points}
    if (
        len({(percentage(p.density), *bits_of(p)) for p in points}) == 1
        and len(costs) > 1
        and None not in costs
    ):
        return lambda p: f"{percent((_cost(p) or 0) / 100)} of the MACs"
    alike: dict[str, set[tuple[float, float]]] = {}
    for p in points:
        alike.setdefault(percentage(p.density), set()).add(bits_of(p))
    return lambda p: (
        f"{percent(p.density)}, {_bits(p)} bits"
        if len(alike.get(percentage(p.density), ())) > 1
        else percent(p.density)
    )


def _cost(point: Point) -> float | None:
    """MACs of a state that examples leave early, as the tables print them: % of its last exit's."""
    reading = point.reading("exits", "expected_cost")
    return round(reading.spread.mean, 1) if reading and reading.spread else None


def _bits(point: Point) -> str:
    """Of weights and inputs; once where they are the same."""
    weights, inputs = bits_of(point)
    return bits(weights) if weights == inputs else f"{bits(weights)}/{bits(inputs)}"
