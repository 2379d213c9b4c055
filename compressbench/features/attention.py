"""Attention: where a feature map is large, whatever the channel (Zagoruyko & Komodakis 2017)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compressbench.errors import UserError
from compressbench.features.shapes import alike


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """mean((Q_s - Q_t)²), Q the mean of squares over channels, flattened and scaled to length 1; (n, c, h, w) each.

    Raises:
        UserError: they are no feature maps, or of unlike height or width; channels may differ.
    """
    for whose, features in (("student's", student), ("teacher's", teacher)):
        if features.ndim != 4:
            raise UserError(
                f"points: attention wants maps (channels, height, width), the {whose} features are "
                f"{tuple(features.shape[1:])}"
            )
    alike(student, teacher, places_only=True)
    return (_map(student) - _map(teacher)).square().mean()


def _map(features: Tensor) -> Tensor:
    return F.normalize(features.square().mean(dim=1).flatten(1), dim=1)
