"""Min-max: from the smallest to the largest value; nothing is clipped."""

from __future__ import annotations

from compressbench.observers.observed import Observed, Range


def min_max(observed: Observed) -> Range:
    """The extremes of all that was seen."""
    return observed.smallest, observed.largest
