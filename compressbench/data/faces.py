"""Faces and windows without one, grey, 24 x 24: from the pictures that come with scikit-image, read where that is.

Nothing of it is shipped here: the faces are a part of Labeled Faces in the Wild (Huang et al. 2007), photographs from the
news whose licence scikit-image doesn't name.
"""

from __future__ import annotations

import importlib.util
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from compressbench.data.dataset import Raw, Split
from compressbench.data.folder import still
from compressbench.errors import UserError
from compressbench.files import a_file
from compressbench.paths import given_path

SIZE = 24
FACES = 100
"""In ``lfw_subset.npy``: so many faces, then as many windows of the backgrounds of such photographs."""
OF_A_KIND = {"train": slice(0, 50), "validation": slice(50, 70), "test": slice(70, 100)}
"""Which faces, and which of the background windows, are in a split."""
PICTURES = {
    "train": (
        "brick.png", "gravel.png", "page.png", "motorcycle_left.png", "hubble_deep_field.jpg", "cell.png", "ihc.png",
    ),
    "validation": ("coffee.png", "grass.png", "microaneurysms.png", "horse.png"),
    "test": ("rocket.jpg", "clock_motion.png", "text.png", "moon.png", "retina.jpg"),
}  # fmt: skip
"""Pictures without a face, each in one split; left out: astronaut, camera and coins, which have some, and a cat."""
SHRINK = 1.5
"""Each scale of a picture is so many times smaller than the one before, until it is smaller than a window."""
CLASSES = ("other", "face")
LICENCE = (
    "scikit-image's wheel, read in place: faces of Labeled Faces in the Wild, licence not named there; pictures CC0 or "
    "public domain where it says so"
)


