"""How many windows a cascade of features evaluates a second, beside one AdaBoost of as many features, and OpenCV's file.

    python benchmarks/viola_jones.py [--seconds 10] [--batch 1024]

CPU time at one thread, arms in turns, on the test windows of the data set ``faces`` (an installed scikit-image); the
cascade and the single stage are trained first as ``recipe=viola_jones`` does at scale=laptop, in less than a minute of
CPU time. From uint8 pixels to decisions: normalising, the integral image of every window by itself, and all stages with
rejected windows leaving the batch. Median and middle half of the turns. Goal: 100,000 windows a second by the cascade.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import torch

from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.data.load import load
from compressbench.exit_criteria.policy import compacted, policy_of
from compressbench.hardware.turns import in_turns, stopwatch
from compressbench.models.build import module_of
from compressbench.probes.windows import Windows
from compressbench.runs.provenance import processor, versions
from compressbench.specs import Ref
from compressbench.stages.boost import Boost, Published
from compressbench.state import State
from compressbench.views import View

GOAL = 100_000
OPENCV = "haarcascade_frontalface_default.xml"


def states(bench: Bench) -> dict[str, State]:
    """The arms: a cascade, one stage of as many features on 4,000 of its windows and, where there is OpenCV, its file."""
    bench.name = "cascade"
    made = {"cascade": Boost("face", stages=12, candidates=4000).apply(None, bench)}
    bench.name, bench.references = "monolith", made
    like = Ref("cascade")
    made["one AdaBoost"] = Boost(
        "face", stages=1, candidates=4000, negatives=4000, like=like, data=like
    ).apply(None, bench)
    if importlib.util.find_spec("cv2") is not None:
        made["OpenCV's file"] = Published(OPENCV, "face").apply(None, bench)
    return made


def passing(state: State, bench: Bench, size: int) -> Callable[[], None]:
    """A pass over all test windows, ``size`` at a time."""
    module, policy, task = module_of(state), policy_of(state.policies), bench.task
    parts: list[Any] = module.parts()  # type: ignore[operator]
    batches = list(bench.feed("test").batches(size))

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                inputs = task.encode(batch)
                if policy is None:
                    module(*inputs)
                else:
                    compacted(parts, policy, *inputs)

    return run


def main() -> None:
    """Prints a line an arm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=1024)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(load(composed(["dataset=faces"])["dataset"]), seed=0)
    made = states(bench)
    runs = {name: passing(state, bench, given.batch) for name, state in made.items()}
    for run in runs.values():
        run()
    taken = in_turns([stopwatch(run) for run in runs.values()], given.seconds, 3)
    n = len(bench.feed("test"))
    print(f"{processor()}; {versions()}; {n:,} windows, batch {given.batch}, one thread, CPU time")
    for (name, state), turns in zip(made.items(), taken, strict=True):
        rates = sorted(n / seconds for seconds in turns.cpu)
        low, high = rates[len(rates) // 4], rates[(3 * len(rates)) // 4]
        view = View(state, bench)
        found = {m.name: m.value for m in Windows().measure(view, view, bench) if not m.group}
        goal = f"; goal {GOAL:,}" if name == "cascade" else ""
        print(
            f"{name}: {statistics.median(rates):,.0f} windows/s ({low:,.0f} to {high:,.0f}, n={len(rates)}), "
            f"{found['window_features']:.1f} of {found['all_features']:.0f} features a window, "
            f"{found['detection_rate']:.0f} % of the faces, {found['false_positive_rate']:.2g} % of the rest{goal}"
        )


if __name__ == "__main__":
    main()
