"""Large final, same sign: small weights and those that changed sign go (Zhou et al. 2019)."""

from __future__ import annotations

from compressbench.criteria.earlier import earlier
from compressbench.criteria.given import Given, Scores
from compressbench.specs import Ref


def large_final_same_sign(given: Given, since: Ref) -> Scores:
    """w now times the sign of w then.

    The paper's max(0, .) around it makes all weights that changed sign equal. Without it the largest of them go
    first, and no tie is left to the order of positions; which weights of the same sign go is as in the paper.

    Args:
        since: the earlier state, usually ``init``.

    Raises:
        UserError: that state is of another net.
    """
    before = earlier(given, since)
    return {name: w * before[name].sign() for name, w in given.weights.items()}
