"""Class mean: which classes the teacher takes for each other, the same for all examples of a class (10d of FACTS)."""

from __future__ import annotations

import torch
from torch import Tensor

from compressbench.labels.lesson import Lesson, true_class


def class_mean(lesson: Lesson) -> Tensor:
    """The mean softened probabilities of the training set's examples of the same class.

    They know the relations of the classes and nothing of the single example.
    """
    table = lesson.once(f"labels.class_mean {lesson.temperature}", lambda: _means(lesson))
    return lesson.says(table[lesson.target])


def _means(lesson: Lesson) -> Tensor:
    """(classes, classes): row c, the mean answer to examples of class c; one-hot for a class without any."""
    logits = lesson.whole()
    classes = logits.shape[1]
    of = true_class(lesson.bench.feed("train").labels, logits)
    p = (logits / lesson.temperature).softmax(dim=1)
    sums = torch.zeros(classes, classes, dtype=p.dtype, device=p.device).index_add_(0, of, p)
    counts = torch.bincount(of, minlength=classes).unsqueeze(1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), torch.eye(classes, device=p.device))
