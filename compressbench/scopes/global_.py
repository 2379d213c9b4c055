"""Global: all tensors in one pool, so that each layer loses what is unimportant in the whole net."""

from __future__ import annotations

from collections.abc import Mapping

from compressbench.scopes.pools import alone, required
from compressbench.scopes.units import Chosen, Units, best, wanted


def global_(
    units: Mapping[str, Units], fraction: float | None, of: str, rates: Mapping[str, float]
) -> Chosen:
    """One threshold over all tensors but those with a rate of their own."""
    chosen = dict(alone(units, rates, of))
    names = [n for n in units if n not in rates]
    pool = [units[n] for n in names]
    if pool:
        chosen.update(zip(names, best(pool, wanted(pool, required(fraction), of)), strict=True))
    return chosen
