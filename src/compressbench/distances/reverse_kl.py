"""Reverse KL: what the student says must be likely to the teacher; it may leave out what else the teacher says."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(q || p) in nats of q = softmax(student), p = softmax(teacher), mean over examples.

    Infinite where the teacher gives a class no probability at all, as hard labels do.
    """
    return F.kl_div(F.log_softmax(teacher, dim=1), F.softmax(student, dim=1), reduction="batchmean")
