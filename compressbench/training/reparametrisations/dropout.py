"""Dropout: inputs of layers are dropped at random in training (Srivastava et al. 2014)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span, layers


def dropped_channels(x: Tensor, p: float) -> Tensor:
    """(n, channels, ...) with each channel of each example zero with probability ``p``, the others times 1 / (1 - p)."""
    return x * F.dropout(x.new_ones(*x.shape[:2], *[1] * (x.ndim - 2)), p)


def dropout(
    module: nn.Module, bench: Bench, state: State, span: Span, p: float = 0.5, channels: bool = False
) -> Reparametrisation:
    """Drops each input of every prunable layer but the first with probability ``p``; the others grow by 1 / (1 - p).

    Args:
        p: 0 drops nothing.
        channels: of convolutions whole channels are dropped (Tompson et al. 2015), instead of single places.

    Raises:
        UserError: a probability out of [0, 1).
    """
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p < 1:
        raise UserError(f"p: {p!r} is not in [0, 1)")

    def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not layer.training:
            return None
        whole = channels and isinstance(layer, nn.modules.conv._ConvNd)
        first: Tensor = dropped_channels(inputs[0], p) if whole else F.dropout(inputs[0], p)
        return (first, *inputs[1:])

    for layer in list(layers(module).values())[1:]:
        layer.register_forward_pre_hook(hook)
    return Reparametrisation()
