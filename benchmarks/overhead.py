"""What stages, masks, store and records cost over our own bare fast loop, and how much faster a warm store is.

    python benchmarks/overhead.py [--epochs 8]

The bare fast loop is the same training in a dozen lines: data in memory, channels_last, fused SGD, no stage, no mask,
no checkpoint, no seeds per step, no check of the loss, nothing written. Beside it the same number of iterations as
dense -> prune -> fine-tune (twice) in a recipe with a fresh store and no probes. CPU time at one thread, taking turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from compressbench.cli.run import composed
from compressbench.models.build import fill
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.execute import Watcher
from compressbench.runs.experiment import Experiment, execute, prepare
from compressbench.runs.provenance import processor, versions
from compressbench.specs import build

BATCH = 128


def recipe(epochs: int, outputs: Path, *more: str) -> Experiment:
    half = epochs // 2
    return prepare(
        composed(
            [
                "recipe=one_shot",
                "hardware=cpu1",
                f"outputs={outputs}",
                f"recipe.length={half}ep",
                f"recipe.finetune={(epochs - half) // 2}ep",
                "recipe.fractions=[0.5]",
                "recipe.compare.floor=false",
                "recipe.stages.dense.validate=null",
                "recipe.stages.magnitude.stages.finetune.validate=null",
                "recipe.stages.random.stages.finetune.validate=null",
                *more,
            ]
        )
    )


def bare(experiment: Experiment, epochs: int) -> None:
    dataset = experiment.dataset
    feed = dataset.split("train").to("cpu")
    module = (
        build(fill(experiment.config["model"]["build"], dataset))
        .to(memory_format=torch.channels_last)
        .train()
    )
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    for _ in range(epochs):
        rows = torch.randperm(len(feed))
        for at in range(0, len(feed) - BATCH + 1, BATCH):
            picked = rows[at : at + BATCH]
            inputs = dataset.task.normalised(feed["images"][picked]).contiguous(
                memory_format=torch.channels_last
            )
            optimizer.zero_grad()
            F.cross_entropy(module(inputs), feed.labels[picked]).backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--epochs", type=int, default=8, help="iterations of both arms, in epochs; a multiple of 4"
    )
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{processor()}; {versions()}; CPU time, 1 thread")
    ratios, colds, warms = [], [], []
    for turn in range(args.repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            ready = recipe(args.epochs, Path(folder), "evaluation=none")
            begin = time.process_time()
            bare(ready, args.epochs)
            middle = time.process_time()
            execute(ready, Watcher(), [])
            end = time.process_time()
            if turn:  # the first turn warms up
                ratios.append((end - middle) / (middle - begin))
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.process_time()
            execute(recipe(args.epochs, Path(folder)), Watcher(), [])
            middle = time.process_time()
            execute(recipe(args.epochs, Path(folder)), Watcher(), [])
            colds.append(middle - begin)
            warms.append(time.process_time() - middle)
    spread = f"{min(ratios):.3f}-{max(ratios):.3f}, n={len(ratios)}"
    print(
        f"recipe / bare fast loop, {args.epochs} epochs of resnet8: {statistics.median(ratios):.3f} ({spread})"
    )
    speed = [c / w for c, w in zip(colds, warms, strict=True)]
    print(
        f"cold / warm store, without imports and report: {statistics.median(speed):.0f} x "
        f"({min(speed):.0f}-{max(speed):.0f}, n={len(speed)})"
    )


if __name__ == "__main__":
    main()
