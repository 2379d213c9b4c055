"""Training augmentation of uint8 batches: random crop of the zero-padded image, random mirror image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_crop_flip(images: Tensor, generator: torch.Generator, pad: int, flip: bool) -> Tensor:
    """Each image mirrored left-right with probability 1/2, padded with zeros, cropped back at a random place.

    The standard augmentation of CIFAR (He et al. 2016: ``pad=4, flip=True``); all offsets are equally likely.

    Args:
        images: uint8, (n, channels, height, width), on any device.
        generator: a CPU generator, so that every device draws the same numbers.
        pad: pixels on each side; 0 for no crop.
        flip: whether to mirror.

    Returns:
        A tensor of the same shape, dtype and device; ``images`` itself when there is nothing to do.
    """
    n, channels, height, width = images.shape
    device = images.device
    if flip:
        mirrored = torch.randint(0, 2, (n,), generator=generator).to(device)
        both = torch.cat([images, images.flip(-1)])
        images = both.index_select(0, torch.arange(n, device=device) + n * mirrored)
    if pad:
        offsets = torch.randint(0, 2 * pad + 1, (2, n, 1, 1), generator=generator).to(device)
        padded = F.pad(images, (pad, pad, pad, pad))
        tall, wide = height + 2 * pad, width + 2 * pad
        # Every run of `width` pixels is a row of this overlapping view: one index_select copies those wanted.
        runs = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
        planes = torch.arange(n * channels, device=device).view(n, channels, 1) * tall
        rows = planes + torch.arange(height, device=device) + offsets[0]
        images = runs.index_select(0, (rows * wide + offsets[1]).view(-1)).view(n, channels, height, width)
    return images
