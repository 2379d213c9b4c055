"""Hessian: the curvature of the training loss by the weights, its largest value and its sum."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric
from compressbench.specs import Count, Moderate, Positive, check_fields

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

NAMES = (("hessian_largest", "1"), ("hessian_trace", "1"))


@dataclass(frozen=True)
class Hessian:
    """Largest eigenvalue (Lanczos) and trace (Hutchinson) of the loss's Hessian, on training examples, evaluation mode.

    Each also as ``…_rescaled``, after the layers around each ReLU were scaled by ``factor`` and its inverse, which
    leaves the function as it is (Dinh et al. 2017).

    Attributes:
        tolerance: relative error, as estimated, at which the eigenvalue is good enough.
        products: Hessian-vector products at most; each costs about three and a half gradients.
        samples: random vectors for the trace; the note has their standard error from three on.
        factor: of the rescaling, a power of two is exact.
        examples: of the training split, the first ones.

    Raises:
        UserError: a setting out of range, or a model without parameters.
    """

    tolerance: Positive = 0.01
    products: Count = 40
    samples: Count = 4
    factor: Moderate = 4.0
    examples: Count = 500
    VERSION: ClassVar[int] = 2  # no standard error from two vectors

    def __post_init__(self) -> None:
        check_fields(self)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject alone."""
        from compressbench.probes import landscape
        from compressbench.probes.landscape import Landscape, NoCurvature, noted

        def measured(place: Landscape, suffix: str, note: str) -> Iterable[Metric]:
            n, (largest, total) = place.examples, (f"{name}{suffix}" for name, _ in NAMES)
            start = landscape.random_direction(place, bench.generator("top"))
            try:
                top = landscape.lanczos(place.product, start, self.tolerance, self.products)
            except NoCurvature as error:
                yield from landscape.without(str(error), NAMES, suffix)
                return
            off = 100 * top.error / max(abs(top.value), 1e-30)
            told = f"{top.products} products, error {f'about {off:.0f} %' if off >= 1 else 'below 1 %'}"
            yield Metric(largest, _finite(top.value), "1", n=n, note=noted(told, note))
            drawn = landscape.trace(place, bench.generator("trace"), self.samples)
            told = f"{len(drawn)} random vectors"
            if len(drawn) > 2:  # of two samples a standard error says no more than their distance
                told += f", standard error {float(f'{statistics.stdev(drawn) / len(drawn) ** 0.5:.2g}'):g}"
            yield Metric(total, _finite(statistics.fmean(drawn)), "1", n=n, note=noted(told, note))

        return landscape.of_both(subject, self.examples, self.factor, NAMES, measured)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
