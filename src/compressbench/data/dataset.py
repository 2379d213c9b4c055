"""Dataset: the only place that knows what a batch is. Arrays in memory, split once, fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compressbench.errors import UserError, nearest


@dataclass(frozen=True)
class Split:
    """Examples of one split.

    Attributes:
        images: uint8, (n, channels, height, width).
        labels: int64, (n,).
        index: int64, (n,): position in the source's own order, so that a record can point at an image.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    @staticmethod
    def of(images: np.ndarray, labels: np.ndarray) -> Split:
        """A split whose examples are numbered in the order given; labels become int64."""
        return Split(images, np.asarray(labels, dtype=np.int64), np.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Split:
        """The given rows, in the given order."""
        return Split(self.images[rows], self.labels[rows], self.index[rows])


@dataclass(frozen=True)
class Raw:
    """What a reader returns: the published splits, nothing drawn or held out yet.

    Attributes:
        train, test: whole splits; ``Split.of(images, labels)`` makes one.
        classes: names, in label order.
        licence: what the data may be used for, one line.
        attributes: per split (``train``, ``test``), named arrays over its examples (sub-groups).
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    licence: str = ""
    attributes: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test splits with all that a stage, a task or a probe may ask of them.

    Attributes:
        splits: ``train``, ``test`` and, where one was held out of train, ``validation``.
        classes: names, in label order.
        mean, std: per channel, of pixels in [0, 1], computed on the train split.
        augment: settings of the training augmentation, e.g. ``{"pad": 4, "flip": True}``; empty for none.
        attributes: per split, named arrays over its examples (sub-groups); may be empty.
        licence: what the data may be used for, one line.
        fingerprint: digest of all the above, part of every key.
    """

    name: str
    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    licence: str = ""
    fingerprint: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one example."""
        channels, height, width = self.splits["train"].images.shape[1:]
        return int(channels), int(height), int(width)

    def split(self, name: str) -> Split:
        """A split by name.

        Raises:
            UserError: there is none, e.g. no validation examples were held out.
        """
        if name not in self.splits:
            raise UserError(f"dataset {self.name} has no split {name!r}; {nearest(name, self.splits)}")
        return self.splits[name]


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over class names, pixels, labels, source positions, normalisation, augmentation and attributes.

    64 hex digits. The data set's own name and licence stay out: equal content has an equal fingerprint.
    """
    digest = hashlib.sha256()
    digest.update(
        repr((dataset.classes, dataset.mean, dataset.std, sorted(dataset.augment.items()))).encode()
    )
    for name in sorted(dataset.splits):
        split = dataset.splits[name]
        for array in (split.images, split.labels, split.index):
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        for attribute, array in sorted(dataset.attributes.get(name, {}).items()):
            digest.update(f"{name}.{attribute}{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
