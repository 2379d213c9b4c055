"""An NVIDIA GPU: torch eager, compiled, or as a CUDA graph; 2:4 weights where they pay; timed with the GPU's own events.

No part of this was run on a GPU in this repository: what is tested is that it says so where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.hardware.onnxruntime_cpu import shortened
from compressbench.hardware.target import Lowered, Timing, Unsupported
from compressbench.hardware.torch_cpu import (
    FEWEST_OF_MANY,
    calls,
    check_batches,
    examples,
    said,
    timed_inputs,
    timing,
)
from compressbench.hardware.turns import in_turns, undisturbed
from compressbench.wording import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.inputs import Inputs
    from compressbench.views import View

FEWEST = 10
PRECISIONS = ("f32", "f16", "bf16")
FORMS = ("eager", "compiled", "graph")
LEAST_ROWS, MULTIPLE = 32, 8  # of torch._int_mm on CUDA: more than 16 rows, sizes by eights


@dataclass(frozen=True)
class TorchCUDA:
    """torch on the current CUDA device. Quantized layers go on simulating, in float, and are named.

    Attributes:
        batches: sizes to time.
        seconds: of timing for each batch size, for all states in turns; at least 10 forwards of each.
        precision: ``f32`` (TF32 as torch is set), ``f16`` or ``bf16``: of all weights and activations.
        form: ``eager``; ``compiled`` by inductor; ``graph``: recorded once, launched as a whole (small nets wait for
            launches, not for arithmetic).
        semi_structured: linear layers whose weights are 2:4 run on sparse tensor cores (f16 and bf16; Ampere and later).
        integers: quantized linear layers of 8 bits multiply integers, by the state's own scales; others are simulated.
    """

    VERSION: ClassVar[int] = 4
    EXITS: ClassVar[bool] = True
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5
    precision: str = "f32"
    form: str = "eager"
    semi_structured: bool = False
    integers: bool = False

    def __post_init__(self) -> None:
        check_batches(self.batches, self.seconds)
        if self.precision not in PRECISIONS:
            raise UserError(
                f"hardware: precision {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}"
            )
        if self.form not in FORMS:
            raise UserError(f"hardware: form {self.form!r}; {nearest(str(self.form), FORMS)}")
        if self.semi_structured and self.precision == "f32":
            raise UserError("hardware: semi_structured wants precision f16 or bf16")

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state's module on the GPU; unsupported where there is none, or torch can't make the form of it."""
        import torch

        from compressbench.hardware import agreement
        from compressbench.inputs import first, on
        from compressbench.models.build import module_of
        from compressbench.models.prepared import prepared
        from compressbench.models.quantized import quantized

        if not torch.cuda.is_available():
            return Unsupported("no CUDA device that torch can use on this machine")
        if view.leaves_early:
            return self._early(view)
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[self.precision]
        inputs = on(examples(view, max(agreement.FEW, *self.batches)), "cuda")
        module = module_of(view.state, "cuda").requires_grad_(False)
        layers = tuple(quantized(module))
        began = time.perf_counter()
        try:
            done: tuple[str, ...] = ()
            if self.precision == "f32" and self.form == "eager" and not self.integers:
                net: Callable[..., Any] = prepared(module, *first(inputs, 8))
                sparse: tuple[str, ...] = ()
            else:
                done = integer_linear(module) if self.integers else ()
                net = module.to(dtype)
                sparse = _sparse(module) if self.semi_structured else ()
            run = _RUNS[self.form](net, dtype)
            for batch in self.batches:
                run(*first(inputs, batch))
        except Exception as error:  # a driver, a kernel or the net's own Python
            reason = str(error).strip().splitlines()
            return Unsupported(f"CUDA, {self.form}: {type(error).__name__}: {reason[0] if reason else ''}")
        took = time.perf_counter() - began
        try:
            agreement.with_state(
                view, run, inputs, self.batches, "CUDA", bool(layers) or self.precision != "f32"
            )
        except agreement.Otherwise as wrong:
            return Unsupported(str(wrong))
        words = f"torch {self.form}, {self.precision}, {torch.cuda.get_device_name()}"
        if self.semi_structured:
            words += f", {counted(len(sparse), 'layer')} 2:4{f' ({shortened(sparse)})' if sparse else ''}"
        left = tuple(name for name in layers if name not in done)
        if done:
            words += f", {len(done)} linear layers int8 ({shortened(done)})"
        if left:
            words += f", {len(left)} quantized layers simulated in float: {shortened(left)}"
        simulated = bool(left) and not done
        return Lowered(
            run,
            inputs,
            words,
            skips_zeros=bool(sparse),
            compile_seconds=took,
            in_float=left,
            simulated=simulated,
        )

    def _early(self, view: View) -> Lowered | Unsupported:
        import torch

        from compressbench.inputs import first, on
        from compressbench.models.build import module_of
        from compressbench.models.exits import ByPolicy, prepared_parts

        if self.form != "eager" or self.precision != "f32":
            return Unsupported(
                "early exits: on CUDA in eager fp32 alone, since the batch changes between the parts"
            )
        inputs = on(timed_inputs(view, max(self.batches)), "cuda")
        parts = prepared_parts(module_of(view.state, "cuda"), *first(inputs, 8))
        net = ByPolicy(parts, view.state.policies)

        def run(*batch: Tensor) -> object:
            with torch.inference_mode():
                return net(*batch)

        words = f"torch eager, f32, {torch.cuda.get_device_name()}{said(view)}"
        return Lowered(run, inputs, words, varies=True, parts=tuple(parts))

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """GPU seconds from the first kernel's start to the last one's end, the states in turns."""
        runs, forwards = calls(lowered, batch)
        timers = [_timer(run) for run in runs]
        for timer in timers:
            timer()
            timer()
        fewest = FEWEST if forwards == 1 else FEWEST_OF_MANY
        taken, disturbed = undisturbed(lambda: in_turns(timers, self.seconds, fewest))
        return [timing(batch, turns, forwards, False, disturbed) for turns in taken]


