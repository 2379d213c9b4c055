"""Layer: the same share of every tensor (uniform sparsity)."""

from __future__ import annotations

from collections.abc import Mapping

from compressbench.scopes.pools import alone, required
from compressbench.scopes.units import Chosen, Units


def layer(units: Mapping[str, Units], fraction: float | None, of: str, rates: Mapping[str, float]) -> Chosen:
    """Each tensor by itself, at ``fraction`` or at its own rate."""
    every = dict(rates) if len(rates) == len(units) else {n: rates.get(n, required(fraction)) for n in units}
    return dict(alone(units, every, of))
