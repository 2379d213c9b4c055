"""Where examples lie: pictures in a folder or an array, arrays that are fed as they are. Read when they are asked for."""

from __future__ import annotations

import hashlib
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compressbench.artefacts.artefact import Input, layout_of
from compressbench.artefacts.predictions import header_of
from compressbench.artefacts.reading import Reading
from compressbench.comparing.arrays import Ints
from compressbench.data.folder import SUFFIXES, still
from compressbench.errors import UserError, reason
from compressbench.files import UNPACKED, a_file
from compressbench.paths import resolved

if TYPE_CHECKING:
    from compressbench.data.examples import Examples
    from compressbench.tasks.task import Task

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
"""What pictures may be, as Pillow calls it."""
UNPACKED_INTO_MEMORY = 64 * 2**20
"""Bytes of a packed array up to which it is held; a larger one is unpacked aside, and mapped."""
PIECE = 8 * 2**20
"""Bytes that are digested at a time."""


class Source(Protocol):
    """Examples of anybody's, numbered from 0.

    Attributes:
        inputs: what is fed as it is; empty where examples are pictures.
    """

    @property
    def inputs(self) -> tuple[Input, ...]: ...

    def read(self, rows: Ints) -> Any:
        """Pictures as a list of uint8 (height, width, channels), or {name: array of (rows, ...)}.

        Raises:
            UserError: one can't be read.
        """

    def digest(self, rows: Ints) -> str:
        """SHA-256 (hex) of the content of these, in this order."""


@dataclass(frozen=True)
class Folder:
    """Pictures in files, in RGB; grey ones hold the same in all three.

    Attributes:
        base: the folder, out of which no link leads.
    """

    base: Path
    paths: tuple[Path, ...]
    inputs: tuple[Input, ...] = ()

    def read(self, rows: Ints) -> list[NDArray[np.uint8]]:
        """See ``Source``."""
        return [np.asarray(still(self._inside(row), "RGB", "", FORMATS)) for row in rows]

    def digest(self, rows: Ints) -> str:
        """See ``Source``: of the files' bytes."""
        found = hashlib.sha256()
        for row in rows:
            path = self._inside(row)
            try:
                with path.open("rb") as file:
                    found.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise UserError(f"can't read {path}: {error.strerror or error}") from error
        return found.hexdigest()

    def _inside(self, row: int) -> Path:
        path = self.paths[row]
        if not resolved(path, "pictures").is_relative_to(resolved(self.base, "pictures")):
            raise UserError(f"{path} leads outside {self.base}; nothing elsewhere is read")
        if not path.is_file():
            raise UserError(f"{path} is no file any more")
        return path


@dataclass(frozen=True)
class Stacked:
    """Pictures of one size in an array.

    Attributes:
        pixels: uint8 (n, height, width, channels), (n, channels, height, width) or (n, height, width).
        layout: ``NHWC``, ``NCHW`` or ``NHW``.
    """

    pixels: NDArray[np.uint8]
    layout: str
    inputs: tuple[Input, ...] = ()

    def read(self, rows: Ints) -> list[NDArray[np.uint8]]:
        """See ``Source``."""
        part = np.asarray(self.pixels[rows])
        if self.layout == "NCHW":
            part = part.transpose(0, 2, 3, 1)
        return list(part[..., None] if self.layout == "NHW" else part)

    def digest(self, rows: Ints) -> str:
        """See ``Source``."""
        return _digest({self.layout: self.pixels}, rows)


@dataclass(frozen=True)
class Arrays:
    """Inputs that are fed as they are, by name; (n, ...) each."""

    arrays: Mapping[str, NDArray[Any]]

    @property
    def inputs(self) -> tuple[Input, ...]:
        """One for each array."""
        return tuple(Input(name, (None, *a.shape[1:]), a.dtype.name) for name, a in self.arrays.items())

    def read(self, rows: Ints) -> dict[str, NDArray[Any]]:
        """See ``Source``."""
        return {n: a[rows].astype(a.dtype.newbyteorder("="), copy=False) for n, a in self.arrays.items()}

    def digest(self, rows: Ints) -> str:
        """See ``Source``."""
        return _digest(self.arrays, rows)


