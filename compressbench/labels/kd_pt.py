"""KD-pt: how sure the teacher is, but nothing of which other classes it thinks of (Tang et al. 2020)."""

from __future__ import annotations

from torch import Tensor

from compressbench.labels.lesson import Lesson, levelled


def kd_pt(lesson: Lesson) -> Tensor:
    """The true class keeps its softened probability p_t; 1 - p_t is spread evenly over the others."""
    return lesson.says(levelled(lesson.probabilities, lesson.target.unsqueeze(1)))
