"""Errors that a user can mend: one clear line, an exit code, no traceback.

Exit codes are the same everywhere: 0 done; 1 it ran and failed, or is incomplete, or an answer is no or can't be told;
2 bad input.
"""

from __future__ import annotations

import difflib
import re
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


NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|bad_alloc", re.I)
"""How torch, CUDA and C++ say it, as errors of other kinds."""


def reason(error: BaseException, most: int = 300) -> str:
    """The first line of what somebody else's error says, with its kind where that alone says little."""
    text = str(error).strip()
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        asked = re.search(r"tried to allocate (\d+) bytes", text, re.I)
        return f"not enough memory{f' for {int(asked[1]) / 1e9:,.0f} GB' if asked else ''}"
    first = text.splitlines()[0][:most] if text else ""
    kind = type(error).__name__
    return f"{kind}: {first}" if first and isinstance(error, LookupError | ArithmeticError) else first or kind


SHOWN = 12
ALIKE = 8


def nearest(name: str, options: Iterable[str], limit: int = 3, rest: str = "") -> str:
    """A closing sentence with the options that a misspelt name is near to, or all of them when few.

    Near is what begins with it, else what is spelt alike, else what holds it.

    Args:
        name: as given.
        options: what there is.
        limit: how many that are spelt alike are named.
        rest: the command that names all, for where not all are.
    """
    known, word = sorted({str(o) for o in options}), str(name).lower()
    begin = [o for o in known if len(word) > 1 and o.lower().startswith(word)]
    alike = difflib.get_close_matches(str(name), known, n=limit, cutoff=0.6)
    holding = [o for o in known if len(word) > 2 and word in o.lower()]
    close = (begin or alike or holding)[:ALIKE]
    if close:
        return (
            f"did you mean {' or '.join(close)}?"
            if len(close) < 4
            else f"did you mean one of {', '.join(close)}?"
        )
    if not known:
        return "there are none"
    if len(known) <= SHOWN:
        return f"known: {', '.join(known)}"
    return f"known: {', '.join(known[:SHOWN])} and {len(known) - SHOWN} more{f' ({rest})' if rest else ''}"
