"""What several seeds in one program bring: images a second of all together, and a whole run's time for each seed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.gpu import nets, training
from benchmarks.gpu.rows import Sheet
from compressbench.data.dataset import Dataset

ARMS = (
    (8, "bf16", "graph"),
    (4, "bf16", "graph"),
    (16, "bf16", "graph"),
    (8, "tf32", "graph"),
    (8, "fp32", "eager"),
)
SMOKE = ((2, "fp32", "eager"),)


def run(sheet: Sheet) -> None:
    """Each number of lanes."""
    dataset = nets.cifar(sheet)
    for count, precision, launch in SMOKE if sheet.smoke else ARMS:
        arm = f"ResNet-{8 if sheet.smoke else 20}, {count} lanes, {precision}, {launch}"
        nets.tried(sheet, arm, partial(one, sheet, arm, dataset, count, precision, launch))


def one(sheet: Sheet, arm: str, dataset: Dataset, count: int, precision: str, launch: str) -> None:
    """Rows of one number of lanes."""
    from compressbench.training import lanes

    clock = training.Clock(0.2 if sheet.smoke else 4.0, sheet.device)
    model = nets.resnet(8 if sheet.smoke else 20)
    starts = [nets.begun(model, dataset, seed) for seed in range(count)]
    first = nets.bench(dataset, sheet.device, "dense", progress=clock, say=clock.said.append)
    benches = [replace(training.launched(first, launch), seed=seed) for seed in range(count)]
    stages = [training.settings(sheet.device, precision=precision)] * count
    clock.run(lambda: lanes.train(starts, benches, stages, count))
    training.tell(sheet, arm, clock, dataset, count)
