"""The one way to the terminal: what comes from a record, a file or a class's name can't steer it, nor break it.

Control characters are shown as what they are (``\\x1b``), markup is never parsed, and an encoding that lacks a character
gets something readable in its place.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.segment import Segment

# C0 but for tab and line feed, DEL, C1, what turns the direction of writing or is invisible, lone surrogates
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
PLAIN = {
    "\u00a0": " ",
    "\u202f": " ",
    "\u2009": " ",
    "\u200b": "",
    "–": "-",
    "—": "-",
    "−": "-",
    "±": "+-",
    "×": "x",
    "…": "...",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "√": "sqrt",
    "µ": "u",
    "μ": "u",
    "·": "-",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
}
READABLE = "compressbench.readable"


def clean(text: str) -> str:
    """A text that can't steer a terminal; its lines and tabs stay."""
    return STEERING.sub(lambda found: _named(found[0]), text)


def clean_line(text: str) -> str:
    """The same as one line: line feeds and tabs are shown as well."""
    return clean(text).replace("\n", "\\n").replace("\t", "\\t")


def say(text: str, error: bool = False) -> None:
    """Prints lines of ours, whatever stands in them, to the standard output (or error)."""
    stream = sys.stderr if error else sys.stdout
    readable(stream)
    print(clean(text), file=stream, flush=error)


def console(file: IO[str] | None = None, **options: Any) -> Console:
    """A rich console for texts as they are."""
    from rich.console import Console

    readable(file or sys.stdout)
    made = Console(file=file, highlight=False, markup=False, emoji=False, **options)
    render = made.render

    def rendered(*args: Any, **how: Any) -> Iterator[Segment]:
        for segment in render(*args, **how):
            yield segment if segment.control else segment._replace(text=clean(segment.text))

    made.render = rendered  # type: ignore[method-assign]
    return made


def readable(stream: Any) -> None:
    """Lets a stream replace what its encoding lacks; a stream that can't be told so is left as it is."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        if stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=READABLE)


def _named(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _instead(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    shown = "".join(PLAIN.get(c, _named(c) if ord(c) < 65536 else f"\\U{ord(c):08x}") for c in lacking)
    return shown, error.end


codecs.register_error(READABLE, _instead)
