"""Pooled: one vector an example, scaled to length 1 (PKD, Sun et al. 2019)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compressbench.features.shapes import alike


def pooled(student: Tensor, teacher: Tensor) -> Tensor:
    """|| h / |h| - t / |t| ||², mean over examples.

    The vector of (n, c, h, w) is the mean over places, of (n, tokens, c) the first token.

    Raises:
        UserError: the vectors are of unlike lengths.
    """
    own, other = _vector(student), _vector(teacher)
    alike(own, other)
    return (F.normalize(own, dim=1) - F.normalize(other, dim=1)).square().sum(dim=1).mean()


def _vector(hidden: Tensor) -> Tensor:
    return hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden[:, 0] if hidden.ndim == 3 else hidden
