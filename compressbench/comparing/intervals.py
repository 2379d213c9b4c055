"""Intervals and exact tests of shares and of differences between shares of the same examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressbench.distributions import t_quantile
from compressbench.proportions import LEVEL as LEVEL
from compressbench.proportions import McNemar as McNemar
from compressbench.proportions import binomial_point as binomial_point
from compressbench.proportions import binomial_tail as binomial_tail
from compressbench.proportions import mcnemar as mcnemar
from compressbench.proportions import paired_difference as paired_difference
from compressbench.proportions import wilson as wilson


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: the figure, in the unit that the function which gave it names.
        low, high: the ends of the interval; not-a-number where there is none.
        n: the examples that it rests on.
        level: how sure the interval is, e.g. 0.95.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = LEVEL

    @property
    def known(self) -> bool:
        """Whether there is a figure at all."""
        return math.isfinite(self.value)


def share(hits: int, n: int, level: float = LEVEL) -> Estimate:
    """``hits`` of ``n`` in percent, with Wilson's interval; not-a-number of none."""
    low, high = wilson(hits, n, level)
    return Estimate(100 * hits / n if n else math.nan, 100 * float(low), 100 * float(high), n, level)


def mean(values: NDArray[Any], level: float = LEVEL) -> Estimate:
    """Mean of (n,) values, in their unit, with Student's interval; what is no number is left out.

    The interval is mean ± t s / sqrt(n). It rests on the mean being near to normal; of values of which a few make most
    of the sum (see ``probabilities.of_the_most``) it is too narrow.
    """
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    n = len(known)
    if n < 2:
        return Estimate(float(known[0]) if n else math.nan, math.nan, math.nan, n, level)
    middle = float(known.mean())
    half = t_quantile(level, n - 1) * float(known.std(ddof=1)) / math.sqrt(n)
    return Estimate(middle, middle - half, middle + half, n, level)
