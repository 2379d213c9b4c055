"""Square: what is left under an attack that asks for scores only, and how many it has to ask for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric
from compressbench.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
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

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import no_surface

        return no_surface(dataset)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject: accuracy after the attack on all images, queries on those that it got right before."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench import metrics
        from compressbench.tasks.task import NoSurface

        surface = bench.task.surface(bench.device)
        if isinstance(surface, NoSurface):
            yield Metric("square_accuracy", None, "%", note=surface.why)
            return
        radius, count = float(Fraction(str(self.eps))), len(bench.feed("test"))
        stop = min(self.examples or count, count)
        fallen, queries = searched(subject, radius, self.queries, self.first, 0, stop)
        yield Metric("square_accuracy", metrics.percent(~fallen), "%", n=len(fallen))
        yield queried(queries, self.queries)


def queried(queries: Tensor, most: int, group: str = "") -> Metric:
    """Mean queries of the images that were right before, of (n,) queries of all."""
    attacked = queries > 0
    n = int(attacked.sum())
    note = f"at most {most}; of images that it got right before" if n else "it got none right before"
    mean = float(queries[attacked].double().mean()) if n else None
    return Metric("square_queries", mean, "queries", n=n, group=group, note=note)


def attacked_rows(count: int, most: int | None) -> Tensor:
    """Which of ``count`` examples are attacked: all, or some that are the same ones in every run and by every attack."""
    from compressbench.data.examples import order

    return order(count, derive_seed("robustness", "examples"))[:most]


_searched: weakref.WeakKeyDictionary[View, dict[tuple[float, int, float, int, int], tuple[Tensor, Tensor]]]
_searched = weakref.WeakKeyDictionary()


def searched(
    view: View, eps: float, queries: int, first: float, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """(n,) bool, what fell, and (n,) int64, queries, on the CPU, in the order of attack; asked once for all probes.

    Args:
        eps: largest change of a pixel, 1.0 being the full range.
        queries: an image at most.
        first: share of the image that the first squares cover.
        start, stop: from and to which image in the order of ``attacked_rows``.
    """
    import functools

    from compressbench.tasks.images import attacks

    known = _searched.setdefault(view, {})
    key = (eps, queries, first, start, stop)
    if key not in known:
        rows = attacked_rows(len(view.bench.feed("test")), stop)[start:]
        scores = functools.partial(attacks.log_probs, view.fast)
        clean = view.log_probs[rows].to(view.bench.device)
        known[key] = search(view, scores, rows, clean, eps, queries, first, start)
    return known[key]


def search(
    view: View,
    scores: Callable[[Tensor], Tensor],
    rows: Tensor,
    clean: Tensor,
    eps: float,
    queries: int,
    first: float,
    start: int = 0,
) -> tuple[Tensor, Tensor]:
    """``searched`` of test images by anything that gives scores, e.g. what a target executes for the state.

    Args:
        scores: of encoded images (n, c, h, w).
        rows: (n,) of the test split.
        clean: (n, classes) scores of the images as they are, on the device.
        start: of the first of them in the order of attack, by which random numbers are drawn.
    """
    import torch

    from compressbench.tasks.images import attacks, square
    from compressbench.tasks.task import Surface

    bench = view.bench
    surface = bench.task.surface(bench.device)
    assert isinstance(surface, Surface)
    examples = bench.feed("test").take(rows.to(bench.device))
    (images,) = bench.task.encode(examples)
    noise = torch.Generator().manual_seed(derive_seed(bench.seed, "square", *((start,) if start else ())))
    with torch.inference_mode():
        found = square.square(
            scores, images, examples.labels, attacks.Ball(surface, eps), queries, noise, first, clean
        )
    return found.fallen.cpu().clone(), found.queries.cpu().clone()
