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
        from compressbench.probes.landscape import NoCurvature, forms, lanczos, random_direction, trace

        for suffix, found in forms(subject, self.examples, self.factor):
            names = (f"hessian_largest{suffix}", f"hessian_trace{suffix}")
            if isinstance(found, str):
                yield from (Metric(name, None, "1", note=found) for name in names)
                continue
            place, note = found
            n = place.examples
            start = random_direction(place, bench.generator("top"))
            try:
                top = lanczos(place.product, start, self.tolerance, self.products)
            except NoCurvature as error:
                yield from (Metric(name, None, "1", note=str(error)) for name in names)
                continue
            off = 100 * top.error / max(abs(top.value), 1e-30)
            told = f"{top.products} products, error {f'about {off:.0f} %' if off >= 1 else 'below 1 %'}"
            yield Metric(names[0], _finite(top.value), "1", n=n, note="; ".join(filter(None, (told, note))))
            drawn = trace(place, bench.generator("trace"), self.samples)
            told = f"{len(drawn)} random vectors"
            if len(drawn) > 2:  # of two it would be their distance
                told += f", standard error {float(f'{statistics.stdev(drawn) / len(drawn) ** 0.5:.2g}'):g}"
            yield Metric(
                names[1],
                _finite(statistics.fmean(drawn)),
                "1",
                n=n,
                note="; ".join(filter(None, (told, note))),
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
