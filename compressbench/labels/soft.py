"""Soft: the teacher's answer as it is (Hinton, Vinyals, Dean 2015)."""

from __future__ import annotations

from torch import Tensor

from compressbench.labels.lesson import Lesson


def soft(lesson: Lesson) -> Tensor:
    """The teacher's own logits."""
    return lesson.logits
