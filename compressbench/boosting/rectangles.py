"""The five types of rectangle features (Viola & Jones 2001): all that fit into a window, counted and listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressbench.errors import UserError

KINDS = {
    "two beside": (2, 1, (1, -1)),
    "two stacked": (1, 2, (1, -1)),
    "three beside": (3, 1, (1, -2, 1)),
    "three stacked": (1, 3, (1, -2, 1)),
    "four": (2, 2, (1, -1, -1, 1)),
}
"""How many cells a feature has beside and above each other, and their weights, row by row.

The middle of three counts twice, so that every feature is 0 on a window of one grey; the paper leaves that to its reader.
"""
MOST = 4
MOST_LISTED = 4_000_000
"""Features of a window; each takes 48 bytes in the list. 52 x 52 pixels have 3.6 million."""
LOOK_UPS = np.array([0, 4, 6, 8, 9])
"""Of a feature by its number of cells, corners that they share read once."""


@dataclass(frozen=True)
class Features:
    """Features by their rectangles.

    Attributes:
        rectangles: int16 (features, 4, 4): x, y, width, height of each cell; zeros where there are fewer.
        weights: float32 (features, 4).
    """

    rectangles: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.rectangles)

    @property
    def look_ups(self) -> int:
        """Entries of the integral image that all of them read: 6, 8 and 9 for two, three and four cells."""
        return int(LOOK_UPS[np.count_nonzero(self.weights, axis=1)].sum())

    def take(self, rows: np.ndarray) -> Features:
        """Some of them."""
        return Features(self.rectangles[rows], self.weights[rows])


def joined(parts: Sequence[Features]) -> Features:
    """One after another, at least one."""
    return Features(np.concatenate([f.rectangles for f in parts]), np.concatenate([f.weights for f in parts]))


def count(kind: str, height: int, width: int) -> int:
    """How many features of a type fit into a window: places times sizes, in each direction."""
    across, down, _ = KINDS[kind]
    return _fits(width, across) * _fits(height, down)


def _fits(length: int, cells: int) -> int:
    """Ways to lay ``cells`` cells of one length, 1 or more, in a row of pixels."""
    return sum(length - cells * size + 1 for size in range(1, length // cells + 1))


def all_of(height: int, width: int) -> int:
    """How many features fit into a window.

    Raises:
        UserError: more than ``MOST_LISTED``.
    """
    found = sum(count(kind, height, width) for kind in KINDS)
    if found > MOST_LISTED:
        raise UserError(
            f"boost: {found:,} rectangle features fit into windows of {width} x {height} pixels, more than the "
            f"{MOST_LISTED:,} that are listed; smaller windows are wanted (24 x 24 have 162,336)"
        )
    return found


def every(height: int, width: int) -> Features:
    """All features of a window, type by type; 162,336 of 24 x 24.

    Raises:
        UserError: more than ``MOST_LISTED``.
    """
    all_of(height, width)
    found = [_of_kind(kind, height, width) for kind in KINDS]
    return joined(found)


def _of_kind(kind: str, height: int, width: int) -> Features:
    across, down, weights = KINDS[kind]
    x, w = _places(width, across)
    y, h = _places(height, down)
    rows, columns = (g.ravel() for g in np.meshgrid(np.arange(len(y)), np.arange(len(x)), indexing="ij"))
    rectangles = np.zeros((len(rows), MOST, 4), np.int16)
    for cell, (below, beside) in enumerate(np.ndindex(down, across)):
        rectangles[:, cell] = np.stack(
            [
                x[columns] + beside * w[columns],
                y[rows] + below * h[rows],
                w[columns],
                h[rows],
            ],
            axis=1,
        )
    laid = np.zeros((len(rows), MOST), np.float32)
    laid[:, : len(weights)] = weights
    return Features(rectangles, laid)


def _places(length: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(first pixel, pixels of a cell) of every way to lay the cells in a row."""
    found = [
        (start, size) for size in range(1, length // cells + 1) for start in range(length - cells * size + 1)
    ]
    starts, sizes = np.array(found, np.int64).reshape(-1, 2).T
    return starts, sizes
