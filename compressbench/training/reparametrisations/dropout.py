"""Dropout: inputs of layers are dropped at random in training (Srivastava et al. 2014)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span, layers


def dropout(module: nn.Module, bench: Bench, state: State, span: Span, p: float = 0.5) -> Reparametrisation:
    """Drops each input of every prunable layer but the first with probability ``p``; the others grow by 1 / (1 - p).

    Raises:
        UserError: a probability out of [0, 1).
    """
    if not 0 <= p < 1:
        raise UserError(f"p: {p} is not in [0, 1)")

    def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not layer.training:
            return None
        first: Tensor = F.dropout(inputs[0], p)
        return (first, *inputs[1:])

    for layer in list(layers(module).values())[1:]:
        layer.register_forward_pre_hook(hook)
    return Reparametrisation()
