"""Averagers: which weights of a training are averaged, as a function of where it stands.

An averager is asked after every iteration and answers with the share that the current weights have in the average from
then on, or None where they are not taken. The net that a training with one ends with is that average, its batch-norm
statistics made anew from the training set.
"""

from __future__ import annotations

from collections.abc import Callable

from compressbench.errors import UserError
from compressbench.specs import Length, Share
from compressbench.specs.length import steps

Averager = Callable[..., float | None]


def swa(
    step: int, total: int, per_epoch: int, taken: int, start: Share = 0.75, every: Length = "1ep"
) -> float | None:
    """Stochastic weight averaging: the mean of the weights every so often (Izmailov et al., UAI 2018).

    Best with a rate that stays up, such as ``schedules.plateau``: weights that no longer move have no better mean.

    Args:
        step, total: iterations done, and of the whole training.
        per_epoch: iterations an epoch.
        taken: how many weights are in the average.
        start: share of the training after which the first are taken.
        every: how often, ``1ep`` or ``50it``, counted from the end, so that the last weights are always among them.

    Raises:
        UserError: ``every`` is less than one iteration.
    """
    apart = steps(every, per_epoch)
    if apart < 1:
        raise UserError(f"averager.every: {every} is less than one iteration ({per_epoch} an epoch)")
    if step < start * total or (total - step) % apart:
        return None
    return 1 / (taken + 1)


def ema(
    step: int, total: int, per_epoch: int, taken: int, decay: Share = 0.999, start: Share = 0.0
) -> float | None:
    """Exponential moving average over iterations (Polyak & Juditsky 1992 with a fading memory).

    Args:
        step, total, per_epoch, taken: as for ``swa``.
        decay: share that the average keeps at each iteration; the first iterations keep less, (1 + n) / (10 + n).
        start: share of the training after which it begins.
    """
    if step < start * total:
        return None
    return 1.0 if not taken else 1 - min(decay, (1 + taken) / (10 + taken))
