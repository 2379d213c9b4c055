"""An NVIDIA GPU: torch eager, compiled, or as a CUDA graph; 2:4 weights where they pay; timed with the GPU's own events.

No part of this was run on a GPU in this repository. Tests run it on a pretended one (``tests/pretended.py``), which
finds a tensor left on the processor and a wrong recording of a graph, but knows nothing of kernels and their limits.

All forms run the same net: batch norms folded, ``channels_last`` (see ``compressbench.models.prepared``). The batch
is on the GPU, in its type and layout, before a timing begins; no copy from the processor is timed. Inputs and weights
are those of the call before, so that what fits is found in the GPU's L2 cache. Float32 is float32: TF32 is a
precision of its own here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    import torch
    from torch import Tensor, nn

    from compressbench.inputs import Inputs
    from compressbench.views import View

FEWEST = 10
WARM = 0.2
"""Seconds of forwards before a timing: an idle GPU's clocks take a while to rise."""
PRECISIONS = ("f32", "tf32", "f16", "bf16")
FORMS = ("eager", "compiled", "graph")
LEAST_ROWS, MULTIPLE = 32, 8  # of torch._int_mm on CUDA: more than 16 rows, sizes by eights

Part = Callable[..., tuple["Tensor", ...]]
"""Inputs to logits, in float32, and what is alive after them: nothing for a whole net."""


