"""Learning-rate schedules: pure functions of the share of training done, times a linear warm-up."""

from __future__ import annotations

import math

from compressbench.specs import Share


def constant(done: float) -> float:
    """Always 1."""
    return 1.0


def cosine(done: float, floor: float = 0.0) -> float:
    """Half a cosine from 1 down to ``floor`` (Loshchilov & Hutter 2017, without restarts)."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def linear(done: float, floor: float = 0.0) -> float:
    """A straight line from 1 down to ``floor``."""
    return 1 - (1 - floor) * done


def step(done: float, at: list[float], gamma: float = 0.1) -> float:
    """``gamma`` to the number of marks passed; marks are shares of the whole length (80 of 160 epochs: 0.5)."""
    return gamma ** sum(done >= mark for mark in at)


def plateau(done: float, start: Share = 0.5, stop: Share = 0.9, floor: Share = 0.5) -> float:
    """1 up to ``start``, a straight line to ``floor`` at ``stop``, then that (Izmailov et al. 2018)."""
    if done <= start:
        return 1.0
    return floor if done >= stop else 1 - (1 - floor) * (done - start) / (stop - start)


def warmup(step_number: int, steps: int) -> float:
    """Rises linearly over the first ``steps`` iterations, then stays 1."""
    return min(1.0, (step_number + 1) / steps) if steps else 1.0
