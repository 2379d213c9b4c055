"""The same probabilities? How far apart two models' outputs are, example by example.

What is done for each example is done for some rows at a time (see ``arrays.pieces``), in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressbench.comparing.arrays import Bools, Floats, Ints, both, pieces, table
from compressbench.comparing.intervals import LEVEL, Estimate, mean
from compressbench.errors import UserError

LOGITS, PROBABILITIES = "logits", "probabilities"
EPSILON = 1e-12
"""Probabilities below it count as it, in logarithms: a thing held for impossible that happens costs 27.6 nats."""
QUANTILES = (50.0, 90.0, 99.0, 99.9)
SLACK = 1e-4
"""How far outside of [0, 1] a probability may be by rounding."""
SUMS = 0.01
"""How far from 1 a row of probabilities may sum, where they aren't rounded to coarse steps."""
LOOKED_AT = 1000
"""Rows of which the step of rounded probabilities is found."""


@dataclass(frozen=True)
class Kind:
    """What scores are.

    Attributes:
        name: ``logits`` or ``probabilities``; log-probabilities are logits.
        words: by what this was told.
        step: the smallest gap between two values, by which rounded probabilities (of an int8 output: 1/256) are known.
    """

    name: str
    words: str
    step: float = 0.0


def kind_of(scores: Floats, said: str = "") -> Kind:
    """Whether scores are logits or probabilities, by their range and the sums of their rows.

    Probabilities are in [0, 1] and each row's sum is 1, up to 0.01 or half a step of rounding a class. What is in
    [0, 1] and sums to something else isn't guessed at. Rows that hold NaN, or one value only, say nothing.

    Args:
        scores: (n, classes).
        said: ``logits`` or ``probabilities`` where a user says so.

    Raises:
        UserError: it can't be told, or what was said can't be; or no table of scores.
    """
    table(scores)
    if said not in ("", LOGITS, PROBABILITIES):
        raise UserError(f"scores are {LOGITS} or {PROBABILITIES}, not {said!r}")
    if said == LOGITS:
        return Kind(LOGITS, "as you say")
    low, high = scores.min(axis=1), scores.max(axis=1)
    telling = ~(np.isnan(low) | np.isnan(high))
    inside = bool(((low >= -SLACK) & (high <= 1 + SLACK))[telling].all())
    step = _step(scores[:LOOKED_AT]) if inside else 0.0
    if said:
        if not inside:
            raise UserError(
                f"outputs from {np.nanmin(low):.4g} to {np.nanmax(high):.4g} are no probabilities, which are in [0, 1]"
            )
        return Kind(PROBABILITIES, "as you say", step)
    if not inside:
        return Kind(LOGITS, f"values from {np.nanmin(low):.4g} to {np.nanmax(high):.4g}")
    sums = scores.sum(axis=1, dtype=float)
    alike = max(SUMS, scores.shape[1] * step / 2)
    apart = telling & (high > low) if bool((telling & (high > low)).any()) else telling
    if not apart.any():
        return Kind(LOGITS, "no row of numbers tells it")
    least, most = float(sums[apart].min()), float(sums[apart].max())
    if abs(least - 1) <= alike and abs(most - 1) <= alike:
        return Kind(PROBABILITIES, f"in [0, 1], and rows sum to {least:.4g} to {most:.4g}", step)
    if bool((high == low)[telling].all()):
        return Kind(LOGITS, "each row is one value")
    raise UserError(
        f"outputs are between 0 and 1, but rows sum to {least:.4g} to {most:.4g}: "
        f"say whether they are {LOGITS} or {PROBABILITIES}"
    )


def _step(scores: Floats) -> float:
    """The smallest gap between two of the values, less what rounding of floats makes; 0 of fewer than two values."""
    values = np.unique(scores[np.isfinite(scores)].astype(float))
    gaps = np.diff(values)
    gaps = gaps[gaps > 1e-7]
    return float(gaps.min()) if len(gaps) else 0.0


def probabilities(scores: Floats, kind: str) -> Floats:
    """(n, classes) float64 probabilities: softmax of logits; probabilities divided by their row's sum.

    A row that holds NaN or +inf is NaN; one of probabilities that are all 0 is uniform.
    """
    with np.errstate(invalid="ignore"):
        if kind == LOGITS:
            found = scores.astype(float)
            found -= found.max(axis=1, keepdims=True)
            np.exp(found, out=found)
        else:
            found = np.maximum(scores.astype(float), 0)
            found[(found == 0).all(axis=1)] = 1.0
        found /= found.sum(axis=1, keepdims=True)
    return found


def log_probabilities(scores: Floats, kind: str, epsilon: float = EPSILON) -> Floats:
    """(n, classes) float64 natural logarithms of probabilities, none below that of ``epsilon``; NaN as they have it.

    Rows aren't made to sum to 1 again.
    """
    if kind == PROBABILITIES:
        return np.log(np.maximum(probabilities(scores, kind), epsilon))
    with np.errstate(invalid="ignore"):
        found = scores.astype(float)
        found -= found.max(axis=1, keepdims=True)
        found -= np.log(np.exp(found).sum(axis=1, keepdims=True))
    return np.maximum(found, math.log(epsilon))


