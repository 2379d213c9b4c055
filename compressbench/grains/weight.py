"""Weight: every weight by itself (unstructured)."""

from __future__ import annotations

from compressbench.grains.grain import Grain


def weight() -> Grain:
    """Units of one weight."""
    return Grain(lambda x: x.reshape(-1, 1), lambda units, shape: units.view(shape), single=True)
