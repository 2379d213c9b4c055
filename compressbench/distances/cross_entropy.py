"""Cross-entropy with the teacher's probabilities as labels: KL(p || q) + H(p), so the same gradient as KL."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """-sum p log q in nats of p = softmax(teacher), q = softmax(student), mean over examples; H(p) where they agree."""
    return F.cross_entropy(student, F.softmax(teacher, dim=1))
