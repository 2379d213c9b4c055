"""Training speed: our loop against a bare eager loop, as ratios of CPU time at one thread, side by side in one run.

    python benchmarks/training.py [--seconds 60]

Each arm is a process of its own, taking turns, because ours changes the allocator for its process.

The bare loop is what a research repository does: float NCHW tensors in memory, ``torch.optim.SGD`` (or Adam) with its
defaults, batch norm, no mask. Ours is the whole Train stage on the store-less bench: uint8 data, encoding per batch,
channels_last, fused optimiser, seeds per step, checks of the loss; masks on every weight where the line says so.

Last, what gradual pruning by magnitude costs: a training that prunes after every step against one that never does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.nn.functional as F

from compressbench import specs
from compressbench.bench import Bench
from compressbench.data.dataset import Dataset, Split
from compressbench.masks import masked
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.pruning.unstructured import whole_masks
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.stages.train import Train
from compressbench.tasks.images.classification import Classification


def bench_of(shape: tuple[int, int, int], count: int) -> Bench:
    rng = np.random.default_rng(0)
    split = Split.of(rng.integers(0, 256, (count, *shape), dtype=np.uint8), rng.integers(0, 10, count))
    each = (0.5,) * shape[0], (0.25,) * shape[0]
    dataset = Dataset(
        "noise", {"train": split, "test": split}, Classification(tuple("abcdefghij"), *each, shape)
    )
    return Bench(dataset, seed=0, name="init")


def bare(model: dict, bench: Bench, batch: int, adam: bool) -> Callable[[int], None]:
    module = module_of(drawn(model, bench)).train()
    images = bench.task.normalised(bench.feed("train")["images"])
    labels = bench.feed("train").labels
    if adam:
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    else:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def run(steps: int) -> None:
        rows = torch.randperm(len(labels))
        for step in range(steps):
            at = (step * batch) % (len(labels) - batch + 1)
            picked = rows[at : at + batch]
            optimizer.zero_grad()
            F.cross_entropy(module(images[picked]), labels[picked]).backward()
            optimizer.step()

    return run


def ours(
    model: dict, bench: Bench, batch: int, adam: bool, precision: str, masks: bool
) -> Callable[[int], None]:
    state = drawn(model, bench)
    if masks:
        state = masked(state, whole_masks(state))
    target = "torch.optim.Adam" if adam else "torch.optim.SGD"
    extra = {} if adam else {"momentum": 0.9}
    optimizer = {specs.TARGET: target, specs.PARTIAL: True, **extra}

    def run(steps: int) -> None:
        Train(
            length="100000it", stop=f"{steps}it", batch_size=batch, lr=1e-3 if adam else 0.1, optimizer=optimizer,
            weight_decay=0.0 if adam else 1e-4, precision=precision, validate=None,
        ).apply(state, bench)  # fmt: skip

    return run


def serve(pipe: Connection, arm: str, title: str, steps: int) -> None:
    """A worker: runs ``steps`` iterations whenever asked, answers with its CPU seconds an iteration."""
    torch.set_num_threads(1)
    model, shape, batch, adam = CASES[title]
    bench = bench_of(shape, 6000)
    if arm == "bare":
        run = bare(model, bench, batch, adam)
    else:
        keep_freed_memory()
        run = ours(model, bench, batch, adam, "bf16" if "bf16" in arm else "fp32", "masks" in arm)
    run(2)
    while pipe.recv():
        began = time.process_time()
        run(steps)
        pipe.send((time.process_time() - began) / steps)


def ratios(title: str, arms: tuple[str, ...], steps: int, seconds: float) -> None:
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for arm in arms:
        pipes[arm], there = context.Pipe()
        workers.append(context.Process(target=serve, args=(there, arm, title, steps), daemon=True))
        workers[-1].start()
        there.close()
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times["bare"]) < 3:
        for arm, pipe in pipes.items():
            pipe.send(True)
            times[arm].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    for arm, found in times.items():
        pairs = [b / t for b, t in zip(times["bare"], found, strict=True)]
        middle, spread = statistics.median(pairs), f"{min(pairs):.2f}-{max(pairs):.2f}"
        print(
            f"  {arm:<14}{1000 * statistics.median(found):9.2f} ms/step {middle:6.2f} x bare ({spread}, n={len(pairs)})"
        )


def gradual(title: str, steps: int) -> None:
    """What one pruning of a gradual schedule takes, and its share of a step when it comes every 100 steps."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model, shape, batch, adam = CASES[title]
    bench = bench_of(shape, 6000)
    state = drawn(model, bench)
    folder = "compressbench.training.reparametrisations.gradual.gradual"
    spec = {specs.TARGET: folder, "criterion": "magnitude", "scope": "global", "grain": "weight"}
    often = {"gradual": specs.expand({**spec, "start": 0.0, "stop": 1.0, "every": "1it"})}
    never = {"gradual": specs.expand({**spec, "start": 1.0, "stop": 1.0, "every": "1it"})}
    optimizer = {specs.TARGET: f"torch.optim.{'Adam' if adam else 'SGD'}", specs.PARTIAL: True}
    times: dict[str, list[float]] = {"never": [], "often": []}
    for _ in range(4):
        for arm, methods in (("never", never), ("often", often)):
            stage = Train(
                length=f"{steps}it", batch_size=batch, lr=1e-3, optimizer=optimizer, validate=None,
                reparametrise=methods,
            )  # fmt: skip
            began = time.process_time()
            stage.apply(state, bench)
            times[arm].append((time.process_time() - began) / steps)
    step, more = min(times["never"]), min(times["often"])
    print(
        f"  gradual: a pruning {1000 * (more - step):.2f} ms, {(more - step) / step:.0%} of a step, "
        f"{(more - step) / step / 100:.2%} when every 100 steps"
    )


RESNET = {
    "_target_": "compressbench.models.resnet.CifarResNet",
    "depth": 20,
    "shape": "@shape",
    "classes": "@classes",
}
LENET = {"_target_": "compressbench.models.lenet.LeNet300100", "shape": "@shape", "classes": "@classes"}
CASES: dict[str, tuple[dict, tuple[int, int, int], int, bool]] = {
    "ResNet-20, 3x32x32, batch 128, SGD": ({"name": "resnet20", "build": RESNET}, (3, 32, 32), 128, False),
    "LeNet-300-100, 1x28x28, batch 60, Adam": ({"name": "lenet", "build": LENET}, (1, 28, 28), 60, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    print(f"{processor()}; {versions()}; CPU time, 1 thread")
    for title, (_, _, _, adam) in CASES.items():
        print(title)
        ratios(title, ("bare", "fp32", "fp32, masks", "bf16"), 400 if adam else 8, args.seconds)
        gradual(title, 100 if adam else 8)


if __name__ == "__main__":
    main()
