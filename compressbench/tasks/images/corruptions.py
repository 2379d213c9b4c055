"""Corruptions of images: a shifted test set, the same for every state, seed and machine.

Kinds and strengths are those of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019; ``create_c/make_cifar_c.py``); the code
and the random numbers are our own, so that figures can't be compared with published ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.seeds import derive_seed

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
SEVERITIES = range(1, 6)


def corrupted(images: Tensor, kind: str, severity: int) -> Tensor:
    """uint8 images (n, c, h, w) with one corruption of severity 1 … 5, on the same device."""
    corrupt, strengths = KINDS[kind]
    noise = torch.Generator().manual_seed(derive_seed("shifted", kind, severity))
    clean = images.cpu().float() / 255
    spoilt = corrupt(clean, strengths[severity - 1], noise)
    return (spoilt.clamp(0, 1) * 255).round().to(torch.uint8).to(images.device)


def gaussian_noise(images: Tensor, strength: float, noise: torch.Generator) -> Tensor:
    """Normal noise of this standard deviation on every value."""
    return images + strength * torch.randn(images.shape, generator=noise)


def shot_noise(images: Tensor, strength: float, noise: torch.Generator) -> Tensor:
    """Poisson noise of so many quanta at full brightness."""
    return torch.poisson(images * strength, generator=noise) / strength


def impulse_noise(images: Tensor, strength: float, noise: torch.Generator) -> Tensor:
    """This share of the values black or white."""
    drawn = torch.rand(images.shape, generator=noise)
    return torch.where(drawn < strength / 2, 0.0, torch.where(drawn < strength, 1.0, images))


def gaussian_blur(images: Tensor, strength: float, noise: torch.Generator) -> Tensor:
    """A Gaussian of this standard deviation in pixels, edges repeated."""
    reach = max(1, round(4 * strength))
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-places.square() / (2 * strength**2))
    weights = weights / weights.sum()
    n, c, h, w = images.shape
    flat = F.pad(images.reshape(n * c, 1, h, w), (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(flat, weights.view(1, 1, 1, -1))
    return F.conv2d(across, weights.view(1, 1, -1, 1)).view(n, c, h, w)


def contrast(images: Tensor, strength: float, noise: torch.Generator) -> Tensor:
    """Drawn together to this share around the mean of the image's channel."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + strength * (images - mean)


KINDS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
}
