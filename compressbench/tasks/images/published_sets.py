"""Published test sets as arrays on the user's disk: CIFAR-10-C's and CIFAR-10.1's ``.npy`` files. None is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressbench.errors import UserError

LEVELS = 5


@dataclass(frozen=True)
class PublishedSet:
    """Pictures and labels.

    Attributes:
        images: uint8 (n, height, width, channels), on the disk until rows are taken.
        labels: int64 (n,).
    """

    images: Any
    labels: np.ndarray

    def pictures(self, rows: Any = slice(None)) -> np.ndarray:
        """uint8 (rows, channels, height, width)."""
        return np.array(np.moveaxis(self.images[rows], -1, 1), order="C")


def corrupted_set(folder: Path, kind: str, severity: int, shape: Sequence[int], classes: int) -> PublishedSet:
    """One kind and severity of CIFAR-10-C: ``KIND.npy`` holds five times the test set, mildest first.

    Args:
        shape: (channels, height, width) of a picture.

    Raises:
        UserError: a file is missing, is no array, or holds other pictures or labels out of range.
    """
    found = _read(folder, f"{kind}.npy", "labels.npy", shape, classes)
    many, over = divmod(len(found.labels), LEVELS)
    if over or not many:
        raise UserError(
            f"{folder / f'{kind}.npy'}: {len(found.labels)} pictures, must be {LEVELS} times a test set"
        )
    part = slice((severity - 1) * many, severity * many)
    return PublishedSet(found.images[part], found.labels[part])


def cifar10_1(folder: Path, version: str, shape: Sequence[int], classes: int) -> PublishedSet:
    """CIFAR-10.1 (Recht et al., 2018): ``cifar10.1_VERSION_data.npy`` and ``cifar10.1_VERSION_labels.npy``.

    Raises:
        UserError: as for ``corrupted_set``.
    """
    return _read(folder, f"cifar10.1_{version}_data.npy", f"cifar10.1_{version}_labels.npy", shape, classes)


def _read(folder: Path, images: str, labels: str, shape: Sequence[int], classes: int) -> PublishedSet:
    pictures, named = _array(folder / images, mapped=True), _array(folder / labels)
    channels, height, width = shape
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (height, width, channels):
        raise UserError(
            f"{folder / images}: {pictures.dtype} {pictures.shape}, must be uint8 (n, {height}, {width}, {channels})"
        )
    if named.dtype.kind not in "iu" or named.shape != (len(pictures),):
        raise UserError(
            f"{folder / labels}: {named.dtype} {named.shape}, must be {len(pictures)} whole numbers, one a picture"
        )
    if len(named) and not 0 <= int(named.min()) <= int(named.max()) < classes:
        raise UserError(
            f"{folder / labels}: labels {named.min()} to {named.max()}, must be 0 to {classes - 1}"
        )
    return PublishedSet(pictures, named.astype(np.int64))


def _array(path: Path, mapped: bool = False) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path} is missing; it is an array of a published set, and none is downloaded here")
    try:
        found = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise UserError(f"{path} is no .npy array that could be read ({_line(error)})") from error
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path} is no .npy array but an archive of several")
    return found


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
