"""Quantities as people write them in a YAML: ``48 GFLOP/s``, ``12.8 GB/s``, ``2 MB``, ``7 W``, ``5 us``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compressbench.errors import UserError

PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
SMALL = {"m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9}
RATES = ("FLOP/s", "OP/s", "OPS")
SIZES = ("B",)
SPEEDS = ("B/s",)


def quantity(text: object, where: str, units: Sequence[str], small: bool = False) -> float:
    """A positive number in base units.

    Args:
        units: allowed ones, alike in meaning, e.g. ``("FLOP/s", "OP/s")``.
        small: whether prefixes below one are meant (``us``, ``mW``; ``k`` too), not those of large numbers.

    Raises:
        UserError: no number, a unit that isn't one of these, or not above 0.
    """
    hit = re.fullmatch(r"\s*([-+]?[0-9.]+(?:[eE][-+]?\d+)?)\s*(\S*)\s*", str(text))
    try:
        number = float(hit[1]) if hit else None
    except ValueError:
        number = None
    example = f"e.g. {'5 u' if units[0] == 's' else '7 ' if small else '12.8 G'}{units[0]}"
    if hit is None or number is None:
        raise UserError(f"{where}: {text!r} is no quantity; a number with a unit is wanted, {example}")
    scale = _scale(hit[2], units, SMALL | {"": 1.0, "k": 1e3} if small else PREFIXES | BINARY)
    if scale is None:
        raise UserError(
            f"{where}: unknown unit {hit[2]!r}; {' or '.join(units)} with a prefix is wanted, {example}"
        )
    if not 0 < number * scale < float("inf"):
        raise UserError(f"{where}: {text!r} is not above 0 and finite")
    return number * scale


def _scale(unit: str, units: Sequence[str], prefixes: dict[str, float]) -> float | None:
    for name in units:
        if unit.endswith(name) and unit.removesuffix(name) in prefixes:
            return prefixes[unit.removesuffix(name)]
    return None