@dataclass(frozen=True)
class TorchCUDA:
    """torch on the current CUDA device. Quantized layers go on simulating, in float, and are named.

    A net with early exits runs part by part, and rows leave the batch in between: that is for the processor to
    decide, which waits for the GPU once for each part. Compiled parts take any number of rows; a recorded graph takes
    one, so that rows are filled up to the next power of two, whose graph is recorded when it is first met.

    Attributes:
        batches: sizes to time.
        seconds: of timing for each batch size, for all states in turns; at least 10 forwards of each.
        precision: ``f32``, ``tf32`` (float32 whose products are rounded to 10 bits), ``f16`` or ``bf16``: of all weights
            and activations.
        form: ``eager``; ``compiled`` by inductor; ``graph``: recorded once, launched as a whole (small nets wait for
            launches, not for arithmetic).
        semi_structured: linear layers whose weights are 2:4 run on sparse tensor cores (f16 and bf16; Ampere and later);
            convolutions have no such kernel in torch and stay dense.
        integers: quantized linear layers of 8 bits multiply integers, by the state's own scales; others are simulated.
    """

    VERSION: ClassVar[int] = 5
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
        if self.semi_structured and self.precision not in ("f16", "bf16"):
            raise UserError("hardware: semi_structured wants precision f16 or bf16")

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state's module on the GPU; unsupported where there is none, or torch can't make the form of it."""
        import torch

        if not torch.cuda.is_available():
            return Unsupported("no CUDA device that torch can use on this machine")
        with arithmetic(False):
            return self._lowered(view)

    def _lowered(self, view: View) -> Lowered | Unsupported:
        import torch

        from compressbench.exit_criteria.policy import compacted, everything, policy_of
        from compressbench.hardware import agreement
        from compressbench.inputs import first, on
        from compressbench.models.build import module_of
        from compressbench.models.exits import parts_of
        from compressbench.models.quantized import quantized

        early, most = view.leaves_early, max(agreement.FEW, *self.batches)
        inputs = on(timed_inputs(view, most) if early else examples(view, most), "cuda")
        own = module_of(view.state, "cuda").requires_grad_(False)
        module = module_of(view.state, "cuda").requires_grad_(False)
        layers = tuple(quantized(module))
        rounds = bool(layers) or self.precision != "f32"
        began = time.perf_counter()
        try:
            done = integer_linear(module) if self.integers else ()
            nets = _ready(module, early, first(inputs, 8))
            inputs = _laid_out(nets[0], inputs)
            for net in nets:
                _cast(net, self._type())
            sparse, dense = _sparse(nets) if self.semi_structured else ((), ())
            parts = [self._formed(net, early) for net in nets]
            for batch in self.batches:
                everything(parts, *first(inputs, batch))
        except Exception as error:  # a driver, a kernel or the net's own Python
            return Unsupported(f"CUDA, {self.form}: {type(error).__name__}: {agreement.reason_of(error)}")
        took = time.perf_counter() - began
        try:
            if early:
                sizes = agreement.two_sizes(self.batches)
                agreement.check(
                    lambda *x: everything(parts_of(own), *x),
                    lambda *x: everything(parts, *x),
                    inputs,
                    sizes,
                    "CUDA",
                    rounds,
                )
            else:
                agreement.with_state(view, lambda *x: parts[0](*x)[0], inputs, self.batches, "CUDA", rounds)
        except agreement.Otherwise as wrong:
            return Unsupported(str(wrong))
        policy = policy_of(view.state.policies)

        def run(*batch: Tensor) -> object:
            if policy is None:
                return parts[0](*batch)[0]
            with torch.inference_mode():
                return compacted(parts, policy, *batch).logits

        left = tuple(name for name in layers if name not in done)
        words = [f"torch {self.form}, {self.precision}, {torch.cuda.get_device_name()}"]
        if self.semi_structured:
            words += [f"{counted(len(sparse), 'layer')} 2:4{f' ({shortened(sparse)})' if sparse else ''}"]
        if dense:
            words += [f"{counted(len(dense), 'layer')} with 2:4 weights dense: {shortened(dense)}"]
        if done:
            words += [f"{len(done)} linear layers int8 ({shortened(done)})"]
        if left:
            words += [f"{len(left)} quantized layers simulated in float: {shortened(left)}"]
        return Lowered(
            run,
            tuple(x.to(self._type()) if x.is_floating_point() else x for x in inputs),
            f"{', '.join(words)}{said(view)}",
            skips_zeros=bool(sparse),
            compile_seconds=took,
            in_float=left,
            varies=early,
            parts=tuple(parts) if early else (),
            simulated=bool(left) and not done,
        )

    def _type(self) -> torch.dtype:
        import torch

        return {"f16": torch.float16, "bf16": torch.bfloat16}.get(self.precision, torch.float32)

    def _formed(self, net: nn.Module, early: bool) -> Part:
        import torch

        from compressbench.outputs import forward

        dtype, tf32 = self._type(), self.precision == "tf32"

        def answer(*batch: Tensor) -> tuple[Tensor, ...]:
            if not early:
                return (forward(net, *batch).logits.float(),)
            logits, *alive = net(*batch)
            return logits.float(), *alive

        def eager(*batch: Tensor) -> tuple[Tensor, ...]:
            with torch.inference_mode(), arithmetic(tf32):
                return answer(*batch)

        if self.form == "graph":
            made = _recorded(eager, early)
        else:
            made = _compiled(answer, early, tf32) if self.form == "compiled" else eager
        return lambda *batch: made(*_laid_out(net, _of_type(batch, dtype)))

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """GPU seconds from the first kernel's start to the last one's end, the states in turns.

        Between kernels the GPU waits for launches, and with early exits for the processor's decisions: both count.
        """
        runs, forwards = calls(lowered, batch)
        timers = [_timer(run) for run in runs]
        fewest = FEWEST if forwards == 1 else FEWEST_OF_MANY
        with arithmetic(self.precision == "tf32"):
            warm = time.perf_counter()
            while True:
                for timer in timers:
                    timer()
                if time.perf_counter() - warm > WARM:
                    break
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


def waited(call: Callable[[], object]) -> Callable[[], object]:
    """The same call, over when the GPU is done with it: what a stopwatch wants."""
    import torch

    def once() -> object:
        result = call()
        torch.cuda.synchronize()
        return result

    return once


@contextmanager
def arithmetic(tf32: bool) -> Iterator[None]:
    """Inside, products of float32 on a GPU are TF32 or not; torch itself begins with TF32 in convolutions alone."""
    import torch

    # Of torch's two ways to say it for matrices the other one's getter fails where this one is used.
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    wanted = (True, "high") if tf32 else (False, "highest")
    if before == wanted:  # setting it takes longer than launching a kernel
        yield
        return
    try:
        _say(*wanted)
        yield
    finally:
        _say(*before)


def _say(convolutions: bool, matrices: str) -> None:
    import torch

    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(matrices)


def _ready(module: nn.Module, early: bool, sample: Inputs) -> list[nn.Module]:
    from compressbench.models.exits import prepared_parts
    from compressbench.models.prepared import prepared

    return prepared_parts(module, *sample) if early else [prepared(module, *sample)]


def _cast(net: nn.Module, dtype: torch.dtype) -> None:
    """All weights to another type, but for the scales of layers that simulate: torch rounds by float32 scales alone."""
    from compressbench.models.quantized import quantized

    layers: list[Any] = list(quantized(net).values())
    scales = [{n: b for n, b in layer._buffers.items() if n.endswith("_scale")} for layer in layers]
    net.to(dtype)
    for layer, own in zip(layers, scales, strict=True):
        layer._buffers.update(own)


def _laid_out(net: Any, inputs: Inputs) -> Inputs:
    """The inputs in the memory layout that a prepared net would give them, so that it needn't."""
    return tuple(x.contiguous(memory_format=net.layout) if x.ndim == 4 else x for x in inputs)


