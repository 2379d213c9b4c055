"""CelebA in its published layout, one attribute as the label, others as sub-groups. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compressbench.data.dataset import Raw, Split
from compressbench.data.folder import read_pictures
from compressbench.errors import UserError, nearest
from compressbench.paths import given_path

PICTURES, ATTRIBUTES, PARTS = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
MOST_BYTES = 256 * 2**20
TRAIN, TEST = "0", "2"
LICENCE = (
    "non-commercial research only; cite Liu, Luo, Wang, Tang 2015, Deep Learning Face Attributes in the Wild"
)
VALUES = {"-1": 0, "1": 1}


def celeba(
    data_dir: str,
    label: str = "Blond_Hair",
    attributes: Sequence[str] = ("Male", "Young"),
    size: int = 64,
    train: int | None = None,
    test: int | None = None,
) -> Raw:
    """CelebA from ``data_dir/celeba``: ``img_align_celeba/``, ``list_attr_celeba.txt``, ``list_eval_partition.txt``.

    Train and test are the published parts 0 and 2; the published validation part is passed over, as validation is held
    out of train here. Attributes are 0 and 1. Pictures are scaled to cover ``size`` x ``size``, their middle cut out.

    Args:
        label: the attribute that is learnt; classes are ``not LABEL`` and ``LABEL``.
        attributes: those that make sub-groups.
        size: pixels a side; all of train take 2 GB of memory at 64.
        train, test: how many of each part, the first ones; None: all.

    Raises:
        UserError: a file is missing or malformed, an attribute unknown, or a picture can't be read.
    """
    base = given_path(data_dir, "celeba: data_dir") / "celeba"
    if not (base / PICTURES).is_dir():
        raise UserError(f"celeba: there is no folder {base / PICTURES}; put the aligned pictures there")
    for setting, value in (
        ("size", size),
        *((k, v) for k, v in (("train", train), ("test", test)) if v is not None),
    ):
        if type(value) is not int or value < 1:
            raise UserError(f"celeba: {setting}={value!r} is no positive whole number")
    if isinstance(attributes, str) or label in attributes:
        raise UserError(
            f"celeba: attributes={attributes!r}: a list of others than the label {label!r} is wanted"
        )
    names, rows = _attributes(base / ATTRIBUTES)
    for name in (label, *attributes):
        if name not in names:
            raise UserError(f"celeba: {ATTRIBUTES} has no attribute {name!r}; {nearest(str(name), names)}")
    parts = _parts(base / PARTS)
    lost = next((name for name in rows if name not in parts), None)
    if lost is not None:
        raise UserError(f"celeba: {lost} is in {ATTRIBUTES} but not in {PARTS}; was that cut short?")
    found = {}
    for part, code, limit in (("train", TRAIN, train), ("test", TEST, test)):
        chosen = [name for name, own in parts.items() if own == code][:limit]
        if not chosen:
            raise UserError(f"celeba: {PARTS} names no picture of part {code}, {part}")
        lost = next((name for name in chosen if name not in rows), None)
        if lost is not None:
            raise UserError(f"celeba: {lost} is in {PARTS} but not in {ATTRIBUTES}")
        table = np.stack([rows[name] for name in chosen])
        column = {name: table[:, names.index(name)].astype(np.int64) for name in (label, *attributes)}
        pictures = read_pictures(
            base / PICTURES, [base / PICTURES / name for name in chosen], (size, size), 3
        )
        found[part] = Split.of(pictures, column[label]), {name: column[name] for name in attributes}
    return Raw(
        found["train"][0],
        found["test"][0],
        (f"not {label}", label),
        LICENCE,
        {part: own for part, (_, own) in found.items()},
    )


def _lines(path: Path) -> list[str]:
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(f"celeba: {path} has {size:,} bytes; {MOST_BYTES:,} are the most")
        return path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise UserError(f"celeba: can't read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"celeba: {path} is no plain text") from error


def _name(text: str, where: str) -> str:
    """A file's name that leads nowhere else."""
    if "/" in text or "\\" in text or text.startswith("."):
        raise UserError(f"celeba: {where}: {text[:80]!r} is no name of a picture")
    return text


def _attributes(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names, and picture -> int8 0 or 1 for each. The first line is a count, the second the names."""
    lines = _lines(path)
    names = lines[1].split() if len(lines) > 2 else []
    if not names or not lines[0].strip().isdigit():
        raise UserError(f"celeba: {path} doesn't begin with a number of pictures and a line of attributes")
    rows: dict[str, np.ndarray] = {}
    for place, line in enumerate(lines[2:], 3):
        picture, *values = line.split() or [""]
        if not picture:
            continue
        if len(values) != len(names) or any(v not in VALUES for v in values):
            raise UserError(
                f"celeba: {path}:{place}: {len(names)} values of -1 or 1 are wanted after the picture"
            )
        if picture in rows:
            raise UserError(f"celeba: {path}:{place}: {picture} is listed twice")
        rows[_name(picture, f"{path}:{place}")] = np.array([VALUES[v] for v in values], np.int8)
    if (lines[0].strip().lstrip("0") or "0") != str(len(rows)):  # of any number of digits
        raise UserError(
            f"celeba: {path} has {len(rows):,} pictures, and its first line says {lines[0].strip()[:20]}"
        )
    return names, rows


def _parts(path: Path) -> dict[str, str]:
    """Picture -> 0 (train), 1 (validation) or 2 (test)."""
    found: dict[str, str] = {}
    for place, line in enumerate(_lines(path), 1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            raise UserError(f"celeba: {path}:{place}: a picture and 0, 1 or 2 are wanted")
        if cells[0] in found:
            raise UserError(f"celeba: {path}:{place}: {cells[0]} is listed twice")
        found[_name(cells[0], f"{path}:{place}")] = cells[1]
    return found
