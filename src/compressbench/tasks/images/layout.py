"""In which memory layout a net trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

NARROW, LARGE = 16, 32


def training_layout(module: nn.Module, shape: Sequence[int]) -> torch.memory_format:
    """``channels_last``, in which convolutions are faster; plain for nets that would crash in it.

    On the CPU torch 2.15 writes beyond its memory, or dies, in the weight's gradient of a 1 x 1 convolution with a stride
    that reads few channels of large pictures, wherever its input or its weight is ``channels_last``: 1 to 12 channels
    from 48 x 48 on were seen to.

    Args:
        shape: of one example, (channels, height, width).
    """
    large = max(shape[1:], default=0) > LARGE
    return torch.contiguous_format if large and any(map(_dies, module.modules())) else torch.channels_last


def _dies(part: nn.Module) -> bool:
    return (
        isinstance(part, nn.Conv2d)
        and max(part.kernel_size) == 1
        and max(part.stride) > 1
        and part.groups == 1
        and part.in_channels < NARROW
    )
