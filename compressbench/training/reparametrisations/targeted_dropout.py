"""Targeted dropout: the smallest weights of each output are dropped at random in training (Gomez et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.models.build import prunable
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span, check_share


def smallest(weight: Tensor, share: float) -> Tensor:
    """Bool tensor (out, in, ...) of the ``int(share * inputs)`` smallest absolute weights of each output."""
    rows = weight.detach().abs().flatten(1)
    count = int(share * rows.shape[1])
    low = torch.zeros_like(rows, dtype=torch.bool)
    if count:
        low.scatter_(1, torch.topk(rows, count, dim=1, largest=False, sorted=False).indices, True)
    return torch.empty_like(weight, dtype=torch.bool).copy_(low.view(weight.shape))


def targeted_dropout(
    module: nn.Module, bench: Bench, state: State, span: Span, gamma: float = 0.75, alpha: float = 0.66
) -> Reparametrisation:
    """Drops each of the lowest ``gamma`` of an output's weights with probability ``alpha`` in every forward.

    Nothing is pruned: the net learns to do without the weights that a prune stage by magnitude then removes.

    Args:
        gamma: share of each output's weights that may be dropped.
        alpha: their probability of being dropped; what stays is not scaled up.
    """
    check_share("gamma", gamma)
    check_share("alpha", alpha)

    def change(weight: Tensor, training: bool) -> Tensor:
        if not training:
            return weight
        gone = smallest(weight, gamma) & (torch.rand_like(weight) < alpha)
        return weight.masked_fill(gone, 0)

    effective: dict[str, Any] = dict.fromkeys(prunable(module), change)
    return Reparametrisation(effective=effective)
