"""Negative curvature: along how much of weight space the training loss curves downwards, where the net is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.distributions import t_quantile
from compressbench.proportions import LEVEL
from compressbench.records import Metric
from compressbench.specs import Count, Positive, check_fields

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.probes.landscape import Landscape
    from compressbench.views import View

NAMES = (
    ("negative_curvature", "%"),
    ("negative_directions", "%"),
    ("eigenvalue_smallest", "1"),
    ("eigenvalue_largest", "1"),
    ("dimensions", "1"),
)


@dataclass(frozen=True)
class Density:
    """Eigenvalues of a symmetric operator and what share of them each stands for, of one random start or of all.

    Attributes:
        values: (k,) float64.
        shares: (k,) float64, of sum 1.
    """

    values: Tensor
    shares: Tensor


@dataclass(frozen=True)
class NegativeCurvature:
    """How negative the Hessian of the training loss is, evaluation mode, on training examples.

    ``negative_curvature``: negative eigenvalues' part of the sum of all eigenvalues' sizes; ``negative_directions``:
    share of the eigenvalues that lie below -tolerance x the largest size, for most of a net's are nearly 0, of either
    sign.

    Of nets of few weights the whole Hessian is taken, and the figures are exact; of others the first is estimated by
    stochastic Lanczos quadrature (Golub & Meurant 1994; Ghorbani, Krishnan, Xiao, ICML 2019): Gaussian starts, from each
    some products of the Hessian with vectors, whose Ritz values and weights stand for the eigenvalues. The estimate is
    the ratio of both sums' means over starts, not the mean of each start's ratio, which has more bias;
    ``negative_curvature_low`` and ``_high`` are its 95 % interval, Student's, by the jackknife's standard error. How
    many eigenvalues lie on either side of a bulk at 0 can't be told that way: one Ritz value stands for most of them.

    Attributes:
        whole: weights up to which the Hessian is taken whole, a product for each.
        starts: random vectors; there is a standard error, and an interval, from three on.
        products: Hessian-vector products from each start; each costs about three and a half gradients.
        tolerance: see above.
        examples: of the training split, the first ones.

    Raises:
        UserError: a setting out of range, or a model without parameters.
    """

    whole: Count = 500
    starts: Count = 12
    products: Count = 40
    tolerance: Positive = 1e-3
    examples: Count = 500
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject alone."""
        from compressbench.probes import landscape

        place = landscape.as_it_is(subject, self.examples)
        if isinstance(place, str):
            yield from landscape.without(place, NAMES, "")
            return
        try:
            found, how = self._densities(place, bench)
        except landscape.NoCurvature as error:
            yield from landscape.without(str(error), NAMES, "")
            return
        n = place.examples
        share, deviation = ratio_of_sums([sizes(density) for density in found])
        told = how if deviation is None else f"{how}, standard error {100 * deviation:.2g} points"
        yield Metric(NAMES[0][0], 100 * share, "%", n=n, note=told)
        if deviation is not None:
            half = t_quantile(LEVEL, len(found) - 1) * deviation
            yield Metric(f"{NAMES[0][0]}_low", 100 * max(0.0, share - half), "%", n=n)
            yield Metric(f"{NAMES[0][0]}_high", 100 * min(1.0, share + half), "%", n=n)
        if place.free <= self.whole:
            below = 100 * share_below(found[0], self.tolerance)
            yield Metric(NAMES[1][0], below, "%", n=n, note=f"below -{self.tolerance:g} of the largest size")
        else:
            why = f"can't be told of a bulk at 0 without the whole Hessian, and {place.free} weights are too many"
            yield Metric(NAMES[1][0], None, "%", note=why)
        yield Metric(NAMES[2][0], min(float(d.values.min()) for d in found), "1", n=n, note=how)
        yield Metric(NAMES[3][0], max(float(d.values.max()) for d in found), "1", n=n, note=how)
        yield Metric("dimensions", float(place.free), "1", "computed")

    def _densities(self, place: Landscape, bench: Bench) -> tuple[list[Density], str]:
        """One of the whole Hessian, or one for each start; and how they were had."""
        from compressbench.probes import landscape

        if place.free <= self.whole:
            return [of_matrix(hessian(place))], "all eigenvalues of the whole Hessian"
        generator = bench.generator("negative curvature")
        starts = [landscape.random_direction(place, generator) for _ in range(self.starts)]
        found = [quadrature(place, start, self.products) for start in starts]
        return found, f"estimated: {self.starts} random starts, {self.products} products each at most"


def hessian(place: Landscape) -> Tensor:
    """(free, free) float64, the whole Hessian by the weights that can move, symmetric."""
    import torch

    there = place.movable().nonzero()[:, 0]
    rows = []
    for k in there.tolist():
        one = torch.zeros_like(place.weights())
        one[k] = 1
        rows.append(place.product(one)[there].double())
    found = torch.stack(rows)
    return (found + found.T) / 2


def of_matrix(matrix: Tensor) -> Density:
    """All eigenvalues, each with the same share."""
    import torch

    values = torch.linalg.eigvalsh(matrix.double().cpu())
    return Density(values, torch.full_like(values, 1 / len(values)))


def quadrature(place: Landscape, start: Tensor, products: int) -> Density:
    """Ritz values of a start and the squares of the first entries of their vectors, which sum to 1."""
    import torch

    from compressbench.probes.landscape import krylov

    for step in krylov(place.product, start):
        if step.last or step.size >= products:
            values, vectors = torch.linalg.eigh(step.inner)
            return Density(values, vectors[0] ** 2)
    raise AssertionError("the last step says that it is")


def sizes(density: Density) -> tuple[float, float]:
    """Mean size of the negative eigenvalues (0 for the others), and of all."""
    found = density.shares * density.values.abs()
    return float(found[density.values < 0].sum()), float(found.sum())


def ratio_of_sums(pairs: Sequence[tuple[float, float]]) -> tuple[float, float | None]:
    """Sum of the firsts over the sum of the seconds (0 where that is 0), and the jackknife's standard error of it.

    That is sqrt((k - 1) / k x sum of squares of what leaving each pair out changes, about their mean); ``None`` for fewer
    than three pairs (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11).
    """
    part, whole = (math.fsum(column) for column in zip(*pairs, strict=True))
    share = part / whole if whole > 0 else 0.0
    k = len(pairs)
    if k < 3:
        return share, None
    without = [(part - a) / (whole - b) if whole > b else 0.0 for a, b in pairs]
    mean = math.fsum(without) / k
    return share, math.sqrt((k - 1) / k * math.fsum((x - mean) ** 2 for x in without))


def share_below(density: Density, tolerance: float) -> float:
    """Share of the eigenvalues below -tolerance x the largest size, in [0, 1]."""
    limit = -tolerance * float(density.values.abs().max())
    return float(density.shares[density.values < limit].sum())
