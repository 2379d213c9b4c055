"""Evaluation speed: our forward and PGD against bare ones, as ratios of CPU time at one thread, side by side.

    python benchmarks/evaluation.py [--seconds 30] [--section forward|pgd]

Each arm is a process of its own, taking turns, because ours changes the allocator for its process. A ratio is
that of two neighbouring turns; its median, its range and its number are printed.

forward  The bare arms run float NCHW tensors through the module in evaluation mode under ``no_grad``. Ours is
         what probes do: uint8 images, encoded per batch, prepared module, log-probabilities. ResNet-20.
pgd      The naive arm is what a tutorial does: evaluation mode, NCHW, parameters that require gradients,
         ``loss.backward()``, all steps for all images. Ours with all steps does the same work; ours as
         shipped leaves an image alone once it has fallen, so how much that saves depends on the model: here a
         ResNet-20 trained for two epochs on 4,000 Fashion-MNIST images, eps 8/255, ten steps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from compressbench.bench import Bench
from compressbench.data.dataset import Dataset, Split
from compressbench.data.load import load
from compressbench.models.build import fill
from compressbench.models.draw import drawn
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.tasks.images import attacks, specs
from compressbench.tasks.images.classification import Classification
from compressbench.views import BATCH, View

RESNET = {
    "_target_": "compressbench.models.resnet.CifarResNet",
    "depth": 20,
    "shape": "@shape",
    "classes": "@classes",
}
FASHION = {
    "name": "fashion_mnist",
    "read": {"_target_": "compressbench.data.idx.fashion_mnist"},
    "train_size": 4000,
}
EPS, STEPS, ATTACKED, SEEN = 8 / 255, 10, 256, 512
FORWARD = ("bare, batch 64", "bare, batch 128", "bare, batch 512", "ours")
PGD = ("naive", "ours, all steps", "ours, until it falls")
ARMS = {"forward": FORWARD, "pgd": PGD}


def noise_bench() -> Bench:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SEEN, 3, 32, 32), dtype=np.uint8)
    split = Split.of(images, rng.integers(0, 10, SEEN))
    dataset = Dataset(
        "noise",
        {"train": split, "test": split},
        Classification(tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, images.shape[1:]),
    )
    return bench_of(dataset)


def bench_of(dataset: Dataset) -> Bench:
    return Bench(dataset, seed=0, name="init")


def trained() -> State:
    """A net worth attacking; seconds on one core."""
    bench = bench_of(load(FASHION))
    optimizer = {specs.TARGET: "torch.optim.SGD", specs.PARTIAL: True, "momentum": 0.9}
    stage = Train(length="2ep", batch_size=64, lr=0.05, optimizer=optimizer, validate=None)
    return stage.apply(drawn({"name": "resnet20", "build": RESNET}, bench), replace(bench, name="dense"))


def forward_of(arm: str) -> Callable[[], None]:
    bench = noise_bench()
    view = View(drawn({"name": "resnet20", "build": RESNET}, bench), bench)
    if arm == "ours":

        def ours() -> None:
            view.log_probs_of("test", SEEN)

        return ours
    module, images = view.module, bench.task.normalised(bench.feed("test")["images"])
    size = int(arm.rpartition(" ")[2])

    def run() -> None:
        with torch.no_grad():
            for part in images.split(size):
                F.log_softmax(module(part), dim=-1)

    return run


def pgd_of(arm: str, weights: Path) -> Callable[[], None]:
    bench = bench_of(load(FASHION))
    view = View(State(fill(RESNET, bench.dataset), {"weights": load_file(weights)}), bench)
    feed, task = bench.feed("test"), bench.task
    rows = torch.randperm(len(feed), generator=torch.Generator().manual_seed(0))[:ATTACKED]
    images, labels = task.normalised(feed["images"][rows]), feed.labels[rows]
    ball = attacks.Ball(task.surface(), EPS)
    start = attacks.random_start(images, ball, torch.Generator().manual_seed(0))
    if arm != "naive":
        drop = arm.endswith("falls")

        def ours() -> None:
            attacks.pgd(
                view.fast,
                images,
                labels,
                task.loss,
                ball,
                steps=STEPS,
                step=EPS / 4,
                start=start,
                drop_fallen=drop,
            )

        return ours
    module, (low, high, scale) = view.module, (ball.surface.low, ball.surface.high, ball.surface.scale)

    def naive() -> None:
        for clean, begin, at in zip(*(x.split(BATCH) for x in (images, start, labels)), strict=True):
            x = begin
            for _ in range(STEPS):
                x = x.detach().requires_grad_()
                F.cross_entropy(module(x), at).backward()
                x = x.detach() + EPS / 4 * scale * x.grad.sign()
                x = torch.minimum(torch.maximum(x, clean - EPS * scale), clean + EPS * scale)
                x = torch.minimum(torch.maximum(x, low), high)

    return naive


def serve(pipe: Connection, section: str, arm: str, weights: Path) -> None:
    """A worker: does its piece of work whenever asked, answers with its CPU seconds."""
    torch.set_num_threads(1)
    if arm.startswith("ours"):
        keep_freed_memory()
    run = forward_of(arm) if section == "forward" else pgd_of(arm, weights)
    run()
    while pipe.recv():
        began = time.process_time()
        run()
        pipe.send(time.process_time() - began)


def ratios(section: str, images: int, seconds: float, weights: Path) -> None:
    context = multiprocessing.get_context("spawn")
    pipes, workers, times = {}, [], {arm: [] for arm in ARMS[section]}
    for arm in ARMS[section]:
        pipes[arm], there = context.Pipe()
        workers.append(context.Process(target=serve, args=(there, section, arm, weights), daemon=True))
        workers[-1].start()
        there.close()  # or a worker that dies would leave us waiting
    end = time.monotonic() + seconds
    while time.monotonic() < end or any(len(t) < 5 for t in times.values()):
        for arm, pipe in pipes.items():
            pipe.send(True)
            times[arm].append(pipe.recv())
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.send(False)
        worker.join()
    base = ARMS[section][0]
    for arm, found in times.items():
        pairs = [b / t for b, t in zip(times[base], found, strict=True)]
        middle, spread = statistics.median(pairs), f"{min(pairs):.2f}-{max(pairs):.2f}, n={len(pairs)}"
        print(f"  {arm:<22}{images / statistics.median(found):8.0f} images/s {middle:6.2f} x ({spread})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--section", choices=ARMS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; {versions()}; CPU time, 1 thread")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        if args.section in (None, "forward"):
            print("forward: ResNet-20, 3x32x32")
            ratios("forward", SEEN, args.seconds, weights)
        if args.section in (None, "pgd"):
            save_file(dict(trained().weights), weights)
            print(f"pgd: ResNet-20, 1x28x28, eps 8/255, {STEPS} steps, {ATTACKED} images")
            ratios("pgd", ATTACKED, args.seconds, weights)


if __name__ == "__main__":
    main()
