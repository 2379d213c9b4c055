"""Grain: which weights stay or go together. Orthogonal to the criterion and to the scope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Grain:
    """How a tensor falls into units.

    Attributes:
        fold: a tensor of the weight's shape, padded with zeros where it must be, to (units, entries).
        spread: (units,) and the weight's shape to a tensor of that shape.
        single: whether every unit is one weight.
    """

    fold: Callable[[Tensor], Tensor]
    spread: Callable[[Tensor, tuple[int, ...]], Tensor]
    single: bool = False
