"""Entropy: the range whose histogram, once rounded to the levels, tells the least less (Migacz 2017, TensorRT)."""

from __future__ import annotations

import torch
from torch import Tensor

from compressbench.errors import UserError
from compressbench.observers.observed import Observed, Range


def entropy(observed: Observed, bins: int = 2048, steps: int = 100) -> Range:
    """Both ends shrunk alike from the extremes, by the factor with the least KL(values clipped || values rounded).

    For a factor the bins inside the range hold P, what lies outside added to the outermost ones; Q spreads the
    counts of each level, outliers left out, evenly over its bins that aren't empty.

    Args:
        bins: of the histogram over all values.
        steps: factors that are tried, as few bins as there are levels at least.

    Raises:
        UserError: fewer bins than levels.
    """
    levels = observed.high - observed.low + 1
    if bins < levels or steps < 1:
        raise UserError(
            f"observer entropy: {bins} bins, {steps} steps: at least {levels} bins, one for each level"
        )
    factors = [
        _factor(row, float(low), float(high), levels, bins, steps, observed.symmetric)
        for row, low, high in zip(observed.values, observed.smallest, observed.largest, strict=True)
    ]
    factor = torch.tensor(factors, dtype=observed.smallest.dtype)
    return factor * observed.smallest, factor * observed.largest


def _factor(
    row: Tensor, low: float, high: float, levels: int, bins: int, steps: int, symmetric: bool
) -> float:
    if symmetric:
        row, low, high, levels = row.abs(), 0.0, max(-low, high), (levels + 1) // 2
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return 1.0
    counts = torch.histc(row, bins, low, high).double()
    zero = round(-low / (high - low) * bins)  # bins below 0
    best, found = float("inf"), 1.0
    for step in range(steps):
        factor = 1 - step / steps
        first, last = zero - round(factor * zero), zero + round(factor * (bins - zero))
        if last - first < levels:
            break
        loss = divergence(counts, first, last, levels)
        if loss < best:
            best, found = loss, factor
    return found


def divergence(counts: Tensor, first: int, last: int, levels: int) -> float:
    """KL(P || Q) in nats of the bins ``first``..``last`` (exclusive) of a histogram, see ``entropy``."""
    inside = counts[first:last]
    p = inside.clone()
    p[0] += counts[:first].sum()
    p[-1] += counts[last:].sum()
    level = torch.arange(len(inside)) * levels // len(inside)
    full = (p > 0).double()
    sums = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, inside)
    sizes = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, full)
    q = (sums / sizes.clamp(min=1))[level] * full
    if not bool(q.sum() > 0):
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    there = p > 0
    return float((p[there] * (p[there] / q[there].clamp(min=1e-12)).log()).sum())
