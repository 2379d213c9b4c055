"""Texts, deployed: what int8 gains on a Transformer encoder on each runtime, one thread, each against its own fp32.

    python benchmarks/text_deployed.py [--model minilm] [--dataset glosses] [--tokens 32] [--batches 1 16] [--seconds 5]

The states of one net (fp32; int8 of its linear layers by min-max ranges; that and its tables of embeddings; half of the
heads of each layer removed, in fp32 and in int8) are lowered to a runtime and timed in turns, all on the same real
texts, the longest there are. ``minilm`` wants `make weights`; any other model of texts does instead (``encoder``).
Ratios are within one runtime, medians with their intervals. What a runtime leaves in float is said, and how many texts a
file answers as fp32 does.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import numpy as np
import torch

from compressbench import specs
from compressbench.bench import Bench
from compressbench.data.load import load
from compressbench.hardware.exits import lower
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
from compressbench.hardware.openvino_cpu import OpenVINOCPU
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.hardware.torch_cpu import TorchCPU
from compressbench.hardware.turns import ratio
from compressbench.models.draw import drawn
from compressbench.probes.deployed import logits
from compressbench.runs.provenance import processor, versions
from compressbench.specs.compose import composed
from compressbench.stages.quantize import Quantize
from compressbench.stages.shrink import Heads
from compressbench.state import State
from compressbench.views import View


def states_of(overrides: list[str], tokens: int, count: int) -> tuple[Bench, dict[str, State]]:
    """The net as it is drawn or pretrained, and its int8 forms."""
    wanted = [f"dataset.task.length={tokens}", f"dataset.test_size={count}", "dataset.train_size=2000"]
    config = composed([*overrides, *wanted])
    dataset = load(config["dataset"])
    test = dataset.split("test")
    longest = np.argsort(
        -np.asarray(dataset.task.lengths(test)), kind="stable"
    )  # they are timed: the first ones
    splits = {**dataset.splits, "test": test.take(longest)}
    bench = Bench(dataclasses.replace(dataset, splits=splits), seed=0, name="init")
    dense = drawn(config["model"], bench)
    eight = Quantize(examples=128)
    whole = Quantize(examples=128, layers={"@embeddings": {"weights": 8}})
    criterion = {specs.TARGET: "compressbench.criteria.magnitude.magnitude", specs.PARTIAL: True}
    half = Heads(criterion=criterion, fraction=0.5, how="uniform").apply(dense, bench)
    return bench, {
        "fp32": dense,
        "int8": eight.apply(dense, bench),
        "int8, tables": whole.apply(dense, bench),
        "half the heads": half,
        "both": eight.apply(half, bench),
    }


def measure(bench: Bench, states: dict[str, State], batches: list[int], seconds: float) -> None:
    """Prints a table for each runtime."""
    settings: dict[str, Any] = {"batches": tuple(batches), "seconds": seconds}
    for target in (TorchCPU(**settings), OnnxRuntimeCPU(**settings), OpenVINOCPU(**settings)):
        arms = {arm: lower(target, View(state, bench)) for arm, state in states.items()}
        ready = {arm: x for arm, x in arms.items() if isinstance(x, Lowered) and not x.simulated}
        print(type(target).__name__)
        for arm, found in arms.items():
            if isinstance(found, Unsupported):
                print(f"  {arm:<14} {found.why}")
        answers = {arm: logits(x, bench).argmax(dim=1) for arm, x in ready.items()}
        for arm, x in ready.items():
            alike = 100 * float((answers[arm] == answers["fp32"]).float().mean())
            print(
                f"  {arm:<14} {len(x.artefact):>11,} bytes; {x.runtime}; {alike:.1f} % of "
                f"{len(answers[arm])} texts answered as fp32 does"
            )
        for batch in batches:
            timings = dict(zip(ready, target.time(list(ready.values()), batch), strict=True))
            for arm, timing in timings.items():
                faster = ratio(timings["fp32"].estimates, timing.estimates)
                rate = batch * ready[arm].tokens / timing.median
                print(
                    f"  batch {batch:<4}{arm:<14}{1000 * timing.median:9.3f} ms (min {1000 * timing.minimum:.3f}, "
                    f"n={len(timing.seconds)}), {rate:,.0f} tokens/s  {faster} fp32"
                    f"{'  ' + timing.disturbed if timing.disturbed else ''}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--dataset", default="glosses")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; {versions()}; 1 thread")
    bench, states = states_of([f"model={args.model}", f"dataset={args.dataset}"], args.tokens, args.texts)
    measure(bench, states, args.batches, args.seconds)


if __name__ == "__main__":
    main()
