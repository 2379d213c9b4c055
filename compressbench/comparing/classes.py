"""Which of a model's outputs stands for a class: by ImageNet's ids and names, or by a file of the user's."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressbench.errors import UserError, nearest
from compressbench.files import a_file

FLAG = "--classes"
IMAGENET = "imagenet"
BACKGROUND = "background"
SYNSET = re.compile(r"n\d{8}")
LARGEST = 2**24
"""Bytes of a file of names."""

Names = tuple[str, ...]


def places(classes: Sequence[str], given: str, outputs: int) -> tuple[tuple[int, ...], Names]:
    """Where each class is among a model's outputs, and what the outputs are called.

    Args:
        classes: names, e.g. of folders.
        given: ``imagenet``: by its ids (n01440764) or names; or a file: JSON of {class: output}, of {output: name}, of a
            list of the outputs' names; CSV with a class and its output in each line; text with an output's name in each.
        outputs: how many the model has. One more than ``imagenet`` or a list has names: the first is the background.

    Raises:
        UserError: a class is none of these, or where another one is; an output beyond the last; no such file.
    """
    table, names, where = _imagenet(classes, outputs) if given == IMAGENET else _of_file(given, outputs)
    found = [_place(c, table, where) for c in classes]
    for c, place in zip(classes, found, strict=True):
        if not 0 <= place < outputs:
            raise UserError(f"{where}: {c} is output {place}, and the model has {outputs:,}, from 0")
        if found.count(place) > 1:
            other = next(o for o, p in zip(classes, found, strict=True) if p == place and o != c)
            raise UserError(f"{where}: {c} and {other} are both output {place}")
    called = dict(zip(found, classes, strict=True))
    return tuple(found), tuple(names.get(k) or called.get(k) or f"class {k}" for k in range(outputs))


Table = tuple[Mapping[str, int | None], Mapping[int, str], str]
"""Plain name -> output, None where it is two's; output -> name; where that is from."""


def _place(name: str, table: Mapping[str, int | None], where: str) -> int:
    key = plain(name)
    if key not in table:
        raise UserError(f"{where}: there is no {name!r} among the outputs; {nearest(key, table)}")
    place = table[key]
    if place is None:
        raise UserError(f"{where}: {name!r} is the name of two outputs; name the folder by its id")
    return place


def plain(name: str) -> str:
    """A name as names are told apart: in small letters, with spaces between words."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name.casefold()).split())


def _known(names: Iterable[tuple[str, int]]) -> dict[str, int | None]:
    """Names, and each of several that commas part, to their output."""
    table: dict[str, int | None] = {}
    for name, place in names:
        for word in {plain(name), *(plain(w) for w in name.split(","))} - {""}:
            table[word] = place if table.get(word, place) == place else None
    return table


def _imagenet(classes: Sequence[str], outputs: int) -> Table:
    """ImageNet-1k, in the usual order; by torchvision's names, and timm's ids where it is installed."""
    names = imagenet_names()
    shift = _shift(len(names), outputs, FLAG + " " + IMAGENET)
    table = _known((name, k + shift) for k, name in enumerate(names))
    if any(SYNSET.fullmatch(c) for c in classes):
        table |= {wnid: k + shift for k, wnid in enumerate(imagenet_ids())}
    called = dict(enumerate([BACKGROUND] * shift + list(names)))
    return table, called, f"{FLAG} {IMAGENET}"


def _shift(known: int, outputs: int, where: str) -> int:
    if outputs - known not in (0, 1):
        raise UserError(f"{where}: has {known:,} classes, and the model {outputs:,} outputs")
    return outputs - known


def imagenet_names() -> Names:
    """ImageNet-1k's 1,000 names in order, as torchvision has them.

    Raises:
        UserError: it has them no longer.
    """
    try:
        from torchvision.models._meta import _IMAGENET_CATEGORIES
    except ImportError as error:
        raise UserError(
            f"{FLAG} {IMAGENET}: torchvision doesn't tell its names ({error}); give a file"
        ) from error
    return tuple(str(name) for name in _IMAGENET_CATEGORIES)


def imagenet_ids() -> Names:
    """ImageNet-1k's 1,000 ids (n01440764 …) in order, from timm's own list, which is read without importing timm.

    Raises:
        UserError: timm isn't installed, or has no such list.
    """
    spec = importlib.util.find_spec("timm")
    folder = Path(next(iter(spec.submodule_search_locations or []))) if spec else None
    file = folder / "data" / "_info" / "imagenet_synsets.txt" if folder else None
    if file is None or not file.is_file():
        raise UserError(
            f"{FLAG} {IMAGENET}: ids such as n01440764 come from timm: pip install 'compressbench[timm]'; or give a file"
        )
    return tuple(file.read_text(encoding="utf-8").split())


def _of_file(given: str, outputs: int) -> Table:
    path = Path(given).expanduser()
    if not path.exists():
        raise UserError(
            f"{FLAG} {given}: no such file; {IMAGENET}, or a file of JSON, CSV or text, is wanted"
        )
    where = f"{FLAG} {path.name}"
    try:
        text = a_file(path, LARGEST).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: no text of UTF-8") from error
    if text.lstrip()[:1] in ("{", "["):
        return _of_json(text, outputs, where)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
    if rows and all(len(row) == 2 for row in rows):
        head = 0 if _whole(rows[0][0]) is not None or _whole(rows[0][1]) is not None else 1
        return _of_pairs([(a, b) for a, b in rows[head:]], outputs, where)
    return _of_list([line.strip() for line in text.splitlines() if line.strip()], outputs, where)


def _of_json(text: str, outputs: int, where: str) -> Table:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON: {error}") from error
    if isinstance(found, list):
        if not all(isinstance(name, str) for name in found):
            raise UserError(f"{where}: a list of the outputs' names is wanted")
        return _of_list(found, outputs, where)
    return _of_pairs([(name, _value(value, name, where)) for name, value in found.items()], outputs, where)


def _value(value: Any, name: str, where: str) -> Any:
    """A number, a name, or the one number in an object; of several names all, commas between."""
    if isinstance(value, Mapping):
        numbers = [v for v in value.values() if isinstance(v, int) and not isinstance(v, bool)]
        value = numbers[0] if len(numbers) == 1 else None
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        value = ", ".join(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{where}: {name!r}: the number of an output, or its name, is wanted")
    return value


def _of_pairs(pairs: Sequence[tuple[str, Any]], outputs: int, where: str) -> Table:
    """(class, output), or (output, name), whichever all of them are."""
    ahead = [(name, _whole(value)) for name, value in pairs]
    if ahead and all(place is not None for _, place in ahead):
        known = [(name, place) for name, place in ahead if place is not None]
        return {plain(name): place for name, place in known}, {}, where
    behind = [(str(value), _whole(name)) for name, value in pairs]
    if not behind or any(place is None for _, place in behind):
        raise UserError(f"{where}: each class with the number of its output is wanted")
    named = [(name, place) for name, place in behind if place is not None]
    return _known(named), {place: name for name, place in named if place < outputs}, where


def _of_list(names: Sequence[str], outputs: int, where: str) -> Table:
    shift = _shift(len(names), outputs, where)
    known = [(name, k + shift) for k, name in enumerate(names)]
    return _known(known), dict([(0, BACKGROUND)] * shift + [(k, name) for name, k in known]), where


def _whole(value: Any) -> int | None:
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d{1,9}", value) else None
