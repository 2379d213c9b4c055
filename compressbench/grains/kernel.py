"""Kernel: the weights between one input and one output channel of a convolution; single weights of a linear layer."""

from __future__ import annotations

from compressbench.grains.grain import Grain


def kernel() -> Grain:
    """One 2-D kernel together."""
    return Grain(
        lambda x: x.reshape(x.shape[0] * x.shape[1], -1),
        lambda units, shape: units.view(*shape[:2], *[1] * (len(shape) - 2)).expand(shape),
    )
