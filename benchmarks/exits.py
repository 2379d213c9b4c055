"""Early exits: what the criterion adds to a forward that never exits, and what exits at half of the MACs really save.

    python benchmarks/exits.py [--seconds 20] [--depth 56]

A CIFAR ResNet with random weights on random images: only time is measured, CPU time at one thread, arms in turns. The
thresholds are set so that two thirds of the images leave at one exit each; the last third goes to the end, and the mean
cost is half of the full one. A ratio is that of medians; beside it the middle half of the ratios of single rounds.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compressbench import specs
from compressbench.bench import Bench
from compressbench.exit_criteria.entropy import entropy
from compressbench.exit_criteria.margin import margin
from compressbench.exit_criteria.max_probability import max_probability
from compressbench.exit_criteria.patience import patience
from compressbench.exit_criteria.policy import Policy, assigned, compacted, everything, queued, waiting
from compressbench.hardware.turns import in_turns, ratio, stopwatch
from compressbench.models.build import module_of
from compressbench.models.counting import of_exits
from compressbench.models.draw import drawn
from compressbench.models.exit_policies import by_shares, sureness, with_exits
from compressbench.models.exits import parts_of, prepared_parts
from compressbench.models.prepared import prepared
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.stages.exits import Attach
from deployment import bench_of
from distillation import resnet

IMAGES = 256
UNREACHED = 1e9
GOALS = {"criterion": 1.02, "latency, batch 1": 2 / 3, "throughput, batch 64": 1.25}


def net(depth: int) -> tuple[Bench, Any]:
    """A ResNet with an exit after each of its first two stages."""
    bench = bench_of(32, 10, IMAGES)
    head = {specs.TARGET: "compressbench.exit_heads.pooled.pooled", specs.PARTIAL: True}
    return bench, with_exits(drawn(resnet(depth), bench), bench, Attach(("layer1", "layer2"), head))


def ratios(title: str, arms: Mapping[str, Callable[[], object]], seconds: float, scale: float) -> None:
    """Medians of all arms in turns, each beside the first."""
    for arm in arms.values():
        arm()
    taken = in_turns([stopwatch(arm) for arm in arms.values()], seconds, 5)
    first = taken[0].cpu
    print(f"{title}: {1000 * statistics.median(first) / scale:.3f} ms a forward of {next(iter(arms))}")
    for name, own in list(zip(arms, taken, strict=True))[1:]:
        print(f"  {name:<42}{ratio(own.cpu, first)}")


def over(images: Tensor, batch: int, run: Callable[[Tensor], object]) -> Callable[[], None]:
    """A pass through all images."""
    chunks = images.split(batch)

    def once() -> None:
        with torch.inference_mode():
            for chunk in chunks:
                run(chunk)

    return once


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--depth", type=int, default=56)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{processor()}; {versions()}; CPU time, 1 thread")
    bench, state = net(args.depth)
    module = module_of(state)
    images = bench.task.normalised(bench.feed("test")["images"])
    parts, whole = prepared_parts(module, images[:8]), prepared(module, images[:8])
    costs = of_exits(parts_of(module), bench.task.blank(1))
    print(
        f"ResNet-{args.depth}, 3x32x32: exits at {costs[0] / costs[-1]:.2f} and {costs[1] / costs[-1]:.2f} of the MACs"
    )
    with torch.inference_mode():
        logits = everything(parts, images)
    never = {
        criterion.__name__: Policy(criterion, (UNREACHED, UNREACHED), (1.0, 1.0))
        for criterion in (max_probability, entropy, margin, patience)
    }
    for batch in (1, 64):
        few = images[: 16 * batch] if batch == 1 else images
        arms: dict[str, Callable[[], object]] = {
            "all exits, no criterion": over(few, batch, lambda x: everything(parts, x)),
            "the net without exits": over(few, batch, whole),
        }
        for name, policy in never.items():
            arms[f"never by {name}"] = over(few, batch, lambda x, p=policy: compacted(parts, p, x))
        ratios(
            f"batch {batch} (goal of a criterion <= {GOALS['criterion']})",
            arms,
            args.seconds,
            len(few) / batch,
        )
    policy = Policy(max_probability, (math.inf, math.inf), (1.0, 1.0))
    sure = sureness(policy, logits)
    policy = Policy(max_probability, half(sure, costs), (1.0, 1.0))
    where = assigned(policy, logits)
    spent = float(torch.tensor(costs, dtype=torch.float64)[where].mean() / costs[-1])
    share = (torch.bincount(where, minlength=3).double() / len(where)).tolist()
    print(f"exits at {spent:.3f} of the MACs; shares {', '.join(f'{s:.2f}' for s in share)}")
    for batch in (1, 4, 16, 64):
        arms = {
            "full depth": over(images, batch, whole),
            "compacted": over(images, batch, lambda x: compacted(parts, policy, x)),
            "waiting": over(images, batch, lambda x: waiting(parts, policy, x)),
        }
        if batch > 1:
            arms["queued"] = over(images, len(images), lambda x, b=batch: queued(parts, policy, x, batch=b))
        goal = {1: "; goal: time <= 0.667", 64: "; goal: time <= 0.8"}.get(batch, "")
        ratios(f"batch {batch}{goal}", arms, args.seconds, len(images) / batch)


def half(sure: Tensor, costs: list[int]) -> tuple[float, ...]:
    """Thresholds by which the mean cost is half of the last exit's, both early exits taking alike."""
    one, two, last = (c / costs[-1] for c in costs)
    share = (last - 0.5) / (2 * last - one - two)
    return by_shares(sure, [share, share, 1 - 2 * share])


if __name__ == "__main__":
    main()
