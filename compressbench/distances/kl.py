"""KL: the divergence of the student from the teacher (Hinton, Vinyals, Dean 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p || q) in nats of p = softmax(teacher), q = softmax(student), mean over examples.

    Its gradient by a student's logit is (q - p) / n. ``F.kl_div``'s own default also divides by the classes.
    """
    return F.kl_div(F.log_softmax(student, dim=1), F.softmax(teacher, dim=1), reduction="batchmean")
