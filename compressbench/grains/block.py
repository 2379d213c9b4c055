"""Block: small rectangles of outputs x inputs (4x4), as block-sparse kernels execute them (Gray et al. 2017)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from compressbench.errors import UserError
from compressbench.grains.grain import Grain


def block(rows: int = 4, columns: int = 4) -> Grain:
    """``rows`` outputs x ``columns`` inputs, at each place of a convolution's kernel; smaller at the edges.

    Raises:
        UserError: a side below 1.
    """
    if rows < 1 or columns < 1:
        raise UserError(f"grain: a block of {rows}x{columns} is empty; its sides must be at least 1")

    def fold(x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], x.shape[1], -1).movedim(2, 0)
        x = F.pad(x, (0, -x.shape[2] % columns, 0, -x.shape[1] % rows))
        places, high, wide = x.shape
        x = x.view(places, high // rows, rows, wide // columns, columns).transpose(2, 3)
        return x.reshape(-1, rows * columns)

    def spread(units: Tensor, shape: tuple[int, ...]) -> Tensor:
        places = math.prod(shape[2:])
        grid = units.view(places, math.ceil(shape[0] / rows), math.ceil(shape[1] / columns))
        full = grid.repeat_interleave(rows, 1).repeat_interleave(columns, 2)[:, : shape[0], : shape[1]]
        return full.movedim(0, 2).reshape(shape)

    return Grain(fold, spread)
