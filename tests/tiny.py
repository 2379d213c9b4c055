"""A small net with what criteria must cope with: convolutions, batch norm, max pooling, a linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TINY = {"name": "tiny", "build": {"_target_": "tiny.Tiny", "shape": "@shape", "classes": "@classes"}}


class Tiny(nn.Module):
    """Two convolutions with batch norm, each pooled, and a classifier: small enough for a Hessian block a layer."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2),
        )  # fmt: skip
        self.fc = nn.Linear(6 * (height // 4) * (width // 4), classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        return self.fc(self.features(x).flatten(1))


def blank(shape: Sequence[int]) -> tuple[Tensor, ...]:
    """One picture of this shape with nothing on it, as a task makes it."""
    return (torch.zeros(1, *shape),)
