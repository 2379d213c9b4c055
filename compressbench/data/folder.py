"""A user's own pictures: one folder per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressbench.data.dataset import Raw, Split
from compressbench.data.examples import Examples
from compressbench.data.splits import allocate, pick
from compressbench.errors import UserError
from compressbench.paths import check_inside, given_path, resolved
from compressbench.tasks.images.classification import IMAGES

if TYPE_CHECKING:
    from PIL import Image, ImageFile

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
"""What may lie behind these suffixes, as Pillow calls it: of its others some start programs (EPS runs Ghostscript)."""
NAMES = {"PNG": "PNG", "JPEG": "JPEG", "BMP": "BMP", "WEBP": "WebP", "GIF": "GIF"}

MANY = "MPO"
"""A JPEG with further pictures behind the first, as telephones write them: previews, depth, brightness."""


def image_folder(
    root: str | None = None,
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    test_fraction: float | None = None,
    split_seed: int = 0,
    licence: str = "the user's own",
    labels: Mapping[str, int] | None = None,
    outputs: int | None = None,
    attributes: str | None = None,
) -> Raw:
    """Pictures from ``root/train/CLASS/*`` and ``root/test/CLASS/*``, or from ``root/CLASS/*``.

    Classes are the folder names, sorted; examples are numbered in the order of ``files``. Files that are no
    pictures by their suffix (png, jpg, jpeg, bmp, webp), and hidden ones, are passed over.

    Args:
        root: the folder; must be given.
        size: height and width, or one number for both; larger pictures are scaled to cover it and cut in the
            middle. None: all have the same size already.
        channels: 1 (grey) or 3 (RGB); transparency is dropped.
        test_fraction: only for ``root/CLASS/*``: the share of every class that becomes the test split.
        split_seed: which examples these are.
        labels: where the net's outputs for the folders are, ``{folder: place}``, for a net that knows more classes.
        outputs: how many it has; the others are called by their number.
        attributes: a CSV file below ``root``: ``path`` (of a picture below ``root``) and a column an attribute.

    Raises:
        UserError: a setting is out of range, the folders don't fit, a picture can't be read or lies outside.
    """
    raw = _raw(root, size, channels, test_fraction, split_seed, licence, attributes)
    return raw if labels is None and outputs is None else _placed(raw, labels or {}, outputs)


def _raw(
    root: str | None,
    size: int | Sequence[int] | None,
    channels: int,
    test_fraction: float | None,
    split_seed: int,
    licence: str,
    attributes: str | None,
) -> Raw:
    shape = _shape(size)
    if channels not in (1, 3):
        raise UserError(f"image_folder: channels={channels!r}; known: 1 (grey), 3 (RGB)")
    if not root:
        raise UserError("image_folder: set dataset.read.root to the folder with your pictures")
    base = given_path(root, "image_folder: root")
    if not base.is_dir():
        raise UserError(f"image_folder: there is no folder {base}")
    folders = {name: base / name for name in ("train", "test") if (base / name).is_dir()}
    if len(folders) == 2:
        if test_fraction is not None:
            raise UserError(f"image_folder: {base} has train and test already; drop test_fraction")
        listings = {name: files(folder) for name, folder in folders.items()}
        train_classes, test_classes = (list(listings[name]) for name in ("train", "test"))
        if train_classes != test_classes:
            odd = sorted(set(train_classes) ^ set(test_classes))
            raise UserError(f"image_folder: {base}: class folder {odd[0]} is in only one of train and test")
        train, test = (_read(base, listings[name], shape, channels) for name in ("train", "test"))
        if train[IMAGES].shape[1:] != test[IMAGES].shape[1:]:
            raise UserError(f"image_folder: {base}: train and test differ in size; set size: [height, width]")
        known = {} if attributes is None else _known(base, listings, attributes)
        return Raw(train, test, tuple(train_classes), licence, known)
    if folders:
        raise UserError(f"image_folder: {base} has {next(iter(folders))} but not both of train and test")
    if test_fraction is None:
        raise UserError(f"image_folder: {base} has no train and test; set test_fraction, e.g. 0.2")
    if not 0 < test_fraction < 1:
        raise UserError(f"image_folder: test_fraction={test_fraction!r} is outside (0, 1)")
    listing = files(base)
    counts = np.array([len(pictures) for pictures in listing.values()])
    small = next((name for name, count in zip(listing, counts, strict=True) if count < 2), None)
    if small is not None:
        raise UserError(f"image_folder: class {small} has one picture, too few for a train and a test split")
    whole = _read(base, listing, shape, channels)
    held = min(max(round(test_fraction * len(whole)), len(counts)), len(whole) - len(counts))
    shares = allocate(counts, held, np.ones_like(counts), counts - 1)
    test_rows = pick(whole.labels, shares, np.random.RandomState(split_seed))
    train_rows = np.setdiff1d(whole.rows, test_rows)
    own = {} if attributes is None else _known(base, {"": listing}, attributes)[""]
    parts = {"train": train_rows, "test": test_rows}
    return Raw(
        whole.take(train_rows),
        whole.take(test_rows),
        tuple(listing),
        licence,
        {part: {name: column[rows] for name, column in own.items()} for part, rows in parts.items() if own},
    )


def _known(
    base: Path, listings: Mapping[str, Mapping[str, Sequence[Path]]], attributes: str
) -> dict[str, dict[str, np.ndarray]]:
    """Of each listing its pictures' attributes, from one file below ``base``."""
    from compressbench.data.attributes import read_attributes

    where = "image_folder: attributes"
    check_inside(attributes, where)
    file = base / attributes
    if not resolved(file, where).is_relative_to(resolved(base, where)):
        raise UserError(f"{where}: {file} leads outside {base}")
    paths = {
        part: [p.relative_to(base).as_posix() for own in listing.values() for p in own]
        for part, listing in listings.items()
    }
    table = read_attributes(file, [p for own in paths.values() for p in own], where)
    found, start = {}, 0
    for part, own in paths.items():
        found[part] = {name: column[start : start + len(own)] for name, column in table.items()}
        start += len(own)
    return found


def _placed(raw: Raw, labels: Mapping[str, int], outputs: int | None) -> Raw:
    """The same pictures with the labels of a net that has other classes as well."""
    missing = next((name for name in raw.classes if name not in labels), None)
    if missing is not None:
        raise UserError(f"image_folder: labels has no entry for class folder {missing}")
    if outputs is None or type(outputs) is not int:
        raise UserError(f"image_folder: outputs={outputs!r}; how many classes the net has goes with labels")
    places = [labels[name] for name in raw.classes]
    if any(type(p) is not int or not 0 <= p < outputs for p in places) or len(set(places)) < len(places):
        raise UserError(f"image_folder: labels must be different numbers from 0 to {outputs - 1}")
    names = dict(zip(places, raw.classes, strict=True))
    table = np.array(places)
    train, test = (replace(s, labels=table[s.labels].astype(s.labels.dtype)) for s in (raw.train, raw.test))
    return replace(
        raw, train=train, test=test, classes=tuple(names.get(i, f"class {i}") for i in range(outputs))
    )


def files(folder: Path) -> dict[str, list[Path]]:
    """Picture files by class, both sorted by name; an example's ``index`` counts through them in this order.

    Raises:
        UserError: there are fewer than two classes, one is empty, or one holds folders.
    """
    listing = {}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        entries = sorted(path for path in inner.iterdir() if not path.name.startswith("."))
        nested = next((path for path in entries if path.is_dir()), None)
        if nested is not None:
            raise UserError(
                f"image_folder: {nested} is a folder inside a class; pictures lie in the class folder itself"
            )
        listing[inner.name] = [path for path in entries if path.suffix.lower() in SUFFIXES]
        if not listing[inner.name]:
            raise UserError(
                f"image_folder: class folder {inner} holds no pictures ({', '.join(sorted(SUFFIXES))})"
            )
    if len(listing) < 2:
        raise UserError(f"image_folder: {folder} has {len(listing)} class folders; two are the least")
    return listing


def _shape(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    values = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else ()
    if len(values) != 2 or any(type(v) is not int or v < 1 for v in values):
        raise UserError(f"image_folder: size={size!r} is neither a number of pixels nor [height, width]")
    return values[0], values[1]


def _read(
    base: Path, listing: dict[str, list[Path]], shape: tuple[int, int] | None, channels: int
) -> Examples:
    labels = [label for label, paths in enumerate(listing.values()) for _ in paths]
    pictures = read_pictures(base, [p for paths in listing.values() for p in paths], shape, channels)
    return Split.of(pictures, np.array(labels))


def read_pictures(
    base: Path, paths: Sequence[Path | str], shape: tuple[int, int] | None, channels: int
) -> np.ndarray:
    """Pictures below ``base`` as uint8 (n, channels, height, width), in the order given.

    Raises:
        UserError: one lies outside ``base``, can't be read, or, without ``shape``, has another size than the first.
    """
    inside = resolved(base, "image_folder")
    pictures: list[np.ndarray] = []
    for path in map(Path, paths):
        if not resolved(path, "image_folder").is_relative_to(inside):
            raise UserError(f"image_folder: {path} leads outside {base}")
        if not path.is_file():
            raise UserError(f"image_folder: {path} is no file")
        picture = _picture(path, shape, channels)
        if pictures and picture.shape != pictures[0].shape:
            found, first = (" x ".join(map(str, p.shape[1:])) for p in (picture, pictures[0]))
            raise UserError(
                f"image_folder: {path} is {found}, the first is {first}; set size: [height, width]"
            )
        pictures.append(picture)
    return np.stack(pictures)


def _picture(path: Path, shape: tuple[int, int] | None, channels: int) -> np.ndarray:
    """(channels, height, width), uint8."""
    from PIL import Image, ImageOps

    image = still(path, "L" if channels == 1 else "RGB", "image_folder: ")
    if shape is not None and (image.height, image.width) != shape:
        image = ImageOps.fit(image, (shape[1], shape[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def still(path: Path, mode: str, where: str = "", formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """A picture upright, in Pillow's ``mode``, by no decoder but those of ``formats``.

    Args:
        where: begins what an error says.

    Raises:
        UserError: it can't be read, is none of these, has more than 8 bits a value, moves, or is enormous.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path, formats=formats) as opened:
            deep = _deep_mode(opened)
            if deep is not None:
                raise UserError(
                    f"{where}{path} has more than 8 bits per value (mode {deep}); convert it to 8 bits first"
                )
            frames = getattr(opened, "n_frames", 1)
            if frames > 1 and opened.format != MANY:
                raise UserError(
                    f"{where}{path} is animated, {frames} frames; save the one that is meant as a still picture"
                )
            return ImageOps.exif_transpose(opened).convert(mode)
    except UnidentifiedImageError as error:
        known = ", ".join(NAMES[f] for f in formats[:-1])
        raise UserError(f"{where}{path} is no {known} or {NAMES[formats[-1]]} that can be read") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{where}{path} says it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller"
        ) from error
    except (OSError, EOFError, ValueError, SyntaxError) as error:
        raise UserError(f"{where}can't read {path}: {error}") from error


def _deep_mode(opened: ImageFile.ImageFile) -> str | None:
    """The mode of a picture with more than 8 bits a value, None for others.

    Colours of 16 bits are opened as if they had 8, their higher halves; how the file's bytes are read tells.
    """
    if opened.mode.startswith(("I", "F")):
        return opened.mode
    raw = [args for *_, args in opened.tile]
    modes = [m for args in raw for m in (args if isinstance(args, tuple) else (args,)) if isinstance(m, str)]
    return next((m for m in modes if ";16" in m), None)
