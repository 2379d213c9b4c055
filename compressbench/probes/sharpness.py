"""Sharpness: how much the training loss rises nearby, in the weights as they are and in weights that do the same."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric
from compressbench.specs import Count, Moderate, NonNegative, Positive, check_fields

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

NAMES = (("sam_sharpness", "nats"), ("adaptive_sharpness", "nats"), ("keskar_sharpness", "%"))


@dataclass(frozen=True)
class Sharpness:
    """Rises of the training loss nearby: SAM's, ASAM's and Keskar's; and the gap to the test split.

    ``sam_sharpness`` L(w + rho g / ||g||) - L(w) (Foret et al. 2021); ``adaptive_sharpness`` the same with the radius
    relative to the weights (Kwon et al. 2021); ``keskar_sharpness`` 100 (max L - L) / (1 + L) in a box (Keskar et al.
    2017), a lower bound. Each also as ``…_rescaled``: after the layers around each ReLU were scaled by ``factor`` and
    its inverse, which leaves the function as it is (Dinh et al. 2017). ``generalisation_gap`` is the loss on the test
    split minus that.

    Attributes:
        rho, adaptive_rho: radii.
        epsilon: half the box's width, relative to |w| + 1.
        steps: gradients in the search for the box's maximum.
        dimensions: of a random subspace to search in, null for all weights.
        factor: of the rescaling, a power of two is exact.
        examples: of the training split, the first ones.

    Raises:
        UserError: a setting out of range, or a model without parameters.
    """

    rho: NonNegative = 0.05
    adaptive_rho: NonNegative = 1.0
    epsilon: Positive = 1e-3
    steps: Count = 5
    dimensions: Count | None = None
    factor: Moderate = 4.0
    examples: Count = 500
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject alone."""
        from compressbench.probes.landscape import Landscape, ascent, keskar, noted, of_both

        def measured(place: Landscape, suffix: str, note: str) -> Iterable[Metric]:
            n, gradient = place.examples, place.gradient()
            if not suffix:
                loss = place.loss()
                yield Metric("train_loss", loss, "nats", n=n)
                yield Metric("gradient_norm", float(gradient.norm()), "1", n=n)
                test, count = _test_loss(subject)
                gap = test - loss if math.isfinite(test) else None
                told = f"loss, test minus that of {n} training examples"
                yield Metric("generalisation_gap", gap, "nats", n=count, note=told)
            for name, rho, adaptive in (("sam", self.rho, False), ("adaptive", self.adaptive_rho, True)):
                radius = f"{'relative ' * adaptive}rho {rho:g}"
                rise = ascent(place, gradient, rho, adaptive)
                yield _rise(f"{name}_sharpness{suffix}", rise, "nats", n, noted(radius, note))
            drawn = bench.generator("keskar")
            rise = keskar(place, self.epsilon, self.steps, drawn, self.dimensions)
            told = f"epsilon {self.epsilon:g}, lower bound"
            yield _rise(f"keskar_sharpness{suffix}", rise, "%", n, noted(told, note))

        return of_both(subject, self.examples, self.factor, NAMES, measured)


def _rise(name: str, value: float, unit: str, n: int, note: str) -> Metric:
    if not math.isfinite(value):
        return Metric(name, None, unit, n=n, note=f"{note}; the loss there is not a finite number")
    return Metric(name, value, unit, n=n, note=note)


def _test_loss(view: View) -> tuple[float, int]:
    """Mean task loss on the test split, from the log-probabilities that every probe shares."""
    if view.streams:
        return -float(view.told.likelihood.mean()), len(view.told.likelihood)
    rows = view.log_probs.gather(1, view.wanted[:, None])
    return -float(rows.double().mean()), len(rows)
