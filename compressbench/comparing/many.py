"""What many nets forget together: classes that pay more than others, and examples that they answer otherwise.

Definitions: Hooker, Courville, Clark, Dauphin, Frome 2019 (arXiv 1911.05248, gen_tstatistic.py, aggregate_predictions.py)
and Hooker, Moorosi, Clark, Bengio, Denton 2020 (arXiv 2010.03058). A *population* is (members, n) labels, -1 for none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from compressbench.comparing.arrays import Bools, Floats, Ints
from compressbench.comparing.groups import ALPHA, benjamini_hochberg, holm
from compressbench.distributions import beyond_t, normal_quantile, t_quantile
from compressbench.errors import UserError

FEW = 8
"""Members below which the test by class sees little (Hooker et al. took 30)."""
POWER = 0.8
SPLITS = 50
SAME = 1e-12
"""A spread of no more than this share of the values' size is rounding."""


def enough(*populations: Ints | Floats) -> None:
    """Nothing, where each population has two members or more.

    Raises:
        UserError: one has fewer.
    """
    for members in populations:
        if len(members) < 2:
            raise UserError(
                f"a population of {len(members)} has no spread to compare by; two nets or more are needed"
            )


# --- classes


@dataclass(frozen=True)
class Welch:
    """Two-sided Welch tests, all (m,).

    Attributes:
        t: the statistic, one less other; infinite where neither varies and they differ.
        freedom: Welch and Satterthwaite's degrees of freedom; NaN where neither varies.
        p: see ``welch``; NaN where a value is.
    """

    t: Floats
    freedom: Floats
    p: Floats


def welch(one: Floats, other: Floats) -> Welch:
    """Whether the means of columns differ, variances not taken to be equal (Welch, Biometrika 1947).

    Where neither population varies beyond rounding Welch's test isn't defined. Then p is 1 where they are equal; where
    they differ it is what a test by exchanging members gives: of all ways to deal the members out only the one found,
    and of equal sizes its mirror image, is as extreme. So p is 2 / C(2K, K) of K and K members: a third at K = 2, 7e-7
    at K = 12.

    Args:
        one, other: (members, m) and (members, m) values.

    Raises:
        UserError: fewer than two members.
    """
    t, freedom = _statistic(one, other)
    p = np.array([_p(*pair) for pair in zip(t.tolist(), freedom.tolist(), strict=True)])
    p[np.isinf(t)] = _exchanged(len(one), len(other))
    return Welch(t, freedom, p)


def _statistic(one: Floats, other: Floats) -> tuple[Floats, Floats]:
    enough(one, other)
    size = np.maximum(np.abs(one).max(axis=0), np.abs(other).max(axis=0))
    parts = []
    for values in (one, other):
        sd = values.std(axis=0, ddof=1)
        parts.append(np.where(sd <= SAME * size, 0.0, sd) ** 2 / len(values))
    total = parts[0] + parts[1]
    change = one.mean(axis=0) - other.mean(axis=0)
    change = np.where((total == 0) & (np.abs(change) <= SAME * size), 0.0, change)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(change == 0, 0.0 * total, change / np.sqrt(total))
        under = parts[0] ** 2 / (len(one) - 1) + parts[1] ** 2 / (len(other) - 1)
        return t, total**2 / under


def _p(t: float, freedom: float) -> float:
    if math.isnan(t):
        return math.nan
    return 1.0 if t == 0 or math.isnan(freedom) else beyond_t(t, freedom)


def _exchanged(one: int, other: int) -> float:
    return (2 if one == other else 1) / math.comb(one + other, one)


def recalls(right: Bools, ids: Ints, groups: int) -> Floats:
    """(members, groups) share of each group's examples that each member gets right, NaN of a group without examples.

    Args:
        right: (members, n) bool.
        ids: (n,) which group an example is of, -1 for none.
    """
    known = ids >= 0
    counts = np.bincount(ids[known], minlength=groups)
    hits = np.stack([np.bincount(ids[row & known], minlength=groups) for row in right])
    return np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)


@dataclass(frozen=True)
class Impact:
    """What each group paid beyond what all did, all (groups,); NaN of groups without examples.

    Attributes:
        change: mean over members of recall less the mean accuracy, that of the subject less that of the reference, in
            points. Below 0 a group paid more than the average, above 0 less.
        p: of Welch's test of it.
        holm, bh: corrected for the number of groups, after Holm, and after Benjamini and Hochberg.
        detectable: points; the smallest change found with a power of 80 %, uncorrected, in a group of the median spread.
    """

    change: Floats
    p: Floats
    holm: Floats
    bh: Floats
    detectable: float


