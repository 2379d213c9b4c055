"""In which memory layout a net trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from compressbench.models.exits import every_exit
from compressbench.models.reached import modes_kept
from compressbench.outputs import forward

NARROW, LARGE = 16, 32


def training_layout(module: nn.Module, shape: Sequence[int]) -> torch.memory_format:
    """``channels_last``, in which convolutions are faster; plain for nets that would crash in it.

    On the CPU torch 2.15 writes beyond its memory, or dies, in the weight's gradient of a 1 x 1 convolution with a stride
    that reads few channels of large pictures, wherever its input or its weight is ``channels_last``: 1 to 12 channels
    from 48 x 48 on were seen to.

    Args:
        shape: of one example, (channels, height, width).
    """
    narrow = [part for part in module.modules() if _dies(part)]
    if narrow and (max(shape[1:], default=0) > LARGE or _largest(module, narrow, shape) > LARGE):
        return torch.contiguous_format
    return torch.channels_last


def _largest(module: nn.Module, parts: Sequence[nn.Module], shape: Sequence[int]) -> int:
    """The largest side of what reaches the parts of one blank example; a net may enlarge its pictures."""
    sides: list[int] = []
    handles = [p.register_forward_pre_hook(lambda _, given: sides.extend(given[0].shape[2:])) for p in parts]
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        with (
            modes_kept(module),
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
            every_exit(module.eval()),
        ):
            forward(module, torch.zeros(1, *shape, device=device))
    except Exception:  # a user's forward may fail in any way at all: the training says so
        return 0
    finally:
        for handle in handles:
            handle.remove()
    return max(sides, default=0)


def _dies(part: nn.Module) -> bool:
    return (
        isinstance(part, nn.Conv2d)
        and max(part.kernel_size) == 1
        and max(part.stride) > 1
        and part.groups == 1
        and part.in_channels < NARROW
    )
