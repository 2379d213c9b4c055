"""Count: so many weights stay over all layers together, however large the net is."""

from __future__ import annotations

from collections.abc import Mapping

from compressbench.errors import UserError
from compressbench.scopes.pools import alone
from compressbench.scopes.units import Chosen, Units, best


def count(
    units: Mapping[str, Units], fraction: float | None, of: str, rates: Mapping[str, float], keep: int
) -> Chosen:
    """One threshold over all tensors but those with a rate of their own; ``keep`` weights of these stay.

    Args:
        fraction: null, since ``keep`` fixes it.
        keep: weights that stay, 1 or more; of larger units as many as come nearest to it.

    Raises:
        UserError: a fraction, fewer than one weight, or more than are left.
    """
    if fraction is not None:
        raise UserError(f"fraction: {fraction}, but keep: {keep} says how many stay; set fraction=null")
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise UserError(f"scope: keep is {keep!r}, must be a whole number of weights, 1 or more")
    chosen = dict(alone(units, rates, of))
    names = [n for n in units if n not in rates]
    left = sum(units[n].kept for n in names)
    if keep > left:
        raise UserError(f"scope: {keep:,} weights can't stay, only {left:,} are left")
    chosen.update(zip(names, best([units[n] for n in names], keep), strict=True))
    return chosen
