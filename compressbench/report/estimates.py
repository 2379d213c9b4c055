"""Figures with intervals, out of a panel: over seeds where there are several, else over the test examples of one net.

An interval over seeds is Student's, of differences paired by seed. One seed has none; where records say on how many
examples only one of the two nets is right, the interval is Newcombe's of that one pair of nets, and where they don't, it
is that of two shares taken as if they were of different examples, which is too wide rather than too narrow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressbench.distributions import within_t
from compressbench.report.intervals import of_mean
from compressbench.report.numbers import FIXED, grouped, number
from compressbench.report.panels import Panel, Point, Reading, Series
from compressbench.report.sections.forgetting import CHANGE

AGREE = "no interval: the seeds agree exactly"
MANY = 6
"""Seeds that hardly agree exactly by chance."""
SEEDS, EXAMPLES, APART, NOTHING = "seeds", "examples", "examples taken apart", ""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: mean over seeds.
        low, high: the ends; not-a-number where there is no interval.
        seeds: how many it is a mean over.
        examples: that each seed's value rests on; 0 where that isn't known.
        over: what the interval is over.
        unit: ``points`` or ``%``.
    """

    value: float
    low: float
    high: float
    seeds: int
    examples: int
    over: str
    unit: str

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def words(self, signed: bool = True) -> str:
        """``−0.32 points (95 % interval −0.90 to +0.26, 5 seeds of 10,000 examples)``."""
        return f"{self.figure(signed)} ({self.ends(signed)})"

    def figure(self, signed: bool = True) -> str:
        """The figure with its unit."""
        unit = "" if self.unit == "1" else f"{FIXED}{self.unit}"
        return f"{number(self.value, self.unit, signed)}{unit}"

    def ends(self, signed: bool = True) -> str:
        """The interval and what it is over."""
        of = f"{grouped(self.examples)} examples" if self.examples else ""
        if not self.known:
            return f"one seed{f', {of}' if of else ''}: no interval" if self.seeds < 2 else AGREE
        low, high = (number(end, self.unit, signed) for end in (self.low, self.high))
        told = f"95{FIXED}% interval {low} to {high}"
        if self.over == SEEDS:
            return f"{told}, n = {self.seeds} seeds{f' of {of}' if of else ''}"
        apart = ", taken as if each net had its own" if self.over == APART else ""
        return f"{told}, n = {of}{apart}; one seed"


def over_seeds(values: Sequence[float], unit: str, examples: int = 0) -> Estimate:
    """The mean of one value a seed, with Student's interval; of one value without, and of a few that agree exactly.

    A net answers a whole number of examples rightly, so that two seeds agree by chance: no width of zero follows.
    """
    agree = len(values) < MANY and max(values) == min(values)
    low, high = (math.nan, math.nan) if agree else of_mean(values)
    return Estimate(
        statistics.fmean(values),
        low,
        high,
        len(values),
        examples,
        SEEDS if len(values) > 1 else NOTHING,
        unit,
    )


def level(reading: Reading | None) -> Estimate | None:
    """A share in %: over seeds by Student's t, of one seed by Wilson's interval where n is known."""
    if reading is None or not reading.by_seed:
        return None
    values, n = [reading.by_seed[s] for s in sorted(reading.by_seed)], examples_of(reading)
    if len(values) > 1 or not n or reading.unit != "%" or not 0 <= values[0] <= 100:
        return over_seeds(values, reading.unit, n)
    from compressbench.proportions import wilson

    low, high = wilson(values[0] * n / 100, n)
    return Estimate(values[0], 100 * float(low), 100 * float(high), 1, n, EXAMPLES, "%")


def change(
    one: Reading | None, other: Reading | None, flips: tuple[Reading | None, Reading | None] = (None, None)
) -> Estimate | None:
    """``one - other`` of two shares in %, paired by seed; None where no seed has both.

    Args:
        flips: of the one against the other, % of the examples that only the other gets right, and only the one.
    """
    if one is None or other is None:
        return None
    common = sorted(set(one.by_seed) & set(other.by_seed))
    if not common:
        return None
    unit, n = "points" if one.unit == "%" else one.unit, min(examples_of(one), examples_of(other))
    values = [one.by_seed[s] - other.by_seed[s] for s in common]
    shares = (one.by_seed[common[0]], other.by_seed[common[0]])
    if len(values) > 1 or not n or unit != "points" or not all(0 <= x <= 100 for x in shares):
        return over_seeds(values, unit, n)
    seed = common[0]
    lost, won = (r.by_seed.get(seed) if r else None for r in flips)
    if lost is not None and won is not None and all(r and examples_of(r) == n for r in flips):
        low, high = _paired(shares[0], lost, won, n)
        return Estimate(values[0], low, high, 1, n, EXAMPLES, unit)
    low, high = apart(*shares, examples_of(one), examples_of(other))
    return Estimate(values[0], low, high, 1, n, APART, unit)