@dataclass(frozen=True)
class Distances:
    """How far apart two models' outputs are; each (n,) float64, NaN for a row that either's numbers lack in.

    Attributes:
        kl: KL(reference || other) in nats.
        js: square root of the Jensen-Shannon divergence, natural logarithm, in [0, sqrt(ln 2)]; where numbers lack it is
            that of distributions which have nothing in common, as in ``metrics.js_distance``.
        total_variation: half the sum of absolute differences of probabilities, in [0, 1].
        overlap: share in [0, 1] of the reference's ``k`` highest classes that are among the other's; NaN of no more
            than ``k`` classes.
        rank: Spearman's correlation of scores over the classes, in [-1, 1]; NaN where all of a row are equal.
        k: how many classes ``overlap`` is of.
        epsilon: below which probabilities count as it, in ``kl``.
    """

    kl: Floats
    js: Floats
    total_variation: Floats
    overlap: Floats
    rank: Floats
    k: int = 5
    epsilon: float = EPSILON


def distances(
    reference: Floats,
    other: Floats,
    kinds: tuple[str, str] = (LOGITS, LOGITS),
    k: int = 5,
    epsilon: float = EPSILON,
) -> Distances:
    """Every distance of every example.

    Args:
        reference, other: (n, classes) scores.
        kinds: what each of them is, ``logits`` or ``probabilities``.
        k: of ``overlap``.
        epsilon: of ``kl``.

    Raises:
        UserError: the two aren't of the same examples and classes.
    """
    both(reference, other)
    n, classes = reference.shape
    found = {name: np.empty(n) for name in ("kl", "js", "total_variation", "overlap", "rank")}
    for rows in pieces(n, classes):
        one, two = reference[rows], other[rows]
        p, q = probabilities(one, kinds[0]), probabilities(two, kinds[1])
        found["kl"][rows] = relative_entropy(p, q, epsilon)
        found["js"][rows] = js_distance(p, q)
        found["total_variation"][rows] = np.abs(p - q).sum(axis=1) / 2
        found["overlap"][rows], found["rank"][rows] = _orders(one, two, k)
    return Distances(**found, k=k, epsilon=epsilon)


def relative_entropy(p: Floats, q: Floats, epsilon: float = EPSILON) -> Floats:
    """(n,) KL(p || q) in nats, of (n, classes) probabilities clipped at ``epsilon``; 0 where the clip makes it negative.

    sum of p (log p - log q) (Kullback, Leibler, 1951); NaN for a row that holds NaN.
    """
    p, q = np.maximum(p, epsilon), np.maximum(q, epsilon)
    return np.maximum((p * np.log(p / q)).sum(axis=1), 0)


