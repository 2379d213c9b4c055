"""KD-pt: how sure the teacher is, but nothing of which other classes it thinks of (Tang et al. 2020)."""

from __future__ import annotations

from torch import Tensor

from compressbench.labels.lesson import Lesson, with_rest


def kd_pt(lesson: Lesson) -> Tensor:
    """The true class keeps its softened probability p_t; 1 - p_t is spread evenly over the others."""
    p, target = lesson.probabilities, lesson.target
    return lesson.says(with_rest(p.gather(1, target.unsqueeze(1)).squeeze(1), target, p.shape[1]))
