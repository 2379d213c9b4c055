"""Percentile: a small share of the values is clipped, so that a few outliers don't set the scale."""

from __future__ import annotations

import torch

from compressbench.errors import UserError
from compressbench.observers.observed import Observed, Range


def percentile(observed: Observed, share: float = 99.99) -> Range:
    """The values between which ``share`` per cent lie, as many left out below as above.

    Where the grid is symmetric, or nothing is negative, all that is left out is at the far end.

    Raises:
        UserError: the share isn't above 50 and at most 100.
    """
    if not 50 < share <= 100:
        raise UserError(f"observer percentile: share: {share:g} is not in (50, 100]; 99.99 is usual")
    if observed.symmetric:
        largest = _quantile(observed.values.abs(), share / 100)
        return -largest, largest
    out = 1 - share / 100
    sides = 2 if bool((observed.smallest < 0).any()) and bool((observed.largest > 0).any()) else 1
    low, high = _quantile(observed.values, out / sides), _quantile(observed.values, 1 - out / sides)
    return (
        torch.where(observed.smallest < 0, low, observed.smallest),
        torch.where(observed.largest > 0, high, observed.largest),
    )


def _quantile(rows: torch.Tensor, share: float) -> torch.Tensor:
    """(rows,): interpolated between the two nearest values (``torch.quantile`` takes no more than 2^24)."""
    ordered, place = rows.sort(dim=1).values, share * (rows.shape[1] - 1)
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)
