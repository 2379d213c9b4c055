"""Flat region: how far the weights can move before the training loss has risen."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric
from compressbench.specs import Count, Moderate, Positive, check_fields

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

NAMES = (
    ("extent_random", "1"),
    ("extent_random_relative", "%"),
    ("extent_gradient", "1"),
    ("extent_gradient_relative", "%"),
)


@dataclass(frozen=True)
class FlatRegion:
    """Distance to a loss higher by ``rise``, along random directions and up the gradient: "large connected regions".

    Hochreiter & Schmidhuber 1997 call a minimum flat where the error stays about the same in a large connected region of
    weight space. ``extent_random`` is the mean over directions drawn uniformly from the sphere, ``extent_gradient``
    that of the steepest one at the weights; both are lengths in weight space, and ``…_relative`` are in % of the
    weights' own length. Each also as ``…_rescaled``, after the layers around each ReLU were scaled by ``factor`` and
    its inverse, which leaves the function as it is (Dinh et al. 2017).

    Attributes:
        rise: of the mean loss, in nats.
        directions: random ones.
        farthest: where the search ends, as a multiple of the weights' length.
        factor: of the rescaling, a power of two is exact.
        examples: of the training split, the first ones.

    Raises:
        UserError: a setting out of range, or a model without parameters.
    """

    rise: Positive = 0.1
    directions: Count = 2
    farthest: Positive = 4.0
    factor: Moderate = 4.0
    examples: Count = 500
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject alone."""
        from compressbench.probes.landscape import Landscape, extent, noted, of_both, random_direction

        def measured(place: Landscape, suffix: str, note: str) -> Iterable[Metric]:
            own = float(place.weights().norm())
            farthest = self.farthest * own
            generator = bench.generator("directions")
            ways = [random_direction(place, generator) for _ in range(self.directions)]
            gradient = place.gradient()
            steepest = gradient / gradient.norm().clamp(min=1e-30)
            lengths = {
                "extent_random": statistics.fmean(extent(place, way, self.rise, farthest) for way in ways),
                "extent_gradient": extent(place, steepest, self.rise, farthest),
            }
            end = f"as far as was looked: {self.farthest:g} times the weights"
            for name, length in lengths.items():
                told = noted(f"loss + {self.rise:g} nats", end if length >= farthest else "", note)
                yield Metric(f"{name}{suffix}", length, "1", n=place.examples, note=told)
                share = 100 * length / own if own else None
                yield Metric(f"{name}_relative{suffix}", share, "%", n=place.examples, note=told)

        return of_both(subject, self.examples, self.factor, NAMES, measured)
