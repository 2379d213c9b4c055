"""This machine's processor, OpenVINO: the same QDQ graph as everywhere, compiled for each batch size."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.hardware.onnxruntime_cpu import kind
from compressbench.hardware.target import Lowered, Timing, Unsupported
from compressbench.hardware.torch_cpu import check_batches, examples, time_in_turns

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.hardware.onnx_graph import Graph
    from compressbench.views import View

PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
_MULTIPLIES = ("Convolution", "FullyConnected", "MatMul")
_TELEMETRY = "openvino_telemetry"


@dataclass(frozen=True)
class OpenVINOCPU:
    """OpenVINO's CPU plugin, no telemetry, no cache on disk.

    Attributes:
        threads: of the runtime.
        batches: sizes to time.
        seconds: of timing for each batch size, for all states in turns.
        precision: of what isn't quantized: ``f32``, ``bf16`` or ``f16``; null takes a cast state's own, else ``f32``.
    """

    VERSION: ClassVar[int] = 1
    threads: int = 1
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5
    precision: str | None = None

    def __post_init__(self) -> None:
        check_batches(self.batches)
        if self.threads < 1:
            raise UserError(f"hardware: threads is {self.threads}, must be at least 1")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UserError(
                f"hardware: precision {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}"
            )

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state compiled for the first batch size; for others when they come."""
        from compressbench.hardware.onnx_graph import graph_of
        from compressbench.models.build import module_of

        openvino = package()
        inputs = examples(view, max(self.batches)).cpu()
        began = time.perf_counter()
        module = module_of(view.state)
        try:
            graph = graph_of(module, inputs)
        except UserError as error:
            if "pip install" in str(error):
                raise
            return Unsupported(str(error))
        content = graph.bytes()
        precision = self.precision or own_precision(module)
        core = openvino.Core()
        compiled: dict[int, Any] = {}
        shape = tuple(inputs.shape[1:])

        def request(count: int) -> Any:
            if count not in compiled:
                model = compile_model(core, content, (count, *shape), self.threads, precision)
                compiled[count] = (model, model.create_infer_request())
            return compiled[count][1]

        try:
            request(self.batches[0])
        except Exception as error:  # the runtime's own errors have no common base
            return Unsupported(f"OpenVINO refuses the graph: {str(error).strip().splitlines()[-1]}")
        took = time.perf_counter() - began
        left = float_layers(graph, compiled[self.batches[0]][0])

        def run(batch: Tensor) -> object:
            import torch

            result = request(len(batch)).infer([batch.numpy()])
            return torch.from_numpy(result[0].copy())

        words = f"OpenVINO {openvino.__version__.partition('-')[0]}, {kind(graph, left)}"
        if precision != "f32":
            words += f", else {PRECISIONS[precision]}"
        return Lowered(run, inputs, words, compile_seconds=took, artefact=content, in_float=left)

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Wall-clock seconds of forwards at one batch size, the states in turns."""
        return time_in_turns(lowered, batch, self.threads, self.seconds)


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
