"""Hard: only the class that the teacher thinks most likely, right or wrong."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compressbench.labels.lesson import Lesson


def hard(lesson: Lesson) -> Tensor:
    """One-hot at the teacher's largest logit."""
    chosen = F.one_hot(lesson.logits.argmax(dim=1), lesson.logits.shape[1])
    return lesson.says(chosen.to(lesson.logits.dtype))
