"""Exporting: a state as a file that others load without compressbench, and what that file computes when it is loaded.

Each form writes its files and gives back a function (n, c, h, w) to logits that has *read them again*, so that what
is checked is what was written.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.hardware import agreement
from compressbench.hardware.onnx_graph import floating
from compressbench.models.attention import unfused_attention
from compressbench.models.quantized import FLOATS, affine, forms_of, integers, quantized, rounded
from compressbench.outputs import forward
from compressbench.tasks.task import Inputs, first, rows

if TYPE_CHECKING:
    from compressbench.views import View

Run = Callable[..., Tensor]
Written = tuple[list[Path], Run, str]
"""Files (the main one first), what they compute, the runtime in words."""


def onnx(view: View, stem: Path, sample: Inputs) -> Written:
    """``.onnx``: the QDQ graph that the hardware targets run, checked in ONNX Runtime."""
    from compressbench.hardware.onnx_graph import checked_graph
    from compressbench.hardware.onnxruntime_cpu import answers, package

    runtime = package()
    threads = torch.get_num_threads()
    opened = functools.partial(answers, runtime, threads=threads)
    graph, _ = checked_graph(view.module, sample, opened, "ONNX Runtime", names=view.bench.task.inputs)
    path = stem.with_name(f"{stem.name}.onnx")
    path.write_bytes(graph.bytes())
    run = opened(path.read_bytes())
    return [path], run, f"ONNX Runtime {runtime.__version__}"


def openvino(view: View, stem: Path, sample: Inputs) -> Written:
    """``.xml`` and ``.bin``: the same graph in OpenVINO's own format."""
    from compressbench.hardware.onnx_graph import checked_graph
    from compressbench.hardware.openvino_cpu import answers, own_precision, package

    runtime = package()
    core = runtime.Core()
    opened = functools.partial(answers, core, threads=torch.get_num_threads())
    graph, _ = checked_graph(view.module, sample, opened, "OpenVINO", names=view.bench.task.inputs)
    path = stem.with_name(f"{stem.name}.xml")
    runtime.save_model(core.read_model(io.BytesIO(graph.bytes())), str(path), compress_to_fp16=False)
    run = opened(path, precision=own_precision(view.module))
    return [path, path.with_suffix(".bin")], run, f"OpenVINO {runtime.__version__.partition('-')[0]}"


def torch_export(view: View, stem: Path, sample: Inputs) -> Written:
    """``.pt2``: torch's own exchange format; rounding stays simulated in it, in float."""
    path = stem.with_name(f"{stem.name}.pt2")
    program = _program(view.module, sample)
    made = program.module()

    def run(*batch: Tensor) -> Tensor:
        with torch.no_grad():
            return made(*batch)

    _agree(view, run, sample, "torch.export")
    torch.export.save(program, str(path))
    made = torch.export.load(str(path)).module()
    return [path], run, f"torch {torch.__version__}, rounding simulated in float"


def executorch(view: View, stem: Path, sample: Inputs) -> Written:
    """``.pte``: for phones and small devices, one image a call, with XNNPACK's kernels; rounding stays simulated."""
    path = stem.with_name(f"{stem.name}.pte")
    path.write_bytes(xnnpack_program(view.module, first(sample, 1)))
    method = method_of(path)

    def run(*batch: Tensor) -> Tensor:
        return torch.cat([method(*rows(batch, slice(k, k + 1))) for k in range(len(batch[0]))])

    try:
        _agree(view, run, sample, "ExecuTorch")
    except UserError:
        path.unlink()
        raise
    words = "ExecuTorch, XNNPACK, one image a call"
    return [path], run, f"{words}, rounding simulated in float" if quantized(view.module) else words


def xnnpack_program(module: nn.Module, sample: Inputs) -> bytes:
    """A module for inputs of the sample's very shape, lowered to XNNPACK.

    Raises:
        UserError: ExecuTorch isn't installed, or the net can't be exported.
    """
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise UserError(f"ExecuTorch isn't installed ({error}): pip install executorch") from error
    program = _program(module, sample, free=False)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    return lowered.buffer


def method_of(path: Path) -> Run:
    """The forward of a program on disk."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    method = program.load_method("forward")

    def run(*batch: Tensor) -> Tensor:
        assert program is not None, "it lives as long as its method"
        return method.execute([_plain(x) for x in batch])[0].clone()

    return run


def safetensors(view: View, stem: Path, sample: Inputs) -> Written:
    """``.safetensors``: weights as integers with their scales where they are quantized; the net's spec as metadata."""
    from safetensors.torch import load_file, save_file

    path = stem.with_name(f"{stem.name}.safetensors")
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in view.module.state_dict().items()}
    forms = {}
    for name, layer in quantized(view.module).items():
        forms[name] = forms_of(layer)
        tensors |= _stored(name, layer)
        if f"{name}.weight|q" in tensors:
            del tensors[f"{name}.weight"]
    edits = [e for e in view.state.edits if "quantize" not in e]
    metadata = {
        k: json.dumps(v) for k, v in (("model", view.state.model), ("edits", edits), ("quantized", forms))
    }
    save_file(tensors, str(path), metadata=metadata)
    module = _restored(view.module, load_file(str(path)))

    def run(*batch: Tensor) -> Tensor:
        with torch.no_grad():
            return forward(module, *batch).logits

    return [path], run, f"torch {torch.__version__}, rounding simulated in float"


