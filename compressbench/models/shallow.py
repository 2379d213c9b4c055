"""Nets of two layers of which theorems speak: ReLUs under fixed signs, and a product of two matrices."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.specs.ranges import within


class TwoLayer(nn.Module):
    """f(x) = m^-1/2 sum_r a_r relu(w_r . x): w drawn from N(0, I) and trained, a of +1 and -1 drawn and fixed.

    Du, Zhai, Poczos, Singh, ICLR 2019. The logits are (-f, f), as the task ``least_squares`` with ``signs`` wants them.

    Args:
        features: numbers of an input.
        width: m, neurons.
        classes: 2.

    Raises:
        UserError: a size out of range.
    """

    signs: Tensor

    def __init__(self, features: int, width: int, classes: int = 2) -> None:
        super().__init__()
        for name, size in (("features", features), ("width", width)):
            within("Count", size, f"two_layer: {name}")
        if classes != 2:
            raise UserError(f"two_layer: it answers -1 or +1, and the data set has {classes} classes, not 2")
        self.hidden = nn.Linear(features, width, bias=False)
        nn.init.normal_(self.hidden.weight)
        self.register_buffer("signs", torch.randint(0, 2, (width,)).float() * 2 - 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) to (n, 2): -f and f."""
        f = self.hidden(x).relu() @ self.signs / len(self.signs) ** 0.5
        return torch.stack((-f, f), dim=1)


class Factorised(nn.Module):
    """x to U V^T x: a matrix (classes, features) as the product of two of ``columns`` columns, without anything between.

    Haeffele and Vidal, CVPR 2017, their simplest case: a column u v^T is positively homogeneous of degree 2.

    Args:
        features: numbers of an input.
        classes: numbers of an output.
        columns: of U and of V.
        scale: standard deviation of the numbers that both are drawn with.

    Raises:
        UserError: a size out of range.
    """

    rounded_by_none: ClassVar[bool] = True
    """Training alone makes rows of V equal, those of examples alike: few different values, which nobody rounded to."""

    def __init__(self, features: int, classes: int, columns: int, scale: float = 0.1) -> None:
        super().__init__()
        for name, size in (("features", features), ("classes", classes), ("columns", columns)):
            within("Count", size, f"factorised: {name}")
        if isinstance(scale, bool) or not scale > 0:
            raise UserError(f"factorised: scale: {scale!r} is not above 0")
        self.right = nn.Linear(features, columns, bias=False)
        self.left = nn.Linear(columns, classes, bias=False)
        for layer in (self.right, self.left):
            nn.init.normal_(layer.weight, std=scale)

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) to (n, classes)."""
        return self.left(self.right(x))
