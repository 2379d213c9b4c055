"""Who pays? Accuracy by class and by sub-group, tested one by one, and what is left of that for many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressbench.comparing.answers import NONE
from compressbench.comparing.arrays import Bools, Floats, Ints
from compressbench.comparing.intervals import (
    LEVEL,
    Estimate,
    mcnemar,
    paired_difference,
    wilson,
)
from compressbench.distributions import normal_quantile
from compressbench.proportions import benjamini_hochberg as benjamini_hochberg
from compressbench.proportions import holm as holm

ALPHA = 0.05
"""A corrected p up to it counts as a change."""


@dataclass(frozen=True)
class Group:
    """What happened to one class or sub-group.

    Attributes:
        name: of it.
        n: its examples.
        before, after: accuracy of the reference and of the other on them, in percent.
        change: ``after - before`` in points, with Newcombe's interval for paired shares.
        lost, won: examples that the reference alone, and the other alone, gets right.
        beyond: ``change`` less that of all other examples, in points: what this group pays more than the rest.
        p: of McNemar's exact test in this group, as if it were the only one; NaN where it is ``rare``.
        p_holm, p_bh: the same corrected for the number of groups tested, after Holm and Benjamini-Hochberg. Holm's is
            what decides (``changed``): among all groups that didn't change one is named by mistake in 5 % of
            comparisons at most. Benjamini-Hochberg's names more, and of those it names 5 % may be mistakes, which is
            for looking closer, and not for an alarm.
        p_beyond_holm: that of ``beyond`` being 0, corrected after Holm; NaN where it is ``rare``.
        rare: whether it has too few examples to be tested: if it lost them all, Holm's p would be above 0.05.
        detectable: the smallest loss in points that would count as a change if nothing was won; not-a-number where rare.
    """

    name: str
    n: int
    before: float
    after: float
    change: Estimate
    lost: int
    won: int
    beyond: Estimate
    p: float
    p_holm: float
    p_bh: float
    p_beyond_holm: float
    rare: bool
    detectable: float

    @property
    def changed(self) -> bool:
        """Whether accuracy in it changed, correction for many groups made."""
        return self.p_holm <= ALPHA

    @property
    def pays(self) -> bool:
        """Whether accuracy in it fell, correction for many groups made."""
        return self.changed and self.change.value < 0

    @property
    def pays_more(self) -> bool:
        """Whether it fell, and by more than that of all other examples did."""
        return self.pays and self.beyond.value < 0 and self.p_beyond_holm <= ALPHA


def coded(values: NDArray[Any]) -> tuple[Ints, tuple[str, ...]]:
    """(n,) values of an attribute as (n,) numbers of groups, and the groups' names in order."""
    names, ids = np.unique(values, return_inverse=True)
    return ids, tuple(str(name) for name in names)


def by_group(
    ids: Ints, names: Sequence[str], reference: Bools, other: Bools, level: float = LEVEL
) -> tuple[Group, ...]:
    """Each group's change, in the order of ``names``; groups without an example are left out.

    Args:
        ids: (n,) which group an example is of, -1 for none; labels are the classes'.
        names: of the groups.
        reference, other: (n,) bool, whether each model is right.
        level: of each interval.
    """
    some = ids != NONE
    ids, reference, other = ids[some], reference[some], other[some]
    n, kept, lost, won = (
        np.bincount(ids, rows, len(names)).astype(int)
        for rows in (
            np.ones(len(ids)),
            reference & other,
            reference & ~other,
            other & ~reference,
        )
    )
    there = np.flatnonzero(n)
    if not len(there):
        return ()
    change, low, high = (
        100 * x[there] for x in paired_difference(kept, won, lost, n - kept - lost - won, level)
    )
    excess, error = _beyond(n[there], lost[there], won[there])
    reach = normal_quantile(level)
    least = attainable(len(there))
    rare = n[there] < least
    p = np.array(
        [math.nan if few else mcnemar(lost[g], won[g]).p for g, few in zip(there, rare, strict=True)]
    )
    apart = np.array(
        [
            math.nan if few else 2 * NormalDist().cdf(-abs(e) / s)
            for e, s, few in zip(excess, error, rare, strict=True)
        ]
    )
    holm_p, bh_p, apart_p = holm(p), benjamini_hochberg(p), holm(apart)
    return tuple(
        Group(
            name=names[int(g)],
            n=int(n[g]),
            before=100 * float(kept[g] + lost[g]) / int(n[g]),
            after=100 * float(kept[g] + won[g]) / int(n[g]),
            change=Estimate(float(change[i]), float(low[i]), float(high[i]), int(n[g]), level),
            lost=int(lost[g]),
            won=int(won[g]),
            beyond=Estimate(
                100 * float(excess[i]),
                100 * float(excess[i] - reach * error[i]),
                100 * float(excess[i] + reach * error[i]),
                int(n[g]),
                level,
            ),
            p=float(p[i]),
            p_holm=float(holm_p[i]),
            p_bh=float(bh_p[i]),
            p_beyond_holm=float(apart_p[i]),
            rare=bool(rare[i]),
            detectable=math.nan if rare[i] else 100 * least / int(n[g]),
        )
        for i, g in enumerate(there)
    )


