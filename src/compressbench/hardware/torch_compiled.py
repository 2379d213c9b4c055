"""This machine's processor, ``torch.compile`` with inductor: what people use today; quantization stays simulated in it.

A first compile takes most of a minute for each batch size (a few seconds from inductor's own cache, which lies in the
temporary folder). It is told apart from all latencies. Integer kernels (PT2E's weight packing, now part of torchao)
fail to compile with torch 2.15 and torchao 0.18, so that a quantized net is priced as what really runs: in float.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.hardware.target import Lowered, Timing, Unsupported
from compressbench.hardware.torch_cpu import check_batches, examples, threads, time_in_turns

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.views import View

PRECISIONS = ("f32", "bf16")


@dataclass(frozen=True)
class TorchCompiled:
    """torch compiled by inductor, with frozen weights.

    Attributes:
        threads: of torch.
        batches: sizes to time; each is compiled for itself.
        seconds: of timing for each batch size, for all states in turns.
        precision: of what isn't quantized: ``f32`` or ``bf16`` (autocast).
    """

    VERSION: ClassVar[int] = 1
    threads: int = 1
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5
    precision: str = "f32"

    def __post_init__(self) -> None:
        check_batches(self.batches)
        if self.threads < 1:
            raise UserError(f"hardware: threads is {self.threads}, must be at least 1")
        if self.precision not in PRECISIONS:
            raise UserError(
                f"hardware: precision {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}"
            )

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state compiled for every batch size; unsupported where inductor or its C++ compiler fails."""
        import torch

        from compressbench.models.build import module_of
        from compressbench.models.quantized import quantized
        from compressbench.outputs import forward

        inputs = examples(view, max(self.batches)).cpu()
        module = module_of(view.state).requires_grad_(False)
        layers = tuple(quantized(module))
        compiled = torch.compile(module, dynamic=False, options={"freezing": True})

        def run(batch: Tensor) -> object:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                return forward(compiled, batch).logits.float()

        began = time.perf_counter()
        try:
            with threads(self.threads):
                for batch in self.batches:
                    run(inputs[:batch])
        except Exception as error:  # whatever fails in it: no compiler, an operator, the net's own Python
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            return Unsupported(f"torch.compile fails: {type(error).__name__}: {reason}")
        took = time.perf_counter() - began
        words = f"torch inductor, {'bf16' if self.precision == 'bf16' else 'fp32'}"
        if layers:
            words += ", rounding simulated"
        return Lowered(run, inputs, words, compile_seconds=took, in_float=layers)

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Wall-clock seconds of forwards at one batch size, the states in turns."""
        return time_in_turns(lowered, batch, self.threads, self.seconds)
