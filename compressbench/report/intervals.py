"""Intervals of a mean over a few seeds, by Student's t; exact, and without a library of distributions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def within_t(t: float, df: int) -> float:
    """P(-t < T < t) of Student's t with ``df`` degrees of freedom, in its closed form for whole ones.

    Abramowitz & Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(df))
    cos, term, total = math.cos(angle), 1.0, 0.0
    if df % 2:
        term = cos
        for k in range(3, df + 1, 2):
            total += term
            term *= cos * cos * (k - 1) / k
        return 2 / math.pi * (angle + math.sin(angle) * total)
    for k in range(2, df + 1, 2):
        total += term
        term *= cos * cos * (k - 1) / k
    return math.sin(angle) * total


def critical_t(share: float, df: int) -> float:
    """The t > 0 with ``within_t(t, df) = share``, share in (0, 1)."""
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        inside = within_t(math.tan(middle) * math.sqrt(df), df)
        low, high = (middle, high) if inside < share else (low, middle)
    return math.tan(low) * math.sqrt(df)


def of_mean(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """The interval of the mean of two or more values, if they are normal."""
    return _around(values, share, 1 / len(values))


def of_another(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """The interval in which one further value lies, if all of them are normal and alike."""
    return _around(values, share, 1 + 1 / len(values))


def _around(values: Sequence[float], share: float, variances: float) -> tuple[float, float]:
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    half = critical_t(share, len(values) - 1) * sd * math.sqrt(variances)
    return mean - half, mean + half
