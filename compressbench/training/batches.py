"""Which examples come at an iteration, and how they are varied: functions of (seed, order, epoch or iteration) alone.

Examples of unlike length (see ``tasks.task``) come in batches of like ones: those of ``WINDOW`` batches, as they were
shuffled, are sorted by length and cut into batches, and these are shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compressbench.data.examples import order
from compressbench.inputs import Inputs
from compressbench.seeds import derive_seed
from compressbench.tasks.task import Task
from compressbench.training.live import Run

WINDOW = 50
"""Batches whose examples are sorted by length together."""


@dataclass
class Batches:
    """The batches of one training, or of several that go at once, end to end.

    On a GPU all numbers of an epoch are drawn on the CPU and copied at once, so that no iteration waits for one.

    Attributes:
        seeds: of the trainings.
        count: examples in the training set.
        lengths: int64 (count,), how long each example is, on the CPU; None where all are alike.
    """

    run: Run
    task: Task
    seeds: Sequence[int]
    count: int
    device: str
    lengths: Tensor | None = None
    _epoch: int = -1
    _rows: Tensor = field(default_factory=lambda: torch.empty(0))
    _ahead: tuple[int, Inputs] | None = None

    def seed(self, step: int) -> int:
        """What an iteration of the first training draws its noise by."""
        return self._seed(self.seeds[0], step)

    def at(self, step: int) -> tuple[Tensor, Inputs | None]:
        """Places in the training set, int64 (trainings x batch,), and how these are varied, None for not at all."""
        run = self.run
        if step // run.per_epoch != self._epoch:
            self._epoch = step // run.per_epoch
            drawn = [self._of_epoch(seed) for seed in self.seeds]
            self._rows = torch.stack(drawn, 1).flatten(1).to(self.device)
            self._ahead = None
        return self._rows[step % run.per_epoch], self._variation(step) if run.varies else None

    def _of_epoch(self, seed: int) -> Tensor:
        """(iterations, batch) places in the training set, of one training."""
        run = self.run
        if run.rates:
            return torch.arange(run.per_epoch * run.batch_size).view(run.per_epoch, -1)
        rows = order(self.count, derive_seed(seed, run.order, self._epoch))
        rows = rows[: run.per_epoch * run.batch_size]
        if self.lengths is None:
            return rows.view(run.per_epoch, -1)
        windows = rows.split(WINDOW * run.batch_size)
        alike = torch.cat([w[self.lengths[w].argsort(stable=True)] for w in windows])
        turn = order(run.per_epoch, derive_seed(seed, run.order, self._epoch, "batches"))
        return alike.view(run.per_epoch, -1)[turn]

    def _seed(self, seed: int, step: int) -> int:
        return derive_seed(seed, self.run.order, "step", step)

    def _variation(self, step: int) -> Inputs:
        if self.device == "cpu":
            return self._drawn(step)
        if self._ahead is None:
            end = min(self.run.stop, (self._epoch + 1) * self.run.per_epoch)
            steps = zip(*(self._drawn(later) for later in range(step, end)), strict=True)
            self._ahead = step, tuple(_sent(torch.stack(parts), self.device) for parts in steps)
        first, drawn = self._ahead
        return tuple(part[step - first] for part in drawn)

    def _drawn(self, step: int) -> Inputs:
        each = [
            self.task.variation(self.run.batch_size, torch.Generator().manual_seed(self._seed(seed, step)))
            for seed in self.seeds
        ]
        return tuple(torch.cat(parts) for parts in zip(*each, strict=True)) if len(each) > 1 else each[0]


def _sent(tensor: Tensor, device: str) -> Tensor:
    """A copy on a device that nothing waits for, where that is a GPU."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
