"""Speed of training flat and of measuring flatness, as ratios of CPU time at one thread, arms taking turns in one run.

    python benchmarks/flatness.py [--seconds 40]

A SAM step stands against the same Train stage with the plain stepper; both are a run of many steps minus a run of a few.
The Hessian's largest eigenvalue stands against one gradient on the same examples and net: a ResNet-20 trained for an
epoch on the embedded Fashion-MNIST, 1,000 images, error bound 1 %; what was found is compared with a value a hundred
times tighter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from compressbench import specs
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.data.load import load
from compressbench.models.draw import drawn
from compressbench.probes.landscape import forms, lanczos, random_direction
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.stages.train import Train
from compressbench.views import View
from distillation import per_step, resnet, timed
from training import bench_of

EXAMPLES = 1000
GOALS = {"sam": 2.05, "eigenvalue": 60}
CASES = {
    "ResNet-20, 3x32x32, batch 128": (20, (3, 32, 32), 128),
    "ResNet-8, 1x28x28, batch 128": (8, (1, 28, 28), 128),
    "ResNet-8, 1x28x28, batch 32": (8, (1, 28, 28), 32),
}


def trained(bench: Bench, state: Any, batch: int, steps: int, stepper: str | None) -> float:
    """Seconds of a Train stage."""
    own: dict[str, Any] = {}
    if stepper:
        own = {"stepper": {specs.TARGET: f"compressbench.training.sam.{stepper}", specs.PARTIAL: True}}
    sgd = {specs.TARGET: "torch.optim.SGD", specs.PARTIAL: True, "momentum": 0.9}
    train = Train(
        length="100000it", stop=f"{steps}it", batch_size=batch, lr=0.01, optimizer=sgd, weight_decay=1e-4,
        validate=None, **own,
    )  # fmt: skip
    return timed(lambda: train.apply(state, bench))


def steppers(title: str, seconds: float) -> None:
    depth, shape, batch = CASES[title]
    bench = bench_of(shape, 4 * batch)
    state = drawn(resnet(depth), bench)
    arms = {
        name: lambda steps, name=name: trained(bench, state, batch, steps, None if name == "plain" else name)
        for name in ("plain", "sam", "asam")
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm(2)
    end, names = time.monotonic() + seconds, list(arms)
    while time.monotonic() < end or len(times["plain"]) < 5:
        names = names[1:] + names[:1]
        for name in names:
            times[name].append(per_step(arms[name]))
    print(f"{title}: {1000 * statistics.median(times['plain']):.1f} ms a plain step")
    for name in ("sam", "asam"):
        pairs = sorted(a / b for a, b in zip(times[name], times["plain"], strict=True))
        middle = f"{pairs[len(pairs) // 4]:.2f}-{pairs[-1 - len(pairs) // 4]:.2f}"
        ratio = statistics.median(times[name]) / statistics.median(times["plain"])
        goal = f"; goal <= {GOALS['sam']:.2f}" if name == "sam" else ""
        print(f"  {name:<6}{ratio:5.2f} x; middle half of rounds {middle}, n={len(pairs)}{goal}")


def eigenvalue(rounds: int) -> None:
    dataset = load(composed([])["dataset"])
    bench = Bench(dataset, seed=0, name="benchmark")
    sgd = {specs.TARGET: "torch.optim.SGD", specs.PARTIAL: True, "momentum": 0.9}
    train = Train(length="1ep", batch_size=128, lr=0.1, optimizer=sgd, weight_decay=1e-4, validate=None)
    state = train.apply(drawn(resnet(20), bench), bench)
    place = dict(forms(View(state, bench), EXAMPLES, 4.0))[""]
    assert not isinstance(place, str)
    landscape = place[0]
    tight = lanczos(
        landscape.product, random_direction(landscape, torch.Generator().manual_seed(9)), 1e-4, 60
    ).value
    print(f"ResNet-20, {dataset.name}, {EXAMPLES} images: largest eigenvalue {tight:.4g}")
    landscape.gradient()
    found = []
    for seed in range(rounds):
        gradient = statistics.median(timed(landscape.gradient) for _ in range(3))
        start = random_direction(landscape, torch.Generator().manual_seed(seed))
        began = time.process_time()
        top = lanczos(landscape.product, start, 0.01)
        spent = (time.process_time() - began) / gradient
        found.append(spent)
        print(
            f"  start {seed}: {spent:5.1f} gradients' time, {top.products} products, off by "
            f"{100 * abs(top.value / tight - 1):.2f} % (bound {100 * top.error / top.value:.2f} %)"
        )
    print(f"  median {statistics.median(found):.1f} gradients, n={rounds}; goal <= {GOALS['eigenvalue']}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{processor()}; {versions()}; CPU time, 1 thread")
    for title in CASES:
        steppers(title, args.seconds)
    eigenvalue(5)


if __name__ == "__main__":
    main()
