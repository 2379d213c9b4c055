"""This machine's processor, ONNX Runtime: the state's own QDQ graph, integer kernels where the runtime has them."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from compressbench.errors import UserError
from compressbench.hardware.exits import Compiled, in_parts, numpy_of
from compressbench.hardware.target import Lowered, Timing, Unsupported, check_threads
from compressbench.hardware.torch_cpu import check_batches, examples, time_in_turns

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.hardware.onnx_graph import Graph
    from compressbench.inputs import Inputs
    from compressbench.tasks.task import Axes
    from compressbench.views import View


@dataclass(frozen=True)
class OnnxRuntimeCPU:
    """ONNX Runtime's CPU provider. Float layers are fp32: it has no bf16 or fp16 kernels for x86.

    Attributes:
        threads: of the runtime.
        batches: sizes to time.
        seconds: of timing for each batch size, for all states in turns.
        results: rounds convolutions' results to 8 bits as well, in ranges seen on validation (or train) images,
            where the state leaves them in float (before a sum): the runtime's integer convolutions can't do without.
            The state's own scales stay as they are. False keeps to the state, and such layers run in float.
    """

    VERSION: ClassVar[int] = 3
    EXITS: ClassVar[bool] = True
    threads: int = 1
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5
    results: bool = False

    def __post_init__(self) -> None:
        check_batches(self.batches, self.seconds)
        check_threads(self.threads, "hardware: threads")

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state as a session of the runtime; unsupported where torch can't export the net."""
        from compressbench.hardware.agreement import FEW
        from compressbench.hardware.onnx_graph import checked_graph
        from compressbench.inputs import first, on
        from compressbench.models.build import module_of
        from compressbench.tasks.task import axes_of

        runtime = package()
        if view.leaves_early:
            words = f"ONNX Runtime {runtime.__version__}"
            return in_parts(view, max(self.batches), words, functools.partial(self._part, runtime))
        inputs = on(examples(view, max(FEW, *self.batches)), "cpu")
        began = time.perf_counter()
        try:
            images = result_examples(view) if self.results else None
            opened = functools.partial(answers, runtime, threads=self.threads)
            module = module_of(view.state)
            graph, run = checked_graph(
                module, first(inputs, FEW), opened, "ONNX Runtime", images, names=view.bench.task.inputs,
                axes=axes_of(view.bench.task),
            )  # fmt: skip
        except UserError as error:
            if "pip install" in str(error):
                raise
            return Unsupported(str(error))
        took = time.perf_counter() - began
        content = graph.bytes()
        left = self._left(runtime, graph)
        in_float = (*left, *graph.rounded)
        words = f"ONNX Runtime {runtime.__version__}, {kind(graph, left)}"
        if self.results and graph.integer:
            words += ", results rounded too"
        return Lowered(run, inputs, words, compile_seconds=took, artefact=content, in_float=in_float)

    def _part(
        self,
        runtime: Any,
        part: nn.Module,
        sample: Inputs,
        names: Sequence[str],
        outputs: Sequence[str],
        axes: Axes,
    ) -> Compiled:
        """A part of a net with early exits as a session."""
        from compressbench.hardware.onnx_graph import checked_graph

        opened = functools.partial(answers, runtime, threads=self.threads, several=True)
        graph, run = checked_graph(
            part, sample, opened, "ONNX Runtime", outputs=outputs, names=names, axes=axes
        )
        return Compiled(cast("Callable[..., Sequence[Tensor]]", run), graph, self._left(runtime, graph))

    def _left(self, runtime: Any, graph: Graph) -> tuple[str, ...]:
        """Layers of integers that the runtime computes in float."""
        if not graph.integer:
            return ()
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / "optimised.onnx"
            open_session(runtime, graph.bytes(), self.threads, optimised)
            return float_layers(graph, optimised)

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Wall-clock seconds of forwards at one batch size, the states in turns."""
        return time_in_turns(lowered, batch, self.threads, self.seconds)


def result_examples(view: View, count: int = 256) -> Inputs:
    """Encoded examples that ranges of results are taken on; never of the test split."""
    bench = view.bench
    split = "validation" if "validation" in bench.dataset.splits else "train"
    from compressbench.inputs import on

    return on(bench.task.encode(bench.feed(split).head(count)), "cpu")


def package() -> Any:
    """The runtime, imported with its telemetry off: it would write an identity into the user's folder.

    Raises:
        UserError: it isn't installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"ONNX Runtime isn't installed ({error}): pip install 'compressbench[onnx]'"
        ) from error
    return onnxruntime


def open_session(runtime: Any, content: bytes | str, threads: int, optimised: Path | None = None) -> Any:
    """A session of a graph (bytes, or a path) on the CPU; ``optimised`` takes the graph that it really runs."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what fails is raised, and said once
    # At other levels ONNX Runtime silently rounds float inputs of products with integer weights, block by block.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def answers(runtime: Any, content: bytes, threads: int, several: bool = False) -> Callable[..., Any]:
    """What a graph computes in the runtime: its result, or all of them."""
    import torch

    session = open_session(runtime, content, threads)
    names = [each.name for each in session.get_inputs()]

    def run(*batch: Tensor) -> Any:
        fed = {name: numpy_of(x) for name, x in zip(names, batch, strict=True)}
        found = [torch.from_numpy(y) for y in session.run(None, fed)]
        return found if several else found[0]

    return run


def float_layers(graph: Graph, optimised: Path) -> tuple[str, ...]:
    """Layers with integers in the graph whose weight is turned back into float before it is used."""
    import onnx

    nodes = onnx.load(str(optimised)).graph.node
    restored = {n.input[0] for n in nodes if n.op_type == "DequantizeLinear"}
    integer = {n.name.partition("|")[0] for n in nodes if n.op_type in INTEGER}
    return tuple(
        name
        for name in graph.integer
        if name not in integer and any(r.partition("_transposed")[0] == f"{name}.weight|q" for r in restored)
    )


INTEGER = (
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
)


def kind(graph: Graph, left: Sequence[str]) -> str:
    """What runs, in words: fp32, int8, or both; and what is left out because it never runs."""
    words = _kind(graph, left)
    if graph.unused:
        words += f"; left out, no answer depends on them: {shortened(graph.unused)}"
    return words


def _kind(graph: Graph, left: Sequence[str]) -> str:
    if not graph.integer:
        why = sorted(set(graph.rounded.values()))
        return f"fp32 ({'; '.join(why)})" if why else "fp32"
    if len(left) == len(graph.integer):
        return "fp32, no integer kernel for any layer"
    words = "int8"
    if left:
        words += f", {len(left)} of {len(graph.integer)} quantized layers in fp32: {shortened(left)}"
    return words


def shortened(names: Sequence[str], most: int = 4) -> str:
    """A list of names for a note."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"