def _timer(call: Callable[[], object]) -> Callable[[], float]:
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def once() -> float:
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000

    return once


def _of_type(batch: Inputs, dtype: Any) -> Inputs:
    """Numbers of floating point in another type; ids stay whole."""
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in batch)


def _eager(net: Callable[..., Any], dtype: Any) -> Callable[..., object]:
    import torch

    from compressbench.outputs import forward

    def run(*batch: Tensor) -> object:
        with torch.inference_mode():
            return forward(net, *_of_type(batch, dtype)).logits

    return run


def _compiled(net: Callable[..., Any], dtype: Any) -> Callable[..., object]:
    import torch

    from compressbench.outputs import forward

    fast = torch.compile(lambda *x: forward(net, *x).logits, dynamic=False)

    def run(*batch: Tensor) -> object:
        with torch.no_grad():
            return fast(*_of_type(batch, dtype))

    return run


def _graph(net: Callable[..., Any], dtype: Any) -> Callable[..., object]:
    """Recorded once for each batch size; a call copies the batch in and launches the whole."""
    import torch

    eager = _eager(net, dtype)
    recorded: dict[int, tuple[Any, Inputs, Any]] = {}

    def record(batch: Inputs) -> tuple[Any, Inputs, Any]:
        held = tuple(x.clone() for x in _of_type(batch, dtype))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                eager(*held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = eager(*held)
        return graph, held, result

    def run(*batch: Tensor) -> object:
        count = len(batch[0])
        if count not in recorded:
            recorded[count] = record(batch)
        graph, held, result = recorded[count]
        for there, given in zip(held, batch, strict=True):
            there.copy_(given)
        graph.replay()
        return result.clone()

    return run


_RUNS = {"eager": _eager, "compiled": _compiled, "graph": _graph}


def _sparse(module: nn.Module) -> tuple[str, ...]:
    """Puts 2:4 weights of linear layers into torch's semi-structured form; their names."""
    from torch import nn
    from torch.sparse import to_sparse_semi_structured

    from compressbench.hardware.work import TWO_OF_FOUR, pattern_of

    done = []
    for name, part in module.named_modules():
        if type(part) is nn.Linear and pattern_of(part.weight) == TWO_OF_FOUR:
            part.weight = nn.Parameter(to_sparse_semi_structured(part.weight.detach()), requires_grad=False)
            done.append(name)
    return tuple(done)


def integer_linear(module: nn.Module) -> tuple[str, ...]:
    """Quantized linear layers of 8 static bits become products of integers (``torch._int_mm``), in place; their names."""
    import torch
    from torch import nn

    from compressbench.hardware.onnx_graph import is_byte
    from compressbench.models.quantized import forms_of, integers, quantized

    class Integers(nn.Module):
        """(n, in) float to (n, out): inputs to int8 by the layer's scale, summed in int32, scaled back."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            forms: Any = forms_of(layer)
            weight, entering = forms["weight"], forms["input"]
            steps = integers(
                layer.weight, weight, layer.weight_scale, layer.weight_zero
            ) - layer.weight_zero.view(-1, 1)
            self.register_buffer("steps", steps.to(torch.int8).t().contiguous())
            self.move = 128 if entering["high"] > 127 else 0
            self.low, self.high = entering["low"] - self.move, entering["high"] - self.move
            self.scale, self.zero = float(layer.input_scale), int(layer.input_zero) - self.move
            # The zero point's part of each sum, and the scales, are the layer's own: float32 whatever the net is cast to.
            self.offset = (self.zero * steps.sum(dim=1)).to(torch.int32)
            self.scales = (layer.weight_scale * layer.input_scale).float().expand(len(steps)).clone()
            self.bias = None if layer.bias is None else layer.bias.detach().float()

        def forward(self, x: Tensor) -> Tensor:
            flat = x.reshape(-1, x.shape[-1]).float()
            q = ((flat * (1.0 / self.scale)).round() + self.zero).clamp(self.low, self.high).to(torch.int8)
            rows = len(q)
            if rows < LEAST_ROWS:
                q = torch.cat([q, q.new_zeros(LEAST_ROWS - rows, q.shape[1])])
            steps: Any = self.steps
            result = (torch._int_mm(q, steps)[:rows] - self.offset) * self.scales
            result = result if self.bias is None else result + self.bias
            return result.to(x.dtype).reshape(*x.shape[:-1], -1)

    done = []
    for name, found in quantized(module).items():
        layer: Any = found
        forms = forms_of(layer)
        fits = type(layer).__bases__[0] is nn.Linear and all(is_byte(form) for form in forms.values())
        if not fits or "input_scale" not in layer._buffers or layer.weight_zero.any():
            continue
        if layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:  # what the GPU's kernel takes
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, Integers(layer).to(layer.weight.device))
        done.append(name)
    return tuple(done)
