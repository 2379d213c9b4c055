"""Intervals and exact tests of shares, and corrections for many tests: what comparisons and reports both ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compressbench.distributions import normal_quantile

Floats = NDArray[np.floating[Any]]
LEVEL = 0.95
"""Of every interval, two-sided, where no other is asked for."""


def wilson(hits: ArrayLike, n: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """The ends, in [0, 1], of Wilson's score interval of a share (Wilson, JASA 1927).

    They are the shares pi with ``|hits/n - pi| <= z sqrt(pi (1 - pi) / n)``. All arrays broadcast; where ``n`` is 0
    nothing is known: 0 and 1.
    """
    count, of, z = np.asarray(hits, float), np.asarray(n, float), normal_quantile(level)
    size = np.where(of > 0, of, 1.0)
    share = count / size
    middle = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z * np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    low = np.where((of > 0) & (count > 0), middle - half, 0.0)
    high = np.where((of > 0) & (count < of), middle + half, 1.0)
    return low, high


def paired_difference(
    both: ArrayLike, first: ArrayLike, second: ArrayLike, neither: ArrayLike, level: float = LEVEL
) -> tuple[Floats, Floats, Floats]:
    """Difference of two shares of the same examples, and the ends of its interval, in [-1, 1].

    Newcombe's method 10 (Statistics in Medicine 17, 1998, 2635-2650): Wilson's intervals of both shares, put together
    as if they were errors of the two with correlation phi. With ``p = (both + first) / n``, ``q = (both + second) / n``
    and Wilson's ends ``l, u`` of p and ``L, U`` of q:

        low  = p - q - sqrt((p - l)^2 - 2 phi (p - l)(U - q) + (U - q)^2)
        high = p - q + sqrt((u - p)^2 - 2 phi (u - p)(q - L) + (q - L)^2)

    phi is the fourfold table's, its numerator ``both neither - first second`` taken nearer to 0 by n/2 where it is
    positive, and 0 where a margin is empty.

    Args:
        both, first, second, neither: counts of examples for which both things hold, only the first, only the second,
            and none. Arrays broadcast.
        level: of the interval.

    Returns:
        ``p - q``, low, high; where there is no example not-a-number, -1 and 1.
    """
    a, b, c, d = (np.asarray(x, float) for x in (both, first, second, neither))
    n = a + b + c + d
    size = np.where(n > 0, n, 1.0)
    p, q = (a + b) / size, (a + c) / size
    (l1, u1), (l2, u2) = wilson(a + b, n, level), wilson(a + c, n, level)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    over = a * d - b * c
    over = np.where(over > 0, np.maximum(over - n / 2, 0), over)
    phi = np.where(margins > 0, over / np.sqrt(np.where(margins > 0, margins, 1.0)), 0.0)

    def joint(x: Floats, y: Floats) -> Floats:
        return np.sqrt(np.maximum(x**2 - 2 * phi * x * y + y**2, 0))

    some = n > 0
    low = np.where(some, p - q - joint(p - l1, u2 - q), -1.0)
    high = np.where(some, p - q + joint(u1 - p, q - l2), 1.0)
    return np.where(some, p - q, np.nan), low, high


def binomial_point(k: int, n: int) -> float:
    """P(X = k) of n throws of a fair coin, exact to the last digit."""
    return math.comb(n, k) / (1 << n)


def binomial_tail(k: int, n: int) -> float:
    """P(X <= k) of n throws of a fair coin."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    down = np.arange(
        min(k, n - k - 1), 0, -1, dtype=float
    )  # of the shorter tail: terms are of one sign and fall
    short = binomial_point(len(down), n) * (1 + np.cumprod(down / (n - down + 1)).sum())
    return float(short if k <= n - k - 1 else 1 - short)


@dataclass(frozen=True)
class McNemar:
    """Of the examples that one of two models alone gets right, are as many the first's as the second's?

    Attributes:
        lost: examples that the reference alone gets right.
        won: examples that the other alone gets right.
        p: of the exact two-sided test: twice the smaller tail of ``lost`` among ``lost + won`` throws of a fair coin.
        mid_p: the same less the probability of what was seen; the exact test errs to the side of caution, and this one
            errs less (Fagerland, Lydersen, Laake, BMC Medical Research Methodology 2013).
    """

    lost: int
    won: int
    p: float
    mid_p: float


def mcnemar(lost: int, won: int) -> McNemar:
    """McNemar's exact test (Psychometrika 1947), of counts."""
    lost, won = int(lost), int(won)
    n, fewer = lost + won, min(lost, won)
    twice = 2 * binomial_tail(fewer, n)
    return McNemar(lost, won, min(1.0, twice), min(1.0, twice - binomial_point(fewer, n)))


def holm(p: Floats) -> Floats:
    """Holm's corrected p (Scandinavian Journal of Statistics 1979) of (m,) p; NaN stays and doesn't count.

    The i-th smallest, from 0, times m - i, none smaller than the one before it, and none above 1. Whatever hypotheses
    are true, and however they hang together, one of them is rejected with probability alpha at most.
    """
    return _corrected(p, lambda x: np.maximum.accumulate(x * np.arange(len(x), 0, -1)) if len(x) else x)


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini's and Hochberg's corrected p (JRSS B 1995) of (m,) p; NaN stays and doesn't count.

    The i-th smallest, from 1, times m / i, none larger than the one after it. Of the hypotheses rejected a share of
    alpha at most are true ones, on average, where tests are independent.
    """

    def of_sorted(x: Floats) -> Floats:
        scaled = x * len(x) / np.arange(1, len(x) + 1)
        return np.minimum.accumulate(scaled[::-1])[::-1]

    return _corrected(p, of_sorted)


def _corrected(p: Floats, of_sorted: Any) -> Floats:
    found = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[p[known].argsort(kind="stable")]
    found[order] = np.minimum(of_sorted(p[order]), 1)
    return found