def impact(
    subject: Floats, subject_top1: float, reference: Floats, reference_top1: float, alpha: float = ALPHA
) -> Impact:
    """The test by class of Hooker et al. 2019: a setting's mean accuracy is taken off each recall, then Welch.

    A group of one recall in all members of both, as one that nobody has learned, has not moved, whatever the mean did:
    its p is 1.

    Args:
        subject, reference: (members, groups) recalls as shares (see ``recalls``).
        subject_top1, reference_top1: mean accuracy over the members, as shares.

    Raises:
        UserError: fewer than two members.
    """
    one, other = subject - subject_top1, reference - reference_top1
    p = np.where(unmoved(subject, reference), 1.0, welch(one, other).p)
    return Impact(
        100 * (one.mean(axis=0) - other.mean(axis=0)),
        p,
        holm(p),
        benjamini_hochberg(p),
        detectable(
            100 * one.std(axis=0, ddof=1), 100 * other.std(axis=0, ddof=1), len(one), len(other), alpha
        ),
    )


def unmoved(one: Floats, other: Floats) -> Bools:
    """(groups,) bool: the same recall in all members of both."""
    return (one == one[:1]).all(axis=0) & (other == one[:1]).all(axis=0)


def halves(members: int, most: int = SPLITS, seed: int = 0) -> tuple[tuple[Ints, Ints], ...]:
    """Ways to split members into two halves, all or ``most`` by chance; of an odd number the first is the smaller."""
    half = members // 2
    mirrored = members % 2 == 0  # then each way would come twice
    ways = math.comb(members, half) // (2 if mirrored else 1)
    everyone = np.arange(members)

    def pair(chosen: Ints) -> tuple[Ints, Ints]:
        return chosen, np.setdiff1d(everyone, chosen)

    def all_ways() -> Iterator[tuple[int, ...]]:
        found = itertools.combinations(range(members), half)
        return (c for c in found if 0 in c) if mirrored else found

    if ways <= most:
        return tuple(pair(np.array(c, dtype=np.int64)) for c in all_ways())
    random = np.random.RandomState(seed)
    drawn: dict[tuple[int, ...], None] = {}
    while len(drawn) < most:
        chosen = random.permutation(members)[:half]
        if mirrored and 0 not in chosen:
            chosen = np.setdiff1d(everyone, chosen)
        drawn[tuple(sorted(chosen.tolist()))] = None
    return tuple(pair(np.array(c, dtype=np.int64)) for c in drawn)


def null_hits(
    found: Floats, top1: Floats, alpha: float = ALPHA, most: int = SPLITS, seed: int = 0
) -> tuple[int, ...]:
    """How many groups have p <= alpha, uncorrected, between halves of one population: one number a split.

    Where nothing is true ``alpha`` of the groups have it. Halves have half the members, and splits share these. Empty
    below four members, of which a half has no spread.

    Args:
        found: (members, groups) recalls.
        top1: (members,) accuracy of each.
    """
    if len(found) < 4:
        return ()
    reach = normal_quantile(1 - alpha)
    hits = []
    for one, other in halves(len(found), most, seed):
        t, freedom = _statistic(found[one] - top1[one].mean(), found[other] - top1[other].mean())
        # Student's t reaches further than the normal at any degree of freedom: nothing nearer needs its p
        far = np.flatnonzero((np.abs(t) >= reach) & np.isfinite(t))
        count = sum(_p(float(t[k]), float(freedom[k])) <= alpha for k in far)
        moved = np.isinf(t) & ~unmoved(found[one], found[other])
        hits.append(count + int(moved.sum()) * (_exchanged(len(one), len(other)) <= alpha))
    return tuple(hits)


