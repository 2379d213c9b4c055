"""What the layers of two models are fed: values that have run into an end of their range, which answers may not show."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.comparing.oddities import WRONG, Finding
from compressbench.wording import counted

if TYPE_CHECKING:
    from torch import nn

CUT = 2.0
"""Percent of what a layer is fed from which on it counts as cut off."""
MOST = 25_000
"""So many values of a layer are kept of a call."""
FEW = 1000
"""Fewer values than these tell nothing of a layer."""
PRODUCTS = ("Conv", "Gemm", "MatMul", "ConvTranspose", "QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger")
"""ONNX's, whose first input is looked at."""


WITH_ZERO = ("QLinearConv", "QLinearMatMul", "QGemm")
"""Those whose third input is what stands for zero in the first."""


@dataclass(frozen=True)
class Fed:
    """What one layer is fed.

    Attributes:
        layer: its name.
        cut: percent of its values, those that are zero left out, at one end of their range, or 0 where that end isn't
            taken four times as often as any of the five values next to it.
        end: the value there.
        n: values that aren't zero.
    """

    layer: str
    cut: float
    end: float
    n: int


def at_an_end(layer: str, values: np.ndarray) -> Fed:
    """Of all values that a layer is fed; those that are no numbers are left out."""
    flat = values.astype(np.float64).ravel()
    flat = flat[np.isfinite(flat) & (flat != 0)]
    best = Fed(layer, 0.0, 0.0, len(flat))
    if len(flat) < FEW:
        return best
    distinct, counts = np.unique(flat, return_counts=True)
    for end, beside in ((-1, counts[-6:-1]), (0, counts[1:6])):
        zero_end = distinct[end] * (1 if end == -1 else -1) <= 0  # all of it lies on the other side of zero
        spike = len(beside) > 0 and counts[end] >= 4 * beside.max()
        share = 100 * float(counts[end]) / len(flat)
        if spike and not zero_end and share > best.cut:
            best = Fed(layer, share, float(distinct[end]), len(flat))
    return best


def of_graph(path: Path, feeds: Iterable[Mapping[str, np.ndarray]]) -> tuple[Fed, ...]:
    """Of an ONNX model's products of constant weights, but for what is fed the pictures themselves, in its order.

    Args:
        feeds: some examples each, by the inputs' names.
    """
    import onnx

    from compressbench.hardware.onnxruntime_cpu import open_session, package

    model = copy.deepcopy(onnx.load(str(path)))
    begins = _behind(model.graph)
    made = {o for n in model.graph.node for o in n.output}
    layers = [
        (n.name or n.output[0], n.input[0])
        for n in model.graph.node
        if n.op_type in PRODUCTS and n.input[0] in made and n.input[0] not in begins
    ]
    if not layers:
        return ()
    names = list(dict.fromkeys(tensor for _, tensor in layers))
    zeros = _zeros(model.graph)
    known = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    session = open_session(package(), model.SerializeToString(), 1)
    wanted = {i.name for i in session.get_inputs()}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for feed in feeds:
        found = session.run(names, {n: a for n, a in feed.items() if n in wanted})
        for name, value in zip(names, found, strict=True):
            parts[name].append(_some(value if name not in zeros else value.astype(np.float32) - zeros[name]))
    return tuple(at_an_end(layer, np.concatenate(parts[tensor])) for layer, tensor in layers)


def _zeros(graph: Any) -> dict[str, float]:
    """What stands for zero in tensors of integers that products read, by their names."""
    from onnx import numpy_helper

    held = {i.name: i for i in graph.initializer}
    found = {}
    for node in graph.node:
        zero = held.get(node.input[2]) if node.op_type in WITH_ZERO and len(node.input) > 2 else None
        if zero is not None and not zero.dims:
            found[node.input[0]] = float(numpy_helper.to_array(zero))
    return found


ALIKE = (
    "QuantizeLinear",
    "DequantizeLinear",
    "Cast",
    "Transpose",
    "Reshape",
    "Pad",
    "Identity",
    "Sub",
    "Div",
    "Mul",
    "Add",
)
"""What may lie between a picture and the first layer."""


def _behind(graph: Any) -> set[str]:
    """Tensors that are inputs, prepared at most."""
    weights = {i.name for i in graph.initializer}
    found = {i.name for i in graph.input} - weights
    for node in graph.node:
        rest = [n for n in node.input if n and n not in weights and n not in found]
        if node.op_type in ALIKE and not rest and found & set(node.input):
            found |= set(node.output)
    return found


def of_module(module: nn.Module, batches: Iterable[Sequence[Any]]) -> tuple[Fed, ...]:
    """Of a torch module's convolutions and linear layers, the first one left out, in the order of the forward."""
    import torch
    from torch import nn

    parts: dict[str, list[np.ndarray]] = {}

    def note(name: str) -> Callable[[Any, Any], None]:
        def hook(part: Any, given: Any) -> None:
            parts.setdefault(name, []).append(_some(given[0].detach().float().cpu().numpy()))

        return hook

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    hooks = [m.register_forward_pre_hook(note(n)) for n, m in module.named_modules() if isinstance(m, kinds)]
    try:
        with torch.inference_mode():
            for batch in batches:
                module.eval()(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(at_an_end(name, np.concatenate(values)) for name, values in list(parts.items())[1:])


def _some(values: np.ndarray) -> np.ndarray:
    """``MOST`` of them or so, every so manieth; an odd number, so that no channel and no column is left out."""
    flat = values.ravel()
    step = max(1, len(flat) // MOST)
    return flat[:: step + (step > 1 and step % 2 == 0)].copy()


def cut_off(
    reference: Sequence[Fed], other: Sequence[Fed], whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Layers that are fed what was cut off at one value, where the reference's are not.

    It speaks where ``CUT`` percent of what a layer is fed or more, zeros left out, is one end of its range, and of the
    reference's layer at the same place less than a quarter of that; of nets with other numbers of layers, of any layer of
    the reference. (Calibration on some hundred examples cuts off a few in a thousand at most.)
    """
    if not reference or not other:
        return ()
    alike = len(reference) == len(other)
    most = max(f.cut for f in reference)
    found = [
        f
        for place, f in enumerate(other)
        if f.cut >= CUT and (reference[place].cut if alike else most) < f.cut / 4
    ]
    if not found:
        return ()
    worst = max(found, key=lambda f: f.cut)
    also = f", and likewise of {counted(len(found) - 1, 'layer')} more" if len(found) > 1 else ""
    words = (
        f"{worst.cut:.1f} % of what {worst.layer} of {whose} is fed, zeros left out, is {worst.end:.4g}, the end of its "
        f"range{also}: values are cut "
        "off there that the reference has; too narrow a range, or calibrated on too few examples?"
    )
    return (Finding("saturated layers", words, worst.cut, worst.n, WRONG),)
