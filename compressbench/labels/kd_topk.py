"""KD-topk: only the classes that the teacher thinks most likely; the tail is levelled (Tang et al. 2020)."""

from __future__ import annotations

from torch import Tensor

from compressbench.errors import UserError
from compressbench.labels.lesson import Lesson, levelled
from compressbench.specs import Count


def kd_topk(lesson: Lesson, k: Count = 3) -> Tensor:
    """The ``k`` largest softened probabilities stay, what is left is spread evenly over the other classes.

    Raises:
        UserError: k is not from 1 to the number of classes.
    """
    p = lesson.probabilities
    classes = p.shape[1]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= classes:
        raise UserError(f"labels: k {k!r} is not from 1 to the {classes} classes")
    if k == classes:
        return lesson.says(p)
    return lesson.says(levelled(p, p.topk(k, dim=1).indices))
