"""Reverse KL: what the student says must be likely to the teacher; it may leave out what else the teacher says."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(q || p) in nats of q = softmax(student), p = softmax(teacher), mean over examples.

    Infinite where the teacher gives a class no probability at all, as hard labels do.
    """
    own, other = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    # As logarithms: a probability that underflows to 0 has a finite gradient.
    return F.kl_div(other, own, reduction="batchmean", log_target=True)
