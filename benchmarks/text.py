"""Training on texts: ours against a bare loop, and batches of like length against all padded to the longest of the set.

    python benchmarks/text.py [--seconds 120]

The net is the encoder of ``model=encoder`` (4 layers, 256 wide), the texts are the 10,000 definitions that come with the
package, at most 32 tokens each, batches of 64, AdamW; CPU time at one thread, in turns, each arm a process of its own.

The bare loop is what a research repository does: a tensor of ids a text, batches of like length made beforehand (the very
rows that ours takes, so that both see as many tokens; their making is not counted), ``pad_sequence``, the mask from the
lengths, ``torch.optim.AdamW`` with its defaults. Ours is the whole Train stage: order, sorting, padding, seeds per step,
checks of the loss. ``padded`` is ours by a task that says no lengths and pads every batch to the longest text of the set,
with batches as they are shuffled.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.data.load import load
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.specs import PARTIAL, TARGET
from compressbench.stages.train import Train
from compressbench.training import loop
from compressbench.training.batches import Batches
from compressbench.walking import lengths_of

BATCH = 64
ARMS = ("bare, sorted", "ours", "ours, padded")
GOALS = {"bare, sorted": 1.0, "ours, padded": 1.5}


class Padded:
    """A task whose batches are all as long as the longest text, as one that says no lengths."""

    def __init__(self, task: Any, width: int) -> None:
        self.task, self.width = task, width

    def __getattr__(self, name: str) -> Any:
        if name == "lengths":
            raise AttributeError(name)
        return getattr(self.__dict__["task"], name)

    def encode(self, examples: Any, variation: Any = None) -> tuple[torch.Tensor, ...]:
        """ids and mask, (n, width)."""
        ids, there = examples["ids"].padded(self.task.tokenizer.pad, self.width)
        return ids.long(), there.long()


def stage(steps: int) -> Train:
    """Some iterations of a long training."""
    return Train(
        length="100000it", stop=f"{steps}it", batch_size=BATCH, lr=5e-4, weight_decay=0.01, validate=None,
        optimizer={TARGET: "torch.optim.AdamW", PARTIAL: True},
    )  # fmt: skip


def ready(arm: str) -> tuple[Bench, dict[str, Any]]:
    config = composed(["recipe=one_shot", "dataset=glosses", "model=encoder"])
    dataset = load(config["dataset"])
    if arm == "ours, padded":
        longest = int(lengths_of(dataset.task, dataset.split("train")).max())  # type: ignore[union-attr]
        dataset = replace(dataset, task=Padded(dataset.task, longest))
    return Bench(dataset, seed=0, name="init", say=lambda text: None), config["model"]


def ours(bench: Bench, model: dict[str, Any]) -> Callable[[int], None]:
    state = drawn(model, bench)

    def train(steps: int) -> None:
        stage(steps).apply(state, bench)

    return train


def bare(bench: Bench, model: dict[str, Any]) -> Callable[[int], None]:
    state, feed = drawn(model, bench), bench.feed("train")
    ids = feed["ids"]
    texts = [ids[[place]].values.long() for place in range(len(feed))]
    run = loop._run(stage(1), bench)
    made = Batches(run, bench.task, [0], len(feed), "cpu", lengths_of(bench.task, feed))
    rows = [made.at(step)[0].tolist() for step in range(run.per_epoch)]

    def train(steps: int) -> None:
        module = module_of(state).train()
        optimizer = torch.optim.AdamW(module.parameters(), lr=5e-4)
        for batch in rows[:steps]:
            some = [texts[i] for i in batch]
            inputs = pad_sequence(some, batch_first=True)
            sizes = torch.tensor([len(text) for text in some])
            mask = (torch.arange(inputs.shape[1]) < sizes[:, None]).long()
            optimizer.zero_grad()
            F.cross_entropy(module(inputs, mask), feed.labels[batch]).backward()
            optimizer.step()

    return train


def serve(pipe: Connection, arm: str, steps: int) -> None:
    """A worker: runs ``steps`` iterations whenever asked, answers with its CPU seconds an iteration."""
    torch.set_num_threads(1)
    if arm != "bare, sorted":
        keep_freed_memory()
    run = (bare if arm == "bare, sorted" else ours)(*ready(arm))
    run(2)
    while pipe.recv():
        began = time.process_time()
        run(steps)
        pipe.send((time.process_time() - began) / steps)


def measured(steps: int, seconds: float) -> dict[str, list[float]]:
    """CPU seconds an iteration of each arm, turn by turn, three turns at least."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for arm in ARMS:
        pipes[arm], there = context.Pipe()
        workers.append(context.Process(target=serve, args=(there, arm, steps), daemon=True))
        workers[-1].start()
        there.close()
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times["ours"]) < 3:
        for arm, pipe in pipes.items():
            pipe.send(True)
            times[arm].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    for worker in workers:
        worker.join()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120, help="how long at least")
    parser.add_argument("--steps", type=int, default=24, help="iterations a turn")
    given = parser.parse_args()
    print(f"{processor()}, one thread, {versions()}")
    times = measured(given.steps, given.seconds)
    for arm, found in times.items():
        print(f"{arm:14s} {1e3 * statistics.median(found):7.1f} ms an iteration, {len(found)} turns")
    for arm, goal in GOALS.items():
        each = [other / own for own, other in zip(times["ours"], times[arm], strict=True)]
        spread = f"{min(each):.2f} to {max(each):.2f}"
        print(f"ours against {arm}: {statistics.median(each):.2f} x ({spread}), wanted {goal:g} x")


if __name__ == "__main__":
    main()
