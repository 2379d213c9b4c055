"""Words that tables, charts and sentences share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from compressbench.declared import title_of as title_of
from compressbench.report.numbers import between
from compressbench.report.panels import FINAL, Reading

LOYALTY = (
    "L-L: label loyalty, the share of examples on which a state predicts what its dense model predicts. "
    "P-L: probability loyalty, 100 × the mean over examples of 1 − √JS; with the natural logarithm its range "
    "is 16.7 to 100, with base 2 (beside it) 0 to 100."
)


def examples(readings: Iterable[Reading | None]) -> str:
    """How many examples figures rest on: ``500`` or ``100–500``."""
    return between(n for r in readings if r is not None for n in r.examples)


def difference_unit(unit: str) -> str:
    return "points" if unit == "%" else "" if unit == "1" else unit


def moment_name(moment: str) -> str:
    return "final" if moment == FINAL else f"at “{moment}”"


def as_share(value: float, unit: str) -> float:
    """A density as a share in [0, 1], whether a probe gave it as such or in percent."""
    return value / 100 if unit == "%" else value


def merged(notes: Iterable[str]) -> Mapping[str, str]:
    """Note -> what to print for it: notes that differ in their numbers alone become one, with the range.

    A number inside a name (``layer3.0.conv2``) is part of the name.
    """
    kinds: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        kinds.setdefault(alike(note), []).append(note)
    return {note: _ranged(pattern, found) for pattern, found in kinds.items() for note in found}


def alike(note: str) -> str:
    """A note without its numbers: notes of which this is equal say the same."""
    return NUMBER.sub("#", note)


NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\w)")


def each_once(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes as they are printed one after the other: those that differ in their numbers alone stand once."""
    told = list(notes)
    return tuple(dict.fromkeys(merged(told)[note] for note in told))


def _ranged(pattern: str, notes: list[str]) -> str:
    if len(notes) == 1:
        return notes[0]
    slots = zip(*(NUMBER.findall(note) for note in notes), strict=True)
    shown = []
    for slot in slots:
        low, high = min(slot, key=float), max(slot, key=float)
        shown.append(low if float(low) == float(high) else f"{low} to {high}")
    parts = pattern.split("#")
    if len(parts) != len(shown) + 1:
        return notes[0]
    return "".join(a + b for a, b in zip(parts, [*shown, ""], strict=True))
