"""Dataset distillation's unrolled steps, as ratios of CPU time at one thread, all arms taking turns in one run.

    python benchmarks/dataset_distillation.py [--seconds 60]

An outer iteration needs, for each inner step, a forward and a backward on that step's pictures and the backward through
both (the double backward), and once a forward and a backward on the real examples. ``needed`` is those parts by
themselves: one inner step, timed alone on fixed weights, times the number of steps, plus the real batch. ``bare`` is a
minimal loop: the net written out in functions, tensors encoded beforehand, no optimiser. Ours is the whole stage
(encoding, ``functional_call``, Adam, the check of the loss): a run of many iterations minus one of a few.

The goal is ours at most 1.3 x what is needed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench import specs
from compressbench.hardware.turns import ratio
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.stages.condense import Distilled
from training import bench_of

FEW, MORE = 1, 4
EXAMPLES, GOAL = 2048, 1.3
Arm = Callable[[], float]


def lenet_5(w: dict[str, Tensor], x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(F.conv2d(x, w["features.0.weight"], w["features.0.bias"], padding=2)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, w["features.3.weight"], w["features.3.bias"])), 2).flatten(1)
    x = F.relu(F.linear(x, w["hidden.0.weight"], w["hidden.0.bias"]))
    x = F.relu(F.linear(x, w["hidden.2.weight"], w["hidden.2.bias"]))
    return F.linear(x, w["fc.weight"], w["fc.bias"])


def lenet_300_100(w: dict[str, Tensor], x: Tensor) -> Tensor:
    x = F.relu(F.linear(x.flatten(1), w["hidden.0.weight"], w["hidden.0.bias"]))
    x = F.relu(F.linear(x, w["hidden.2.weight"], w["hidden.2.bias"]))
    return F.linear(x, w["fc.weight"], w["fc.bias"])


CASES = {
    # title: (net, the same in functions, sets, passes, real examples)
    "LeNet-5, 10 sets x 3 passes of 10 pictures, 512 real": ("LeNet5", lenet_5, 10, 3, 512),
    "LeNet-5, 1 set x 3 passes of 10 pictures, 512 real": ("LeNet5", lenet_5, 1, 3, 512),
    "LeNet-300-100, 10 sets x 3 passes of 10 pictures, 512 real": ("LeNet300100", lenet_300_100, 10, 3, 512),
}


def timed(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def measure(title: str, seconds: float) -> None:
    name, compute, sets, passes, batch = CASES[title]
    bench = bench_of((1, 28, 28), EXAMPLES)
    build = {specs.TARGET: f"compressbench.models.lenet.{name}", "shape": "@shape", "classes": "@classes"}
    state = drawn({"name": name, "build": build}, bench)
    start = {n: p.detach().requires_grad_() for n, p in module_of(state).named_parameters()}
    real = bench.task.normalised(bench.feed("train")["images"][:batch])
    truth = bench.feed("train").labels[:batch]
    pictures = torch.randn(sets, 10, 1, 28, 28, requires_grad=True)
    raw = torch.full((passes, sets), -3.9, requires_grad=True)
    labels = torch.arange(10)

    def loss_of(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(compute(w, x), y)

    def bare() -> None:
        w, rates = start, F.softplus(raw)
        for k in range(passes):
            for t in range(sets):
                gradients = torch.autograd.grad(
                    loss_of(w, pictures[t], labels), tuple(w.values()), create_graph=True
                )
                w = {n: p - rates[k, t] * g for (n, p), g in zip(w.items(), gradients, strict=True)}
        torch.autograd.grad(loss_of(w, real, truth), (pictures, raw))

    def one_step() -> None:
        x, rate = pictures[0].detach().requires_grad_(), torch.tensor(0.02, requires_grad=True)
        gradients = torch.autograd.grad(loss_of(start, x, labels), tuple(start.values()), create_graph=True)
        ends = [p - rate * g for p, g in zip(start.values(), gradients, strict=True)]
        torch.autograd.grad(ends, (x, rate, *start.values()), [torch.ones_like(p) for p in ends])

    def the_real() -> None:
        torch.autograd.grad(loss_of(start, real, truth), tuple(start.values()))

    def stage(iterations: int) -> None:
        Distilled(
            length=f"{iterations}it", steps=sets, epochs=passes, batch_size=batch, halve=None
        ).apply(state, bench)  # fmt: skip

    def ours() -> float:
        few = timed(lambda: stage(FEW))
        return (timed(lambda: stage(MORE)) - few) / (MORE - FEW)

    def needed() -> float:
        step = timed(lambda: [one_step() for _ in range(5)]) / 5
        return sets * passes * step + timed(the_real)

    arms: dict[str, Arm] = {"needed": needed, "bare": lambda: timed(bare), "ours": ours}
    for arm in arms.values():
        arm()
    times: dict[str, list[float]] = {n: [] for n in arms}
    end, names = time.monotonic() + seconds, list(arms)
    while time.monotonic() < end or len(times["needed"]) < 5:
        names = names[1:] + names[:1]
        for n in names:
            times[n].append(arms[n]())
    print(title)
    for n in ("bare", "ours"):
        found = ratio(times[n], times["needed"])
        goal = f"; goal <= {GOAL:.1f}" if n == "ours" else ""
        print(f"  {n:<8}{1000 * statistics.median(times[n]):8.1f} ms  {found} what is needed{goal}")
    print(f"  needed  {1000 * statistics.median(times['needed']):8.1f} ms")


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
