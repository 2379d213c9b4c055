"""Intervals of a mean over a few seeds, by Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from compressbench.distributions import t_quantile


def of_mean(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """The interval of the mean of two or more values, if they are normal."""
    return _around(values, share, 1 / len(values))


def of_another(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """The interval in which one further value lies, if all of them are normal and alike."""
    return _around(values, share, 1 + 1 / len(values))


def _around(values: Sequence[float], share: float, variances: float) -> tuple[float, float]:
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    half = t_quantile(share, len(values) - 1) * sd * math.sqrt(variances)
    return mean - half, mean + half
