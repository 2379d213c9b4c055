"""What an observer is given: the values of one tensor, a row for each scale that is sought, and the integer grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressbench.models.quantized import affine, symmetric


@dataclass(frozen=True)
class Observed:
    """Values that are to be rounded.

    Attributes:
        values: (rows, n) float32 on the CPU; a row for each output channel, or one for the tensor. Of a layer's
            inputs a random sample.
        smallest, largest: (rows,) of all values that were seen, not only of the sample.
        low, high: the integers, e.g. 0..255.
        symmetric: the range will be widened to [-m, m].
    """

    values: Tensor
    smallest: Tensor
    largest: Tensor
    low: int
    high: int
    symmetric: bool = False

    def grid(self, smallest: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero point) of ranges (rows,); a range that is nothing but 0 gets the scale 1."""
        if self.symmetric:
            scale, zero = symmetric(torch.maximum(smallest.abs(), largest.abs()), self.low, self.high)
        else:
            scale, zero = affine(smallest, largest, self.low, self.high)
        empty = torch.maximum(smallest.abs(), largest.abs()) == 0
        return torch.where(empty, torch.ones_like(scale), scale), zero

    def rounded(self, smallest: Tensor, largest: Tensor) -> Tensor:
        """What the values become by these ranges, (rows, n)."""
        scale, zero = self.grid(smallest, largest)
        return torch.fake_quantize_per_channel_affine(self.values, scale, zero, 0, self.low, self.high)


Range = tuple[Tensor, Tensor]
"""Smallest and largest value that the integers should reach, (rows,) each."""