def detectable(
    one_sd: Floats, other_sd: Floats, one: int, other: int, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The smallest difference of means that Welch's test finds with ``power``, in a group of the median spread.

    By the noncentral t distribution with Welch's degrees of freedom; in the unit of the standard deviations, NaN where
    there is no spread at all.

    Args:
        one_sd, other_sd: (groups,) sample standard deviations; NaN is left out.
        one, other: members of each.
    """
    a, b = (float(np.nanmedian(sd)) ** 2 / k if np.isfinite(sd).any() else math.nan
            for sd, k in ((one_sd, one), (other_sd, other)))  # fmt: skip
    if not a + b > 0:
        return math.nan
    freedom = (a + b) ** 2 / (a**2 / (one - 1) + b**2 / (other - 1))
    return _shift(freedom, alpha, power) * math.sqrt(a + b)


def _shift(freedom: float, alpha: float, power: float) -> float:
    """The noncentrality at which a two-sided t test has this power."""
    critical = t_quantile(1 - alpha, freedom)
    low, high = 0.0, 2.0
    while power_of(high, freedom, critical) < power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power_of(middle, freedom, critical) < power else (low, middle)
    return high


def power_of(shift: float, freedom: float, critical: float) -> float:
    """P(abs(T) > critical) of the noncentral t with this noncentrality: a normal over a chi, integrated over the chi."""
    scale = math.sqrt(2 / freedom)
    lowest = math.log(1 - 9 * scale) if 9 * scale < 0.5 else -18.0
    logs = np.linspace(lowest, math.log(1 + 9 * scale), 1601)
    points = np.exp(logs)
    # density of sqrt(chi squared / freedom) over its logarithm, but for a constant
    weights = np.exp(freedom * (logs - points**2 / 2 + 0.5))
    normal = NormalDist().cdf
    beyond = np.array([normal(shift - critical * s) + normal(-shift - critical * s) for s in points])
    return float((weights * beyond).sum() / weights.sum())


# --- examples


def votes(labels: Ints, classes: int) -> Ints:
    """(n, classes + 1) how many members give each label to each example; the last column is no label.

    Args:
        labels: (members, n) from 0 to ``classes`` - 1, -1 for none.
    """
    count = labels.shape[1]
    found = np.zeros((count, classes + 1), dtype=np.int32)
    flat, starts = found.reshape(-1), np.arange(count) * (classes + 1)
    for row in labels:
        flat[starts + np.where(row < 0, classes, row)] += 1
    return found


def modal(found: Ints) -> tuple[Ints, Bools]:
    """(n,) the most frequent label of each example, and (n,) whether another is as frequent; of ``votes``.

    Of equally frequent labels the highest is taken, as in the authors' code. No label is never the most frequent: -1
    where no member gave one.
    """
    known = found[:, :-1]
    most = known.max(axis=1)
    leading = (known == most[:, None]) & (most > 0)[:, None]
    highest = known.shape[1] - 1 - leading[:, ::-1].argmax(axis=1)
    return np.where(most == 0, -1, highest), leading.sum(axis=1) > 1


def taxicab(one: Ints, other: Ints) -> Floats:
    """(n,) sum over labels of the absolute difference of their shares of members, of ``votes``: from 0, alike, to 2.

    No answer counts as an answer of its own (Hooker et al. 2020: how compression-identified exemplars are ranked).
    """
    sizes = [v.sum(axis=1, dtype=np.int64) for v in (one, other)]
    # over one denominator in whole numbers: as floats equal scores would differ by rounding, which would rank them
    apart = np.abs(one * sizes[1][:, None] - other * sizes[0][:, None]).sum(axis=1)
    return apart / np.maximum(sizes[0] * sizes[1], 1)


@dataclass(frozen=True)
class Exemplars:
    """Examples whose modal label differs between two populations (pruning-identified exemplars), all (n,).

    Attributes:
        differ: whether both have a modal label, and these differ.
        known: whether both have one.
        subject, reference: modal labels, -1 for none.
        tied: whether either was chosen among equally frequent ones.
        score: taxicab.
    """

    differ: Bools
    known: Bools
    subject: Ints
    reference: Ints
    tied: Bools
    score: Floats

    @property
    def ranked(self) -> Ints:
        """Rows of the exemplars, the highest taxicab score first, then by row."""
        rows = np.flatnonzero(self.differ)
        return rows[np.lexsort((rows, -self.score[rows]))]


def exemplars(subject: Ints, reference: Ints) -> Exemplars:
    """Exemplars of two populations' ``votes`` on the same examples.

    Raises:
        UserError: these are not of the same examples or classes.
    """
    if subject.shape != reference.shape:
        raise UserError(
            f"populations of other data: {subject.shape[0]:,} examples of {subject.shape[1] - 1:,} classes beside "
            f"{reference.shape[0]:,} of {reference.shape[1] - 1:,}"
        )
    own, tied = modal(subject)
    other, other_tied = modal(reference)
    known = (own >= 0) & (other >= 0)
    return Exemplars(
        known & (own != other), known, own, other, tied | other_tied, taxicab(subject, reference)
    )


def null_exemplars(labels: Ints, classes: int, most: int = 10, seed: int = 0) -> tuple[float, ...]:
    """Share, in percent, of examples whose modal label differs between halves of one population: one number a split.

    Halves have half the members, so their modal labels waver more than those of whole populations: it is an upper bound.
    """
    if len(labels) < 2:
        return ()
    found = (
        exemplars(votes(labels[one], classes), votes(labels[other], classes))
        for one, other in halves(len(labels), most, seed)
    )
    return tuple(100 * float(f.differ.sum()) / max(1, int(f.known.sum())) for f in found)
