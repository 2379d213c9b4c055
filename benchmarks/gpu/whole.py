"""A whole training of ResNet-20 on CIFAR-10, 160 epochs: what it takes, and its accuracy on the test images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.gpu import nets, training
from benchmarks.gpu.rows import Sheet
from compressbench.data.dataset import Dataset
from compressbench.errors import Diverged
from compressbench.state import State
from compressbench.views import View

EVERY = 20
"""Epochs after which a row says how far it is, for a training that is cut."""


@dataclass
class Milestones:
    """Progress that leaves a row now and then."""

    sheet: Sheet
    arm: str
    began: float = field(default_factory=time.perf_counter)
    told: int = 0

    def step(self, done: int, total: int, **figures: float) -> None:
        """See ``compressbench.bench.Progress``."""
        epoch = int(nets.EPOCHS * done / total)
        if epoch >= self.told + EVERY:
            self.told = epoch
            self.sheet.add(self.arm, f"seconds until epoch {epoch}", time.perf_counter() - self.began, "s",
                           note=f"loss {figures.get('loss', float('nan')):.4f}")  # fmt: skip


def run(sheet: Sheet) -> None:
    """One seed, as fast as goes."""
    precision, launch = ("fp32", "eager") if sheet.smoke else ("bf16", "graph")
    arm = f"ResNet-20, {precision}, {launch}"
    nets.tried(sheet, arm, partial(one, sheet, arm, precision, launch))


def one(sheet: Sheet, arm: str, precision: str, launch: str) -> None:
    """Rows of one seed."""
    dataset = nets.cifar(sheet)
    start = nets.begun(nets.resnet(20), dataset)
    bench = nets.bench(dataset, sheet.device, "dense", training.SEED, progress=Milestones(sheet, arm))
    began = time.perf_counter()
    stage = training.settings(sheet.device, precision=precision, length=length(sheet))
    tell(
        sheet,
        arm,
        dataset,
        [stage.apply(start, training.launched(bench, launch))],
        time.perf_counter() - began,
    )


def length(sheet: Sheet) -> str:
    """160 epochs, or one."""
    return "1ep" if sheet.smoke else f"{nets.EPOCHS}ep"


def tell(
    sheet: Sheet, arm: str, dataset: Dataset, states: Sequence[State | Diverged], seconds: float
) -> None:
    """Time and accuracy of trainings that are done."""
    sheet.add(arm, "whole run, a seed", seconds / len(states), "s", n=len(states), note=length(sheet))
    found = [
        100 * float(View(state, nets.bench(dataset, sheet.device, "dense", seed)).right.float().mean())
        for seed, state in enumerate(states)
        if not isinstance(state, Diverged)
    ]
    sheet.middle(arm, "top-1 on the test images", found, "%", note=f"{len(dataset.split('test')):,} images")
