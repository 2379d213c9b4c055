"""Layer: a whole weight tensor at once."""

from __future__ import annotations

from compressbench.grains.grain import Grain


def layer() -> Grain:
    """All weights of a layer together; only a global scope can choose among layers."""
    return Grain(lambda x: x.reshape(1, -1), lambda units, shape: units.view([1] * len(shape)).expand(shape))
