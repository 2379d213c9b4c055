"""Lengths of trainings: ``160ep`` and ``500it``."""

from __future__ import annotations

import re

from compressbench.errors import UserError

_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,9})?ep|\d{1,9}it)", re.ASCII)


def check(length: str, where: str) -> None:
    """Refuses what is no length.

    Raises:
        UserError: naming both forms.
    """
    if not isinstance(length, str) or not _LENGTH.fullmatch(length):
        shown = f"{length[:40]}…" if isinstance(length, str) and len(length) > 40 else length
        raise UserError(
            f"{where}: {shown!r} is no length; write epochs as 4ep or whole iterations as 500it, nine digits at most"
        )


def steps(length: str, per_epoch: int) -> int:
    """A length in iterations; fractions of an epoch are rounded down."""
    check(length, "length")
    amount, unit = length[:-2], length[-2:]
    return int(float(amount) * per_epoch) if unit == "ep" else int(amount)
