"""Column: a column of the weight matrix, that is all weights that read one input feature or channel."""

from __future__ import annotations

from compressbench.grains.grain import Grain


def column() -> Grain:
    """All weights of one input together."""
    return Grain(
        lambda x: x.transpose(0, 1).flatten(1),
        lambda units, shape: units.view(1, -1, *[1] * (len(shape) - 2)).expand(shape),
    )
