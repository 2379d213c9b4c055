"""Negative curvature: along how much of weight space the training loss curves downwards, where the net is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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

    Of nets of few weights the whole Hessian is taken; of others the first is estimated by stochastic Lanczos quadrature
    (Golub & Meurant 1994; Ghorbani, Krishnan, Xiao, ICML 2019): Gaussian starts, from each some products of the Hessian
    with vectors, whose Ritz values and weights stand for the eigenvalues. How many eigenvalues lie on either side of a
    bulk at 0 can't be told that way: one Ritz value stands for most of them.

    Attributes:
        whole: weights up to which the Hessian is taken whole, a product for each.
        starts: random vectors; the note has the standard error from three on.
        products: Hessian-vector products from each start; each costs about three and a half gradients.
        tolerance: see above.
        examples: of the training split, the first ones.

    Raises:
        UserError: a setting out of range, or a model without parameters.
    """

    whole: Count = 500
    starts: Count = 6
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
        each = [100 * weight_below(density) for density in found]
        told = how
        if len(each) > 2:
            told += f", standard error {statistics.stdev(each) / len(each) ** 0.5:.2g} points"
        yield Metric(NAMES[0][0], statistics.fmean(each), "%", n=n, note=told)
        if free(place) <= self.whole:
            share = 100 * share_below(found[0], self.tolerance)
            yield Metric(NAMES[1][0], share, "%", n=n, note=f"below -{self.tolerance:g} of the largest size")
        else:
            why = f"can't be told of a bulk at 0 without the whole Hessian, and {free(place)} weights are too many"
            yield Metric(NAMES[1][0], None, "%", note=why)
        yield Metric(NAMES[2][0], min(float(d.values.min()) for d in found), "1", n=n, note=how)
        yield Metric(NAMES[3][0], max(float(d.values.max()) for d in found), "1", n=n, note=how)
        yield Metric("dimensions", float(free(place)), "1", "computed")

    def _densities(self, place: Landscape, bench: Bench) -> tuple[list[Density], str]:
        """One of the whole Hessian, or one for each start; and how they were had."""
        from compressbench.probes import landscape

        if free(place) <= self.whole:
            return [of_matrix(hessian(place))], "all eigenvalues of the whole Hessian"
        generator = bench.generator("negative curvature")
        starts = [landscape.random_direction(place, generator) for _ in range(self.starts)]
        found = [quadrature(place, start, self.products) for start in starts]
        return found, f"estimated: {self.starts} random starts, {self.products} products each at most"


def free(place: Landscape) -> int:
    """Weights that can move."""
    import torch

    return int(place.held(torch.ones_like(place.weights())).sum())


def hessian(place: Landscape) -> Tensor:
    """(free, free) float64, the whole Hessian by the weights that can move, symmetric."""
    import torch

    there = place.held(torch.ones_like(place.weights())).nonzero()[:, 0]
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


def weight_below(density: Density) -> float:
    """Negative eigenvalues' part of the sum of all sizes, in [0, 1]; 0 where all are 0."""
    sizes = density.shares * density.values.abs()
    whole = float(sizes.sum())
    return float(sizes[density.values < 0].sum()) / whole if whole > 0 else 0.0


def share_below(density: Density, tolerance: float) -> float:
    """Share of the eigenvalues below -tolerance x the largest size, in [0, 1]."""
    limit = -tolerance * float(density.values.abs().max())
    return float(density.shares[density.values < limit].sum())
