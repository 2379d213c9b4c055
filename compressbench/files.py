"""Files as input: none is trusted. What is too large, not there, or leads elsewhere is one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from compressbench.errors import UserError

LARGEST = 16 * 2**30
"""Bytes of a model's file."""
UNPACKED = 8 * 2**30
"""Bytes of what a packed file of predictions holds."""
HEADER = 100 * 2**20
"""Bytes of a header, a graph in JSON, or a config."""
INSTEAD = "write its answers to a file of predictions (.npz, .npy, .csv, .jsonl, .parquet) and give that"
"""What is offered for a form that isn't read."""


def a_file(path: Path, most: int = LARGEST) -> Path:
    """The path of a file that can be read.

    Raises:
        UserError: it isn't there, is none, is empty or too large.
    """
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file")
        if not path.is_file():
            raise UserError(f"{path}: is no file")
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error
    if not size:
        raise UserError(f"{path}: the file is empty")
    if size > most:
        raise UserError(f"{path}: {size:,} bytes, more than the {most:,} that are read")
    return path


def inside(folder: Path, name: str, whose: Path) -> Path:
    """A file that another one names, in that one's folder or below, links followed.

    Raises:
        UserError: it isn't there, or lies elsewhere.
    """
    place = Path(name)
    if not name or "\0" in name or place.is_absolute():
        raise UserError(f"{whose}: refers to {name!r}; what belongs to it lies beside it, by a relative path")
    path = folder / place
    try:
        real = path.resolve()
        if not real.is_relative_to(folder.resolve()):
            raise UserError(f"{whose}: refers to {name!r}, outside its folder; nothing elsewhere is read")
    except (OSError, RuntimeError) as error:
        raise UserError(f"{whose}: refers to {name!r}, which can't be read: {error}") from error
    if not path.is_file():
        raise UserError(f"{whose}: refers to {name!r}, which is not beside it")
    return path


def digest_of(files: Iterable[Path], *more: Any) -> str:
    """SHA-256 (hex) of files' contents, in order, and of plain values beside them. Names don't count."""
    found = hashlib.sha256(json.dumps(more, sort_keys=True, default=str).encode())
    for path in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def json_of(path: Path, most: int = HEADER) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        UserError: it is none, or too large.
    """
    text = a_file(path, most).read_bytes()
    return json_object(text, str(path))


def json_object(text: bytes, where: str) -> dict[str, Any]:
    """Bytes as the one JSON object that they hold.

    Raises:
        UserError: they hold something else.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON: {str(error) or 'nested too deeply'}") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: holds {type(found).__name__}, not a JSON object")
    return found


def fields(file: BinaryIO, size: int, most: int = 100_000) -> Iterator[tuple[int, int]]:
    """(number, wire type) of the top-level fields of a protobuf message, which are skipped, not read.

    Raises:
        ValueError: it is no such message.
        EOFError: it ends in the middle of a field.
    """
    at = 0
    for _ in range(most):
        if at == size:
            return
        tag, at = _varint(file, at)
        number, wire = tag >> 3, tag & 7
        if not number:
            raise ValueError("a field without a number")
        if wire == 0:
            _, at = _varint(file, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            length, at = _varint(file, at)
            at += length
        else:
            raise ValueError(f"wire type {wire}")
        if at > size:
            raise EOFError(f"field {number} goes beyond the end")
        yield number, wire


def _varint(file: BinaryIO, at: int) -> tuple[int, int]:
    file.seek(at)
    text = file.read(10)
    value = 0
    for place, byte in enumerate(text):
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    if len(text) < 10:
        raise EOFError("it ends in the middle of a number")
    raise ValueError("a number of more than ten bytes")
