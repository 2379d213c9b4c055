"""ExecuTorch with XNNPACK's kernels, on this processor: what a phone's runtime makes of a state, but not on a phone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.hardware.onnxruntime_cpu import shortened
from compressbench.hardware.target import Lowered, Timing, Unsupported
from compressbench.hardware.torch_cpu import check_batches, examples, time_in_turns

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.inputs import Inputs
    from compressbench.views import View


@dataclass(frozen=True)
class ExecutorchXNNPACK:
    """A program for each batch size, in fp32; rounding is computed in float and named.

    Attributes:
        batches: sizes to time.
        seconds: of timing for each batch size, for all states in turns.
    """

    VERSION: ClassVar[int] = 2
    batches: tuple[int, ...] = (1,)
    seconds: float = 0.5

    def __post_init__(self) -> None:
        check_batches(self.batches, self.seconds)

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state's programs; unsupported where ExecuTorch isn't installed or can't take the net."""
        from compressbench.hardware import agreement
        from compressbench.hardware.exported import method_of, xnnpack_program
        from compressbench.inputs import first, on
        from compressbench.models.build import module_of
        from compressbench.models.quantized import quantized
        from compressbench.tasks.task import one_size

        if why := one_size(view.bench.task):
            return Unsupported(f"programs for ExecuTorch take inputs of one size here, and {why}")
        inputs = on(examples(view, max(agreement.FEW, *self.batches)), "cpu")
        module = module_of(view.state, "cpu")
        layers = tuple(quantized(module))
        began = time.perf_counter()
        methods: dict[int, Any] = {}
        content = b""
        try:
            with tempfile.TemporaryDirectory() as folder:
                for batch in self.batches:
                    path = Path(folder) / f"{batch}.pte"
                    path.write_bytes(xnnpack_program(module, first(inputs, batch)))
                    content = content or path.read_bytes()
                    methods[batch] = method_of(path)
        except UserError as error:
            return Unsupported(str(error))
        took = time.perf_counter() - began

        def run(*batch: Tensor) -> object:
            import torch

            count = len(batch[0])
            if count in methods:
                return methods[count](*batch)
            size = min(methods)
            starts = range(0, count, size)
            parts = [methods[size](*_filled(batch, start, size))[: count - start] for start in starts]
            return torch.cat(parts)

        try:
            agreement.with_state(view, run, inputs, self.batches, "ExecuTorch", bool(layers))
        except agreement.Otherwise as wrong:
            return Unsupported(str(wrong))
        words = "ExecuTorch, XNNPACK on this processor (not a phone), fp32"
        if layers:
            words += f", {len(layers)} quantized layers simulated in float: {shortened(layers)}"
        return Lowered(
            run,
            inputs,
            words,
            compile_seconds=took,
            artefact=content,
            in_float=layers,
            simulated=bool(layers),
        )

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Wall-clock seconds of forwards at one batch size, the states in turns."""
        return time_in_turns(lowered, batch, 1, self.seconds)


def _filled(inputs: Inputs, start: int, size: int) -> Inputs:
    """A batch of this size from there on; what is missing at the end is repeated."""
    import torch

    return tuple(x[(start + torch.arange(size)).clamp(max=len(x) - 1)] for x in inputs)
