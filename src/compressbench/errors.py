"""Errors that a user can mend: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what would be right."""


class Diverged(UserError):
    """A loss that is no longer finite: stops its stage, keeps all before it."""


def nearest(name: str, options: Iterable[str], limit: int = 3) -> str:
    """A closing sentence with the options nearest to a misspelt name, or all of them when few."""
    known = sorted(set(options))
    close = difflib.get_close_matches(name, known, n=limit, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not known:
        return "there are none"
    shown = known if len(known) <= 12 else [*known[:12], "…"]
    return f"known: {', '.join(shown)}"