def loyalties(scores: Sequence[Floats], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Probability loyalty in percent of pairs of models, with the natural logarithm (Xu et al., EMNLP 2021).

    Each model's probabilities are made once for all pairs that it is in, for some examples at a time.

    Args:
        scores: one (n, classes) table of logits or log-probabilities a model, all of the same shape.
        pairs: places in ``scores``.
    """
    if not pairs:
        return []
    for other in scores[1:]:
        both(scores[0], other)
    n, classes = table(scores[0]).shape
    far = np.zeros(len(pairs))
    for rows in pieces(n, classes * len(scores)):
        known = [probabilities(one[rows], LOGITS) for one in scores]
        far += [js_distance(known[a], known[b]).sum() for a, b in pairs]
    return [float(100 * (1 - d / n)) for d in far]


def js_distance(p: Floats, q: Floats) -> Floats:
    """(n,) square roots of the Jensen-Shannon divergence in nats, as ``scipy.spatial.distance.jensenshannon``.

    A row that holds NaN is as far from all others as disjoint ones are: sqrt(ln 2).
    """
    middle = (p + q) / 2
    safe = np.where(middle > 0, middle, 1.0)
    divergence = np.zeros(len(p))
    for one in (p, q):
        ratio = one / safe
        divergence += (one * np.log(np.where(ratio > 0, ratio, 1.0))).sum(axis=1) / 2
    divergence[np.isnan(middle).any(axis=1)] = math.log(2)
    return np.sqrt(divergence.clip(0, math.log(2)))


def _orders(one: Floats, two: Floats, k: int) -> tuple[Floats, Floats]:
    """(n,) overlap of the ``k`` highest, and (n,) rank correlation."""
    broken = np.isnan(one).any(axis=1) | np.isnan(two).any(axis=1)
    first, second = _ordered(one), _ordered(two)
    if one.shape[1] > k:
        overlap = (_highest(one, first[1], k) & _highest(two, second[1], k)).sum(axis=1) / k
    else:
        overlap = np.full(len(one), np.nan)
    rank = _correlation(_ranks(*first), _ranks(*second))
    overlap[broken], rank[broken] = np.nan, np.nan
    return overlap, rank


def _ordered(scores: Floats) -> tuple[Ints, Floats]:
    """The order of each row's classes, lowest first, and the scores in it."""
    wide = scores.astype(np.float32) if scores.dtype == np.float16 else scores
    order = wide.argsort(axis=1)
    return order, np.take_along_axis(wide, order, axis=1)


def _highest(scores: Floats, ascending: Floats, k: int) -> Bools:
    """(n, classes) bool: is a class among the ``k`` highest? Of equal ones at the end the lower classes are."""
    last = ascending[:, -k, None]
    found = scores >= last
    for row in np.flatnonzero(found.sum(axis=1) > k):
        equal = np.flatnonzero(scores[row] == last[row])
        found[row, equal[k - int((scores[row] > last[row]).sum()) :]] = False
    return found


def ranks(scores: Floats) -> Floats:
    """(n, classes) ranks from 1 within each row, float64; equal values share the mean of their places."""
    return _ranks(*_ordered(scores))


def _ranks(order: Ints, ascending: Floats) -> Floats:
    n, classes = order.shape
    places = np.broadcast_to(np.arange(1.0, classes + 1), (n, classes)).copy()
    new = np.ones((n, classes), bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    tied = np.flatnonzero(~new.all(axis=1))
    if len(tied):
        starts, at = new[tied], np.arange(classes)
        first = np.maximum.accumulate(np.where(starts, at, 0), axis=1)
        ends = np.ones_like(starts)
        ends[:, :-1] = starts[:, 1:]
        last = np.minimum.accumulate(np.where(ends, at, classes)[:, ::-1], axis=1)[:, ::-1]
        places[tied] = (first + last) / 2 + 1
    found = np.empty((n, classes))
    found.ravel()[order + classes * np.arange(n)[:, None]] = places
    return found


def _correlation(x: Floats, y: Floats) -> Floats:
    """(n,) Pearson's correlation of rows; NaN where one is constant."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    spread = np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y)
    with np.errstate(invalid="ignore"):
        found = np.einsum("ij,ij->i", x, y) / np.sqrt(np.where(spread > 0, spread, np.nan))
    return found.clip(-1, 1)


@dataclass(frozen=True)
class Summary:
    """Distances over all examples.

    Attributes:
        kl: mean in nats.
        kl_quantiles: percentage -> the KL below which so many examples are, in nats; None where not even one example is
            above it.
        kl_of_the_most: share, in percent, of all KL that the hundredth of the examples with most of it has; where it is
            large the interval of ``kl`` is too narrow.
        loyalty, loyalty_base2: probability loyalty in percent, 100 times the mean of 1 - sqrt(JS), with the natural
            logarithm as published (Xu et al., EMNLP 2021: 16.7 for nothing in common) and with base 2 (0 for that).
        total_variation: mean, in [0, 1].
        overlap: mean in percent; not-a-number of no more than ``k`` classes.
        rank: mean of Spearman's correlation.
        left_out: examples whose numbers lack; none but loyalty counts them, as nothing in common.
    """

    kl: Estimate
    kl_quantiles: Mapping[float, float | None]
    kl_of_the_most: float
    loyalty: Estimate
    loyalty_base2: Estimate
    total_variation: Estimate
    overlap: Estimate
    rank: Estimate
    left_out: int


def summary(found: Distances, level: float = LEVEL) -> Summary:
    """Means with Student's intervals, and quantiles."""
    return Summary(
        kl=mean(found.kl, level),
        kl_quantiles=quantiles(found.kl),
        kl_of_the_most=100 * of_the_most(found.kl),
        loyalty=mean(100 * (1 - found.js), level),
        loyalty_base2=mean(100 * (1 - found.js / math.sqrt(math.log(2))), level),
        total_variation=mean(found.total_variation, level),
        overlap=mean(100 * found.overlap, level),
        rank=mean(found.rank, level),
        left_out=int(np.isnan(found.kl).sum()),
    )


def quantiles(values: Floats, at: Iterable[float] = QUANTILES) -> dict[float, float | None]:
    """Percentage -> quantile of (n,) values in their unit, interpolated as ``numpy.quantile`` does.

    NaN is left out. None where so few values are above it, less than one, that it would be a guess.
    """
    known = values[~np.isnan(values)]
    return {
        q: float(np.quantile(known, q / 100)) if len(known) * (100 - q) / 100 >= 1 - 1e-9 else None
        for q in at
    }


def of_the_most(values: Floats, part: float = 0.01) -> float:
    """Share in [0, 1] of a sum of (n,) values of 0 or more that its highest have, the ``part`` of them, at least one."""
    known = np.sort(values[~np.isnan(values)])
    total = float(known.sum())
    return float(known[-max(1, math.ceil(part * len(known))) :].sum()) / total if total > 0 else math.nan
