"""Magnitude increase: the weights that grew least since an earlier state go (Zhou et al. 2019)."""

from __future__ import annotations

from compressbench.criteria.earlier import earlier
from compressbench.criteria.given import Given, Scores
from compressbench.specs import Ref


def magnitude_increase(given: Given, since: Ref) -> Scores:
    """|w| now minus |w| then.

    Args:
        since: the earlier state, usually ``init``.

    Raises:
        UserError: that state is of another net.
    """
    before = earlier(given, since)
    return {name: w.abs() - before[name].abs() for name, w in given.weights.items()}
