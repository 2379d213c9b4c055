"""The same answers? What each of two models names, how often they agree, who is right, and whether it got worse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compressbench.comparing.arrays import Bools, Floats, Ints, pieces, table
from compressbench.comparing.intervals import (
    LEVEL,
    Estimate,
    McNemar,
    mcnemar,
    paired_difference,
    share,
)
from compressbench.distributions import normal_quantile

NONE = -1
"""The answer of a row that holds what is no number; as a label, that there is none."""
MARGIN = 1.0
"""Points of accuracy that may be lost where nobody says another margin."""
POWER = 0.8
"""How often as many examples as are asked for shall give a verdict."""
NO_WORSE, WORSE, CANT_TELL = "no worse", "worse", "can't tell"


@dataclass(frozen=True)
class Answers:
    """What a model answers.

    Attributes:
        labels: (n,) int64, the class with the highest score, the lower one of equals; -1 where a score is NaN.
        tied: (n,) bool, whether another class's score is as high; False where there is no answer.
    """

    labels: Ints
    tied: Bools

    @property
    def without(self) -> int:
        """Rows without an answer."""
        return int((self.labels == NONE).sum())


def answers(scores: Floats) -> Answers:
    """The class that each row of (n, classes) scores names; as ``metrics.named``.

    Raises:
        UserError: no table of scores (see ``arrays.table``).
    """
    n, classes = table(scores).shape
    labels, tied = np.empty(n, np.int64), np.empty(n, bool)
    for rows in pieces(n, classes):
        part = scores[rows]
        best = part.argmax(axis=1)  # of a row with NaN its place
        top = part[np.arange(len(part)), best]
        tied[rows] = (part == top[:, None]).sum(axis=1) > 1
        labels[rows] = np.where(np.isnan(top), NONE, best)
    return Answers(labels, tied)


@dataclass(frozen=True)
class Changes:
    """Which answers changed, and how; each (n,) bool, and no example is in two.

    Attributes:
        right_to_wrong, wrong_to_right, wrong_to_another: of examples that have a label; an answer that is missing is
            wrong, and another one than any.
        unlabelled: of examples that have none.
        silent: neither model answers, which is no change and no agreement either.
    """

    right_to_wrong: Bools
    wrong_to_right: Bools
    wrong_to_another: Bools
    unlabelled: Bools
    silent: Bools

    @property
    def changed(self) -> Bools:
        """(n,) whether the answer changed at all."""
        return self.right_to_wrong | self.wrong_to_right | self.wrong_to_another | self.unlabelled


def changes(reference: Ints, other: Ints, labels: Ints | None = None) -> Changes:
    """Each example's change by kind.

    Args:
        reference, other: (n,) answers, -1 for none.
        labels: (n,) true classes, -1 where there is none; None where nothing has one.
    """
    truth = np.full(len(reference), NONE) if labels is None else labels
    known = truth != NONE
    moved = reference != other
    before, after = known & (reference == truth), known & (other == truth)
    return Changes(
        right_to_wrong=before & ~after,
        wrong_to_right=after & ~before,
        wrong_to_another=moved & known & ~before & ~after,
        unlabelled=moved & ~known,
        silent=(reference == NONE) & (other == NONE),
    )


def label_loyalty(reference: Ints, other: Ints, level: float = LEVEL) -> Estimate:
    """Share of examples on which both name the same class, in percent, with Wilson's interval.

    Xu et al., EMNLP 2021; as ``metrics.label_loyalty``: with no answer (-1) nothing agrees.
    """
    return share(int(((reference == other) & (reference != NONE)).sum()), len(reference), level)


@dataclass(frozen=True)
class Accuracies:
    """The accuracy of two models on the same examples, and what to make of it.

    Attributes:
        before, after: the reference's and the other's, in percent, with Wilson's intervals.
        drop: ``before - after`` in points, with Newcombe's interval for paired shares (see ``paired_difference``).
        test: McNemar's, of the examples that one alone gets right.
        margin: points of accuracy that may be lost.
        verdict: ``no worse`` where the whole interval of the drop is below the margin, ``worse`` where it is above it,
            and else ``can't tell``.
        needed: examples with which there would be a verdict four times in five; None where there is one already, and
            infinite where the drop is as large as the margin.
    """

    before: Estimate
    after: Estimate
    drop: Estimate
    test: McNemar
    margin: float
    verdict: str
    needed: float | None

    @property
    def lower(self) -> bool:
        """Whether accuracy surely fell at all, by however little."""
        return self.drop.low > 0


def accuracies(
    reference: Ints, other: Ints, labels: Ints, margin: float = MARGIN, level: float = LEVEL
) -> Accuracies | None:
    """Both accuracies on the examples that have a label, the test and the verdict; None where none has one.

    Args:
        reference, other: (n,) answers, -1 for none, which is wrong.
        labels: (n,) true classes, -1 where there is none.
        margin: in points; 0 or more.
        level: of each interval.

    The verdict is that of a trial of non-inferiority (Piaggio et al., JAMA 2012): the interval of the drop against the
    margin. A drop that surely isn't 0 and may be above the margin is ``can't tell``; ``lower`` says that it is there.

    Raises:
        ValueError: the margin is below 0.
    """
    if not margin >= 0:
        raise ValueError(f"a margin is 0 or more, and this is {margin}")
    known = labels != NONE
    n = int(known.sum())
    if not n:
        return None
    first, second = (reference == labels)[known], (other == labels)[known]
    kept, lost = int((first & second).sum()), int((first & ~second).sum())
    won = int((second & ~first).sum())
    value, low, high = (
        100 * float(x) for x in paired_difference(kept, lost, won, n - kept - lost - won, level)
    )
    drop = Estimate(value, low, high, n, level)
    verdict = NO_WORSE if high < margin else WORSE if low > margin else CANT_TELL
    needed = examples_needed(lost, won, n, margin, level) if verdict == CANT_TELL else None
    return Accuracies(
        share(kept + lost, n, level),
        share(kept + won, n, level),
        drop,
        mcnemar(lost, won),
        margin,
        verdict,
        needed,
    )


def examples_needed(
    lost: int, won: int, n: int, margin: float = MARGIN, level: float = LEVEL, power: float = POWER
) -> float:
    """How many examples give a verdict with probability ``power``, if shares stay what they are; more than ``n``.

    With d the drop seen, s the share of examples that one model alone gets right, and z normal quantiles, the drop
    among N examples has standard error sqrt((s - d²) / N), and the end of its interval is beyond the margin m with the
    power asked for at

        N = (z_level + z_power)² (s - d²) / (m - d)²

    (Liu et al., Statistics in Medicine 21, 2002, 231-245, at the observed drop instead of one of 0). For s stands
    ``(lost + won + z²/2) / (n + z²)``, the middle of Wilson's interval, so that a few examples without any difference
    don't promise that there never is one. What was seen is itself uncertain: the order of magnitude is to be taken.

    Args:
        lost, won: examples that the reference alone, and the other alone, gets right.
        n: all examples with a label.
        margin: in points.
        level: of the interval that decides.
        power: how often it shall.

    Returns:
        a whole number, or infinity where the drop equals the margin.
    """
    z = normal_quantile(level)
    drop, apart = (lost - won) / n, (lost + won + z**2 / 2) / (n + z**2)
    gap = abs(margin / 100 - drop)
    if gap < 1e-12:
        return math.inf
    reach = z + normal_quantile(2 * power - 1)
    return float(max(n + 1, math.ceil(reach**2 * (apart - drop**2) / gap**2)))
