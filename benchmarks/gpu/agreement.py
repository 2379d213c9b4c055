"""Does the processor say the same of states that the card made, and does it train alike however it is launched?

States are trained, pruned, quantized and shrunk on the card, then measured on both. A training of some iterations is then
done eager, captured, compiled and in lanes; its weights are compared with the eager ones of the same seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from benchmarks.gpu import nets, training
from benchmarks.gpu.rows import Sheet
from compressbench.bench import Bench
from compressbench.data.dataset import Dataset
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.stages.shrink import Channels
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.views import View

LOG_PROBS = 1e-3
"""How far a log-probability may lie apart, in nats: float32 sums in another order, over twenty layers."""
LABELS = 99.9
"""Per cent of the test images that both must name alike: rounding decides those that lie between two classes."""
WEIGHTS = 1e-2
"""Relative distance of all weights after some iterations: differences of rounding grow as training goes on."""
ITERATIONS = 40


def run(sheet: Sheet) -> None:
    """States first, then trainings."""
    dataset = nets.fashion(sheet, 1000, 200) if sheet.smoke else nets.fashion(sheet, 5000, 2000)
    start = nets.begun(nets.resnet(8), dataset)
    bench = nets.bench(dataset, sheet.device, "dense")
    stage = nets.training("1ep" if sheet.smoke else "4ep", batch_size=64, lr=0.05)
    dense = stage.apply(start, bench)
    for name, make in makers(stage, dense, bench).items():
        nets.tried(sheet, name, partial(same, sheet, name, make, dataset))
    trainings(sheet, start, dataset)


def makers(stage: Train, dense: State, bench: Bench) -> dict[str, Callable[[], State]]:
    """How each state is made on the card, by the project's own stages."""
    by = nets.named("criteria.magnitude.magnitude")
    return {
        "dense": lambda: dense,
        "pruned to 20 %, trained on": lambda: stage.apply(Prune(by, fraction=0.8).apply(dense, bench), bench),
        "int8": lambda: Quantize(examples=256).apply(dense, bench),
        "half of the channels": lambda: Channels(criterion=by, fraction=0.5).apply(dense, bench),
    }


def same(sheet: Sheet, name: str, make: Callable[[], State], dataset: Dataset) -> None:
    """Rows of one state: measured where it was made, and on the processor."""
    state = make()
    there, here = (View(state, nets.bench(dataset, device, "dense")) for device in (sheet.device, "cpu"))
    apart = float((there.log_probs - here.log_probs).abs().max())
    loyal = 100 * float((there.answers == here.answers).float().mean())
    right = [100 * float(view.right.float().mean()) for view in (there, here)]
    count = len(here.answers)
    sheet.add(
        name,
        "largest difference of a log-probability",
        apart,
        "nats",
        n=count,
        note=verdict(apart, LOG_PROBS),
    )
    sheet.add(name, "label loyalty of card and processor", loyal, "%", n=count,
              note=f"{'within' if loyal >= LABELS else 'OUTSIDE'} the stated {LABELS:g} %")  # fmt: skip
    sheet.add(name, "top-1 on the card less that on the processor", right[0] - right[1], "points", n=count,
              note=f"{right[0]:.2f} and {right[1]:.2f} %")  # fmt: skip


def verdict(apart: float, limit: float) -> str:
    """Whether a difference keeps to its tolerance."""
    return f"{'within' if apart <= limit else 'OUTSIDE'} the stated {limit:g}"


def trainings(sheet: Sheet, start: State, dataset: Dataset) -> None:
    """Rows of each way to launch a training, and of lanes, beside eager single ones."""
    stage = nets.training("2ep", batch_size=64, lr=0.05, stop=f"{4 if sheet.smoke else ITERATIONS}it")
    first = nets.bench(dataset, sheet.device, "dense")

    def single(launch: str = "eager", seed: int = 0) -> State:
        return stage.apply(start, replace(training.launched(first, launch), seed=seed))

    def in_lanes() -> State:
        from compressbench.training import lanes

        benches = [replace(first, seed=seed) for seed in range(2)]
        found = lanes.train([start] * 2, benches, [stage] * 2, 2)[1]
        if not isinstance(found, State):
            raise found
        return found

    compared: dict[str, tuple[Callable[[], State], Callable[[], State]]] = {
        "eager, again": (single, single),
        "captured": (lambda: single("graph"), single),
        "2 lanes, the second": (in_lanes, lambda: single(seed=1)),
        "compiled": (lambda: single("compiled"), single),
    }
    for arm, (one, other) in compared.items():
        if sheet.smoke and arm == "compiled":
            sheet.failed(arm, nets.TOO_LONG)
            continue
        nets.tried(sheet, arm, partial(alike, sheet, arm, one, other))


def alike(sheet: Sheet, arm: str, one: Callable[[], State], other: Callable[[], State]) -> None:
    """A row of how far two trainings ended apart."""
    apart = distance(one(), other())
    sheet.add(
        arm,
        "relative distance of the weights from the eager single training",
        apart,
        "1",
        note=verdict(apart, WEIGHTS),
    )


def distance(one: State, other: State) -> float:
    """‖a − b‖ / ‖b‖ over all weights of two states of one net."""
    a, b = (
        torch.cat([w.double().flatten() for _, w in sorted(s.group("weights").items())]) for s in (one, other)
    )
    return float((a - b).norm() / b.norm())
