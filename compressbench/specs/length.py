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


def check_some(length: str, where: str) -> None:
    """Refuses what is no length, and the length of nothing.

    Raises:
        UserError: saying which.
    """
    check(length, where)
    if float(length[:-2]) == 0:
        raise UserError(
            f"{where}: {length!r} trains nothing; a length is above 0; stages.NAME=null leaves a stage out"
        )


def steps(length: str, per_epoch: int) -> int:
    """A length in iterations; fractions of an epoch are rounded down."""
    check(length, "length")
    amount, unit = length[:-2], length[-2:]
    return int(float(amount) * per_epoch) if unit == "ep" else int(amount)
