"""Two continuations of one text: where do they part?"""

from __future__ import annotations

import numpy as np

from compressbench.comparing.arrays import Ints


def first_difference(one: Ints, other: Ints) -> Ints:
    """(n,) the place of the first token, from 1, in which two (n, tokens) continuations differ; 0 where in none."""
    apart = np.asarray(one) != np.asarray(other)
    return np.where(apart.any(axis=1), apart.argmax(axis=1) + 1, 0)


def ended(ids: Ints, end: int | None) -> Ints:
    """(n, tokens) continuations in which all after the first ``end`` is ``end``: what follows it was never said."""
    if end is None:
        return np.asarray(ids)
    over = np.logical_or.accumulate(np.asarray(ids) == end, axis=1)
    return np.where(over, end, ids)