def _of_type(batch: Inputs, dtype: Any) -> Inputs:
    """Numbers of floating point in another type; ids stay whole."""
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in batch)


def _compiled(answer: Part, early: bool, tf32: bool) -> Part:
    """For each batch size by itself, and for any number of rows where they leave in between."""
    import torch

    from compressbench.hardware.torch_compiled import quietly, with_code_of_its_own

    fast = torch.compile(with_code_of_its_own(answer), dynamic=None if early else False)
    seen: set[int] = set()

    def run(*batch: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), arithmetic(tf32):
            count = len(batch[0])
            if count in seen:
                return fast(*batch)
            if early and count > 1:
                for (
                    x
                ) in batch:  # dynamo takes all parts for one function, and their sizes for that one's changes
                    torch._dynamo.maybe_mark_dynamic(x, 0)
                    torch._dynamo.mark_static(x, list(range(1, x.ndim)))
            with quietly(), torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
                result: tuple[Tensor, ...] = fast(*batch)
            seen.add(count)
            return result

    return run


def _recorded(eager: Part, early: bool) -> Part:
    """A graph for each batch size; a call copies the batch in, launches the whole and copies the answer out."""
    import torch

    graphs: dict[int, tuple[Any, Inputs, tuple[Tensor, ...]]] = {}

    def record(size: int, batch: Inputs) -> tuple[Any, Inputs, tuple[Tensor, ...]]:
        held = tuple(_room(x, size) for x in batch)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                eager(*held)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = eager(*held)
        return graph, held, result

    def run(*batch: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            count = len(batch[0])
            size = 1 << (count - 1).bit_length() if early else count
            if size not in graphs:
                graphs[size] = record(size, batch)
            graph, held, result = graphs[size]
            for there, given in zip(held, batch, strict=True):
                there[:count].copy_(given)
            graph.replay()
            return tuple(t[:count].clone() for t in result)

    return run


def _room(x: Tensor, size: int) -> Tensor:
    """Zeros for so many rows of a tensor, laid out as it is."""
    import torch

    room = x.new_zeros((size, *x.shape[1:]))
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return room.contiguous(memory_format=torch.channels_last) if last else room


def _sparse(nets: Sequence[nn.Module]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Puts 2:4 weights of linear layers into torch's semi-structured form; (their names, those that stay dense).

    Dense stay convolutions, and layers of a size that the kernels don't take.
    """
    from torch import nn
    from torch.sparse import to_sparse_semi_structured

    from compressbench.hardware.work import TWO_OF_FOUR, pattern_of

    done, left = [], []
    for net in nets:
        for path, part in net.named_modules():
            weight = part._parameters.get("weight")
            if (
                not isinstance(part, (nn.Linear, nn.Conv2d))
                or weight is None
                or pattern_of(weight) != TWO_OF_FOUR
            ):
                continue
            name = path.partition(".")[2]  # a prepared net holds its forms under names of its own
            if type(part) is not nn.Linear:
                left.append(name)
                continue
            try:
                sparse = to_sparse_semi_structured(weight.detach())
            except RuntimeError:  # of a shape that no kernel takes
                left.append(name)
                continue
            part.weight = nn.Parameter(sparse, requires_grad=False)
            done.append(name)
    return tuple(dict.fromkeys(done)), tuple(dict.fromkeys(left))


def integer_linear(module: nn.Module) -> tuple[str, ...]:
    """Quantized linear layers of 8 static bits become products of integers (``torch._int_mm``), in place; their names."""
    import torch
    from torch import nn

    from compressbench.hardware.onnx_graph import is_byte
    from compressbench.models.quantized import forms_of, integers, quantized

    class Integers(nn.Identity):  # a layer of torch's is a leaf for tracers
        """(n, in) float to (n, out): inputs to int8 by the layer's scale, summed in int32, scaled back."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            forms: Any = forms_of(layer)
            weight, entering = forms["weight"], forms["input"]
            steps = integers(
                layer.weight, weight, layer.weight_scale, layer.weight_zero
            ) - layer.weight_zero.view(-1, 1)
            self.register_buffer("steps", steps.to(torch.int8).contiguous())
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
            # cuBLAS multiplies bytes by a transposed matrix alone (https://github.com/pytorch/pytorch/pull/169961).
            steps: Any = self.steps
            result = (torch._int_mm(q, steps.t())[:rows] - self.offset) * self.scales
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
