"""Jensen-Shannon: the mean divergence of both from their mixture; symmetric and at most ln 2 (Lin 1991)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def js(student: Tensor, teacher: Tensor) -> Tensor:
    """(KL(p || m) + KL(q || m)) / 2 in nats, m = (p + q) / 2, of the two softmaxes; mean over examples."""
    own, other = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    # From logarithms: a probability that underflows keeps its gradient.
    both = torch.logaddexp(own, other) - torch.log(torch.tensor(2.0, dtype=own.dtype, device=own.device))
    # The student's stays in logarithms: its gradient is finite at probability 0. The teacher's may be minus infinity.
    mine = F.kl_div(both, own, reduction="batchmean", log_target=True)
    return (mine + F.kl_div(both, other.exp(), reduction="batchmean")) / 2
