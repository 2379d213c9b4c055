"""ERK: densities by the Erdos-Renyi kernel rule: large layers sparser, small ones denser (Evci et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from compressbench.scopes.pools import alone, required
from compressbench.scopes.units import Chosen, Units, best, wanted


def densities(shapes: Mapping[str, Sequence[int]], weights: int) -> dict[str, float]:
    """Share of each tensor that stays, proportional to sum(shape) / product(shape), at most 1.

    Args:
        shapes: of the weight tensors, (out, in) or (out, in, kernel height, kernel width).
        weights: that stay in all tensors together.
    """
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    dense: set[str] = set()
    while True:
        rest = [n for n in shapes if n not in dense]
        left = weights - sum(sizes[n] for n in dense)
        scale = left / max(1, sum(sum(shapes[n]) for n in rest))
        full = [n for n in rest if scale * sum(shapes[n]) > sizes[n]]
        if not full:
            return {n: 1.0 if n in dense else scale * sum(shapes[n]) / sizes[n] for n in shapes}
        dense.update(full)


def erk(units: Mapping[str, Units], fraction: float | None, of: str, rates: Mapping[str, float]) -> Chosen:
    """Each tensor by itself, at a density that its shape gives; together they keep ``1 - fraction``."""
    chosen = dict(alone(units, rates, of))
    pool = {n: u for n, u in units.items() if n not in rates}
    if not pool:
        return chosen
    count = wanted(list(pool.values()), required(fraction), of)
    shares = densities({n: u.shape for n, u in pool.items()}, count)
    counts = _whole({n: min(pool[n].kept, shares[n] * pool[n].numel) for n in pool}, count)
    for name, u in pool.items():
        (chosen[name],) = best([u], min(u.kept, counts[name]))
    return chosen


def _whole(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Integers nearest to the shares that sum to ``total``, largest remainder first."""
    counts = {n: math.floor(s) for n, s in shares.items()}
    behind = sorted(shares, key=lambda n: counts[n] - shares[n])
    for name in behind[: max(0, total - sum(counts.values()))]:
        counts[name] += 1
    return counts
