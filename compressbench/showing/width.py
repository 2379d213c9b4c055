"""Texts by the cells that they take on a terminal, where some characters are two wide."""

from __future__ import annotations

from compressbench.console import clean_line


def cut(text: str, width: int) -> str:
    """A text at most so many cells wide; what goes is its middle, since the ends of files' names tell them apart."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    left, right = text[: len(text) // 2], text[len(text) // 2 :]
    while (left or right) and cell_len(left) + cell_len(right) + 1 > width:
        left, right = (left[:-1], right) if cell_len(left) >= cell_len(right) else (left, right[1:])
    return f"{left}…{right}"


def wrapped(text: str, width: int, rest: str = "", first: str = "") -> list[str]:
    """A text without anything that steers a terminal, broken at spaces into lines at most so many cells wide.

    Args:
        rest, first: what lines after the first, and the first, begin with.
    """
    from rich.cells import cell_len

    lines, line = [], first
    empty = True
    for word in clean_line(text).split():
        while True:
            joint = line if empty else f"{line} "
            if cell_len(joint) + cell_len(word) <= width:
                line, empty = joint + word, False
                break
            if not empty:
                lines.append(line)
                line, empty = rest, True
                continue
            fits = _fitting(word, width - cell_len(line))
            lines.append(line + word[:fits])
            line, word = rest, word[fits:]
            if not word:
                break
    return [*lines, line] if not empty else lines


def _fitting(word: str, width: int) -> int:
    """How many characters of a word fit, at least one."""
    from rich.cells import cell_len

    count = 1
    while count < len(word) and cell_len(word[: count + 1]) <= width:
        count += 1
    return count
