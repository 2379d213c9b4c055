"""Early exits by batch size: a batch waits, finished rows leave it, or rows queue; on the card and on its processor.

The lecture's chart "better suited to CPU than GPU". ResNet-56 with random weights, exits after its first two stages, left so
that half of the MACs are spent; throughput of each way over the same net at full depth.
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

BATCHES = {"cuda": (1, 4, 16, 64, 256, 1024), "cpu": (1, 4, 16, 64)}
EXAMPLES = {"cuda": 2048, "cpu": 128}


def run(sheet: Sheet) -> None:
    """The card first, then one thread of the processor beside it."""
    dataset = nets.noise(64, 32 if sheet.smoke else EXAMPLES["cuda"], 8 if sheet.smoke else 32)
    depth = 8 if sheet.smoke else 56
    state = leaving(nets.begun(nets.resnet(depth), dataset), nets.bench(dataset, "cpu", "exits"))
    for device in dict.fromkeys((sheet.device, "cpu")):
        for batch in (1, 4) if sheet.smoke else BATCHES[device]:
            arm = f"ResNet-{depth}, {'card' if device == 'cuda' else 'one thread of the processor'}"
            bench = nets.bench(dataset, device, "exits")
            nets.tried(sheet, arm, partial(one, sheet, arm, View(state, bench), device, batch))


def one(sheet: Sheet, arm: str, view: View, device: str, batch: int) -> None:
    """Rows of one device and batch size."""
    target: HardwareTarget = TorchCUDA(batches=(batch,)) if device == "cuda" else TorchCPU(batches=(batch,))
    examples = 32 if sheet.smoke else min(EXAMPLES[device], max(64, 4 * batch))
    probe = Batching({device: target}, (batch,), examples, seconds=0.1 if sheet.smoke else 1.5)
    for metric in probe.measure(view, view, view.bench):
        label = f"{arm}, {metric.group.partition('/')[2]}, batch {batch}"
        sheet.add(label, metric.name.removesuffix(f"_b{batch}"), metric.value, metric.unit, n=metric.n,
                  note=metric.note)  # fmt: skip
