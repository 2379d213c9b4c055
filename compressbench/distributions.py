"""Quantiles of the normal distribution and of Student's t, without a library of distributions."""

from __future__ import annotations

import math
from statistics import NormalDist


def normal_quantile(level: float) -> float:
    """How many standard errors a two-sided interval reaches to each side: 1.96 at 0.95.

    Raises:
        ValueError: the level isn't between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"a level is between 0 and 1, and this is {level}")
    return NormalDist().inv_cdf((1 + level) / 2)


def beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (Abramowitz, Stegun 26.5.8)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(1 - x, b, a)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float, most: int = 10_000) -> float:
    least = 1e-300

    def away(value: float) -> float:
        return value if abs(value) > least else least

    c, d = 1.0, 1 / away(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, most):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / away(1 + term * d), away(1 + term / c)
            found *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return found


def within_t(t: float, freedom: float) -> float:
    """P(-t < T < t) of Student's t with so many degrees of freedom."""
    return 1 - beyond_t(t, freedom)


def beyond_t(t: float, freedom: float) -> float:
    """P(T < -t or T > t) of Student's t, exact where it is tiny; degrees of freedom needn't be whole."""
    return beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)


def t_quantile(level: float, freedom: float) -> float:
    """How many standard errors a two-sided interval reaches to each side by Student's t with so many degrees of freedom.

    Raises:
        ValueError: the level isn't between 0 and 1, or there is no degree of freedom.
    """
    if freedom < 1:
        raise ValueError("an interval of a mean needs two values or more")
    low, high = 0.0, normal_quantile(level)
    outside = 1 - level
    while beyond_t(high, freedom) > outside:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if beyond_t(middle, freedom) > outside else (low, middle)
    return (low + high) / 2