def faces(
    train: int = 60_000,
    validation: int = 20_000,
    test: int = 20_000,
    shifts: bool = True,
    root: str | None = None,
) -> Raw:
    """100 faces (50 train, 20 validation, 30 test) and windows without one, uint8 (1, 24, 24).

    The 25 x 25 of the file lose their last row and column. In train alone each face is there mirrored too and, with
    ``shifts``, in the four ways to cut 24 x 24 out of it: 400. Windows without a face are cut out of ``PICTURES`` at all
    scales, as many of each picture as there are, up to its share of the number asked for, at places that are always the
    same; beside them there are the file's own background windows. In each split faces, backgrounds and pictures are
    interleaved evenly, so that its first windows, which are timed, are a mixture like the whole. No picture is in two
    splits; which of the file's backgrounds are of one photograph isn't known.

    Args:
        train, validation, test: windows without a face in each split at most.
        shifts: see above.
        root: a folder with these files; that of the installed scikit-image where none is given.

    Raises:
        UserError: scikit-image isn't installed, or a file is missing or not what it was.
    """
    for name, wanted in (("train", train), ("validation", validation), ("test", test)):
        if type(wanted) is not int or wanted < 1:
            raise UserError(f"dataset.read.{name}: {wanted!r} is no number of windows of 1 or more")
    if root is not None and not isinstance(root, str):
        raise UserError(f"dataset.read.root: {root!r} is no folder; a path is wanted, or null")
    folder = given_path(root, "dataset.read.root") if root else installed()
    whole = cut_outs(folder / "lfw_subset.npy")
    splits, origins = {}, {}
    for name, wanted in (("train", train), ("validation", validation), ("test", test)):
        own = whole[:FACES][OF_A_KIND[name]]
        positive = varied(own, shifts) if name == "train" else own[:, :SIZE, :SIZE]
        background = whole[FACES:][OF_A_KIND[name]][:, :SIZE, :SIZE]
        cut = [windows_of(folder / picture, wanted // len(PICTURES[name])) for picture in PICTURES[name]]
        order = interleaved([len(part) for part in (positive, background, *cut)])
        pixels = np.concatenate([positive, background, *cut])[order]
        labels = (order < len(positive)).astype(np.int64)
        splits[name] = Split.of(np.ascontiguousarray(pixels[:, None]), labels)
        sources = ["lfw_subset"] * (len(positive) + len(background))
        sources += [
            p for picture, found in zip(PICTURES[name], cut, strict=True) for p in [picture] * len(found)
        ]
        origins[name] = {"picture": np.array(sources)[order]}
    return Raw(splits["train"], splits["test"], CLASSES, LICENCE, origins, splits["validation"])


def installed() -> Path:
    """The folder of the installed scikit-image's pictures; the package itself isn't imported.

    Raises:
        UserError: it isn't installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "dataset faces: scikit-image and its pictures aren't installed: pip install 'compressbench[lecture]'"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def cut_outs(path: Path) -> np.ndarray:
    """uint8 (200, 25, 25) of ``lfw_subset.npy``, float64 in [0, 1]; no pickle is loaded.

    Raises:
        UserError: it is missing, or something else.
    """
    wrong = UserError(f"dataset faces: {path} holds no 200 pictures of 25 x 25, float64 in [0, 1]")
    try:
        with a_file(path, 1 << 24).open("rb") as file:
            shape, _, dtype = _header(file)  # before anything is allocated of what it says
            if shape != (2 * FACES, SIZE + 1, SIZE + 1) or dtype != np.float64:
                raise wrong
            file.seek(0)
            found = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, RecursionError, tokenize.TokenError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"dataset faces: {path} can't be read: {told}") from error
    if not bool(((found >= 0) & (found <= 1)).all()):
        raise wrong
    return np.round(found * 255).astype(np.uint8)


def interleaved(counts: Sequence[int]) -> np.ndarray:
    """int64 (sum,), an order of parts that lie one after another in which each is spread evenly over the whole.

    The first n of it, whatever n, are a mixture like the whole: of a part of m among N there are n m / N, to within a
    few.
    """
    places = [(np.arange(count) + 0.5) / count for count in counts if count]
    return np.argsort(np.concatenate(places), kind="stable")


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether it is in Fortran's order, dtype) of an ``.npy`` file.

    Raises:
        ValueError: it is no such file.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version} of the format isn't read")


def varied(whole: np.ndarray, shifts: bool) -> np.ndarray:
    """uint8 (n, 24, 24), each of (n, 25, 25) cut in one way or four, and mirrored: 2 or 8 of each, one after another."""
    corners = [(y, x) for y in (0, 1) for x in (0, 1)] if shifts else [(0, 0)]
    cut = np.stack([whole[:, y : y + SIZE, x : x + SIZE] for y, x in corners], axis=1)
    both = np.concatenate([cut, cut[:, :, :, ::-1]], axis=1)
    return both.reshape(-1, SIZE, SIZE)


def windows_of(path: Path, most: int) -> np.ndarray:
    """uint8 (up to ``most``, 24, 24): windows of a grey picture at all its scales, evenly spread over all there are."""
    from PIL import Image

    image = still(a_file(path, 1 << 26), "L", "dataset faces: ")
    scales = []
    while min(image.size) >= SIZE:
        scales.append(np.lib.stride_tricks.sliding_window_view(np.asarray(image), (SIZE, SIZE))[::2, ::2])
        smaller = (round(image.width / SHRINK), round(image.height / SHRINK))
        if min(smaller) < SIZE:
            break
        image = image.resize(smaller, Image.Resampling.BOX)
    counts = [view.shape[0] * view.shape[1] for view in scales]
    total = sum(counts)
    places = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(np.int64))
    found, start = [], 0
    for view, count in zip(scales, counts, strict=True):
        own = places[(places >= start) & (places < start + count)] - start
        found.append(view[own // view.shape[1], own % view.shape[1]])
        start += count
    return np.concatenate(found) if found else np.zeros((0, SIZE, SIZE), np.uint8)
