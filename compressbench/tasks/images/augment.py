"""Training augmentation of uint8 batches: random crop of the zero-padded image, random mirror image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crops_and_flips(n: int, generator: torch.Generator, pad: int, flip: bool) -> tuple[Tensor, Tensor]:
    """What ``pad_crop_flip`` does to each of ``n`` images: mirrored with probability 1/2, all offsets equally likely.

    The standard augmentation of CIFAR (He et al. 2016: ``pad=4, flip=True``).

    Args:
        generator: a CPU generator, so that every device gets the same numbers.
        pad: pixels on each side; 0 for no crop.
        flip: whether to mirror.

    Returns:
        int64 (n,), 1 where an image is mirrored, and int64 (n, 2), rows and columns from the padded image's corner.
    """
    mirrored = torch.randint(0, 2, (n,), generator=generator) if flip else torch.zeros(n, dtype=torch.int64)
    offsets = torch.randint(0, 2 * pad + 1, (2, n), generator=generator) if pad else mirrored.new_zeros(2, n)
    return mirrored, offsets.t().contiguous()


def pad_crop_flip(images: Tensor, mirrored: Tensor, offsets: Tensor, pad: int, flip: bool) -> Tensor:
    """Each image mirrored left-right or not, padded with zeros, cropped back to its size at an offset.

    Args:
        images: uint8, (n, channels, height, width), on any device.
        mirrored, offsets: as ``crops_and_flips`` gives them, on the same device.
        pad: pixels on each side; 0 for no crop.
        flip: whether any is mirrored.

    Returns:
        A tensor of the same shape, dtype and device; ``images`` itself when there is nothing to do.
    """
    n, channels, height, width = images.shape
    device = images.device
    if flip:
        both = torch.cat([images, images.flip(-1)])
        images = both.index_select(0, torch.arange(n, device=device) + n * mirrored)
    if pad:
        down, right = offsets.view(n, 2, 1, 1).unbind(1)
        padded = F.pad(images, (pad, pad, pad, pad))
        tall, wide = height + 2 * pad, width + 2 * pad
        # Every run of `width` pixels is a row of this overlapping view: one index_select copies those wanted.
        runs = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
        planes = torch.arange(n * channels, device=device).view(n, channels, 1) * tall
        rows = planes + torch.arange(height, device=device) + down
        images = runs.index_select(0, (rows * wide + right).view(-1)).view(n, channels, height, width)
    return images
