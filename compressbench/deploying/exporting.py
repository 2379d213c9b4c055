"""Exporting: a state as a file that others load without compressbench, and what that file computes when it is loaded.

Each form writes its files and gives back a function (n, c, h, w) to logits that has *read them again*, so that what
is checked is what was written.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.hardware import agreement
from compressbench.hardware.exported import Run, exported, method_of, xnnpack_program
from compressbench.inputs import Inputs, batches, first
from compressbench.models.quantized import FLOATS, forms_of, integers, quantized
from compressbench.outputs import forward
from compressbench.tasks.task import axes_of, one_size

if TYPE_CHECKING:
    from compressbench.views import View

Written = tuple[list[Path], Run, str]
"""Files (the main one first), what they compute, the runtime in words."""


def onnx(view: View, stem: Path, sample: Inputs) -> Written:
    """``.onnx``: the QDQ graph that the hardware targets run, checked in ONNX Runtime."""
    from compressbench.hardware.onnx_graph import checked_graph
    from compressbench.hardware.onnxruntime_cpu import answers, package

    runtime = package()
    threads = torch.get_num_threads()
    opened = functools.partial(answers, runtime, threads=threads)
    task = view.bench.task
    graph, _ = checked_graph(
        view.module, sample, opened, "ONNX Runtime", names=task.inputs, axes=axes_of(task)
    )
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
    task = view.bench.task
    graph, _ = checked_graph(view.module, sample, opened, "OpenVINO", names=task.inputs, axes=axes_of(task))
    path = stem.with_name(f"{stem.name}.xml")
    runtime.save_model(core.read_model(io.BytesIO(graph.bytes())), str(path), compress_to_fp16=False)
    run = opened(path, precision=own_precision(view.module))
    return [path, path.with_suffix(".bin")], run, f"OpenVINO {runtime.__version__.partition('-')[0]}"


def torch_export(view: View, stem: Path, sample: Inputs) -> Written:
    """``.pt2``: torch's own exchange format; rounding stays simulated in it, in float."""
    path = stem.with_name(f"{stem.name}.pt2")
    program = exported(
        view.module, sample, [axes_of(view.bench.task)[name] for name in view.bench.task.inputs]
    )
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
    if why := one_size(view.bench.task):
        raise UserError(f"export: an ExecuTorch file of ours takes inputs of one size, and {why}; --to onnx")
    path = stem.with_name(f"{stem.name}.pte")
    path.write_bytes(xnnpack_program(view.module, first(sample, 1)))
    method = method_of(path)

    def run(*batch: Tensor) -> Tensor:
        return torch.cat([method(*one) for one in batches(batch, 1)])

    try:
        _agree(view, run, sample, "ExecuTorch")
    except UserError:
        path.unlink()
        raise
    words = "ExecuTorch, XNNPACK, one image a call"
    return [path], run, f"{words}, rounding simulated in float" if quantized(view.module) else words


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
