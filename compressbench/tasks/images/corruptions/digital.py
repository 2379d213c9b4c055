"""Brightness, contrast, saturation, elastic transform, pixels and JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.errors import UserError
from compressbench.tasks.images.corruptions.blurs import smoothed
from compressbench.tasks.images.corruptions.noise import Noise


def contrast(images: Tensor, share: float, noise: Noise) -> Tensor:
    """Drawn together to this share around the mean of the image's channel."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + share * (images - mean)


def brightness(images: Tensor, added: float, noise: Noise) -> Tensor:
    """Added to the value of HSV, which is the largest channel; hue and saturation stay."""
    value = images.amax(1, keepdim=True)
    lit = (value + added).clamp(0, 1)
    return torch.where(value > 0, images * (lit / value.clamp(min=1e-9)), lit)


def saturate(images: Tensor, strength: tuple[float, float], noise: Noise) -> Tensor:
    """(factor, added) of the saturation of HSV; a grey pixel's hue is red, as published. One channel has no colour."""
    if images.shape[1] != 3:
        return images
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - least
    saturation = (chroma / value.clamp(min=1e-9) * strength[0] + strength[1]).clamp(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    hue = torch.where(chroma > 0, (value - images) / chroma.clamp(min=1e-9), red)
    return value * (1 - saturation * hue)


def elastic_transform(images: Tensor, strength: tuple[float, float, float], noise: Noise) -> Tensor:
    """Three points moved, then every pixel: (length, smoothness of the pixels' moves, of the points') in image sizes."""
    n, _, h, w = images.shape
    alpha, sigma, affine = (share * min(h, w) for share in strength)
    square = min(h, w) // 3
    middle = torch.tensor([h // 2, w // 2], dtype=torch.float64)
    before = middle + square * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    after = before + noise.uniform("points", -affine, affine, n, 3, 2).double()
    ones = torch.ones(n, 3, 1, dtype=torch.float64)
    # A point that three random ones took to itself: where the picture of each target pixel comes from.
    back = torch.linalg.lstsq(torch.cat([after, ones], 2), before.expand(n, -1, -1)).solution
    ys, xs = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in (h, w)), indexing="ij")
    targets = torch.stack([xs, ys, torch.ones_like(xs)], -1).view(1, h * w, 3)
    moved = sampled(images, (targets @ back).view(n, h, w, 2).float(), corners=True)
    if not alpha:
        return moved
    drawn = noise.uniform("pixels", -1, 1, n, 2, h, w)
    shifts = alpha * smoothed(drawn, sigma, truncate=3, mode="symmetric").permute(0, 2, 3, 1)
    return sampled(moved, torch.stack([xs, ys], -1).float() + shifts, corners=False)


def sampled(images: Tensor, places: Tensor, corners: bool) -> Tensor:
    """Bilinear, (n, c, h, w) at ``places`` (n, h, w, 2), x and y in pixels.

    Args:
        corners: mirrored at the middles of the outer pixels; else at their edges.
    """
    size = torch.tensor([images.shape[3], images.shape[2]], dtype=torch.float32)
    grid = 2 * places / (size - 1).clamp(min=1) - 1 if corners else (2 * places + 1) / size - 1
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=corners)


def pixelate(images: Tensor, share: float, noise: Noise) -> Tensor:
    """Scaled down to this share by the means of boxes, and up again."""
    from PIL import Image

    h, w = images.shape[2:]
    small = (max(1, int(w * share)), max(1, int(h * share)))
    return by_picture(
        images,
        lambda picture: picture.resize(small, Image.Resampling.BOX).resize((w, h), Image.Resampling.BOX),
    )


def jpeg_compression(images: Tensor, quality: int, noise: Noise) -> Tensor:
    """Written as JPEG of this quality and read again, by Pillow."""
    from PIL import Image

    def written(picture: Any) -> Any:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return by_picture(images, written)


def by_picture(images: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """Each picture through Pillow.

    Raises:
        UserError: the pictures have neither one channel nor three.
    """
    from PIL import Image

    if images.shape[1] not in (1, 3):
        raise UserError(
            f"pictures of {images.shape[1]} channels are neither scaled nor written as JPEG; 1 or 3 would be right"
        )
    arrays = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    arrays = arrays[..., 0] if arrays.shape[-1] == 1 else arrays
    found = np.stack([np.asarray(change(Image.fromarray(np.ascontiguousarray(a)))) for a in arrays])
    found = found[..., None] if found.ndim == 3 else found
    return torch.from_numpy(found).permute(0, 3, 1, 2).float() / 255
