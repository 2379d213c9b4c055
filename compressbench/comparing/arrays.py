"""The arrays that comparisons take, and that two of them belong together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressbench.errors import UserError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

CELLS = 262_144
"""Numbers that are worked on at a time, so that what is made on the way stays in the processor's cache."""


def table(scores: Floats, whose: str = "outputs") -> Floats:
    """The scores themselves, where they are (n, classes) numbers, at least one row and two classes.

    Args:
        scores: of any real dtype.
        whose: names them in an error.

    Raises:
        UserError: another number of dimensions, no row, fewer than two classes, or no numbers.
    """
    if scores.ndim != 2:
        raise UserError(
            f"{whose}: one row of scores an example is needed, and the shape is {said_shape(scores)}"
        )
    if not len(scores):
        raise UserError(f"{whose}: there is no example in it")
    if scores.shape[1] < 2:
        raise UserError(
            f"{whose}: one score an example is no choice among classes; two columns or more are needed"
        )
    if scores.dtype.kind not in "fiu":
        raise UserError(f"{whose}: scores are numbers, and these are {scores.dtype}")
    return scores


def both(reference: Floats, other: Floats) -> None:
    """Nothing, where two tables of scores have as many examples and classes as each other.

    Raises:
        UserError: they don't, or one is no table (see ``table``).
    """
    table(reference, "the reference's outputs"), table(other, "the other's outputs")
    if len(reference) != len(other):
        raise UserError(
            f"the reference has {len(reference):,} examples and the other {len(other):,}: both must be of the same ones"
        )
    if reference.shape[1] != other.shape[1]:
        raise UserError(
            f"the reference has {reference.shape[1]:,} classes and the other {other.shape[1]:,}: "
            "both must be of the same ones"
        )


def fitting(labels: Ints, n: int, classes: int) -> None:
    """Nothing, where labels are (n,) whole numbers from -1, which is none, to ``classes`` - 1.

    Raises:
        UserError: they aren't.
    """
    if labels.shape != (n,):
        raise UserError(f"labels: one an example is needed, so {n:,}, and the shape is {said_shape(labels)}")
    if labels.dtype.kind not in "iu":
        raise UserError(f"labels: whole numbers are needed, and these are {labels.dtype}")
    wrong = np.flatnonzero((labels < -1) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"labels: {int(labels[wrong[0]])} in row {wrong[0]}, and the outputs have classes 0 to {classes - 1}"
        )


def pieces(n: int, width: int) -> Iterator[slice]:
    """Rows of an (n, width) table, some at a time: so many that about ``CELLS`` numbers are worked on."""
    step = max(1, CELLS // max(1, width))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def said_shape(array: NDArray[Any]) -> str:
    """``10,000 x 10``; ``none`` of a single number."""
    return " x ".join(f"{size:,}" for size in array.shape) or "none"
