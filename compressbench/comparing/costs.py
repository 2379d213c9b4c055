"""Cost: each artefact in its own runtime, in turns: latency and throughput by batch, beside its bytes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compressbench.artefacts.artefact import Arrays, Opened
from compressbench.hardware.turns import Ratio, in_turns, ratio, stopwatch, undisturbed

FEWEST = 10


@dataclass(frozen=True)
class Time:
    """How long one artefact takes for a batch.

    Attributes:
        batch: examples.
        median, low, high: seconds of a call; the middle one, and the 5th and 95th percentile.
        n: calls.
        faster: than the reference, in turns; None for the reference itself, or where others disturbed it.
        disturbed: what others took meanwhile, in words; empty if nothing.
    """

    batch: int
    median: float
    low: float
    high: float
    n: int
    faster: Ratio | None
    disturbed: str = ""


def times(
    opened: Sequence[Opened], inputs: Sequence[Callable[[int], Arrays]], batch: int, seconds: float = 0.5
) -> list[Time]:
    """Of each artefact, the reference first, all in turns in this process.

    Args:
        opened: ready to answer, all with as many threads.
        inputs: of each, from a number of examples to what it is called with, made before the clock runs.
        seconds: of timing.
    """
    given = [make(batch) for make in inputs]
    calls = [_call(one, arrays) for one, arrays in zip(opened, given, strict=True)]
    for call in calls:
        call()
    turns, disturbed = undisturbed(lambda: in_turns([stopwatch(c) for c in calls], seconds, FEWEST))
    found = []
    for place, turn in enumerate(turns):
        taken = sorted(turn.seconds)
        low, high = taken[int(0.05 * (len(taken) - 1))], taken[round(0.95 * (len(taken) - 1))]
        own = None if place == 0 or disturbed else ratio(turns[0].estimates(False), turn.estimates(False))
        found.append(Time(batch, statistics.median(taken), low, high, len(taken), own, disturbed))
    return found


def _call(one: Opened, arrays: Arrays) -> Callable[[], object]:
    return lambda: one.answers(arrays)
