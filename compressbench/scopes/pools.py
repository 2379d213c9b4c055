"""Tensors that are pruned together, and those that have a rate of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from compressbench.errors import UserError
from compressbench.scopes.units import Units, best, wanted


def required(fraction: float | None) -> float:
    """The fraction of a scope that needs one.

    Raises:
        UserError: it is null.
    """
    if fraction is None:
        raise UserError("fraction: null; this scope needs one in [0, 1), 0.2 removes 20 %")
    return fraction


def alone(units: Mapping[str, Units], rates: Mapping[str, float], of: str) -> Iterator[tuple[str, Tensor]]:
    """What stays of each tensor with a rate of its own; a rate of 0 leaves it as it is."""
    for name, rate in rates.items():
        (stay,) = best([units[name]], wanted([units[name]], rate, of))
        yield name, stay
