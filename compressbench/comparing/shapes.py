"""Distributions of two models' outputs for charts: confidence by bin, right or wrong, and KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressbench.comparing.arrays import Floats
from compressbench.comparing.confidence import BINS, Beliefs

KL_EDGES = (*(float(f"1e{e}") * f for e in range(-8, 2) for f in (1.0, 10**0.5)), 100.0)
"""Edges of bins of KL in nats, two a decade."""


@dataclass(frozen=True)
class Sureness:
    """One model's confidence by bin; each (bins,).

    Attributes:
        counts: examples.
        mean: mean confidence in [0, 1]; NaN of an empty bin.
        right: how many of them are right; empty where nothing has a label.
    """

    counts: tuple[int, ...]
    mean: tuple[float, ...]
    right: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shapes:
    """What charts of one comparison are drawn from.

    Attributes:
        edges: (bins + 1,) of confidence, in [0, 1]; a bin is (a, b], as of the calibration error.
        reference, other: of each model; of examples that have a label and an answer, or where there are no labels of
            all that have an answer.
        kl_edges: in nats, increasing.
        kl: (len(kl_edges) + 1,) examples below the first edge, between each two, and from the last on.
    """

    edges: tuple[float, ...]
    reference: Sureness
    other: Sureness
    kl_edges: tuple[float, ...]
    kl: tuple[int, ...]


def shapes(kl: Floats, reference: Beliefs, other: Beliefs, labelled: bool, bins: int = BINS) -> Shapes:
    """Counts by bin.

    Args:
        kl: (n,) nats; NaN is left out.
        reference, other: of the same examples.
        labelled: whether there are labels.
        bins: of confidence, of equal width.
    """
    return Shapes(
        tuple(float(x) for x in np.linspace(0, 1, bins + 1)),
        _sureness(reference, labelled, bins),
        _sureness(other, labelled, bins),
        KL_EDGES,
        _counted(kl, KL_EDGES),
    )


def _sureness(found: Beliefs, labelled: bool, bins: int) -> Sureness:
    rows = found.known if labelled else ~np.isnan(found.confidence)
    confidence = found.confidence[rows]
    place = np.ceil(confidence * bins).clip(1, bins).astype(int) - 1
    counts = np.bincount(place, minlength=bins)
    sums = np.bincount(place, confidence, bins)
    with np.errstate(invalid="ignore"):
        mean = sums / np.where(counts > 0, counts, np.nan)
    right = tuple(map(int, np.bincount(place, found.right[rows], bins))) if labelled else ()
    return Sureness(tuple(map(int, counts)), tuple(map(float, mean)), right)


def _counted(values: Floats, edges: Sequence[float]) -> tuple[int, ...]:
    known = values[~np.isnan(values)]
    return tuple(map(int, np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)))
