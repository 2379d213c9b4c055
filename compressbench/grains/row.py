"""Row: a row of the weight matrix, that is a neuron of a linear layer or a filter of a convolution (Li et al. 2017)."""

from __future__ import annotations

from compressbench.grains.grain import Grain


def row() -> Grain:
    """All weights of one output together."""
    return Grain(
        lambda x: x.flatten(1),
        lambda units, shape: units.view(-1, *[1] * (len(shape) - 1)).expand(shape),
    )