@dataclass(frozen=True)
class Encoded:
    """Examples of a task that has no pictures: what it makes of them is fed.

    Attributes:
        examples: on the host, as arrays.
    """

    task: Task
    examples: Examples
    inputs: tuple[Input, ...]

    @staticmethod
    def of(task: Task, examples: Examples) -> Encoded:
        """With inputs by name and type, by a blank example."""
        blank = zip(task.inputs, task.blank(1), strict=True)
        known = tuple(Input(n, (None,) * x.ndim, str(x.dtype).removeprefix("torch.")) for n, x in blank)
        return Encoded(task, examples, known)

    def read(self, rows: Ints) -> dict[str, NDArray[Any]]:
        """See ``Source``."""
        encoded = self.task.encode(self.examples.take(rows).to("cpu"))
        return {i.name: x.numpy() for i, x in zip(self.inputs, encoded, strict=True)}

    def digest(self, rows: Ints) -> str:
        """See ``Source``."""
        found = hashlib.sha256(repr(self.task.identity()).encode())
        for part in (rows[at : at + 4096] for at in range(0, len(rows), 4096)):
            for name, array in self.read(part).items():
                found.update(f"{name}{array.dtype}{array.shape}".encode())
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


@dataclass(frozen=True)
class Written:
    """Texts, or pairs of texts; what is fed are the tokens that a reading makes of them.

    Attributes:
        reading: None where nobody says how they are read: then nothing can be asked.
    """

    texts: tuple[str, ...]
    seconds: tuple[str, ...] | None = None
    reading: Reading | None = None

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The tokens, or the text itself, which no model takes."""
        return (Input("text", (None,), "str"),) if self.reading is None else self.reading.inputs

    def read(self, rows: Ints) -> dict[str, NDArray[Any]]:
        """See ``Source``."""
        if self.reading is None:
            raise UserError("how these texts are read isn't known")
        texts, seconds = self._of(rows)
        return self.reading.apply(texts, seconds)

    def shown(self, row: int) -> str:
        """What a person reads of an example; of a pair two lines."""
        texts, seconds = self._of(np.array([row]))
        return "\n".join([*texts, *(seconds or ())])

    def digest(self, rows: Ints) -> str:
        """See ``Source``."""
        found = hashlib.sha256(repr((self.reading and self.reading.digest, len(rows))).encode())
        for part in self._of(rows):
            found.update(repr(part).encode())
        return found.hexdigest()

    def _of(self, rows: Ints) -> tuple[list[str], list[str] | None]:
        texts = [self.texts[row] for row in rows]
        return texts, None if self.seconds is None else [self.seconds[row] for row in rows]


def _digest(arrays: Mapping[str, NDArray[Any]], rows: Ints) -> str:
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name}{array.dtype}{array.shape[1:]}{len(rows)}".encode())
        width = max(1, array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
        step = max(1, PIECE // width)
        for at in range(0, len(rows), step):
            found.update(np.ascontiguousarray(array[rows[at : at + step]]).tobytes())
    return found.hexdigest()


def source_of(arrays: Mapping[str, NDArray[Any]], where: str) -> Stacked | Arrays:
    """Pictures where there is one array of uint8 (n, h, w) or four dimensions with 1 or 3 channels; else arrays.

    Raises:
        UserError: pictures whose layout both could be, or text.
    """
    odd = next((n for n, a in arrays.items() if a.dtype.kind in "US" or not a.ndim), None)
    if odd is not None:
        raise UserError(f"{where}: {odd} holds {arrays[odd].dtype} {arrays[odd].shape}, no inputs of a model")
    array = next(iter(arrays.values()))
    if len(arrays) > 1 or array.dtype != np.uint8 or array.ndim not in (3, 4):
        return Arrays(arrays)
    if array.ndim == 3:
        return Stacked(array, "NHW")
    layout = layout_of(array.shape)
    if layout is None:
        raise UserError(
            f"{where}: pictures of uint8 {array.shape}: where their channels are can't be told; "
            "(n, height, width, 1 or 3) or (n, 1 or 3, height, width) is wanted"
        )
    if array.shape[3 if layout == "NHWC" else 1] == 4:
        return Arrays(arrays)
    return Stacked(array, layout)


def listed(base: Path) -> tuple[list[Path], list[int] | None, tuple[str, ...] | None]:
    """The pictures below a folder, in order; each one's class and the names of the classes, where it has class folders.

    Classes are the names of the folders, sorted; hidden files and folders, and those without a picture in them, are
    passed over.

    Raises:
        UserError: there is none, pictures lie both in it and in class folders, or a class folder holds folders.
    """
    own, folders = _entries(base)
    classes = {f.name: _entries(f) for f in folders}
    nested = next((i for _, inner in classes.values() for i in inner if _entries(i)[0]), None)
    if nested is not None:
        raise UserError(
            f"{base}: {nested.relative_to(base)} is a folder inside a class; pictures lie in the class folder itself"
        )
    if own and any(pictures for pictures, _ in classes.values()):
        raise UserError(
            f"{base}: holds pictures and folders of pictures; class folders, or pictures without, are wanted"
        )
    if own:
        return own, None, None
    names = tuple(name for name, (pictures, _) in classes.items() if pictures)
    if not names:
        empty = not any(base.iterdir())
        raise UserError(
            f"{base}: the folder is empty"
            if empty
            else f"{base}: no pictures in it ({', '.join(sorted(SUFFIXES))})"
        )
    paths = [p for name in names for p in classes[name][0]]
    return paths, [k for k, name in enumerate(names) for _ in classes[name][0]], names


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures by their suffix, and folders; both sorted, none hidden."""
    try:
        there = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: can't be read: {error.strerror or error}") from error
    return [p for p in there if p.suffix.lower() in SUFFIXES and not p.is_dir()], [
        p for p in there if p.is_dir()
    ]


