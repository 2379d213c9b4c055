"""This machine's processor, OpenVINO: the same QDQ graph as everywhere, compiled for each batch size."""

from __future__ import annotations

import functools
import io
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.hardware.early import in_parts, numpy_of
from compressbench.hardware.onnxruntime_cpu import kind, shortened
from compressbench.hardware.target import Lowered, Timing, Unsupported
from compressbench.hardware.torch_cpu import check_batches, examples, time_in_turns

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.hardware.onnx_graph import Graph
    from compressbench.views import View

PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
_MULTIPLIES = ("Convolution", "FullyConnected", "MatMul")
_TELEMETRY = "openvino_telemetry"
FAR = 0.25


@dataclass(frozen=True)
class OpenVINOCPU:
    """OpenVINO's CPU plugin, no telemetry, no cache on disk.

    Attributes:
        threads: of the runtime.
        batches: sizes to time.
        seconds: of timing for each batch size, for all states in turns.
        precision: of what isn't quantized: ``f32``, ``bf16`` or ``f16``; null takes a cast state's own, else ``f32``.
    """

    VERSION: ClassVar[int] = 3
    EXITS: ClassVar[bool] = True
    threads: int = 1
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5
    precision: str | None = None

    def __post_init__(self) -> None:
        check_batches(self.batches, self.seconds)
        if self.threads < 1:
            raise UserError(f"hardware: threads is {self.threads}, must be at least 1")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UserError(
                f"hardware: precision {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}"
            )

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state compiled for the first batch size; for others when they come."""
        from torch import nn

        from compressbench.hardware.onnx_graph import graph_of
        from compressbench.models.build import module_of

        openvino = package()
        if view.leaves_early:
            words = f"OpenVINO {openvino.__version__.partition('-')[0]}, fp32 in parts of any batch size"
            return in_parts(view, max(self.batches), words, functools.partial(self._part, openvino.Core()))
        inputs = examples(view, max(self.batches)).cpu()
        began = time.perf_counter()
        module = module_of(view.state)
        precision = self.precision or own_precision(module)
        core = openvino.Core()
        kept: tuple[str, ...] = ()
        while True:
            try:
                graph = graph_of(module, inputs, kept=kept)
            except UserError as error:
                if "pip install" in str(error):
                    raise
                return Unsupported(str(error))
            content = graph.bytes()
            request = _requests(core, content, tuple(inputs.shape[1:]), self.threads, precision)
            try:
                wrong = self._wrong(module, request, inputs) if graph.integer else ""
            except Exception as error:  # the runtime's own errors have no common base
                return Unsupported(f"OpenVINO refuses the graph: {str(error).strip().splitlines()[-1]}")
            if not wrong:
                break
            linear = tuple(
                name for name in graph.integer if isinstance(module.get_submodule(name), nn.Linear)
            )
            if not linear:
                return Unsupported(wrong)
            kept = linear
        took = time.perf_counter() - began
        left = float_layers(graph, request(self.batches[0])[0])

        def run(batch: Tensor) -> object:
            import torch

            result = request(len(batch))[1].infer([batch.numpy()])
            return torch.from_numpy(result[0].copy())

        words = f"OpenVINO {openvino.__version__.partition('-')[0]}, {kind(graph, left)}"
        if precision != "f32":
            words += f", else {PRECISIONS[precision]}"
        if kept:
            words += f"; its integer kernels answer wrongly for {shortened(kept)}: in float"
        in_float = (*left, *(n for n in graph.rounded if not _half(module, n, precision)))
        return Lowered(run, inputs, words, compile_seconds=took, artefact=content, in_float=in_float)

    def _part(
        self, core: Any, part: nn.Module, sample: Tensor, names: Sequence[str]
    ) -> Callable[[Tensor], Sequence[Tensor]]:
        """A part of a net with early exits, compiled for any batch size."""
        import torch

        from compressbench.hardware.onnx_graph import graph_of

        content = graph_of(part, sample, outputs=names).bytes()
        shape = (-1, *sample.shape[1:])
        compiled = compile_model(core, content, shape, self.threads, self.precision or "f32")
        request = compiled.create_infer_request()

        def run(x: Tensor) -> list[Tensor]:
            found = request.infer([numpy_of(x)])
            return [torch.from_numpy(found[place].copy()) for place in range(len(names))]

        return run

    def _wrong(self, module: Any, request: Callable[[int], Any], inputs: Tensor) -> str:
        """Whether the runtime's answers are far from the state's at any batch size, in words; empty if near."""
        import torch

        from compressbench.outputs import forward

        for batch in self.batches:
            with torch.no_grad():
                own = forward(module, inputs[:batch]).logits
            there = torch.from_numpy(request(batch)[1].infer([inputs[:batch].numpy()])[0].copy())
            apart = float((there - own).abs().mean() / own.std().clamp(min=1e-12))
            if not apart <= FAR:
                return (
                    f"OpenVINO answers otherwise than the state at batch {batch}: logits {apart:.2g} of their spread "
                    "apart on average"
                )
        return ""

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Wall-clock seconds of forwards at one batch size, the states in turns."""
        return time_in_turns(lowered, batch, self.threads, self.seconds)


