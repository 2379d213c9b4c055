"""Square: what is left under an attack that asks for scores only, and how many it has to ask for."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric
from compressbench.seeds import derive_seed

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View


@dataclass(frozen=True)
class Square:
    """Square attack in the L-infinity norm, without gradient and target (Andriushchenko et al., ECCV 2020).

    The images are those that ``robustness`` attacks (the first of them, where these are fewer), the random squares
    depend on the seed alone: all states of a run are attacked alike.

    Attributes:
        eps: largest change of a pixel, 1 being the full range; a number or a fraction in quotes.
        queries: forwards an image at most.
        first: share of the image that the first squares cover (0.8: AutoAttack's).
        examples: test images to attack; null for all of them.
    """

    VERSION: ClassVar[int] = 2  # 2: answers that are no numbers are wrong
    eps: float | str = "8/255"
    queries: int = 500
    first: float = 0.8
    examples: int | None = 256

    def __post_init__(self) -> None:
        try:
            radius = float(Fraction(str(self.eps)))
        except (ValueError, ZeroDivisionError) as error:
            raise UserError(
                f"square: eps is {self.eps!r}, must be a number or a fraction such as 8/255"
            ) from error
        if not 0 < radius <= 1:
            raise UserError(
                f"square: eps is {self.eps}, must be above 0 and at most 1 (the range of a pixel)"
            )
        if self.queries < 1:
            raise UserError(f"square: queries is {self.queries}, must be at least 1")
        if not 0 < self.first <= 1:
            raise UserError(f"square: first is {self.first}, must be above 0 and at most 1")
        if self.examples is not None and self.examples < 1:
            raise UserError(f"square: examples is {self.examples}, must be at least 1, or null for all")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject: accuracy after the attack on all images, queries on those that it got right before."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        import torch

        from compressbench import metrics
        from compressbench.probes.robustness import attacked_rows
        from compressbench.tasks.images import attacks, square
        from compressbench.tasks.task import NoSurface

        task, feed = bench.task, bench.feed("test")
        surface = task.surface(bench.device)
        if isinstance(surface, NoSurface):
            yield Metric("square_accuracy", None, "%", note=surface.why)
            return
        examples = feed.take(attacked_rows(len(feed), self.examples).to(bench.device))
        (images,), labels = task.encode(examples), examples.labels
        scores = functools.partial(attacks.log_probs, subject.fast)
        ball = attacks.Ball(surface, float(Fraction(str(self.eps))))
        noise = torch.Generator().manual_seed(derive_seed(bench.seed, "square"))
        with torch.inference_mode():
            found = square.square(scores, images, labels, ball, self.queries, noise, self.first)
        attacked = found.queries > 0
        n = int(attacked.sum())
        yield Metric("square_accuracy", metrics.percent(~found.fallen), "%", n=len(examples))
        note = f"at most {self.queries}; of images that it got right before"
        mean = float(found.queries[attacked].double().mean()) if n else None
        yield Metric("square_queries", mean, "queries", n=n, note=note if n else "it got none right before")
