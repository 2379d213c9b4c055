"""How messages say numbers and quote values."""

from __future__ import annotations

from typing import Any

LONGEST = 100
ENDED = "; it ends"
"""In what a cascade says that has fewer stages than were asked for, and in notes."""
NUMBERS = "are no numbers (NaN)"
"""What is said of answers that are none."""
NO_FIGURE = "no figure: "
"""Begins a note that says why nothing could be measured."""


def counted(count: float, noun: str, plural: str = "") -> str:
    """``1 state``, ``12 states``, ``1,200 states``; the plural where an ``s`` doesn't make it."""
    return f"{count:,.12g} {noun if count == 1 else plural or noun + 's'}"


def shown(value: Any) -> str:
    """A value of a config as a message quotes it: as YAML has it, and not at any length."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def noun_of(task: Any) -> str:
    """What an example is called, in the singular: what a task says in ``noun``; else an image."""
    return str(getattr(task, "noun", "image"))
