"""Corruptions of images: a shifted test set, the same for every state and seed.

The kinds and strengths of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019), its 15 and 4 more at five severities. The
constants are those of ``hendrycks/robustness``, ``ImageNet-C/create_c/make_cifar_c.py``, commit 8190fe32 (Apache-2.0);
the code and the random numbers are our own. What differs from the published files, beside the draws:

- Values are rounded to whole grey levels, the published ones cut off: half a level of 255 darker.
- Glass blur exchanges neighbours, as the paper says. The published line ``x[a], x[b] = x[b], x[a]`` on views of an
  array copies one onto the other.
- Motion blur is ImageMagick's arithmetic without its rounding to whole grey levels in between.

The constants are for 32 x 32 pixels. Elastic transform, zoom blur, pixelate and fog are in image sizes and as strong on
any. Noise, brightness, contrast, saturation, frost and JPEG go by values. The other blurs, snow and spatter are in
pixels at every size: on larger pictures, above all on 224 x 224, they are milder than on 32 x 32, and ImageNet-C's own,
stronger constants aren't here. Pictures of one channel have no saturation and take the colours' brightness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressbench.seeds import derive_seed
from compressbench.tasks.images.corruptions.blurs import (
    defocus_blur,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from compressbench.tasks.images.corruptions.digital import (
    brightness,
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
    saturate,
)
from compressbench.tasks.images.corruptions.noise import (
    Noise,
    gaussian_noise,
    impulse_noise,
    shot_noise,
    speckle_noise,
)
from compressbench.tasks.images.corruptions.weather import fog, frost, snow, spatter

Corruption = Callable[[Tensor, Any, Noise], Tensor]
"""float (n, c, h, w) in [0, 1], the constants of a severity, what to draw from -> the same shape, not yet clipped."""
SEVERITIES = range(1, 6)

MAIN: Mapping[str, tuple[Corruption, tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (zoom_blur, tuple((most, 0.01) for most in (1.06, 1.11, 1.16, 1.21, 1.26))),
    "snow": (
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": (frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
}
"""The 15 that the mean corruption error is taken over."""
EXTRA: Mapping[str, tuple[Corruption, tuple[Any, ...]]] = {
    "speckle_noise": (speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "spatter": (
        spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
    ),
    "saturate": (saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
}
KINDS: Mapping[str, tuple[Corruption, tuple[Any, ...]]] = {**MAIN, **EXTRA}


def corrupted(images: Tensor, kind: str, severity: int) -> Tensor:
    """uint8 images (n, c, h, w) with one corruption of severity 1 … 5, on the same device.

    What becomes of an image depends on the kind, the severity and its place, not on how many follow it.
    """
    return torch.cat(list(blocks(images, kind, severity))) if len(images) else images.clone()


def blocks(images: Tensor, kind: str, severity: int) -> Iterator[Tensor]:
    """As ``corrupted``, a block after the other; how large they are depends on the images' size alone."""
    corrupt, strengths = KINDS[kind]
    stream = torch.Generator().manual_seed(derive_seed("shifted", kind, severity))
    # a multiple of 16 rows: only then do torch's normal numbers go on as if all were drawn at once
    rows = 64 if images.shape[2] * images.shape[3] <= 64 * 64 else 16
    for number, block in enumerate(images.split(rows)):
        noise = Noise(stream, _named("corruptions", kind, severity, number))
        spoilt = corrupt(block.cpu().float() / 255, strengths[severity - 1], noise)
        yield (spoilt.clamp(0, 1) * 255).round().to(torch.uint8).to(images.device)


def _named(*parts: Any) -> Callable[[str], np.random.Generator]:
    return lambda name: np.random.default_rng(derive_seed(*parts, name))
