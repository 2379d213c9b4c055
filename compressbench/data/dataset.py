"""Dataset: splits of examples in memory, its task, a fingerprint of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.data.examples import Examples
from compressbench.errors import UserError, nearest
from compressbench.ragged import Ragged

if TYPE_CHECKING:
    from compressbench.tasks.task import Task


class Split:
    """Makes examples that are pictures, as a reader of one's own returns them in ``Raw``."""

    @staticmethod
    def of(images: np.ndarray, labels: np.ndarray) -> Examples:
        """Pictures uint8 (n, channels, height, width), numbered in the order given; labels become int64."""
        return Examples.of(labels, images=images)


@dataclass(frozen=True)
class Raw:
    """What a reader returns: the published splits, nothing drawn or held out yet.

    Attributes:
        train, test: whole splits; ``Split.of(images, labels)`` makes one of pictures, ``Examples.of(labels, name=...)``
            one of any columns.
        classes: names, in label order.
        licence: what the data may be used for, one line.
        attributes: per split (``train``, ``test``, ``validation``), named arrays over its examples (sub-groups).
        validation: a published split to validate on; used where none is held out of train.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    licence: str = ""
    attributes: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    validation: Examples | None = None


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test splits with all that a stage or a probe may ask of them.

    Attributes:
        splits: ``train``, ``test`` and, where one was held out of train, ``validation``.
        task: what is asked of a model on them.
        groups: name of a grouping -> the names that the examples' numbers stand for, sorted.
        licence: what the data may be used for, one line.
        fingerprint: digest of all the above, part of every key.
    """

    name: str
    splits: Mapping[str, Examples]
    task: Task
    groups: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    licence: str = ""
    fingerprint: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.task.classes

    def split(self, name: str) -> Examples:
        """A split by name.

        Raises:
            UserError: there is none, e.g. no validation examples were held out.
        """
        if name not in self.splits:
            raise UserError(f"dataset {self.name} has no split {name!r}; {nearest(name, self.splits)}")
        return self.splits[name]


def grouped(
    splits: Mapping[str, Examples], attributes: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[dict[str, Examples], dict[str, tuple[Any, ...]]]:
    """Splits whose examples carry their attributes as groupings, and what the groupings' numbers stand for.

    Args:
        attributes: per split, named arrays over its examples; one that a split lacks is -1 there.
    """
    names: dict[str, tuple[Any, ...]] = {}
    for name in sorted({name for arrays in attributes.values() for name in arrays}):
        values = [arrays[name] for arrays in attributes.values() if name in arrays]
        names[name] = tuple(np.unique(np.concatenate([np.unique(v) for v in values])).tolist())
    out = {}
    for part, examples in splits.items():
        codes = {}
        for name, known in names.items():
            given = attributes.get(part, {}).get(name)
            numbers = np.full(len(examples), -1) if given is None else np.searchsorted(np.array(known), given)
            codes[name] = numbers.astype(np.int64)
        out[part] = Examples(examples.columns, examples.labels, examples.rows, codes)
    return out, names


def fingerprint(dataset: Dataset, attributes: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> str:
    """SHA-256 over the task's identity, columns, labels, source positions and attributes.

    64 hex digits. The data set's own name and licence stay out: equal content has an equal fingerprint.

    Args:
        attributes: per split, as the reader gave them; the examples' groupings are made of these.
    """
    digest = hashlib.sha256()
    digest.update(repr(dataset.task.identity()).encode())
    for name in sorted(dataset.splits):
        split = dataset.splits[name]
        arrays = [part for column in split.columns.values() for part in _parts(column)]
        for array in (*arrays, split.labels, split.rows):
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        for attribute, array in sorted((attributes or {}).get(name, {}).items()):
            digest.update(f"{name}.{attribute}{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _parts(column: Any) -> tuple[np.ndarray, ...]:
    return (column.values, column.starts) if isinstance(column, Ragged) else (column,)
