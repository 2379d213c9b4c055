"""Cosine: the direction of the logits, whatever their size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(z, v) of the two logit vectors, mean over examples; in [0, 2]."""
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
