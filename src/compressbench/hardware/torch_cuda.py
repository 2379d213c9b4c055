"""An NVIDIA GPU, torch eager, timed with the GPU's own events."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.hardware.target import Lowered, Timing, Unsupported, busy, in_turns, machine_load
from compressbench.hardware.torch_cpu import check_batches, examples

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.views import View

FEWEST = 10


@dataclass(frozen=True)
class TorchCUDA:
    """torch eager on the current CUDA device, fp32, dense kernels.

    Attributes:
        batches: sizes to time.
        seconds: of timing for each batch size, for all states in turns; at least 10 forwards of each.
    """

    VERSION: ClassVar[int] = 1
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5

    def __post_init__(self) -> None:
        check_batches(self.batches, self.seconds)

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state's module on the GPU, prepared for inference; unsupported where there is no GPU."""
        import torch

        from compressbench.inference import prepared
        from compressbench.models.build import module_of
        from compressbench.outputs import forward

        if not torch.cuda.is_available():
            return Unsupported("no CUDA device that torch can use on this machine")
        inputs = examples(view, max(self.batches)).cuda()
        if view.bench.device.startswith("cuda"):
            module = view.fast
        else:
            module = prepared(module_of(view.state, "cuda"), inputs[:8])

        def run(batch: Tensor) -> object:
            with torch.inference_mode():
                return forward(module, batch).logits

        return Lowered(run, inputs, f"torch eager, fp32, {torch.cuda.get_device_name()}")

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """GPU seconds from the first kernel's start to the last one's end, the states in turns."""
        timers = [_timer(x.run, x.inputs[:batch]) for x in lowered]
        for timer in timers:
            timer()
            timer()
        taken = in_turns(timers, self.seconds, FEWEST, time.perf_counter)
        load = machine_load()
        note = busy(load, 1, os.cpu_count() or 1)
        return [Timing(batch, t, load, note) for t in taken]


def _timer(run: Callable[[Tensor], object], inputs: Tensor) -> Callable[[], float]:
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def once() -> float:
        torch.cuda.synchronize()
        begin.record()
        run(inputs)
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000

    return once
