"""As ``whole``, of several seeds in one program."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from benchmarks.gpu import nets, training, whole
from benchmarks.gpu.rows import Sheet


def run(sheet: Sheet) -> None:
    """Four seeds; two in a smoke run."""
    count, precision, launch = (2, "fp32", "eager") if sheet.smoke else (4, "bf16", "graph")
    arm = f"ResNet-20, {count} lanes, {precision}, {launch}"
    nets.tried(sheet, arm, partial(one, sheet, arm, count, precision, launch))


def one(sheet: Sheet, arm: str, count: int, precision: str, launch: str) -> None:
    """Rows of all seeds together."""
    from compressbench.training import lanes

    dataset = nets.cifar(sheet)
    starts = [nets.begun(nets.resnet(20), dataset, seed) for seed in range(count)]
    progress = whole.Milestones(sheet, arm)
    first = nets.bench(dataset, sheet.device, "dense", progress=progress)
    benches = [replace(training.launched(first, launch), seed=seed) for seed in range(count)]
    stages = [training.settings(sheet.device, precision=precision, length=whole.length(sheet))] * count
    began = time.perf_counter()
    found = lanes.train(starts, benches, stages, count)
    whole.tell(sheet, arm, dataset, found, time.perf_counter() - began)
