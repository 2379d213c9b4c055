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
from typing import TYPE_CHECKING, Any, ClassVar, cast

from compressbench.errors import UserError, nearest
from compressbench.hardware.exits import Compiled, in_parts, numpy_of
from compressbench.hardware.onnxruntime_cpu import kind, shortened
from compressbench.hardware.target import Lowered, Timing, Unsupported, check_threads
from compressbench.hardware.torch_cpu import check_batches, examples, time_in_turns

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.hardware.onnx_graph import Graph
    from compressbench.inputs import Inputs
    from compressbench.tasks.task import Axes
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

    VERSION: ClassVar[int] = 3
    EXITS: ClassVar[bool] = True
    threads: int = 1
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5
    precision: str | None = None

    def __post_init__(self) -> None:
        check_batches(self.batches, self.seconds)
        check_threads(self.threads, "hardware: threads")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UserError(
                f"hardware: precision {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}"
            )

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state compiled for the first batch size; for others when they come."""
        from torch import nn

        from compressbench.hardware import agreement
        from compressbench.hardware.onnx_graph import graph_in_float, graph_of
        from compressbench.inputs import first, on
        from compressbench.models.build import module_of
        from compressbench.models.quantized import quantized
        from compressbench.outputs import forward
        from compressbench.tasks.task import axes_of

        openvino = package()
        if view.leaves_early:
            words = f"OpenVINO {openvino.__version__.partition('-')[0]}, any batch size"
            return in_parts(view, max(self.batches), words, functools.partial(self._part, openvino.Core()))
        inputs = on(examples(view, max(agreement.FEW, *self.batches)), "cpu")
        names, axes = view.bench.task.inputs, axes_of(view.bench.task)
        began = time.perf_counter()
        module = module_of(view.state)
        precision = self.precision or own_precision(module)
        core = openvino.Core()
        kept: tuple[str, ...] = ()
        layers = quantized(module)
        rounds = bool(layers) or precision != "f32"
        opened = functools.partial(answers, core, threads=self.threads)
        try:
            graph, _ = graph_in_float(
                module, first(inputs, agreement.FEW), opened, "OpenVINO", names=names, axes=axes
            )
            while True:
                if layers:
                    graph = graph_of(module, inputs, kept=kept, names=names, axes=axes)
                content = graph.bytes()
                request = _requests(core, content, inputs, self.threads, precision)
                try:
                    agreement.check(
                        lambda *x: forward(module, *x).logits,
                        lambda *x, request=request: _infer(request(x)[1], x)[0],
                        inputs,
                        agreement.two_sizes(self.batches),
                        "OpenVINO",
                        rounds,
                    )
                except agreement.Otherwise:
                    linear = tuple(
                        name for name in graph.integer if isinstance(module.get_submodule(name), nn.Linear)
                    )
                    if not linear:
                        raise
                    kept = linear
                else:
                    break
        except UserError as error:
            if "pip install" in str(error):
                raise
            return Unsupported(str(error))
        took = time.perf_counter() - began
        left = float_layers(graph, request(first(inputs, self.batches[0]))[0])

        def run(*batch: Tensor) -> object:
            return _infer(request(batch)[1], batch)[0]

        words = f"OpenVINO {openvino.__version__.partition('-')[0]}, {kind(graph, left)}"
        if precision != "f32":
            words += f", else {PRECISIONS[precision]}"
        if kept:
            words += f"; its integer kernels answer wrongly for {shortened(kept)}: in float"
        in_float = (*left, *(n for n in graph.rounded if not _half(module, n, precision)))
        return Lowered(run, inputs, words, compile_seconds=took, artefact=content, in_float=in_float)

    def _part(
        self,
        core: Any,
        part: nn.Module,
        sample: Inputs,
        names: Sequence[str],
        outputs: Sequence[str],
        axes: Axes,
    ) -> Compiled:
        """A part of a net with early exits, compiled for any batch size."""
        from compressbench.hardware.onnx_graph import checked_graph

        settings: dict[str, Any] = {"threads": self.threads, "precision": self.precision or "f32"}
        opened = functools.partial(answers, core, count=len(outputs), several=True, **settings)
        graph, run = checked_graph(part, sample, opened, "OpenVINO", outputs=outputs, names=names, axes=axes)
        left = (
            float_layers(graph, compile_model(core, graph.bytes(), None, **settings)) if graph.integer else ()
        )
        return Compiled(cast("Callable[..., Sequence[Tensor]]", run), graph, left)

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Wall-clock seconds of forwards at one batch size, the states in turns."""
        return time_in_turns(lowered, batch, self.threads, self.seconds)


def _requests(
    core: Any, content: bytes, usual: Inputs, threads: int, precision: str
) -> Callable[[Inputs], Any]:
    """Inputs -> (compiled model, request), each made when it is first asked for.

    Of the usual inputs' sizes there is one for each batch size; all others, as of shorter texts, share one of any size.
    """
    compiled: dict[int, Any] = {}
    shapes = [tuple(x.shape[1:]) for x in usual]

    def request(inputs: Inputs) -> Any:
        count = len(inputs[0]) if [tuple(x.shape[1:]) for x in inputs] == shapes else 0
        if count not in compiled:
            sizes = [(count, *shape) for shape in shapes] if count else None
            model = compile_model(core, content, sizes, threads, precision)
            compiled[count] = (model, model.create_infer_request())
        return compiled[count]

    return request


def answers(
    core: Any,
    content: bytes | Path,
    threads: int,
    precision: str = "f32",
    count: int = 1,
    several: bool = False,
) -> Callable[..., Any]:
    """What a graph, or a file, computes at any batch size: its result, or so many of them."""
    request = compile_model(core, content, None, threads, precision).create_infer_request()

    def run(*batch: Tensor) -> Any:
        found = _infer(request, batch, count)
        return found if several else found[0]

    return run


def _infer(request: Any, batch: Inputs, count: int = 1) -> list[Tensor]:
    import torch

    if len(request.model_inputs) != len(batch):
        raise UserError(
            f"the net doesn't read all of its {len(batch)} inputs, and what it doesn't read is left out"
        )
    found = request.infer([numpy_of(x) for x in batch])
    return [torch.from_numpy(found[place].copy()) for place in range(count)]


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
    core: Any,
    content: bytes | Path,
    shapes: Sequence[tuple[int, ...]] | None,
    threads: int,
    precision: str,
) -> Any:
    """The graph, as bytes or a file, for inputs of these shapes (-1: any); None: as the graph has it, any batch size."""
    model = core.read_model(io.BytesIO(content) if isinstance(content, bytes) else str(content))
    if shapes is not None:
        model.reshape({place: list(shape) for place, shape in enumerate(shapes)})
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
