"""Attributes of pictures from a table beside them: a CSV file of one row a picture. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from compressbench.errors import UserError, nearest

PATH = "path"
MOST_BYTES = 256 * 2**20
MOST_COLUMNS = 64
LONGEST = 200
RESERVED = ("classes", "class")
"""What a grouping by labels is called."""


def read_attributes(
    file: Path, pictures: Sequence[str], where: str, beside: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """Attribute -> (n,) texts, one a picture, in the order of ``pictures``.

    The file is UTF-8 with a header: ``path`` and a column an attribute. Paths are compared with those of pictures that
    are known, and never opened.

    Args:
        pictures: relative paths, with ``/``.
        where: begins what an error says.
        beside: relative paths of pictures that may have a row too, and are not asked for.

    Raises:
        UserError: the file can't be read or is too large, a column is missing or odd, a picture is listed twice or not at
            all, a row names no picture, or a value is missing.
    """
    rows = csv.reader(io.StringIO(_text(file, where), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        names = _columns(header, f"{where} {file}")
        at = header.index(PATH)
        places = {picture: k for k, picture in enumerate(pictures)}
        others = set(beside)
        found: list[list[str] | None] = [None] * len(pictures)
        for cells in rows:
            if not cells:
                continue
            line = f"{where} {file}:{rows.line_num}"
            if len(cells) != len(header):
                raise UserError(f"{line}: {len(cells)} values for {len(header)} columns")
            picture = cells[at].strip()
            place = places.get(picture)
            if place is None:
                if picture in others:
                    continue
                raise UserError(f"{line}: there is no picture {picture[:LONGEST]!r} in the folder")
            if found[place] is not None:
                raise UserError(f"{line}: {picture!r} is listed twice")
            found[place] = _values(cells, header, at, line)
    except csv.Error as error:
        raise UserError(f"{where} {file}:{rows.line_num}: no CSV ({error})") from error
    table = [row for row in found if row is not None]
    if len(table) < len(found):
        lost = pictures[next(k for k, row in enumerate(found) if row is None)]
        more = len(found) - len(table) - 1
        raise UserError(f"{where} {file}: no row for {lost!r}{f' and {more:,} more' if more else ''}")
    return {name: np.array([row[k] for row in table], dtype=np.str_) for k, name in enumerate(names)}


def _text(file: Path, where: str) -> str:
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{where} {file} has {size:,} bytes; {MOST_BYTES:,} are the most")
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{where}: can't read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where} {file} is no text in UTF-8") from error


def _columns(header: Sequence[str], where: str) -> list[str]:
    if PATH not in header:
        raise UserError(f"{where}: the first line has no column {PATH!r}; {nearest(PATH, header)}")
    names = [name for name in header if name != PATH]
    if len(names) < len(header) - 1 or len(set(names)) < len(names):
        twice = next(name for name in header if list(header).count(name) > 1)
        raise UserError(f"{where}: column {twice!r} stands there twice")
    if not 0 < len(names) <= MOST_COLUMNS:
        raise UserError(f"{where}: {len(names)} columns of attributes; 1 to {MOST_COLUMNS} are wanted")
    for name in names:
        odd = not name or not name.isprintable() or len(name) > LONGEST or any(c in name for c in "=&")
        if odd or name in RESERVED:
            raise UserError(
                f"{where}: {name[:LONGEST]!r} can't be an attribute's name; printable ones without = and & can, "
                f"other than {', '.join(RESERVED)}"
            )
    return names


def _values(cells: Sequence[str], header: Sequence[str], at: int, line: str) -> list[str]:
    values = [cell.strip() for k, cell in enumerate(cells) if k != at]
    names = [name for k, name in enumerate(header) if k != at]
    for name, value in zip(names, values, strict=True):
        if not value:
            raise UserError(f"{line}: no value of {name}")
        if len(value) > LONGEST or not value.isprintable():
            raise UserError(
                f"{line}: {name}: {value[:40]!r}… is no printable text of {LONGEST} letters at most"
            )
    return values
