"""ResNet-56 of cheap convolutions (Xie et al. 2019): counts beside the lecture slide's figures, and times.

    python benchmarks/cheap_convolutions.py [--batches 1 32] [--seconds 20] [--compiled]

Random weights and images: only time is measured, CPU time at one thread, the five nets in turns on each runtime. A ratio
is the median of the rounds' ratios, beside it its 95 % bootstrap interval. MACs promise what the last column says.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from typing import Any

import torch

from compressbench import specs
from compressbench.bench import Bench
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
from compressbench.hardware.openvino_cpu import OpenVINOCPU
from compressbench.hardware.target import Lowered
from compressbench.hardware.torch_compiled import TorchCompiled
from compressbench.hardware.torch_cpu import TorchCPU, calls
from compressbench.hardware.turns import in_turns, ratio, stopwatch
from compressbench.models.build import module_of
from compressbench.models.counting import Counts, count, with_norms_and_sums
from compressbench.models.draw import drawn
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.state import State
from compressbench.views import View
from deployment import bench_of

SHAPE = (3, 32, 32)
# The lecture slide's figures of Xie et al. 2019: parameters and FLOPs in millions, error in %.
SLIDE = {
    "standard, A": "0.85 / 126.81 / 6.20",
    "standard, B": "-",
    "group-16": "0.16 / 23.35 / 8.58",
    "depthwise": "0.13 / 20.14 / 9.55",
    "shift": "0.10 / 15.39 / 10.17",
}
BASES = ("standard, A", "group-16")


def nets() -> dict[str, dict[str, Any]]:
    """The specs of all five."""
    rest = {"depth": 56, "shape": "@shape", "classes": "@classes"}
    resnet = {specs.TARGET: "compressbench.models.resnet.CifarResNet", **rest}
    cheap = {specs.TARGET: "compressbench.models.cheap.CheapResNet", **rest}

    def spatial(name: str, **settings: Any) -> dict[str, Any]:
        target = f"compressbench.models.cheap.{name}"
        return {**cheap, "spatial": {specs.TARGET: target, specs.PARTIAL: True, **settings}}

    return {
        "standard, A": {**resnet, "shortcut": "A"},
        "standard, B": {**resnet, "shortcut": "B"},
        "group-16": spatial("grouped", groups=16),
        "depthwise": spatial("depthwise"),
        "shift": spatial("shifted"),
    }


def counted(states: Mapping[str, State]) -> dict[str, Counts]:
    """Prints what is counted, and returns it."""
    modules = {name: module_of(state) for name, state in states.items()}
    counts = {name: count(module, (torch.zeros(1, *SHAPE),)) for name, module in modules.items()}
    print(f"  {'':<14}{'parameters':>12}{'MACs':>14}   slide: M parameters / M FLOPs / error %")
    for name, c in counts.items():
        print(f"  {name:<14}{c.parameters:>12,}{c.macs:>14,}   {SLIDE[name]}")
    whole = with_norms_and_sums(modules["standard, A"], SHAPE)
    print(
        f"  The slide's FLOPs of the standard net: MACs + 2 for each element out of a norm + 1 of a sum, {whole:,}\n"
        "  with shortcut A; those of the three others: MACs alone."
    )
    return counts


def measured(target: Any, states: Mapping[str, State], bench: Bench, counts: Mapping[str, Counts]) -> None:
    """Prints one runtime's times."""
    lowered = {name: target.lower(View(state, bench)) for name, state in states.items()}
    for name, x in lowered.items():
        if not isinstance(x, Lowered):
            print(f"  {name}: {x}")
            return
    print(next(iter(lowered.values())).runtime)
    for batch in target.batches:
        runs, _ = calls(list(lowered.values()), batch)
        timers = [stopwatch(run) for run in runs]
        for timer in timers * 3:
            timer()
        times = dict(zip(lowered, in_turns(timers, target.seconds, 20), strict=True))
        for name, own in times.items():
            words = "".join(
                f"{base} / this {ratio(times[base].cpu, own.cpu)}, MACs {counts[base].macs / counts[name].macs:5.2f}   "
                for base in BASES
            )
            print(
                f"  batch {batch:<3}{name:<12}{1000 * statistics.median(own.cpu):9.3f} ms (n={len(own.cpu)})  {words}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--seconds", type=float, default=20, help="of timing, a runtime and batch size")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too: minutes of compiling")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"ResNet-56, {'x'.join(map(str, SHAPE))}; {processor()}; {versions()}; CPU time, 1 thread")
    bench = bench_of(SHAPE[1], 10, max(*args.batches, 16))
    states = {name: drawn({"name": name, "build": build}, bench) for name, build in nets().items()}
    counts = counted(states)
    settings: dict[str, Any] = {"batches": tuple(args.batches), "seconds": args.seconds}
    targets: list[Any] = [TorchCPU(**settings), OnnxRuntimeCPU(**settings), OpenVINOCPU(**settings)]
    for target in [*targets, *([TorchCompiled(**settings)] if args.compiled else [])]:
        measured(target, states, bench, counts)


if __name__ == "__main__":
    main()