def attainable(groups: int, alpha: float = ALPHA) -> int:
    """The fewest examples that must be lost, and none won, for Bonferroni's p, the first of Holm's, to be ``alpha``."""
    return math.ceil(1 + math.log2(groups / alpha) - 1e-12)


def _beyond(n: Ints, lost: Ints, won: Ints) -> tuple[Floats, Floats]:
    """Change of each group less that of all others, as shares, and its standard error.

    The error is Agresti's and Min's (Statistics in Medicine 24, 2005, 729-740): as if half an example more were in each
    cell of the table, so that a group without any difference has one too. NaN where there is but one group.
    """

    def change(n: Ints, lost: Ints, won: Ints) -> tuple[Floats, Floats]:
        size, more = n + 2.0, won - lost
        variance = ((won + lost + 1) - more**2 / size) / size**2
        return more / np.where(n > 0, n, np.nan), variance

    own, own_variance = change(n, lost, won)
    rest, rest_variance = change(n.sum() - n, lost.sum() - lost, won.sum() - won)
    return own - rest, np.sqrt(own_variance + rest_variance)


def who_pays(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Groups whose accuracy fell, the one that surely lost most first.

    Ordered by the end of the interval that is nearest to no loss, then by the loss itself; rare ones are last, by loss.
    """
    fell = [g for g in groups if g.change.value < 0]
    return tuple(sorted(fell, key=lambda g: (g.rare, g.change.high if not g.rare else 0.0, g.change.value)))


@dataclass(frozen=True)
class Answered:
    """What became of the examples that the reference gives one class, where there are no labels.

    Attributes:
        name: of the class.
        before, after: how many examples the reference, and the other, gives it.
        kept: share of the reference's that the other gives it too, in percent, with Wilson's interval.
        lost, won: examples that only the reference, and only the other, gives it.
        p, p_holm, p_bh: of McNemar's exact test that as many are won as lost; see ``Group``.
        rare: as of ``Group``, where neither ``before`` nor ``after`` is enough.
    """

    name: str
    before: int
    after: int
    kept: Estimate
    lost: int
    won: int
    p: float
    p_holm: float
    p_bh: float
    rare: bool


def by_answer(
    reference: Ints, other: Ints, names: Sequence[str], level: float = LEVEL
) -> tuple[Answered, ...]:
    """Each class that either model answers, the one that surely kept least first, rare ones last.

    Args:
        reference, other: (n,) answers, -1 for none.
        names: of the classes.
        level: of each interval.
    """
    classes = len(names)
    before = np.bincount(reference[reference != NONE], minlength=classes)
    after = np.bincount(other[other != NONE], minlength=classes)
    kept = np.bincount(reference[(reference == other) & (reference != NONE)], minlength=classes)
    there = np.flatnonzero(before + after)
    low, high = wilson(kept, before, level)
    rare = np.maximum(before, after) < attainable(max(1, len(there)))
    found = [
        Answered(
            names[int(c)],
            int(before[c]),
            int(after[c]),
            Estimate(
                100 * float(kept[c] / before[c]) if before[c] else math.nan,
                100 * float(low[c]),
                100 * float(high[c]),
                int(before[c]),
                level,
            ),
            int(before[c] - kept[c]),
            int(after[c] - kept[c]),
            math.nan if rare[c] else mcnemar(before[c] - kept[c], after[c] - kept[c]).p,
            math.nan,
            math.nan,
            bool(rare[c]),
        )
        for c in there
    ]
    p = np.array([a.p for a in found])
    told = [
        replace(a, p_holm=float(h), p_bh=float(b))
        for a, h, b in zip(found, holm(p), benjamini_hochberg(p), strict=True)
    ]
    return tuple(sorted(told, key=lambda a: (a.rare, a.kept.high, -a.before)))
