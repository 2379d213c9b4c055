"""Sentences that say how many."""

from __future__ import annotations


def counted(count: float, noun: str, plural: str = "") -> str:
    """``1 state``, ``12 states``, ``1,200 states``; the plural where an ``s`` doesn't make it."""
    return f"{count:,.12g} {noun if count == 1 else plural or noun + 's'}"
