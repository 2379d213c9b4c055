"""Errors that a user can mend: one clear line, an exit code, no traceback.

Exit codes are the same everywhere: 0 done; 1 it ran and failed, or is incomplete, or an answer is no or can't be told;
2 bad input.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what would be right."""

    code = 2


class Diverged(UserError):
    """A loss that is no longer finite: stops its stage, keeps all before it."""

    code = 1


class Incomplete(UserError):
    """It ran, and not all of it could be had; what could is kept."""

    code = 1


class CantTell(UserError):
    """The records don't hold what an answer needs; the message begins with ``can't tell:``."""

    code = 1


class Unmet(UserError):
    """The answer is no: nothing keeps to what was asked."""

    code = 1


def nearest(name: str, options: Iterable[str], limit: int = 3) -> str:
    """A closing sentence with the options nearest to a misspelt name, or all of them when few."""
    known = sorted({str(o) for o in options})
    close = difflib.get_close_matches(str(name), known, n=limit, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not known:
        return "there are none"
    shown = known if len(known) <= 12 else [*known[:12], "…"]
    return f"known: {', '.join(shown)}"