FORMS: dict[str, Callable[[View, Path, Inputs], Written]] = {
    f.__name__: f for f in (onnx, openvino, torch_export, executorch, safetensors)
}


def _agree(view: View, run: Run, sample: Inputs, who: str) -> None:
    """Refuses what answers otherwise than the state, which may round a number on an edge to the other side.

    Raises:
        UserError: it does.
    """
    module = view.module
    sizes, rounds = agreement.two_sizes((1, len(sample[0]))), bool(quantized(module))
    agreement.check(lambda *x: forward(module, *x).logits, run, sample, sizes, who, rounds, agreement.HINT)


class _Logits(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        return forward(self.net, *inputs).logits


class _Spelled(nn.Module):
    """A rounding layer in elementary operations, which torch.export knows: it can't trace fused fake quantization."""

    def __init__(self, rounding: Any, plain: nn.Module) -> None:
        super().__init__()
        self.plain: Any = plain
        forms: Any = forms_of(rounding)
        self.form = forms["input"]
        if forms["weight"]:
            scale, zero = (getattr(rounding, f"weight_{entry}", None) for entry in ("scale", "zero"))
            self.plain.weight = nn.Parameter(
                rounded(rounding.weight.detach(), forms["weight"], scale, zero), requires_grad=False
            )
        for entry in ("scale", "zero"):
            self.register_buffer(entry, getattr(rounding, f"input_{entry}", None))
        self.__dict__["_latent"] = rounding.weight.detach()

    @property
    def weight(self) -> Tensor:
        """The weight that isn't rounded, as a forward of the user's may read it of the layer."""
        return self.__dict__["_latent"]

    def forward(self, inputs: Tensor) -> Tensor:
        """As the layer."""
        return self.plain(self._rounded(inputs))

    def _rounded(self, x: Tensor) -> Tensor:
        form = self.form
        if not form:
            return x
        if "dtype" in form:
            return x.to(FLOATS[form["dtype"]]).to(x.dtype)
        scale: Any = self.scale
        zero: Any = self.zero
        if form.get("dynamic"):
            scale, zero = affine(x.amin(), x.amax(), form["low"], form["high"])
        return ((x * (1.0 / scale)).round() + zero).clamp(form["low"], form["high"]).sub(zero) * scale


def _spelled(module: nn.Module) -> nn.Module:
    out = floating(module)
    for name, layer in quantized(module).items():
        parent, _, leaf = name.rpartition(".")
        setattr(out.get_submodule(parent), leaf, _Spelled(layer, out.get_submodule(name)))
    return out.eval()


def _plain(images: Tensor) -> Tensor:
    """Laid out image by image, row by row; ``contiguous`` leaves one channel's odd strides, which runtimes trip over."""
    return images.clone(memory_format=torch.contiguous_format)


_WAYS = {
    "data-dependent": "; its forward branches on values, of its input or its tensors: use torch.where, or export to onnx",
    "Constraints violated": "; its forward fixes the number of examples: reshape by -1 or by x.shape[0] as it is",
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch prints the graph that it can't export, and logs why; the error says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.disable(before)


def _program(module: nn.Module, sample: Inputs, free: bool = True) -> Any:
    n = torch.export.Dim("n", min=1, max=4096)
    try:
        with torch.no_grad(), unfused_attention(), _quiet():
            program = torch.export.export(
                _Logits(_spelled(module)).eval(),
                tuple(map(_plain, first(sample, 4) if free else sample)),
                dynamic_shapes={"inputs": tuple({0: n} for _ in sample)} if free else None,
            )
    except Exception as error:  # it fails in many ways, all with the user's net as the reason
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        way = next((words for sign, words in _WAYS.items() if sign in reason), "")
        reason = reason.partition(" For more information")[0].rstrip(".! ")
        raise UserError(f"torch.export can't trace the net: {reason}{way}") from error
    for graph in (m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)):
        for node in graph.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def _stored(name: str, layer: Any) -> dict[str, Tensor]:
    """A rounding layer's numbers: ``weight|q`` and the scales of weight and input."""
    out = {
        f"{name}.{part}|{entry}": getattr(layer, f"{part}_{entry}").detach().cpu().clone()
        for part in ("weight", "input")
        for entry in ("scale", "zero")
        if f"{part}_{entry}" in layer._buffers
    }
    form = forms_of(layer)["weight"]
    if form and "dtype" not in form:
        steps = integers(layer.weight, form, layer.weight_scale, layer.weight_zero)
        fits = form["low"] >= -128 and form["high"] <= 127
        out[f"{name}.weight|q"] = steps.cpu().to(torch.int8 if fits else torch.int32)
    elif form:
        out[f"{name}.weight"] = layer.weight.detach().cpu().to(FLOATS[form["dtype"]])
    return out


def _restored(module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """A copy of the module with what a file holds; weights are scale (q - zero)."""
    import copy

    fresh: Any = copy.deepcopy(module).cpu()
    values = {n: t for n, t in tensors.items() if "|" not in n}
    for name, steps in tensors.items():
        if name.endswith(".weight|q"):
            weight = name.removesuffix("|q")
            scale, zero = tensors[f"{weight}|scale"], tensors[f"{weight}|zero"]
            shape = (-1, *[1] * (steps.ndim - 1)) if scale.ndim else ()
            values[weight] = (steps.to(torch.int32) - zero.view(shape)) * scale.view(shape)
    fresh.load_state_dict(values)
    return fresh.eval()
