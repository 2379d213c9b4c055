"""Where corruptions draw from, and the four that are noise on every value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """What a block of pictures draws from.

    Attributes:
        stream: of the whole set, used up block after block, in the pictures' order.
        named: a fresh generator of this block for each name. A corruption draws once from each, a row a picture, so
            that a picture's noise doesn't depend on how many follow it.
    """

    stream: torch.Generator
    named: Callable[[str], np.random.Generator]

    def uniform(self, name: str, low: float, high: float, *shape: int) -> Tensor:
        """float32 of this shape, from ``low`` to ``high``."""
        return torch.from_numpy(low + (high - low) * self.named(name).random(shape, np.float32))

    def normal(self, name: str, *shape: int) -> Tensor:
        """float32 of this shape, mean 0, standard deviation 1."""
        return torch.from_numpy(self.named(name).standard_normal(shape, np.float32))


def gaussian_noise(images: Tensor, std: float, noise: Noise) -> Tensor:
    """Normal noise of this standard deviation on every value."""
    return images + std * torch.randn(images.shape, generator=noise.stream)


def shot_noise(images: Tensor, quanta: float, noise: Noise) -> Tensor:
    """Poisson noise of so many quanta at full brightness."""
    return torch.poisson(images * quanta, generator=noise.stream) / quanta


def impulse_noise(images: Tensor, share: float, noise: Noise) -> Tensor:
    """This share of the values black or white."""
    drawn = torch.rand(images.shape, generator=noise.stream)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn < share, 1.0, images))


def speckle_noise(images: Tensor, std: float, noise: Noise) -> Tensor:
    """Normal noise in proportion to the value."""
    return images * (1 + std * noise.normal("speckles", *images.shape))
