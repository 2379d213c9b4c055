"""Lengths of trainings: ``160ep`` and ``500it``."""

from __future__ import annotations

import re

from compressbench.errors import UserError

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(ep|it)")


def check(length: str, where: str) -> None:
    """Refuses what is no length.

    Raises:
        UserError: naming both forms.
    """
    if not isinstance(length, str) or not _LENGTH.fullmatch(length):
        raise UserError(f"{where}: {length!r} is no length; write epochs as 4ep or iterations as 500it")


def steps(length: str, per_epoch: int) -> int:
    """A length in iterations; fractions of an epoch are rounded down."""
    check(length, "length")
    match = _LENGTH.fullmatch(length)
    assert match is not None
    amount = float(match[1])
    return int(amount * per_epoch) if match[2] == "ep" else int(amount)
