"""Convolved: two convolutions that halve the map, then a linear layer, as MSDNet's classifiers (Huang et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from compressbench.errors import UserError
from compressbench.exit_heads.pooled import Pooled


def convolved(shape: Sequence[int], classes: int, width: int = 128) -> nn.Module:
    """Twice 3x3 convolution of stride 2, batch norm and ReLU; mean over places; a linear layer.

    Args:
        shape: (channels, height, width) of the value at the exit.
        classes: number of logits.
        width: channels of both convolutions.

    Raises:
        UserError: the value is no map, or width is below 1.
    """
    if len(shape) != 3:
        raise UserError(
            f"head: convolved takes maps (channels, height, width); the value at this exit is {tuple(shape)}"
        )
    if not isinstance(width, int) or width < 1:
        raise UserError(f"head: width {width!r} is not a whole number of 1 or more")
    layers: list[nn.Module] = []
    for channels in (shape[0], width):
        layers += [
            nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, Pooled((width, 1, 1), classes))
