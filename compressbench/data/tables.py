"""Tables of text: TSV, CSV and JSON lines, plain or compressed, as columns of strings."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressbench.errors import UserError
from compressbench.paths import given_path, is_utf8

LARGEST = 2 << 30
"""Bytes of a table, uncompressed."""
CHUNK = 1 << 20
"""Bytes that are read at a time."""
FORMS = (".tsv", ".csv", ".jsonl")

Table = dict[str, list[str]]
"""Column -> one string a row."""


def read_table(path: str | Path, what: str = "the table") -> Table:
    """A table with a header line (TSV, CSV) or of one object a line (JSON lines), UTF-8; ``.gz`` and ``.xz`` are opened.

    A TSV has no quotes, as GLUE's files: a quotation mark is a character like any other.

    Args:
        what: what it is called in an error.

    Raises:
        UserError: it can't be read, is no table, has a row of another length or a column twice, or is larger than 2 GiB.
    """
    place = given_path(path, what)
    text = text_of(place)
    suffix = next((s for s in (place.suffix, place.with_suffix("").suffix) if s in (*FORMS, ".json")), "")
    if suffix in (".jsonl", ".json"):
        return _objects(text, place)
    if suffix == ".csv":
        return _delimited(csv.reader(io.StringIO(text, newline=""), strict=True), place)
    if suffix == ".tsv":
        lines = text.removesuffix("\n").split("\n") if text else []
        return _delimited((line.removesuffix("\r").split("\t") for line in lines), place)
    raise UserError(f"{place} is no table by its name; {', '.join(FORMS)} are read, also with .gz or .xz")


def column(table: Mapping[str, Sequence[str]], name: str, path: object, setting: str) -> list[str]:
    """A column by name.

    Raises:
        UserError: there is none.
    """
    if name not in table:
        raise UserError(f"{path} has no column {name!r} ({setting}); it has {named(table) or 'none'}")
    return list(table[name])


def named(names: Iterable[str], most: int = 20) -> str:
    """Names for a message, the first ones, each of 40 characters at most: where a header is missing they are texts."""
    told = list(names)
    return ", ".join(" ".join(name[:40].split()) for name in told[:most]) + (" …" if len(told) > most else "")


def text_of(path: Path, encoding: str = "utf-8-sig") -> str:
    """A file of text; ``.gz`` and ``.xz`` are opened.

    Raises:
        UserError: it can't be read, is damaged, isn't of the encoding, or is larger than 2 GiB.
    """
    openers: dict[str, Any] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
    data = bytearray()  # one ``read(LARGEST)`` would take so much memory for a file of any size
    try:
        if path.suffix not in openers and path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than 2 GiB")
        with openers.get(path.suffix, open)(path, "rb") as file:
            while len(data) <= LARGEST and (chunk := file.read(CHUNK)):
                data += chunk
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged ({error})") from error
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from error
    if len(data) > LARGEST:
        raise UserError(f"{path} is larger than 2 GiB")
    try:
        return str(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start:,})") from error


def _delimited(rows: Iterator[list[str]], path: Path) -> Table:
    number = 0
    try:
        names = next(rows, [])
        if not any(names):
            raise UserError(f"{path} is empty; a line with the columns' names is wanted")
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise UserError(f"{path} has two columns {twice[:40]!r}")
        found: list[list[str]] = []
        for number, row in enumerate(rows, 2):
            if not row:  # an empty line of a CSV file
                continue
            if len(row) != len(names):
                raise UserError(f"{path}: row {number} has {len(row)} cells, the header {len(names)}")
            found.append(row)
    except csv.Error as error:
        raise UserError(f"{path}: row {number + 1} is no CSV ({error})") from error
    columns = zip(*found, strict=True) if found else ((),) * len(names)
    return {name: list(cells) for name, cells in zip(names, columns, strict=True)}


def _objects(text: str, path: Path) -> Table:
    found: Table = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is no JSON ({error})") from error
        if not isinstance(row, dict) or not row:
            raise UserError(f'{path}: line {number} is no object such as {{"text": …, "label": …}}')
        if found and set(row) != set(found):
            odd = sorted(set(row) ^ set(found))[0]
            raise UserError(f"{path}: line {number} and those before it differ in {odd[:40]!r}")
        for name, value in row.items():
            if isinstance(value, dict | list) or value is None:
                raise UserError(
                    f"{path}: line {number}: {name[:40]} is {json.dumps(value)[:40]}, not a text or a number"
                )
            if not is_utf8(f"{name}{value}"):
                raise UserError(
                    f"{path}: line {number}: {name!a:.42} holds half of a character (as \\ud800 is), no text"
                )
            found.setdefault(name, []).append(value if isinstance(value, str) else json.dumps(value))
    if not found:
        raise UserError(f"{path} is empty; one object a line is wanted")
    return found
