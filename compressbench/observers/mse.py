"""MSE: the range by which the values, rounded and clipped, come nearest to themselves."""

from __future__ import annotations

import torch

from compressbench.errors import UserError
from compressbench.observers.observed import Observed, Range


def mse(observed: Observed, steps: int = 80, smallest: float = 0.2) -> Range:
    """Both ends shrunk alike from the extremes, by the factor that leaves the least mean squared error of each row.

    Args:
        steps: factors that are tried, evenly from 1 down to ``smallest``.

    Raises:
        UserError: settings out of range.
    """
    if steps < 1 or not 0 < smallest <= 1:
        raise UserError(
            f"observer mse: steps {steps}, smallest {smallest:g}: 1 or more, and a factor in (0, 1]"
        )
    best = torch.full_like(observed.smallest, float("inf"))
    factor = torch.ones_like(best)
    for alpha in torch.linspace(1.0, smallest, steps).tolist():
        error = observed.rounded(alpha * observed.smallest, alpha * observed.largest).sub_(observed.values)
        mean = error.square_().mean(dim=1)
        better = mean < best
        best, factor = torch.where(better, mean, best), torch.where(better, alpha, factor)
    return factor * observed.smallest, factor * observed.largest
