"""Classification of images: what is asked of a model, and what an attack may change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.metrics import named
from compressbench.outputs import Outputs


@dataclass(frozen=True)
class Surface:
    """What an attack may perturb: encoded pixels, bounded; ``scale`` turns pixel units into encoded units."""

    low: Tensor
    high: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Classification:
    """Single-label classification of uint8 images.

    Attributes:
        classes: names in label order.
        mean, std: per channel, of pixels in [0, 1].
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (n, c, h, w) to the float32 input of a model: pixels in [0, 1], normalised per channel."""
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=images.device).view(1, -1, 1, 1)
        shift = torch.tensor([m / s for m, s in zip(self.mean, self.std, strict=True)], device=images.device)
        return images.to(torch.float32).mul_(scale).sub_(shift.view(1, -1, 1, 1))

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Mean cross-entropy in nats."""
        return F.cross_entropy(outputs.logits, labels)

    def log_probs(self, outputs: Outputs) -> Tensor:
        """(n, classes) log-probabilities, float32."""
        return F.log_softmax(outputs.logits.float(), dim=-1)

    def predict(self, outputs: Outputs) -> Tensor:
        """(n,) the most probable class; -1, which is no class, where a logit is no number."""
        return named(outputs.logits)

    def surface(self, device: str = "cpu") -> Surface:
        """Bounds of valid pixels and the size of one pixel unit (1.0 = full range), both in encoded units."""
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        return Surface(low=(0 - mean) / std, high=(1 - mean) / std, scale=1 / std)
