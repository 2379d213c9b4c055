"""Initial values, drawn from torch's global generator in module order."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Draw = Callable[[Tensor], object]
"""Fills a weight in place, e.g. ``nn.init.kaiming_normal_``; a config gives another one as
``{_target_: torch.nn.init.xavier_uniform_, _partial_: true}``."""


def initialise(module: nn.Module, draw: Draw) -> None:
    """Convolution and linear weights by ``draw``, their biases 0; norms weight 1, bias 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            draw(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d | nn.LayerNorm) and part.weight is not None:
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
