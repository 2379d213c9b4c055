"""Early exits by batch size: a batch waits, finished rows leave it, or rows queue; on the card and on its processor.

The lecture's chart "better suited to CPU than GPU". ResNet-20 with random weights, exits after its first two stages, left
so that half of the MACs are spent; throughput of each way, and its ratio to the same net's at full depth.
"""

from __future__ import annotations

from functools import partial

from benchmarks.gpu import nets
from benchmarks.gpu.forms import leaving
from benchmarks.gpu.rows import Sheet
from compressbench.hardware.target import HardwareTarget
from compressbench.hardware.torch_cpu import TorchCPU
from compressbench.hardware.torch_cuda import TorchCUDA
from compressbench.probes.batching import Batching
from compressbench.views import View

WHERE = {"card, eager": "cuda", "card, graph": "cuda", "one thread of the processor": "cpu"}
BATCHES = {"cuda": (1, 4, 16, 64, 256, 1024), "cpu": (1, 4, 16, 64)}
EXAMPLES = {"cuda": 2048, "cpu": 128}


def run(sheet: Sheet) -> None:
    """The card first, then one thread of the processor beside it."""
    dataset = nets.noise(64, 32 if sheet.smoke else EXAMPLES["cuda"], 8 if sheet.smoke else 32)
    depth = 8 if sheet.smoke else 20
    state = leaving(nets.begun(nets.resnet(depth), dataset), nets.bench(dataset, "cpu", "exits"))
    for name, device in WHERE.items():
        if device not in (sheet.device, "cpu"):
            continue
        view = View(state, nets.bench(dataset, device, "exits"))
        for batch in (1, 4) if sheet.smoke else BATCHES[device]:
            arm = f"ResNet-{depth}, {name}"
            nets.tried(sheet, f"{arm}, batch {batch}", partial(one, sheet, arm, view, name, batch))


def one(sheet: Sheet, arm: str, view: View, name: str, batch: int) -> None:
    """Rows of one way to run it and one batch size."""
    target: HardwareTarget = TorchCPU(batches=(batch,))
    if WHERE[name] == "cuda":
        target = TorchCUDA(batches=(batch,), form="graph" if "graph" in name else "eager")
    examples = 32 if sheet.smoke else min(EXAMPLES[WHERE[name]], max(32, 4 * batch))
    probe = Batching({WHERE[name]: target}, (batch,), examples, seconds=0.1 if sheet.smoke else 1.5)
    for metric in probe.measure(view, view, view.bench):
        label = f"{arm}, {metric.group.partition('/')[2]}, batch {batch}"
        if metric.value is None and not metric.group.partition("/")[2]:
            sheet.failed(f"{arm}, batch {batch}", metric.note)
            return
        sheet.add(label, metric.name.removesuffix(f"_b{batch}"), metric.value, metric.unit, n=metric.n,
                  note=metric.note)  # fmt: skip
