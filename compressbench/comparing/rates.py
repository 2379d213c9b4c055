"""Error, false positives and false negatives by group, and their normalised change (Hooker et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compressbench.comparing.arrays import Floats, Ints
from compressbench.comparing.intervals import LEVEL
from compressbench.distributions import normal_quantile, t_quantile


@dataclass(frozen=True)
class Rates:
    """Shares in percent, NaN where undefined; each (..., groups).

    Attributes:
        error: answers that are wrong, of all.
        fpr: FP / (FP + TN). Of a binary task that of the positive class; else the mean over all classes, each
            against the rest, of those for which the group has an example that isn't of it.
        fnr: FN / (FN + TP), the same, over classes of which the group has an example.
    """

    error: Floats
    fpr: Floats
    fnr: Floats


def confusion(labels: Ints, answers: Ints, ids: Ints, groups: int, classes: int) -> Ints:
    """(groups, classes, classes + 1) examples by group, label and answer.

    Args:
        labels: (n,) from 0.
        answers: (n,); -1 is none, which is in the last column.
        ids: (n,) which group an example is of; -1 is left out.
    """
    own = ids >= 0
    said = np.where(answers[own] < 0, classes, answers[own])
    place = (ids[own] * classes + labels[own]) * (classes + 1) + said
    counts = np.bincount(place, minlength=groups * classes * (classes + 1))
    return counts.reshape(groups, classes, classes + 1)


def rates(tables: Ints, positive: int | None = None) -> Rates:
    """Of (..., classes, classes + 1) tables as ``confusion`` makes them.

    An answer that is none is wrong, and for no class: a false negative of its label, a true negative of the others.

    Args:
        positive: the class that counts as positive; None for the mean over all, each against the rest.
    """
    classes = tables.shape[-2]
    n = tables.sum(axis=(-1, -2))
    own = tables.sum(axis=-1)
    hit = np.diagonal(tables[..., :classes], axis1=-2, axis2=-1)
    false_positive = tables[..., :classes].sum(axis=-2) - hit
    fpr, fnr = _share(false_positive, n[..., None] - own), _share(own - hit, own)
    if positive is None:
        return Rates(_share(n - hit.sum(axis=-1), n), _mean(fpr), _mean(fnr))
    return Rates(_share(n - hit.sum(axis=-1), n), fpr[..., positive], fnr[..., positive])


def _share(part: Ints, whole: Ints) -> Floats:
    return np.where(whole > 0, 100 * part / np.maximum(whole, 1), np.nan)


def _mean(each: Floats) -> Floats:
    """Over the last axis, of what is defined."""
    there = ~np.isnan(each)
    count = there.sum(axis=-1)
    return np.where(count > 0, np.where(there, each, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class Change:
    """A normalised change ``(compressed - dense) / dense`` in percent.

    Attributes:
        value: NaN where the dense one is 0 or not defined.
        low, high: its interval; NaN where there is none.
        why: what is missing, in words; empty for nothing.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    why: str = ""


DENSE_ZERO = "undefined: the dense rate is 0"


def paired_change(both: int, reference: int, other: int, level: float = LEVEL) -> Change:
    """Of two rates on the same examples, with Wald's interval of the logarithm of a paired ratio.

    The standard error of log(x1 / x0) is sqrt((x1 + x0 - 2 x11) / (x1 x0)), by the delta method on the multinomial
    of pairs (as in Agresti, Categorical Data Analysis, 11.1).

    Args:
        both: examples that both count in their rate, x11.
        reference, other: those of the dense one, x0, and of the compressed one, x1.
    """
    if not reference:
        return Change(math.nan, why=DENSE_ZERO)
    ratio = other / reference
    if not other:
        return Change(-100.0, why="no interval: none is left")
    apart = other + reference - 2 * both
    if not apart:
        return Change(0.0, why="no interval: both err on the same examples")
    reach = normal_quantile(level) * math.sqrt(apart / (other * reference))
    return Change(
        100 * (ratio - 1), 100 * (ratio * math.exp(-reach) - 1), 100 * (ratio * math.exp(reach) - 1)
    )


def mean_change(reference: Floats, other: Floats, paired: bool, level: float = LEVEL) -> Change:
    """Of two populations' means, with Fieller's interval of their ratio (JRSS B 1954), by Student's t.

    It is of all ratios r for which other - r reference isn't told from 0. Where the reference itself isn't told from 0
    there is none, since then it has no end.

    Args:
        reference, other: (nets,) rates.
        paired: whether the i-th of both were made from one seed, so that they go up and down together.
    """
    before, after = float(reference.mean()), float(other.mean())
    if not before > 0:
        return Change(math.nan, why=DENSE_ZERO if before == 0 else "undefined: no rate of the dense nets")
    if math.isnan(after):
        return Change(math.nan, why="undefined: no rate of these nets")
    value = 100 * (after / before - 1)
    fewest = min(len(reference), len(other))
    if fewest < 2:
        return Change(value, why="no interval: one net")
    if after == 0:
        return Change(value, why="no interval: none is left")
    if paired and (reference == other).all():
        return Change(value, why="no interval: each net has the rate of its dense one")
    squared = t_quantile(level, fewest - 1) ** 2
    common = float(np.cov(other, reference)[0, 1]) / len(other) if paired else 0.0
    a = before**2 - squared * float(reference.var(ddof=1)) / len(reference)
    b = before * after - squared * common
    c = after**2 - squared * float(other.var(ddof=1)) / len(other)
    if a <= 0:
        return Change(value, why="no interval: the dense rate isn't told from 0")
    root = math.sqrt(max(b**2 - a * c, 0.0))
    low, high = (b - root) / a, (b + root) / a
    return Change(value, 100 * (max(low, 0.0) - 1), 100 * (high - 1))