def stored(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a ``.npz`` by name, or the one of a ``.npy`` under ``x``: numbers and text, mapped where they can be.

    What is packed and large is unpacked into a nameless file and mapped. No pickle is opened.

    Raises:
        UserError: it is neither, damaged, or larger than is read.
    """
    with a_file(path).open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            file.seek(0)
            return {"x": _mapped(file, path.stat().st_size, str(path))}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if sum(i.file_size for i in infos) > UNPACKED:
                raise UserError(f"{path}: unpacks to more than the {UNPACKED:,} bytes that are read")
            odd = next((i.filename for i in infos if not i.filename.endswith(".npy")), None)
            if odd is not None:
                raise UserError(f"{path}: holds {odd[:60]}, no array; numpy.savez writes what is wanted")
            return {i.filename.removesuffix(".npy"): _member(path, archive, i) for i in infos}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise UserError(f"{path}: a damaged file: {reason(error)}") from error


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    where = f"{path}: {info.filename.removesuffix('.npy')}"
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            local = file.read(30)
            if len(local) < 30 or local[:4] != b"PK\x03\x04":
                raise UserError(f"{where}: a damaged file")
            file.seek(sum(struct.unpack("<HH", local[26:30])), 1)
            return _mapped(file, info.file_size, where)
    with archive.open(info) as member:
        if info.file_size > UNPACKED_INTO_MEMORY:
            with tempfile.TemporaryFile() as aside:
                for piece in iter(lambda: member.read(PIECE), b""):
                    aside.write(piece)
                aside.flush()
                aside.seek(0)
                return _mapped(aside, info.file_size, where)
        shape, fortran, dtype = header_of(member, info.file_size, where)
        wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
        content = member.read(wanted)
    if len(content) < wanted:
        raise UserError(f"{where}: ends too early; is it whole?")
    return np.ndarray(shape, dtype, buffer=content, order="F" if fortran else "C")


def _mapped(file: Any, size: int, where: str) -> NDArray[Any]:
    """The array whose header is next in a file, mapped; held where it is empty."""
    begin = file.tell()
    shape, fortran, dtype = header_of(file, size, where)
    order: Any = "F" if fortran else "C"
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not wanted:
        return np.zeros(shape, dtype, order)
    start = file.tell()
    if start - begin + wanted > size or start + wanted > file.seek(0, 2):
        raise UserError(f"{where}: ends too early; is it whole?")
    try:
        return np.memmap(file, dtype, "r", start, shape or (1,), order)
    except (ValueError, OSError) as error:
        raise UserError(f"{where}: can't be mapped: {reason(error)}") from error


def in_pieces(rows: Ints, size: int) -> Iterator[Ints]:
    """Consecutive parts of at most ``size``."""
    return (rows[at : at + size] for at in range(0, len(rows), size))


def small(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture (h, w, c) that is larger than ``side`` each way, made smaller; others as they are."""
    from PIL import Image

    if max(picture.shape[:2]) <= side:
        return picture
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    image.thumbnail((side, side))
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def seen(array: NDArray[Any]) -> NDArray[np.uint8] | None:
    """One input (c, h, w) or (h, w, c) as a picture, its range spread over 0 to 255; None where it is none."""
    layout = layout_of((1, *array.shape)) if array.ndim == 3 else None
    if layout is None or array.dtype.kind not in "fiu":
        return None
    values = np.asarray(array, np.float64)
    values = values.transpose(1, 2, 0) if layout == "NCHW" else values
    if values.shape[2] == 4 or not np.isfinite(values).all():
        return None
    low, high = values.min(), values.max()
    return (255 * (values - low) / ((high - low) or 1.0)).round().astype(np.uint8)
