"""Which examples? Those of which the answer changed, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressbench.comparing.answers import NONE, Changes
from compressbench.comparing.arrays import Bools, Floats, Ints

KINDS = ("right to wrong", "wrong to another wrong", "unlabelled", "wrong to right")
"""Of changes, in the order in which they are shown."""


@dataclass(frozen=True)
class Flip:
    """One example of which the answer changed.

    Attributes:
        row: which one, from 0.
        id: its name where the data have one, else the row.
        kind: one of ``KINDS``.
        label: the true class, -1 where there is none.
        reference, other: the two answers, -1 for none.
        reference_confidence, other_confidence: the probability that each gives its own answer; NaN without answer.
        weight: the product of the two, by which flips of one kind are ordered: both models are sure, and not of the same.
    """

    row: int
    id: str
    kind: str
    label: int
    reference: int
    other: int
    reference_confidence: float
    other_confidence: float
    weight: float


def flips(
    found: Changes,
    reference: tuple[Ints, Floats],
    other: tuple[Ints, Floats],
    labels: Ints | None = None,
    ids: Sequence[str] | None = None,
    most: int | None = None,
) -> tuple[Flip, ...]:
    """Every example of which the answer changed, the worst first.

    Worst first is: what was right and is wrong, what was wrong and is wrong otherwise, what has no label, what became
    right; within each by the product of both models' confidence in their answers, and then by row. A missing answer
    counts as a sure one, since nothing may be made of it.

    Args:
        found: which changed (see ``answers.changes``).
        reference, other: (n,) answers and (n,) confidences in [0, 1] of each model.
        labels: (n,) true classes, -1 where there is none.
        ids: (n,) names of the examples.
        most: how many are wanted; None for all.
    """
    masks: tuple[Bools, ...] = (
        found.right_to_wrong,
        found.wrong_to_another,
        found.unlabelled,
        found.wrong_to_right,
    )
    kind = np.full(len(found.silent), len(KINDS))
    for place, mask in enumerate(masks):
        kind[mask] = place
    rows = np.flatnonzero(kind < len(KINDS))
    weights = np.prod([np.where(a[rows] == NONE, 1.0, c[rows]) for a, c in (reference, other)], axis=0)
    order = np.lexsort((rows, -weights, kind[rows]))[:most]
    return tuple(
        Flip(
            row=int(r),
            id=str(ids[r]) if ids is not None else str(r),
            kind=KINDS[kind[r]],
            label=int(labels[r]) if labels is not None else NONE,
            reference=int(reference[0][r]),
            other=int(other[0][r]),
            reference_confidence=float(reference[1][r]),
            other_confidence=float(other[1][r]),
            weight=float(w),
        )
        for r, w in zip(rows[order], weights[order], strict=True)
    )
