"""Classes merged into coarser ones, and a long tail of the sub-groups inside of each class. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compressbench.data.dataset import Raw
from compressbench.data.splits import long_tail, pick
from compressbench.errors import UserError, nearest

FINE = "fine"
"""The attribute that keeps an example's class of before."""
NUMBERED = 9
"""Digits at most of a class that is named by its number."""


@dataclass(frozen=True)
class Tail:
    """A long tail by an attribute: in every class its largest sub-group is ``ratio`` times its smallest."""

    by: str
    ratio: float


def place_of(key: Any, classes: Sequence[str], where: str) -> int:
    """Which class is meant: a name, or a number from 0.

    Raises:
        UserError: there is none; begins with ``where``.
    """
    text = str(key)
    if text in classes:
        return list(classes).index(text)
    if text.isascii() and text.isdigit() and len(text) <= NUMBERED and int(text) < len(classes):
        return int(text)
    raise UserError(
        f"{where} no class {text!r} (0 to {len(classes) - 1}, or a name); {nearest(text, classes)}"
    )


def coarse_of(wanted: Any) -> dict[str, tuple[Any, ...]]:
    """The setting ``coarse``, as far as it can be looked at without data: new class -> old ones; empty for none.

    Raises:
        UserError: it is no such mapping.
    """
    if wanted is None:
        return {}
    example = "as {even: [0, 2, 4, 6, 8], odd: [1, 3, 5, 7, 9]}"
    if not isinstance(wanted, Mapping) or len(wanted) < 2:
        raise UserError(f"dataset.coarse={wanted!r} is no mapping of two classes or more, {example}")
    for name, members in wanted.items():
        if isinstance(members, str) or not isinstance(members, Sequence) or not members:
            raise UserError(f"dataset.coarse: {name}: {members!r} is no list of classes, {example}")
    return {str(name): tuple(members) for name, members in wanted.items()}


def tail_of(wanted: Any) -> Tail | None:
    """The setting ``tail``; None for none.

    Raises:
        UserError: it is no mapping of ``by`` and ``ratio``, or the ratio is out of range.
    """
    if wanted is None:
        return None
    if not isinstance(wanted, Mapping) or set(wanted) != {"by", "ratio"} or not isinstance(wanted["by"], str):
        raise UserError(f"dataset.tail={wanted!r}; it is {{by: ATTRIBUTE, ratio: NUMBER}}")
    ratio = wanted["ratio"]
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio <= 1e9:
        raise UserError(
            f"dataset.tail: ratio={ratio!r}; it is largest sub-group of a class over smallest, 1 or more"
        )
    return Tail(wanted["by"], float(ratio))


def merged(raw: Raw, coarse: Mapping[str, Sequence[Any]], name: str) -> Raw:
    """The same examples with coarser labels; what was their class is their attribute ``fine``, by name.

    Args:
        coarse: new class -> the old ones of which it is made, by name or number. Each old class is in one.
        name: the data set's, for errors.

    Raises:
        UserError: a class is unknown, in none or in several, or the labels are no classes.
    """
    if len(raw.classes) < 2 or any(
        s.labels.ndim != 1 or s.labels.dtype != np.int64 for s in (raw.train, raw.test)
    ):
        raise UserError(f"dataset.coarse: {name} has no classes of one an example")
    if any(FINE in arrays for arrays in raw.attributes.values()):
        raise UserError(f"dataset.coarse: {name} has an attribute {FINE!r} already")
    new = np.full(len(raw.classes), -1)
    for k, (title, members) in enumerate(coarse.items()):
        for member in members:
            old = place_of(member, raw.classes, f"dataset.coarse: {title}: {name} has")
            if new[old] >= 0:
                raise UserError(f"dataset.coarse: class {raw.classes[old]} of {name} is named twice")
            new[old] = k
    if (new < 0).any():
        raise UserError(
            f"dataset.coarse: class {raw.classes[int(new.argmin())]} of {name} is in none of the coarse ones"
        )
    names = np.array(raw.classes)
    parts = {"train": raw.train, "test": raw.test, "validation": raw.validation}
    attributes = {
        part: {**raw.attributes.get(part, {}), FINE: names[examples.labels]}
        for part, examples in parts.items()
        if examples is not None
    }
    made: dict[str, Any] = {
        part: None if examples is None else replace(examples, labels=new[examples.labels].astype(np.int64))
        for part, examples in parts.items()
    }
    return replace(raw, **made, classes=tuple(coarse), attributes=attributes)


def tailed(
    labels: np.ndarray, values: np.ndarray, tail: Tail, random: np.random.RandomState, name: str
) -> np.ndarray:
    """Rows that are kept: in each class, its sub-groups fall exponentially in the order of their names.

    Args:
        labels: (n,) classes.
        values: (n,) of the attribute.
        name: the data set's, for errors.

    Returns:
        Sorted rows, int64. The share of each class may change too: what is thinned is gone.

    Raises:
        UserError: the tail leaves a sub-group empty, or no class has two.
    """
    kept = []
    thinned = False
    for c in np.unique(labels):
        own = np.flatnonzero(labels == c)
        names, codes = np.unique(values[own], return_inverse=True)
        thinned = thinned or len(names) > 1
        sizes = long_tail(np.bincount(codes), tail.ratio)
        if sizes.min() < 1:
            lost = f"{tail.by}={names[sizes.argmin()]}"
            raise UserError(
                f"dataset.tail: ratio={tail.ratio:g}: a largest sub-group of {sizes.max()} leaves {lost} empty"
            )
        kept.append(own[pick(codes, sizes, random)])
    if not thinned:
        raise UserError(
            f"dataset.tail: by: every class of {name} has one {tail.by} only; there is nothing to thin"
        )
    return np.sort(np.concatenate(kept))
