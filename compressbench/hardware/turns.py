"""Timing in turns: what each turn took, the ratio of two that took turns, and whether others disturbed them."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

TURN, MOST_CALLS, LEAST_ROUNDS = 0.004, 10, 5
TRIES, DISTURBED, LEAST_TICKS = 4, 0.05, 2
OTHERS = "other processes took"
"""Begins what is said of a timing that was disturbed each time."""
UNSEEN = "not known whether others took part of the processors"
"""What is said of a timing where the system doesn't tell."""
RESAMPLES, COVERED = 1000, 0.95
STAT = Path("/proc/stat")
T = TypeVar("T")


def is_disturbed(note: str) -> bool:
    """Whether a figure's note says that others disturbed it."""
    return OTHERS in note


@dataclass(frozen=True)
class Turns:
    """What one of several took, turn by turn; a turn is a few calls.

    Attributes:
        walls: of each turn, the wall-clock seconds of each call (of a GPU, those of its own events).
        cpu: of each turn, the processor seconds of one call, all threads of this process together.
    """

    walls: tuple[tuple[float, ...], ...]
    cpu: tuple[float, ...]

    @property
    def seconds(self) -> tuple[float, ...]:
        """Wall-clock seconds of all calls, in their order."""
        return tuple(wall for turn in self.walls for wall in turn)

    def estimates(self, by_cpu: bool) -> tuple[float, ...]:
        """Seconds of one call, one estimate a turn: by processor time, which a preemption doesn't lengthen, or the
        fastest call of the turn, where several threads work or a GPU does.
        """
        return self.cpu if by_cpu else tuple(min(turn) for turn in self.walls)


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the median over rounds, and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.3f} x ({self.low:.3f}-{self.high:.3f}, n={self.rounds})"


def ratio(reference: Sequence[float], subject: Sequence[float]) -> Ratio | None:
    """Reference over subject, round by round; both took a turn in each.

    The interval holds the middle 95 % of the medians of 1,000 resamples of the rounds, drawn with a fixed seed.

    Args:
        reference: seconds, one estimate a round.
        subject: of the same rounds.

    Returns:
        ``None`` where a clock was too coarse to see anything, so that a round holds a zero.

    Raises:
        ValueError: they differ in length, or are empty.
    """
    import numpy as np

    if not reference or len(reference) != len(subject):
        raise ValueError(
            f"timings in turns hold {len(reference)} and {len(subject)} rounds, must hold as many"
        )
    if min(*reference, *subject) <= 0:
        return None
    each = np.asarray(reference, dtype=float) / np.asarray(subject, dtype=float)
    drawn = np.random.default_rng(0).integers(len(each), size=(RESAMPLES, len(each)))
    tail = 100 * (1 - COVERED) / 2
    low, high = np.percentile(np.median(each[drawn], axis=1), [tail, 100 - tail])
    return Ratio(statistics.median(each.tolist()), float(low), float(high), len(each))


