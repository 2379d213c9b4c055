"""This machine's processor, ``torch.compile`` with inductor: what people use today, and its integer kernels (PT2E's).

A first compile takes seconds to a minute for each batch size; it is told apart from all latencies. Layers that inductor
has no integer kernel for are named; without torchao (``compressbench[pt2e]``) these are all.
"""

from __future__ import annotations

import logging
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.hardware.onnxruntime_cpu import shortened
from compressbench.hardware.target import Lowered, Timing, Unsupported, check_threads
from compressbench.hardware.torch_cpu import check_batches, examples, threads, time_in_turns

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.inputs import Inputs
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

    VERSION: ClassVar[int] = 3
    threads: int = 1
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5
    precision: str = "f32"

    def __post_init__(self) -> None:
        check_batches(self.batches, self.seconds)
        check_threads(self.threads, "hardware: threads")
        if self.precision not in PRECISIONS:
            raise UserError(
                f"hardware: precision {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}"
            )

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state compiled for every batch size; unsupported where inductor or its C++ compiler fails."""
        from compressbench.hardware import agreement
        from compressbench.hardware.torch_integers import integer_net, missing
        from compressbench.inputs import first, on
        from compressbench.models.build import module_of
        from compressbench.models.quantized import quantized
        from compressbench.models.reached import ran

        inputs = on(examples(view, max(agreement.FEW, *self.batches)), "cpu")
        module = module_of(view.state, "cpu").eval().requires_grad_(False)
        evaluated = ran(module, first(inputs, 1))
        layers = tuple(name for name in quantized(module) if name in evaluated)
        lack = missing() if layers else ""
        whole, candidates = integer_net(module) if layers and not lack else (module, ())
        began = time.perf_counter()
        try:
            made = self._compiled(whole, candidates, inputs)
        except Exception as error:  # whatever fails in it: no compiler, an operator, the net's own Python
            if not candidates:
                return Unsupported(f"torch.compile fails: {_reason(error)}")
            lack = f"its integer kernels fail: {_reason(error)}"
            try:
                made = self._compiled(module, (), inputs)
            except Exception as again:
                return Unsupported(f"torch.compile fails: {_reason(again)}")
        run, integer = made
        took = time.perf_counter() - began
        try:
            rounds = bool(layers) or self.precision == "bf16"
            agreement.with_state(view, run, inputs, self.batches, "torch.compile", rounds)
        except agreement.Otherwise as wrong:
            return Unsupported(str(wrong))
        left = tuple(name for name in layers if name not in integer)
        precision = "bf16" if self.precision == "bf16" else "fp32"
        words = f"torch inductor, {f'int8, what is float {precision}' if integer else precision}"
        if left:
            words += f", {len(left)} of {len(layers)} quantized layers simulated in float: {shortened(left)}"
        if lack:
            words += f" ({lack})"
        simulated = bool(layers) and not integer
        return Lowered(run, inputs, words, compile_seconds=took, in_float=left, simulated=simulated)

    def _compiled(
        self, module: nn.Module, candidates: Sequence[str], inputs: Inputs
    ) -> tuple[Callable[..., object], set[str]]:
        """(a forward compiled for every batch size, those candidates that it computes in integers)."""
        import torch

        from compressbench.hardware.torch_integers import in_integers
        from compressbench.inputs import first
        from compressbench.outputs import forward

        found: list[set[str]] = []
        options: dict[str, Any] = {"freezing": True}
        if candidates:
            options["post_grad_custom_post_pass"] = lambda graph: found.append(
                in_integers(module, candidates, graph)
            )
        static, any_size = (
            torch.compile(
                with_code_of_its_own(lambda *x: forward(module, *x).logits.float()), dynamic=dynamic
            )
            for dynamic in (False, True)
        )
        usual = [x.shape[1:] for x in inputs]
        sizes: set[tuple[int, bool]] = set()

        def run(*batch: Tensor) -> object:
            same = [x.shape[1:] for x in batch] == usual
            compiled, size = (static, len(batch[0])) if same else (any_size, 0)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                if (size, same) in sizes:
                    return compiled(*batch)
                with (
                    quietly(),
                    torch._inductor.config.patch(options),
                    torch._dynamo.config.patch(fail_on_recompile_limit_hit=True),
                ):
                    result = compiled(*batch)
                sizes.add((size, same))
                return result

        with threads(self.threads):
            for batch in self.batches:
                run(*first(inputs, batch))
        return run, set.intersection(*found) if found else set()

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Wall-clock seconds of forwards at one batch size, the states in turns."""
        return time_in_turns(lowered, batch, self.threads, self.seconds)


@contextmanager
def quietly() -> Iterator[None]:
    """Of its own compiling torch warns and logs about what no user could change; a failure is an error all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: Exception) -> str:
    """The first line of an error that says anything: inductor's own begin with what raised it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if not line.endswith("raised:")), "")
    return f"{type(error).__name__}: {told[:160]}"


def with_code_of_its_own(function: Any) -> Any:
    """The same function: torch counts compilations by code object, and after eight runs it uncompiled."""
    code = function.__code__.replace()
    return types.FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)
