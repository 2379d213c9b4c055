"""Deployment: what int8 and fewer channels gain on each runtime, one thread, each against its own fp32.

    python benchmarks/deployment.py [--net resnet18 resnet20] [--batches 1 32] [--seconds 5]

Random weights and images: only time is measured. Four states of one net (fp32, int8 by min-max ranges, half of the
channels, both) are lowered to a runtime and timed in turns, with bf16 where the runtime has it; medians, n beside
them. int8 of a runtime that leaves layers in float says which. Seconds to lower and compile are told apart.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from compressbench import specs
from compressbench.bench import Bench
from compressbench.data.dataset import Dataset, Split
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
from compressbench.hardware.openvino_cpu import OpenVINOCPU
from compressbench.hardware.target import Lowered
from compressbench.hardware.torch_compiled import TorchCompiled
from compressbench.hardware.torch_cpu import TorchCPU
from compressbench.hardware.turns import ratio
from compressbench.models.draw import drawn
from compressbench.probes.deployed import baselines
from compressbench.runs.provenance import processor, versions
from compressbench.stages.quantize import Quantize
from compressbench.stages.shrink import Channels
from compressbench.state import State
from compressbench.tasks.images.classification import Classification
from compressbench.views import View

NETS: dict[str, tuple[dict[str, Any], int, int]] = {
    "resnet18": (
        {"_target_": "compressbench.models.resnet.ImageNetResNet", "depth": 18, "small_input": False},
        224,
        1000,
    ),
    "resnet20": ({"_target_": "compressbench.models.resnet.CifarResNet", "depth": 20}, 32, 10),
}


def bench_of(size: int, classes: int, count: int) -> Bench:
    """Random images with random labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    split = Split.of(images, rng.integers(0, classes, count))
    names = tuple(map(str, range(classes)))
    dataset = Dataset(
        "random",
        {"train": split, "validation": split, "test": split},
        Classification(names, (0.5,) * 3, (0.25,) * 3, images.shape[1:]),
    )
    return Bench(dataset, seed=0, name="init")


def states_of(name: str, bench: Bench) -> dict[str, State]:
    """The net, its int8 form, half of its channels, both."""
    build = {**NETS[name][0], "shape": "@shape", "classes": "@classes"}
    dense = drawn({"name": name, "build": build}, bench)
    criterion = {specs.TARGET: "compressbench.criteria.magnitude.magnitude", specs.PARTIAL: True}
    half = Channels(criterion=criterion, fraction=0.5).apply(dense, bench)
    eight = Quantize(examples=16)
    return {
        "fp32": dense,
        "int8": eight.apply(dense, bench),
        "half": half,
        "half, int8": eight.apply(half, bench),
    }


def measure(name: str, batches: list[int], seconds: float) -> None:
    """Prints one net's table for each runtime."""
    _, size, classes = NETS[name]
    bench = bench_of(size, classes, max(*batches, 16))
    states = states_of(name, bench)
    settings: dict[str, Any] = {"batches": tuple(batches), "seconds": seconds}
    targets = (
        TorchCPU(**settings),
        TorchCompiled(**settings),
        OnnxRuntimeCPU(**settings),
        OnnxRuntimeCPU(results=True, **settings),
        OpenVINOCPU(**settings),
    )
    for target in targets:
        arms = {arm: target.lower(View(state, bench)) for arm, state in states.items()}
        if "bf16" in baselines(target):
            arms["bf16"] = baselines(target)["bf16"].lower(View(states["fp32"], bench))
        ready = {arm: x for arm, x in arms.items() if isinstance(x, Lowered)}
        print(f"{name} at {size} px, {type(target).__name__}")
        for arm, x in ready.items():
            print(
                f"  {arm:<12} lowered in {x.compile_seconds:5.2f} s, {len(x.artefact):>10,} bytes; {x.runtime}"
            )
        for batch in batches:
            timings = dict(zip(ready, target.time(list(ready.values()), batch), strict=True))
            for arm, timing in timings.items():
                found = ratio(timings["fp32"].estimates, timing.estimates)
                print(
                    f"  batch {batch:<4}{arm:<12}{1000 * timing.median:9.3f} ms "
                    f"(min {1000 * timing.minimum:.3f}, n={len(timing.seconds)})  {found} fp32"
                    f"{'  ' + timing.disturbed if timing.disturbed else ''}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; {versions()}; 1 thread")
    for name in args.net:
        measure(name, args.batches, args.seconds)


if __name__ == "__main__":
    main()