def stopwatch(
    call: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """A timer of a call, in seconds of a clock."""

    def once() -> float:
        begin = clock()
        call()
        return clock() - begin

    return once


def in_turns(
    timers: Sequence[Callable[[], float]],
    seconds: float,
    fewest: int,
    clock: Callable[[], float] = time.perf_counter,
    spent: Callable[[], float] = time.process_time,
) -> list[Turns]:
    """Calls timers by turns until ``seconds`` have passed; each equally often, ``fewest`` times and five rounds at least.

    It lasts as long at least as the system needs to tell who worked meanwhile (see ``least_window``).

    Every other round goes backwards, so that none always follows the same neighbour. A turn is a few calls where they are
    short, and the first of them, which finds caches and threads as the neighbour left them, isn't counted.
    """
    walls: list[list[tuple[float, ...]]] = [[] for _ in timers]
    cpu: list[list[float]] = [[] for _ in timers]
    shortest = min(timer() for timer in timers)
    calls = max(1, min(MOST_CALLS, round(TURN / max(shortest, 1e-9))))
    long = max(seconds, least_window(_tick()))
    begin, rounds = clock(), 0
    while rounds < LEAST_ROUNDS or rounds * calls < fewest or clock() - begin < long:
        for place in range(len(timers)) if rounds % 2 == 0 else reversed(range(len(timers))):
            if calls > 1:
                timers[place]()
            before = spent()
            walls[place].append(tuple(timers[place]() for _ in range(calls)))
            cpu[place].append((spent() - before) / calls)
        rounds += 1
    return [Turns(tuple(w), tuple(c)) for w, c in zip(walls, cpu, strict=True)]


def undisturbed(
    measure: Callable[[], T],
    watch: Callable[[], Callable[[], float | None]] | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> tuple[T, str]:
    """(what was measured, in words how others disturbed it, or that this isn't known; empty if they didn't).

    Where others took more than 5 % of the processors meanwhile it is measured again, up to three times more, as soon as
    they leave them alone. That is waited for as long as the measurement took: what others keep busy for longer would only
    be measured in vain. The least disturbed is what is given then.

    Args:
        measure: is called once a try.
        watch: begins to watch the others and gives what tells their share since then (``None``: not known).
        pause: sleeps so many seconds.
    """
    watch = watch or others
    found: list[tuple[float, T]] = []
    for _ in range(TRIES):
        began, share = time.perf_counter(), watch()
        result = measure()
        taken = share()
        if taken is None and found:
            break
        if taken is None:
            return result, UNSEEN
        if taken <= DISTURBED:
            return result, ""
        found.append((taken, result))
        if len(found) < TRIES and not _left_alone(time.perf_counter() - began, watch, pause):
            break
    least, result = min(found, key=lambda x: x[0])
    tries = f"in each of {len(found)} tries" if len(found) > 1 else "and went on"
    return result, f"{OTHERS} at least {math.floor(100 * least)} % of the processors {tries}"


def _left_alone(
    seconds: float, watch: Callable[[], Callable[[], float | None]], pause: Callable[[float], object]
) -> bool:
    """Whether, within so many seconds, others leave the processors alone; in one look at least."""
    look = 1.25 * least_window(_tick())
    for _ in range(max(1, round(seconds / look))):
        share = watch()
        pause(look)
        taken = share()
        if taken is None:
            return False
        if taken <= DISTURBED:
            return True
    return False


def others(stat: Path = STAT) -> Callable[[], float | None]:
    """Begins to watch; what it gives tells the share of the processors that others have taken since then.

    The processors are those that this process may run on; others are all but this process, children included. ``None``
    where the system doesn't count it (no Linux, or what it counts lacks even this process' own work), or the time since
    then is too short for its ticks.
    """
    cores = _usable()
    before, own, began = processor_seconds(stat, cores), time.process_time(), time.perf_counter()

    def share() -> float | None:
        after, window = processor_seconds(stat, cores), time.perf_counter() - began
        if before is None or after is None or window < least_window(_tick()):
            return None
        mine, busy = time.process_time() - own, after - before
        if busy < mine / 2 - len(cores) * _tick():
            return None
        return share_of_others(busy, mine, window, len(cores), _tick())

    return share


def least_window(tick: float) -> float:
    """Seconds in which one tick a processor is half of the share from which on others disturb: 0.4 at 100 ticks a second.

    In a shorter time a share above the limit can pass for one below, and one below for one above.
    """
    return LEAST_TICKS * tick / DISTURBED


def share_of_others(busy: float, own: float, window: float, cores: int, tick: float) -> float:
    """The share of ``window`` seconds on ``cores`` processors that others took, in [0, 1].

    Args:
        busy: seconds that the processors worked, for whomever.
        own: seconds of them that were this process'.
        tick: seconds in which the system counts; one of them is no proof.
    """
    return min(1.0, max(0.0, busy - own - tick) / (window * cores))


def processor_seconds(stat: Path, cores: Collection[int]) -> float | None:
    """Seconds that processors have worked since the system began, for whomever; what a hypervisor stole counts.

    ``None`` where the system has no such file, or it doesn't speak of these processors.
    """
    try:
        lines = [line.split() for line in stat.read_text(encoding="ascii").splitlines()]
        found = {words[0]: [int(x) for x in words[1:9]] for words in lines if words[0].startswith("cpu")}
        own = [found[f"cpu{core}"] for core in cores]
        # user, nice, system, idle, iowait, irq, softirq, steal
        return _tick() * sum(t[0] + t[1] + t[2] + t[5] + t[6] + t[7] for t in own)
    except (OSError, ValueError, LookupError):
        return None


def _usable() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _tick() -> float:
    return 1 / os.sysconf("SC_CLK_TCK")
