"""AdaBoost of stumps (Freund & Schapire 1997, as Viola & Jones 2001 write it): one feature a round, the best there is.

A stump says "face" (1) on one side of a threshold. err = sum of the weights of the examples that it gets wrong;
beta = err / (1 - err); right examples' weights are multiplied by beta; alpha = log(1 / beta). The strong classifier says
"face" where the sum of alpha over the stumps that do is half of the sum of all alpha or more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

AT_ONCE = 1 << 17
"""Values looked at in one go, that they stay in the processor's cache."""
LEAST_ERROR = 1e-9
"""An error of 0 counts as this: alpha would be infinite, and one stump would outvote all others for ever."""


@dataclass(frozen=True)
class Stump:
    """One weak classifier.

    Attributes:
        feature: its row among the candidates.
        threshold: float32; "below" is less than this.
        polarity: 1 where it says "face" below, -1 from the threshold on.
        error: weighted, in (0, 1/2).
        alpha: log((1 - error) / error).
    """

    feature: int
    threshold: float
    polarity: int
    error: float

    @property
    def alpha(self) -> float:
        """Its vote."""
        return math.log((1 - self.error) / self.error)

    def says(self, values: np.ndarray) -> np.ndarray:
        """Bool, "face", of its feature's values."""
        below: np.ndarray = values < np.float32(self.threshold)
        return below if self.polarity > 0 else ~below


@dataclass(frozen=True)
class Sorted:
    """Candidates' values on the examples, each feature's sorted once: what every round looks through.

    Attributes:
        values: float32 (features, examples), as given.
        order: int32 (features, examples), examples by growing value.
        ties: bool (features, examples), where no threshold can stand behind a place: the next value is no larger.
    """

    values: np.ndarray
    order: np.ndarray
    ties: np.ndarray

    BYTES: ClassVar[int] = 4 + 4 + 1
    """Of a value: itself, its place in the order, whether it ties."""

    @staticmethod
    def of(values: np.ndarray) -> Sorted:
        """Of float32 (features, examples)."""
        order = np.empty(values.shape, np.int32)
        ties = np.ones(values.shape, bool)
        for rows in _chunks(values.shape):
            own = np.argsort(values[rows], axis=1, kind="stable")
            order[rows] = own
            ranked = np.take_along_axis(values[rows], own, axis=1)
            ties[rows, :-1] = ranked[:, :-1] >= ranked[:, 1:]
        return Sorted(values, order, ties)


def initial(faces: np.ndarray) -> np.ndarray:
    """Weights at first: faces share a half, all others the other half.

    Args:
        faces: bool (examples,); both kinds are there.
    """
    return np.where(faces, 0.5 / faces.sum(), 0.5 / (~faces).sum())


def best(known: Sorted, weights: np.ndarray, faces: np.ndarray) -> Stump | None:
    """The stump of the least weighted error, the first of equals; None where no feature takes two values.

    Args:
        weights: (examples,), their sum is 1.
    """
    signed = np.where(faces, weights, -weights)
    of_faces = float(weights[faces].sum())
    least: tuple[float, int, int] | None = None
    for rows in _chunks(known.values.shape):
        # what is gained by saying "face" up to a place: faces below it, less others below it
        gained = np.cumsum(signed.take(known.order[rows]), axis=1)
        for polarity, never in ((1, -np.inf), (-1, np.inf)):
            np.copyto(gained, never, where=known.ties[rows])
            top = gained.max(axis=1) if polarity > 0 else -gained.min(axis=1)
            row = int(top.argmax())
            error = (of_faces if polarity > 0 else 1 - of_faces) - float(top[row])
            if math.isfinite(error) and (least is None or error < least[0]):
                least = (error, rows.start + row, polarity)
    if least is None:
        return None
    _, row, polarity = least
    gained = polarity * np.cumsum(signed[known.order[row]])
    position = int(np.where(known.ties[row], -np.inf, gained).argmax())
    low, high = (known.values[row, known.order[row, k]] for k in (position, position + 1))
    threshold = np.float32((float(low) + float(high)) / 2)
    threshold = high if threshold <= low else threshold
    found = Stump(row, float(threshold), polarity, 0.5)
    error = float(weights[found.says(known.values[row]) != faces].sum())
    return Stump(row, float(threshold), polarity, min(max(error, LEAST_ERROR), 1 - LEAST_ERROR))


def boost(known: Sorted, faces: np.ndarray, weights: np.ndarray | None = None) -> Iterator[Stump]:
    """One stump after another, until none is better than chance, or one is right of all examples.

    Args:
        faces: bool (examples,).
        weights: (examples,) at first; ``initial`` where none are given.
    """
    weights = initial(faces) if weights is None else weights
    while True:
        weights = weights / weights.sum()
        stump = best(known, weights, faces)
        if stump is None or stump.error >= 0.5 - 1e-12:
            return
        yield stump
        if stump.error <= LEAST_ERROR:
            return
        weights = reweighted(weights, stump, known.values[stump.feature], faces)


def reweighted(weights: np.ndarray, stump: Stump, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Weights for the next round: those of examples that the stump is right of, times beta; their sum isn't 1.

    Args:
        values: (examples,) of the stump's feature.
    """
    right = stump.says(values) == faces
    return np.where(right, weights * stump.error / (1 - stump.error), weights)


def bound(stumps: list[Stump]) -> float:
    """What the weighted training error of the strong classifier is at most: the product of 2 sqrt(err (1 - err))."""
    return math.prod(2 * math.sqrt(s.error * (1 - s.error)) for s in stumps)


def _chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, AT_ONCE // max(1, shape[1]))
    return (slice(k, min(k + step, shape[0])) for k in range(0, shape[0], step))
