"""Texts as columns of examples: each is its UTF-8 bytes, a row of a ragged column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from compressbench.ragged import Ragged

TEXT, SECOND, TARGET = "text", "second", "target"
"""The columns of a text, and of the other one of a pair."""


def packed(texts: Iterable[str]) -> Ragged:
    """Texts as the rows of a ragged column of UTF-8 bytes."""
    parts = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, parts)]).astype(np.int64)
    return Ragged(np.frombuffer(b"".join(parts), np.uint8).copy(), ends)


def unpacked(texts: Ragged) -> list[str]:
    """The inverse; a row that is no UTF-8 is read with replacement characters."""
    values, starts = np.asarray(texts.values, np.uint8).tobytes(), np.asarray(texts.starts)
    return [
        values[a:b].decode(errors="replace")
        for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ]


def of_cut(cut: Mapping[str, Any], length: int, what: str = "examples") -> tuple[str, ...]:
    """The remark that some were cut, where any was; see ``tasks.task.Remarks``.

    Args:
        cut: by split (n,), which examples were.
        length: tokens that are left of those.
        what: the examples are called.
    """
    counts = {name: (int(np.count_nonzero(which)), len(which)) for name, which in cut.items()}
    told = ", ".join(f"{number:,} of {n:,} {name}" for name, (number, n) in counts.items() if number)
    return (f"longer than {length} tokens and cut there: {told} {what}",) if told else ()
