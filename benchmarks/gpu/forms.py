"""What a form of a net brings on the card, by batch size and by how it is launched, each beside the dense float32 net.

ResNet-20 for channels removed and early exits; the small vision transformer for 2:4 and int8, which this project runs as
such on a GPU in linear layers alone. Random weights and images: only time is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.gpu import nets
from benchmarks.gpu.rows import Sheet
from compressbench.bench import Bench
from compressbench.hardware.exits import lower
from compressbench.hardware.target import HardwareTarget, Lowered, Timing
from compressbench.hardware.torch_compiled import TorchCompiled
from compressbench.hardware.torch_cpu import TorchCPU
from compressbench.hardware.torch_cuda import TorchCUDA
from compressbench.hardware.turns import ratio
from compressbench.models.exit_policies import with_exits
from compressbench.stages.exits import Attach, Choose
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.stages.shrink import Channels
from compressbench.state import State
from compressbench.views import View

LAUNCHES = ("eager", "graph", "compiled")
BATCHES = (1, 64, 1024)
DENSE = "dense, f32"


@dataclass(frozen=True)
class Form:
    """A state and the settings of ``TorchCUDA`` that it is run with."""

    state: State
    settings: Mapping[str, Any]


def run(sheet: Sheet) -> None:
    """All forms; compiled ones last, since compiling takes most of the time."""
    batches = (4,) if sheet.smoke else BATCHES
    dataset = nets.noise(64, batches[-1], 8 if sheet.smoke else 32)
    bench = nets.bench(dataset, "cpu", "init")
    kinds: dict[str, dict[str, Form]] = {"ResNet": {}, "ViT": {}}
    nets.tried(
        sheet, "ResNet", lambda: kinds["ResNet"].update(of_convolutions(bench, 8 if sheet.smoke else 20))
    )
    nets.tried(sheet, "ViT", lambda: kinds["ViT"].update(of_linear_layers(bench, 1 if sheet.smoke else 6)))
    for launch in LAUNCHES:
        for batch in batches:
            for kind, forms in kinds.items():
                arm = f"{kind}, {launch}"
                nets.tried(sheet, arm, partial(one, sheet, arm, forms, launch, batch, bench))


def of_convolutions(bench: Bench, depth: int) -> dict[str, Form]:
    """ResNet: precisions, half of its channels, exits that half of the MACs are saved by."""
    dense = nets.begun(nets.resnet(depth), bench.dataset)
    half = Channels(criterion=nets.named("criteria.magnitude.magnitude"), fraction=0.5).apply(dense, bench)
    return {
        DENSE: Form(dense, {}),
        "tf32": Form(dense, {"precision": "tf32"}),
        "f16": Form(dense, {"precision": "f16"}),
        "half of the channels, f32": Form(half, {}),
        "half of the channels, f16": Form(half, {"precision": "f16"}),
        "early exits at half of the MACs, f32": Form(leaving(dense, bench), {}),
        "early exits at half of the MACs, f16": Form(leaving(dense, bench), {"precision": "f16"}),
    }


def leaving(dense: State, bench: Bench) -> State:
    """The net with an exit after each of its first two stages, left so that half of the MACs are spent."""
    head = nets.named("exit_heads.pooled.pooled")
    state = with_exits(dense, bench, Attach(("layer1", "layer2"), head))
    return Choose(nets.named("exit_criteria.max_probability.max_probability"), budget=0.5).apply(state, bench)


def of_linear_layers(bench: Bench, depth: int) -> dict[str, Form]:
    """The transformer: precisions, 2:4, int8."""
    dense = nets.begun(nets.vit(depth), bench.dataset)
    n_m = nets.named("scopes.n_m.n_m", n=2, m=4)
    by, rates = nets.named("criteria.magnitude.magnitude"), {"patches.weight": 0.0}
    sparse = Prune(by, fraction=None, scope=n_m, rates=rates).apply(dense, bench)
    eight = Quantize(examples=16).apply(dense, bench)
    return {
        DENSE: Form(dense, {}),
        "f16": Form(dense, {"precision": "f16"}),
        "2:4, f16": Form(sparse, {"precision": "f16", "semi_structured": True}),
        "int8, rest f16": Form(eight, {"precision": "f16", "integers": True}),
    }


def target(form: Form, launch: str, batch: int, seconds: float, device: str) -> HardwareTarget:
    """What runs a form on the card; in a smoke run the processor's targets, which know no graph."""
    if device == "cuda" or launch == "graph":
        return TorchCUDA(batches=(batch,), seconds=seconds, form=launch, **form.settings)
    return (TorchCompiled if launch == "compiled" else TorchCPU)(batches=(batch,), seconds=seconds)


def one(sheet: Sheet, arm: str, forms: dict[str, Form], launch: str, batch: int, bench: Bench) -> None:
    """Rows of all forms of a net at one batch size: each takes turns with the dense net, as soon as it is lowered."""
    own = replace(bench, device=sheet.device, feeds={})
    if sheet.smoke and launch == "compiled":  # a minute of compiling each on a processor
        sheet.failed(f"{arm}, batch {batch}", nets.TOO_LONG)
        return
    seconds = 0.05 if sheet.smoke else 0.15

    def lowered(name: str) -> Lowered | None:
        how = target(forms[name], launch, batch, seconds, sheet.device)
        found = lower(how, View(forms[name].state, own))
        if isinstance(found, Lowered):
            return found
        sheet.failed(f"{arm}, {name}, batch {batch}", found.why)
        return None

    dense = lowered(DENSE)
    how = target(forms[DENSE], launch, batch, 2 * seconds, sheet.device)

    def beside(name: str) -> None:
        form = lowered(name) if dense else None
        if not dense or not form:
            return
        reference, timing = how.time([dense, form], batch)
        label = f"{arm}, {name}, batch {batch}"
        latency(sheet, label, timing, form)
        latency(sheet, f"{arm}, {DENSE}, batch {batch}, beside {name}", reference, dense)
        gain = ratio(reference.estimates, timing.estimates)
        sheet.add(label, "speed-up over dense f32", gain.median if gain else None, "x", n=len(timing.estimates),
                  note=f"in turns, {gain}; {timing.disturbed}".removesuffix("; "))  # fmt: skip

    for name in forms:
        if name != DENSE:
            nets.tried(sheet, f"{arm}, {name}, batch {batch}", partial(beside, name))


def latency(sheet: Sheet, label: str, timing: Timing, lowered: Lowered) -> None:
    """A row of one form's latency."""
    sheet.add(label, "latency", 1000 * timing.median, "ms", n=len(timing.seconds),
              repeats=[1000 * s for s in timing.estimates], note=lowered.runtime)  # fmt: skip