def _requests(
    core: Any, content: bytes, shape: tuple[int, ...], threads: int, precision: str
) -> Callable[[int], Any]:
    """Batch size -> (compiled model, request), each made when it is first asked for."""
    compiled: dict[int, Any] = {}

    def request(count: int) -> Any:
        if count not in compiled:
            model = compile_model(core, content, (count, *shape), threads, precision)
            compiled[count] = (model, model.create_infer_request())
        return compiled[count]

    return request


def package() -> Any:
    """The runtime, its telemetry out of reach: that would write an identity into the user's folder and call home.

    Raises:
        UserError: it isn't installed.
    """
    from compressbench.hardware.onnx_graph import onnx

    onnx()
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            f"OpenVINO isn't installed ({error}): pip install 'compressbench[openvino]'"
        ) from error
    finally:
        sys.modules.pop(_TELEMETRY, None)
        if before is not None:
            sys.modules[_TELEMETRY] = before
    return openvino


def _half(module: Any, layer: str, precision: str) -> bool:
    """Whether a layer was cast to the very type that the runtime computes it in."""
    from compressbench.models.quantized import forms_of

    types = {form.get("dtype") for form in forms_of(module.get_submodule(layer)).values() if form}
    own = {"bf16": "bfloat16", "f16": "float16"}.get(precision)
    return own is not None and types == {own}


def own_precision(module: Any) -> str:
    """What a state's cast layers ask for: the type of the first."""
    from compressbench.models.quantized import forms_of, quantized

    for layer in quantized(module).values():
        for form in forms_of(layer).values():
            if form and "dtype" in form:
                return "bf16" if form["dtype"] == "bfloat16" else "f16"
    return "f32"


def compile_model(
    core: Any, content: bytes | Path, shape: tuple[int, ...], threads: int, precision: str
) -> Any:
    """The graph, as bytes or a file, for inputs of one shape (-1: any)."""
    model = core.read_model(io.BytesIO(content) if isinstance(content, bytes) else str(content))
    model.reshape(list(shape))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,
        "CACHE_DIR": "",
    }
    return core.compile_model(model, "CPU", settings)


def float_layers(graph: Graph, compiled: Any) -> tuple[str, ...]:
    """Layers with integers in the graph that the compiled model computes on float numbers."""
    if not graph.integer:
        return ()
    integer: set[str] = set()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        told = {key: str(info[key].value) for key in _TOLD if key in info}
        if told.get("layerType") in _MULTIPLIES and told.get("runtimePrecision") in ("u8", "i8"):
            read = [source.get_source_output().get_node() for source in operation.inputs()]
            names = [told.get("originalLayersNames", ""), *(node.get_friendly_name() for node in read)]
            integer |= {re.split(r"[/|]|\.weight\|", part)[0] for part in ",".join(names).split(",")}
    return tuple(name for name in graph.integer if name not in integer)


_TOLD = ("layerType", "runtimePrecision", "originalLayersNames")
