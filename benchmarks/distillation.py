"""Distillation speed, as ratios of CPU time at one thread, all arms taking turns in one run.

    python benchmarks/distillation.py [--seconds 60]

The baseline is what a step cannot do without: a step of the student on its labels, plus a forward of the teacher (the
plain module, evaluation mode, ``no_grad``, ``channels_last``, eager). Ours is the whole Train stage with the ``distill``
objective. Where nothing is augmented the teacher's logits are computed once: a step then stands against the student's
alone, and what fills the table is stated apart, a call by itself.

A round runs every arm once, in another order each time; a ratio is that of two arms of one round. What a stage does
before its first step is in no figure: a run of many steps minus a run of a few.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from compressbench import specs
from compressbench.bench import Bench
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.training.distillation import distill
from training import bench_of

BATCH = 128
EXAMPLES = 512
FEW, MORE = 2, 8
GOALS = {"distill, augmented": 1.10, "distill, cached": 1.05}
CASES = {
    "ResNet-20 from ResNet-56, 3x32x32, batch 128": (20, 56, (3, 32, 32)),
    "ResNet-8 from ResNet-14, 1x28x28, batch 128": (8, 14, (1, 28, 28)),
}
Arm = Callable[[int], float]


def resnet(depth: int) -> dict[str, Any]:
    target = "compressbench.models.resnet.CifarResNet"
    build = {specs.TARGET: target, "depth": depth, "shape": "@shape", "classes": "@classes"}
    return {"name": f"resnet{depth}", "build": build}


def timed(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def stage(state: State, bench: Bench, augment: bool, objective: Mapping[str, Any] | None = None) -> Arm:
    """Seconds of a Train stage of so many steps."""
    own = {} if objective is None else {"objective": specs.expand(objective, "objective")}
    sgd = {specs.TARGET: "torch.optim.SGD", specs.PARTIAL: True, "momentum": 0.9}

    def run(steps: int) -> float:
        train = Train(
            length="100000it", stop=f"{steps}it", batch_size=BATCH, lr=0.01, optimizer=sgd, weight_decay=1e-4,
            validate=None, augment=augment, **own,
        )  # fmt: skip
        return timed(lambda: train.apply(state, bench))

    return run


def plain_teacher(teacher: State, bench: Bench) -> Arm:
    """Seconds of so many forwards."""
    module = module_of(teacher).to(memory_format=torch.channels_last)
    images = bench.feed("train")["images"][:BATCH]
    inputs = bench.task.normalised(images).contiguous(memory_format=torch.channels_last)

    def run(steps: int) -> float:
        def forwards() -> None:
            with torch.no_grad():
                for _ in range(steps):
                    module(inputs)

        return timed(forwards)

    return run


def per_step(arm: Arm) -> float:
    """Seconds a step, without what comes before the first."""
    few = arm(FEW)
    return (arm(MORE) - few) / (MORE - FEW)


def measure(title: str, seconds: float) -> None:
    small, large, shape = CASES[title]
    bench = bench_of(shape, EXAMPLES)
    bench = replace(bench, dataset=replace(bench.dataset, augment={"pad": 4, "flip": True}))
    student, teacher = drawn(resnet(small), bench), drawn(resnet(large), bench)
    bench = replace(bench, references={"teacher": teacher})
    folder = "compressbench.training.distillation"
    soft = {specs.TARGET: f"{folder}.distill", specs.PARTIAL: True, "teacher": ("teacher",)}
    points = {f"layer{k}": f"layer{k}" for k in (1, 2, 3)}
    attention = {
        **soft,
        specs.TARGET: f"{folder}.mimic",
        "points": points,
        "feature": "attention",
        "beta": 1000.0,
    }
    arms = {
        "student, augmented": stage(student, bench, True),
        "student": stage(student, bench, False),
        "teacher": plain_teacher(teacher, bench),
        "distill, augmented": stage(student, bench, True, soft),
        "distill, cached": stage(student, bench, False, soft),
        "mimic, attention": stage(student, bench, True, attention),
    }
    for arm in arms.values():
        arm(FEW)
    fill = [timed(lambda: distill(bench, ("teacher",)).whole()) for _ in range(2)]  # type: ignore[attr-defined]
    begin = timed(lambda: distill(bench, ("teacher",)))
    times: dict[str, list[float]] = {name: [] for name in arms}
    end, names = time.monotonic() + seconds, list(arms)
    while time.monotonic() < end or len(times["teacher"]) < 5:
        names = names[1:] + names[:1]
        for name in names:
            times[name].append(per_step(arms[name]))
    print(title)
    for name in ("student, augmented", "student", "teacher"):
        print(f"  {name:<20}{1000 * statistics.median(times[name]):9.1f} ms")
    both = [s + t for s, t in zip(times["student, augmented"], times["teacher"], strict=True)]
    baselines = {"distill, augmented": both, "distill, cached": times["student"], "mimic, attention": both}
    for name, base in baselines.items():
        own = times[name]
        ratio = statistics.median(own) / statistics.median(base)
        pairs = sorted(o / b for o, b in zip(own, base, strict=True))
        middle = f"{pairs[len(pairs) // 4]:.2f}-{pairs[-1 - len(pairs) // 4]:.2f}"
        against = "student" if name == "distill, cached" else "student + teacher"
        goal = f"goal <= {GOALS[name]:.2f}" if name in GOALS else "for information"
        print(
            f"  {name:<20}{1000 * statistics.median(own):9.1f} ms  {ratio:5.2f} x ({against}); middle half of rounds "
            f"{middle}, n={len(pairs)}; {goal}"
        )
    filling = (min(fill) - begin) / EXAMPLES
    step = statistics.median(times["teacher"]) / BATCH
    print(
        f"  filling the table    {1e6 * filling:8.0f} us an image, {filling / step:.2f} x a plain teacher's forward; "
        f"the objective's beginning {begin:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{processor()}; {versions()}; CPU time, 1 thread")
    for title in CASES:
        measure(title, args.seconds)


if __name__ == "__main__":
    main()
