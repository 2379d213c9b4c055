"""Blurs, and the pieces that other corruptions blur with. Lengths are in pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.tasks.images.corruptions.noise import Noise


def padded(images: Tensor, reach: int, mode: str) -> Tensor:
    """(n, c, h + 2 reach, w + 2 reach); ``mode`` as numpy's ``pad`` has it (edge, reflect, symmetric), any reach."""
    rows, columns = (torch.from_numpy(np.pad(np.arange(s), reach, mode=mode)) for s in images.shape[-2:])  # type: ignore[call-overload]
    return images[..., rows, :][..., columns]


def filtered(images: Tensor, kernel: Tensor, mode: str = "reflect") -> Tensor:
    """Correlation of every channel of (n, c, h, w) with one odd, square kernel."""
    n, c, h, w = images.shape
    flat = padded(images, len(kernel) // 2, mode).reshape(n * c, 1, *(s + len(kernel) - 1 for s in (h, w)))
    return F.conv2d(flat, kernel[None, None].to(images.dtype)).view(n, c, h, w)


def smoothing(size: int, sigma: float, truncate: float = 4.0, mode: str = "edge") -> Tensor:
    """(size, size) matrix that applies a Gaussian along an axis, as scipy's ``gaussian_filter1d`` does."""
    reach = int(truncate * sigma + 0.5)
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (places / sigma) ** 2) if reach else np.ones(1)
    sources = np.pad(np.arange(size), reach, mode=mode)  # type: ignore[call-overload]
    found = np.zeros((size, size))
    for offset, weight in enumerate(weights / weights.sum()):
        np.add.at(found, (np.arange(size), sources[offset : offset + size]), weight)
    return torch.from_numpy(found).float()


def smoothed(images: Tensor, sigma: float, truncate: float = 4.0, mode: str = "edge") -> Tensor:
    """(..., h, w) under a Gaussian of this standard deviation."""
    down, across = (smoothing(size, sigma, truncate, mode) for size in images.shape[-2:])
    return down @ images @ across.T


def gaussian_blur(images: Tensor, sigma: float, noise: Noise) -> Tensor:
    """A Gaussian of this standard deviation in pixels, edges repeated."""
    reach = max(1, round(4 * sigma))
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-places.square() / (2 * sigma**2))
    weights = weights / weights.sum()
    n, c, h, w = images.shape
    flat = F.pad(images.reshape(n * c, 1, h, w), (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(flat, weights.view(1, 1, 1, -1))
    return F.conv2d(across, weights.view(1, 1, -1, 1)).view(n, c, h, w)


def disk(radius: float, alias: float) -> Tensor:
    """(k, k) weights of a disk, its edge softened by a Gaussian of 3 x 3 with standard deviation ``alias``."""
    reach = int(radius) + 1
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    inside = (line[:, None].square() + line.square() <= radius**2).double()
    soft = torch.exp(-torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64) / (2 * alias**2))
    soft = soft / soft.sum()
    found = F.conv2d((inside / inside.sum())[None, None], (soft[:, None] * soft)[None, None], padding=1)
    return found[0, 0].float()


def defocus_blur(images: Tensor, strength: tuple[float, float], noise: Noise) -> Tensor:
    """A disk of (radius, softness of its edge)."""
    return filtered(images, disk(*strength))


def shuffled(images: Tensor, times: int, noise: Noise) -> Tensor:
    """(n, c, h, w) after every pixel from the last to the third row and column changed places, ``times`` times over,
    with one drawn from itself, its left, its upper and its upper left neighbour.

    One after the other as published, but those that can't touch each other at once: the pixel at (y, x) has its turn
    at 2 y + x from the end.
    """
    n, c, h, w = images.shape
    by = noise.named("neighbours").integers(0, 4, (n, times, h, w))
    origin = np.tile(np.arange(h * w), (n, 1))
    every = np.arange(n)[:, None]
    for time in range(times):
        for turn in range(2 * (h - 1) + w - 1, 5, -1):
            ys = np.arange(max(2, math.ceil((turn - w + 1) / 2)), min(h - 1, (turn - 2) // 2) + 1)
            xs = turn - 2 * ys
            drawn = by[:, time, ys, xs]
            here = np.broadcast_to(ys * w + xs, drawn.shape)
            there = here - (drawn >> 1) * w - (drawn & 1)
            origin[every, here], origin[every, there] = origin[every, there], origin[every, here]
    return images.flatten(2).gather(2, torch.from_numpy(origin)[:, None].expand(-1, c, -1)).view(n, c, h, w)


def glass_blur(images: Tensor, strength: tuple[float, int, int], noise: Noise) -> Tensor:
    """Blurred, neighbours exchanged, blurred again: (standard deviation, farthest neighbour, times).

    Raises:
        ValueError: the farthest neighbour isn't 1, as it is at all severities.
    """
    sigma, farthest, times = strength
    if farthest != 1:
        raise ValueError(f"glass blur exchanges next neighbours only, not {farthest} pixels apart")
    return smoothed(shuffled(smoothed(images, sigma), times, noise), sigma)


def moved(images: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """(n, c, h, w), each picture smeared along its own angle: half a Gaussian, 2 radius + 1 pixels long.

    ImageMagick's motion blur, whole pixels, edges repeated. At 0 degrees a pixel takes from those on its right, at
    -90 from those above it.
    """
    n, c, h, w = images.shape
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights = weights / weights.sum()
    angles = np.deg2rad(degrees.double().numpy())[:, None]
    right, down = (np.ceil(steps * f(angles) - 0.5).astype(np.int64) for f in (np.cos, np.sin))
    ys = np.clip(np.arange(h)[:, None] + down[:, :, None, None], 0, h - 1)
    xs = np.clip(np.arange(w) + right[:, :, None, None], 0, w - 1)
    places = torch.from_numpy(ys * w + xs)
    flat, found = images.flatten(2), torch.zeros_like(images).flatten(2)
    for step, weight in enumerate(weights.tolist()):
        taken = flat.gather(2, places[:, step].reshape(n, 1, h * w).expand(-1, c, -1))
        found.add_(taken, alpha=weight)
    return found.view(n, c, h, w)


def motion_blur(images: Tensor, strength: tuple[float, float], noise: Noise) -> Tensor:
    """Smeared sideways, up to 45 degrees up or down: (radius, standard deviation)."""
    return moved(images, *strength, noise.uniform("angle", -45, 45, len(images)))


def enlarged(images: Tensor, factor: float) -> Tensor:
    """(n, c, h, w): the middle, ``factor`` times as large, bilinear from corner to corner."""
    h, w = images.shape[-2:]
    high, wide = (math.ceil(size / factor) for size in (h, w))
    top, left = (h - high) // 2, (w - wide) // 2
    middle = images[..., top : top + high, left : left + wide]
    size = (round(high * factor), round(wide * factor))
    if size != (high, wide):
        middle = F.interpolate(middle, size, mode="bilinear", align_corners=True)
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return middle[..., top : top + h, left : left + w]


def zoom_blur(images: Tensor, strength: tuple[float, float], noise: Noise) -> Tensor:
    """The mean of the picture and its enlargements from 1 up to below (most, step)."""
    factors = np.arange(1, *strength).tolist()
    return sum((enlarged(images, factor) for factor in factors), images) / (len(factors) + 1)
