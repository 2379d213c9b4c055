"""Confidence: does a probability mean what it says, and what does a user's threshold do before and after?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressbench.comparing.answers import NONE
from compressbench.comparing.arrays import Bools, Floats, Ints, fitting, pieces, table
from compressbench.comparing.intervals import LEVEL, Estimate, paired_difference, share
from compressbench.comparing.probabilities import (
    EPSILON,
    LOGITS,
    PROBABILITIES,
    kind_of,
    log_probabilities,
    probabilities,
)
from compressbench.errors import UserError

BINS = 15
THRESHOLDS = (0.5, 0.8, 0.9, 0.95)
COVERAGES = (100.0, 90.0, 80.0, 50.0)
COLDEST, HOTTEST = 0.01, 100.0
"""Temperatures between which one is fitted."""
SMALLEST = 5e-324
"""The smallest number above 0: a loss of which nothing is cut off."""


@dataclass(frozen=True)
class Beliefs:
    """What a model believes of each example; each (n,).

    Attributes:
        confidence: the highest probability, in [0, 1]; NaN where numbers lack.
        right: bool, whether the class with it is the label; False without label or answer.
        known: bool, whether there is a label and an answer.
        loss: -log p(label) in nats; NaN where not ``known``.
        brier: sum over classes of (p - [class is label])², in [0, 2] (Brier 1950); NaN where not ``known``.
    """

    confidence: Floats
    right: Bools
    known: Bools
    loss: Floats
    brier: Floats


def beliefs(scores: Floats, kind: str, labels: Ints | None = None, epsilon: float = EPSILON) -> Beliefs:
    """Confidence, and against labels loss and Brier score, of each example.

    Args:
        scores: (n, classes).
        kind: ``logits`` or ``probabilities``.
        labels: (n,) true classes, -1 where there is none; None where nothing has one.
        epsilon: what probabilities below it count as, in the loss.

    Raises:
        UserError: no table of scores, or labels that don't fit it.
    """
    n, classes = table(scores).shape
    truth = np.full(n, NONE) if labels is None else labels
    fitting(truth, n, classes)
    confidence, right, loss, brier = np.empty(n), np.zeros(n, bool), np.full(n, np.nan), np.full(n, np.nan)
    for rows in pieces(n, classes):
        p, wanted = probabilities(scores[rows], kind), truth[rows]
        at = np.arange(len(p))
        confidence[rows] = p.max(axis=1)
        # by the scores and not by p, in which scores that differ may be equal
        right[rows] = (scores[rows].argmax(axis=1) == wanted) & ~np.isnan(confidence[rows])
        own = p[at, wanted]
        missing = (wanted == NONE) | np.isnan(confidence[rows])
        logs = log_probabilities(scores[rows], kind, epsilon)[at, wanted]
        loss[rows] = np.where(missing, np.nan, -logs)
        brier[rows] = np.where(missing, np.nan, np.einsum("ij,ij->i", p, p) - 2 * own + 1)
    return Beliefs(confidence, right, (truth != NONE) & ~np.isnan(confidence), loss, brier)


def calibration_error(confidence: Floats, right: Bools, bins: int = BINS) -> float:
    """Expected calibration error in percent over bins of equal width (Guo et al., ICML 2017).

    The mean gap between confidence and accuracy over bins (a, b] of confidence, each weighted by its share of the
    examples; as ``metrics.calibration_error``. Not-a-number of no example.

    Args:
        confidence: (n,) in [0, 1], no NaN.
        right: (n,) bool.
        bins: how many.
    """
    if not len(confidence):
        return math.nan
    place = np.ceil(confidence * bins).clip(1, bins).astype(int) - 1
    return 100 * float(np.abs(np.bincount(place, confidence - right, bins)).sum()) / len(confidence)


def adaptive_calibration_error(confidence: Floats, right: Bools, bins: int = BINS) -> float:
    """The same over bins of as many examples each, or one more (Nguyen, O'Connor, EMNLP 2015); in percent.

    Of examples with one confidence that a cut between bins falls among, each counts as right as they are on average, so
    that the order of the rows has no say.
    """
    n = len(confidence)
    if not n:
        return math.nan
    order, evened = _by_confidence(confidence, right)
    sizes = np.full(min(bins, n), n // min(bins, n))
    sizes[: n % len(sizes)] += 1
    place = np.repeat(np.arange(len(sizes)), sizes)
    return 100 * float(np.abs(np.bincount(place, confidence[order] - evened)).sum()) / n


def _by_confidence(confidence: Floats, right: Bools) -> tuple[Ints, Floats]:
    """Rows from the lowest confidence, and how right they are in that order: equals as their mean."""
    order = confidence.argsort(kind="stable")
    _, run = np.unique(confidence[order], return_inverse=True)
    average = np.bincount(run, right[order]) / np.bincount(run)
    return order, average[run]


def selective_accuracy(
    confidence: Floats, right: Bools, coverages: Sequence[float] = COVERAGES
) -> dict[float, float]:
    """Coverage in percent -> accuracy in percent on that part of the examples of which a model is surest.

    (El-Yaniv, Wiener, JMLR 2010.) The part is rounded up to whole examples; of those with the confidence at which it
    ends, each counts as right as they are on average. Not-a-number of no example.
    """
    n = len(confidence)
    if not n:
        return dict.fromkeys(coverages, math.nan)
    _, evened = _by_confidence(confidence, right)
    sums = np.cumsum(evened[::-1])
    kept = {c: max(1, math.ceil(round(n * c / 100, 9))) for c in coverages}
    return {c: 100 * float(sums[k - 1]) / k for c, k in kept.items()}


@dataclass(frozen=True)
class AtThreshold:
    """What is done where answers below a confidence are thrown away.

    Attributes:
        coverage: share of examples that are answered, in percent, with Wilson's interval.
        error: share of the answered ones that are wrong, in percent, the same; None without labels.
    """

    coverage: Estimate
    error: Estimate | None


@dataclass(frozen=True)
class Threshold:
    """One threshold before and after.

    Attributes:
        threshold: answers with that confidence or more are kept.
        before, after: of the reference and of the other.
        coverage_change: after less before in points, with Newcombe's interval for paired shares.
    """

    threshold: float
    before: AtThreshold
    after: AtThreshold
    coverage_change: Estimate


def thresholds(
    reference: Beliefs,
    other: Beliefs,
    at: Sequence[float] = THRESHOLDS,
    labelled: bool = True,
    level: float = LEVEL,
) -> tuple[Threshold, ...]:
    """Coverage and error at each threshold, of both models.

    With labels only examples that have one are looked at. A row without confidence is never answered.

    Args:
        reference, other: of the same examples.
        at: confidences in [0, 1].
        labelled: whether there are labels.
        level: of each interval.
    """
    rows = reference.known | other.known if labelled else np.ones(len(reference.known), bool)

    def of(kept: Bools, right: Bools) -> AtThreshold:
        answered, wrong = int(kept.sum()), int((kept & ~right).sum())
        return AtThreshold(
            share(answered, len(kept), level), share(wrong, answered, level) if labelled else None
        )

    found = []
    for threshold in at:
        first, second = reference.confidence[rows] >= threshold, other.confidence[rows] >= threshold
        both, only, new = ((first & second).sum(), (first & ~second).sum(), (second & ~first).sum())
        value, low, high = paired_difference(both, new, only, len(first) - both - only - new, level)
        change = Estimate(100 * float(value), 100 * float(low), 100 * float(high), len(first), level)
        before, after = of(first, reference.right[rows]), of(second, other.right[rows])
        found.append(Threshold(threshold, before, after, change))
    return tuple(found)


@dataclass(frozen=True)
class Temperature:
    """By what logits must be divided for probabilities to mean what they say.

    Attributes:
        value: above 1 for a model that is too sure.
        at_bound: whether it is the coldest or hottest one looked at, where loss still fell.
        loss_before, loss_after: mean -log p(label) in nats on the rows that it wasn't fitted on.
        error_before, error_after: expected calibration error in percent on the same.
        fitted_on, n: rows that it was fitted on, and those it is judged on.
    """

    value: float
    at_bound: bool
    loss_before: float
    loss_after: float
    error_before: float
    error_after: float
    fitted_on: int
    n: int


def fitted_temperature(logits: Floats, labels: Ints, seed: int = 0) -> Temperature | None:
    """Temperature scaling (Guo et al., ICML 2017) on half of the labelled rows, drawn by ``seed``, judged on the others.

    None where fewer than two rows have a label and numbers.

    Raises:
        UserError: the scores are probabilities, of which what is rounded to 0 or 1 can't be scaled; or nothing that fits.
    """
    n, classes = table(logits).shape
    fitting(labels, n, classes)
    rows = np.flatnonzero((labels != NONE) & np.isfinite(logits).all(axis=1))
    if len(rows) < 2:
        return None
    if (
        kind_of(logits[rows], said="" if _may_be_probabilities(logits[rows]) else LOGITS).name
        == PROBABILITIES
    ):
        raise UserError("a temperature is fitted to logits, and these are probabilities")
    mixed = np.random.default_rng(seed).permutation(rows)
    fit, held = np.sort(mixed[: len(rows) // 2]), np.sort(mixed[len(rows) // 2 :])
    return tempered((logits[fit], labels[fit]), (logits[held], labels[held]))


def tempered(fit: tuple[Floats, Ints], held: tuple[Floats, Ints], bins: int = BINS) -> Temperature | None:
    """Temperature scaling fitted on some rows and judged on others, of another split.

    Rows without label, or with a number that is none or infinite, are left out; None where a part has none left.

    Args:
        fit, held: (n, classes) logits, or log-probabilities, and (n,) labels, -1 where there is none.
        bins: of the calibration error.
    """
    (seen, wanted), (logits, labels) = (_usable(*part) for part in (fit, held))
    if not len(seen) or not len(logits):
        return None
    inverse = best_inverse(seen, wanted)
    before, after = (
        beliefs(logits.astype(float) * b, LOGITS, labels, epsilon=SMALLEST) for b in (1.0, inverse)
    )
    return Temperature(
        value=1 / inverse,
        at_bound=bool(inverse in (1 / HOTTEST, 1 / COLDEST)),
        loss_before=float(before.loss.mean()),
        loss_after=float(after.loss.mean()),
        error_before=calibration_error(before.confidence, before.right, bins),
        error_after=calibration_error(after.confidence, after.right, bins),
        fitted_on=len(seen),
        n=len(logits),
    )


def _usable(logits: Floats, labels: Ints) -> tuple[Floats, Ints]:
    rows = (labels != NONE) & np.isfinite(logits).all(axis=1)
    return logits[rows], labels[rows]


def _may_be_probabilities(scores: Floats) -> bool:
    sums = scores.sum(axis=1, dtype=float)
    return bool(scores.min() >= 0 and scores.max() <= 1 and np.abs(sums - 1).max() < 1e-2)


def best_inverse(logits: Floats, labels: Ints, steps: int = 60, tolerance: float = 1e-10) -> float:
    """The b in [1/100, 100] for which softmax(b logits) has the smallest mean -log p(label).

    The loss is convex in b, its slope mean(E_p[z] - z_label) and its curvature mean(Var_p[z]): Newton's steps, halving
    the bracket instead where one would leave it.

    Args:
        logits: (n, classes), finite.
        labels: (n,) of them, none missing.
    """
    z = logits.astype(float)
    z -= z.max(axis=1, keepdims=True)
    own = z[np.arange(len(z)), labels].mean()

    def slope(b: float) -> tuple[float, float]:
        first = second = 0.0
        for rows in pieces(*z.shape):
            part = z[rows]
            p = np.exp(b * part)
            p /= p.sum(axis=1, keepdims=True)
            p *= part
            means = p.sum(axis=1)
            first += means.sum()
            second += np.einsum("ij,ij->", p, part) - means @ means
        return first / len(z) - own, second / len(z)

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low)[0] >= 0:
        return low
    if slope(high)[0] <= 0:
        return high
    b = 1.0
    for _ in range(steps):
        first, second = slope(b)
        low, high = (b, high) if first < 0 else (low, b)
        step = b - first / second if second > 0 else math.nan
        new = step if low < step < high else math.sqrt(low * high)
        if abs(new - b) <= tolerance * b:
            return new
        b = new
    return b