def _paired(one: float, lost: float, won: float, n: int) -> tuple[float, float]:
    from compressbench.proportions import paired_difference

    only_one, only_other = round(won * n / 100), round(lost * n / 100)
    both = round(one * n / 100) - only_one
    _, low, high = paired_difference(both, only_one, only_other, n - both - only_one - only_other)
    return 100 * float(low), 100 * float(high)


def apart(one: float, other: float, n: int, m: int, level: float = 0.95) -> tuple[float, float]:
    """Newcombe's method for shares of different examples: Wilson's intervals put together."""
    from compressbench.proportions import wilson

    (l1, u1), (l2, u2) = (
        (float(low), float(high))
        for low, high in (wilson(one * n / 100, n, level), wilson(other * m / 100, m, level))
    )
    p, q = one / 100, other / 100
    low, high = p - q - math.hypot(p - l1, u2 - q), p - q + math.hypot(u1 - p, q - l2)
    return 100 * low, 100 * high


def accuracy_change(panel: Panel, series: Series, point: Point) -> Estimate | None:
    """A state's accuracy against that of the dense model of the same seed."""
    dense = panel.dense_of(series, point.moment)
    flips = (point.reading("forgetting", "forgotten"), point.reading("forgetting", "learned"))
    return change(panel.main_reading(point), panel.main_reading(dense), flips)


@dataclass(frozen=True)
class ClassChange:
    """What a state's compression did to one class.

    Attributes:
        p: that a change as large is chance: Student's test over seeds, McNemar's exact test of one seed; not-a-number
            where neither can be had.
        p_holm: the same after Holm's correction for all classes that have one.
    """

    name: str
    change: Estimate
    p: float
    p_holm: float

    @property
    def lost(self) -> bool:
        """Whether it surely lost: below 0, and 0.05 or less after the correction."""
        return self.change.value < 0 and self.p_holm <= 0.05


def class_changes(point: Point) -> tuple[ClassChange, ...]:
    """Each class, the one first that loses most."""
    found = []
    for (probe, metric, name), reading in point.readings.items():
        if (probe, metric) != CHANGE or not name or not reading.by_seed:
            continue
        beside = [point.reading("forgetting", m, name) for m in ("recall", "forgotten", "learned")]
        found.append((name, *_class_change(reading, beside)))
    corrected = _holm([p for _, _, p in found])
    told = [ClassChange(name, one, p, q) for (name, one, p), q in zip(found, corrected, strict=True)]
    return tuple(sorted(told, key=lambda c: (c.change.value, c.name)))


def _class_change(reading: Reading, beside: Sequence[Reading | None]) -> tuple[Estimate, float]:
    """A class's change and its p, of its own reading and those of its recall and of what was lost and won."""
    values, n = [reading.by_seed[s] for s in sorted(reading.by_seed)], examples_of(reading)
    found = over_seeds(values, reading.unit, n)
    if len(values) > 1:
        return found, p_of_mean(values)
    seed = next(iter(reading.by_seed))
    recall, lost, won = (r.by_seed.get(seed) if r else None for r in beside)
    if recall is None or lost is None or won is None or not n:
        return found, math.nan
    from compressbench.proportions import mcnemar

    low, high = _paired(recall, lost, won, n)
    p = mcnemar(round(lost * n / 100), round(won * n / 100)).p
    return Estimate(values[0], low, high, 1, n, EXAMPLES, reading.unit), p


def p_of_mean(values: Sequence[float]) -> float:
    """Two-sided p of Student's test that the mean of two or more values is 0."""
    middle, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    if error == 0:
        return 1.0 if middle == 0 else 0.0
    return 1 - within_t(abs(middle) / error, len(values) - 1)


def _holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction; what is no number stays so and isn't counted."""
    import numpy as np

    from compressbench.proportions import holm

    found = np.asarray(ps, float)
    known = np.isfinite(found)
    if known.any():
        found[known] = holm(found[known])
    return [float(p) for p in found]


def examples_of(reading: Reading) -> int:
    """The examples each value rests on, the fewest of any seed; 0 where that isn't known."""
    return min(reading.examples, default=0)


def values_of(reading: Reading | None) -> Mapping[int, float]:
    """Seed -> value; empty for none."""
    return reading.by_seed if reading else {}
