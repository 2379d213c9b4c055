"""Data sets that are made, not read: points of a space, for theorems that speak of such."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressbench.data.dataset import Raw
from compressbench.data.examples import Examples
from compressbench.errors import UserError

SIGNS = ("-1", "+1")
MOST = 50_000_000
"""Numbers of a data set."""


def sphere(examples: int, dimension: int, seed: int = 0) -> Raw:
    """Points drawn evenly from the unit sphere, each with a label -1 or +1 by the toss of a coin.

    Nothing can be learnt of one point from another: what a net says of the test split, as many points drawn alike, is
    right by chance alone.

    Args:
        examples: of each split.
        dimension: of the space, 2 or more.

    Raises:
        UserError: a size out of range.
    """
    _whole(examples, 1, "examples")
    _whole(dimension, 2, "dimension")
    _whole(seed, 0, "seed")
    if examples * dimension > MOST:
        raise UserError(f"sphere: {examples} examples of {dimension} numbers are more than {MOST:,} numbers")
    random = np.random.RandomState(seed)

    def split() -> Examples:
        drawn = random.standard_normal((examples, dimension))
        points = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return Examples.of(random.randint(0, 2, examples), x=points.astype(np.float32))

    return Raw(split(), split(), SIGNS, "made here")


def memberships(sizes: Sequence[int]) -> Raw:
    """Unit vectors, one an example, in classes of the given sizes: a matrix to be factorised.

    Example j is the j-th unit vector, so that a linear net's output of it is the j-th column of its matrix, and the least
    squares with one-hot targets is the squared distance of that matrix to the memberships (classes x examples), whose
    singular values are the roots of the sizes. There are no other such vectors: the test split is the training split.

    Args:
        sizes: examples of each class, at least two classes; no two alike, or singular vectors would not be unique.

    Raises:
        UserError: sizes out of range.
    """
    if not isinstance(sizes, list | tuple) or len(sizes) < 2:
        raise UserError(f"memberships: sizes: {sizes!r} is no list of two or more sizes of classes")
    for size in sizes:
        _whole(size, 1, "sizes")
    if len(set(sizes)) < len(sizes):
        raise UserError(f"memberships: sizes: {list(sizes)}: no two classes may be of one size")
    if sum(sizes) ** 2 > MOST:
        raise UserError(f"memberships: sizes: {sum(sizes)} examples are more than {int(MOST**0.5):,}")
    labels = np.repeat(np.arange(len(sizes)), sizes)
    whole = Examples.of(labels, x=np.eye(len(labels), dtype=np.float32))
    return Raw(whole, whole, tuple(f"class {k + 1}" for k in range(len(sizes))), "made here")


def _whole(value: object, least: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}: {value!r} is not a whole number of {least} or more")
