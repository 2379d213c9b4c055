"""Similarity: which examples of a batch are alike (similarity-preserving, Tung & Mori 2019)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """|| G_s - G_t ||² / n², G the inner products of a batch's n flattened features, rows scaled to length 1.

    The two may have any shapes.
    """
    return (_products(student) - _products(teacher)).square().mean()


def _products(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)
