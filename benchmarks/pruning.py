"""Pruning speed in CPU time at one thread: Fisher saliency against ordinary training, and masks of 25 M weights.

    python benchmarks/pruning.py [--seconds 40]

Fisher: the whole criterion obd_fisher on ResNet-20 over 1,000 images (module built, images encoded, per-example
gradients), against forward and backward over the same images in batches of 128, taking turns in one process.

Masks: the whole Prune stage (|w|, one pool, 90 % go) on a state of 25.5 M weights in 54 tensors, and its peak memory on
top of the state (with the new one), as a multiple of the state's weights; each in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F

from compressbench import specs
from compressbench.bench import Bench
from compressbench.criteria.given import Given
from compressbench.criteria.obd_fisher import obd_fisher
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.pruning.unstructured import whole_masks
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.stages.prune import Prune
from compressbench.state import State
from training import RESNET, bench_of

IMAGES = 1000
PAGE = resource.getpagesize()


def fisher(bench: Bench, state: State) -> Callable[[], None]:
    weights = {n: state.weights[n] for n in state.facts["prunable"]}
    given = Given(weights, whole_masks(state), state, bench)

    def run() -> None:
        obd_fisher(given, examples=IMAGES)

    return run


def ordinary(bench: Bench, state: State) -> Callable[[], None]:
    module = module_of(state).train()
    images, labels = bench.task.normalised(bench.feed("train")["images"]), bench.feed("train").labels

    def run() -> None:
        for rows in torch.arange(IMAGES).split(128):
            module.zero_grad()
            F.cross_entropy(module(images[rows]), labels[rows]).backward()

    return run


def fisher_against_ordinary(seconds: float) -> None:
    bench = bench_of((3, 32, 32), IMAGES)
    state = drawn({"name": "resnet20", "build": RESNET}, bench)
    arms = {"ordinary": ordinary(bench, state), "fisher": fisher(bench, state)}
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times["fisher"]) < 3:
        for arm, run in arms.items():
            began = time.process_time()
            run()
            times[arm].append(time.process_time() - began)
    pairs = [f / o for f, o in zip(times["fisher"], times["ordinary"], strict=True)]
    seconds_each = ", ".join(f"{arm} {statistics.median(found):.2f} s" for arm, found in times.items())
    print(
        f"  {statistics.median(pairs):.2f} x ordinary ({min(pairs):.2f}-{max(pairs):.2f}, n={len(pairs)}): {seconds_each}"
    )


def large_state() -> State:
    """As many prunable weights as ResNet-50, in as many tensors, from 2.4 M down to 4 K."""
    sizes = [(512, 4608)] * 3 + [(2048, 512)] * 6 + [(1024, 256)] * 24 + [(64, 64)] * 20
    sizes += [(25_500_000 - sum(a * b for a, b in sizes), 1)]
    generator = torch.Generator().manual_seed(0)
    weights = {f"layer{i}.weight": torch.randn(size, generator=generator) for i, size in enumerate(sizes)}
    prunable = {name: w.numel() for name, w in weights.items()}
    facts = {"prunable": prunable, "whole": sum(prunable.values()), "density": 1.0}
    return State(model={}, tensors={"weights": weights}, facts=facts)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def peak() -> int:
    """Bytes; ``VmHWM`` is the process's own, ``ru_maxrss`` may be its parent's."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def serve(pipe: Connection, again: bool) -> None:
    """A worker: CPU seconds of the stage on the large state, and the peak on top in multiples of its weights."""
    torch.set_num_threads(1)
    keep_freed_memory()
    bench, state = bench_of((3, 8, 8), 10), large_state()
    criterion = {specs.TARGET: "compressbench.criteria.magnitude.magnitude", specs.PARTIAL: True}
    if again:
        for weight in state.weights.values():
            weight[weight.abs() < 0.25] = 0
        state = state.with_groups(masks={n: w != 0 for n, w in state.weights.items()})
    before = resident()
    began = time.process_time()
    pruned = Prune(criterion, fraction=0.9).apply(state, bench)
    took = time.process_time() - began
    whole = sum(w.numel() * w.element_size() for w in state.weights.values())
    kept = sum(int(m.sum()) for m in pruned.masks.values())
    pipe.send((took, (peak() - before) / whole, kept))


def masks_of_many(again: bool, times: int = 3) -> None:
    context = multiprocessing.get_context("spawn")
    found = []
    for _ in range(times):
        here, there = context.Pipe()
        worker = context.Process(target=serve, args=(there, again), daemon=True)
        worker.start()
        there.close()
        found.append(here.recv())
        worker.join()
    took, more, kept = zip(*found, strict=True)
    title = "after 20 % are gone" if again else "at once"
    print(
        f"  {title:<20}{statistics.median(took):.2f} s ({min(took):.2f}-{max(took):.2f}, n={times}), "
        f"peak {max(more):.2f} x the weights on top of them, {kept[0]:,} kept"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{processor()}; {versions()}; CPU time, 1 thread")
    print(f"Fisher saliency, ResNet-20, {IMAGES:,} images of 3x32x32")
    fisher_against_ordinary(args.seconds)
    print("Global magnitude pruning of 25.5 M weights to 10 %")
    masks_of_many(again=False)
    masks_of_many(again=True)


if __name__ == "__main__":
    main()
