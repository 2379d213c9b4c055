"""Where an error came from: of each layer, the error that it makes itself and the one that has arrived there.

Two graphs whose tensors have the same names are compared tensor by tensor: a float and a quantized ONNX model, or two
torch modules of one architecture. The other model's layer is run once on what the reference's layer gets (error made
here), and once within its own model (error arrived here); both as signal-to-noise ratio in decibels, 10 log10 of the
reference's power over that of the difference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.errors import UserError

if TYPE_CHECKING:
    from torch import nn

Feeds = Mapping[str, np.ndarray]
PRODUCTS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
"""The operators that a layer is named for."""
MERGED = ("Relu", "Clip", "BatchNormalization")
PREFIX = "reference/"


@dataclass(frozen=True)
class Layer:
    """One layer's error.

    Attributes:
        name: of the layer.
        tensor: of the tensor that it gives, as both models call it.
        made: signal-to-noise ratio in dB of what the other's layer gives for the reference's own input; infinite where
            nothing differs.
        arrived: the same within the other model.
    """

    name: str
    tensor: str
    made: float
    arrived: float


def ratio(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal-to-noise ratio in dB; infinite where nothing differs, minus infinity of a signal of zeros or no numbers."""
    one, two = reference.astype(np.float64), other.astype(np.float64)
    noise = float(np.square(one - two).sum())
    signal = float(np.square(one).sum())
    if noise == 0:
        return math.inf
    if not math.isfinite(noise) or signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise)


def worst_first(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """By the error made, the lowest ratio first."""
    return tuple(sorted(layers, key=lambda layer: layer.made))


# torch ----------------------------------------------------------------------------------------------------------------


def of_modules(reference: nn.Module, other: nn.Module, inputs: Sequence[Any]) -> tuple[Layer, ...]:
    """Of two modules whose layers have the same names, in the order of the forward.

    Args:
        inputs: tensors of a few examples, as both forwards take them.
    """
    import torch
    from torch import nn

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    names = [n for n, m in reference.named_modules() if isinstance(m, kinds)]
    parts = dict(other.named_modules())
    common = [n for n in names if n in parts]
    with torch.inference_mode():
        before, first = _watched(reference, common, inputs)
        _, second = _watched(other, common, inputs)
        found = []
        for name in first:
            if name not in second or first[name].shape != second[name].shape:
                continue
            own = parts[name](*before[name])
            found.append(
                Layer(
                    name,
                    name,
                    ratio(first[name].float().numpy(), own.float().numpy()),
                    ratio(first[name].float().numpy(), second[name].float().numpy()),
                )
            )
    return tuple(found)


def _watched(
    module: nn.Module, names: Sequence[str], inputs: Sequence[Any]
) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """What layers got and gave in one forward, by name, in the order in which they ran."""
    got: dict[str, tuple[Any, ...]] = {}
    gave: dict[str, Any] = {}

    def note(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(part: Any, given: Any, result: Any) -> None:
            got[name], gave[name] = tuple(x.clone() for x in given), result.clone()

        return hook

    parts = dict(module.named_modules())
    hooks = [parts[name].register_forward_hook(note(name)) for name in names]
    try:
        module.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return got, gave


# ONNX -----------------------------------------------------------------------------------------------------------------


def of_graphs(reference: Path, other: Path, feeds: Feeds) -> tuple[Layer, ...]:
    """Of two ONNX models whose layers' outputs have the same names, in the order of the graph.

    Args:
        feeds: a few examples, by the inputs' names.

    Raises:
        UserError: they have no such tensor in common.
    """
    one, two = _loaded(reference), _loaded(other)
    tensors = _common(one, two)
    if not tensors:
        raise UserError(
            f"{other.name}: none of its tensors is called as one of {reference.name}; layers can't be told apart"
        )
    ends = {tensor: _handed_on(two, tensor) for tensor in tensors}
    first = _values(one, list(tensors), feeds)
    second = _values(two, [each[0] for each in ends.values()], feeds)
    values = {**feeds, **first, **{end: first[t] for t, each in ends.items() for end in each}}
    found = []
    for tensor, name in tensors.items():
        end = ends[tensor][0]
        begin = _frontier(two, end, values.keys() - {tensor, *ends[tensor]})
        own = _part(two, begin, end, values)
        found.append(Layer(name, tensor, ratio(first[tensor], own), ratio(first[tensor], second[end])))
    return tuple(found)


def left_alone(reference: Path, other: Path, layers: Sequence[Layer], to: Path) -> None:
    """Writes the other model with some layers as the reference has them.

    Args:
        layers: those that are to be the reference's.
        to: the file to write.
    """
    import onnx
    from onnx import helper

    one, two = _loaded(reference), _loaded(other)
    tensors = set(_common(one, two)) | {i.name for i in two.graph.input}
    ends = {tensor: _handed_on(two, tensor) for tensor in _common(one, two)}
    kept, added = list(two.graph.node), []
    weights = {i.name: i for i in one.graph.initializer}
    for place, layer in enumerate(layers):
        begin, mark = _frontier(one, layer.tensor, tensors), f"{PREFIX}{place}/"
        nodes = _between(one, begin, layer.tensor)
        last = ends[layer.tensor]
        kept = [n for n in kept if not {layer.tensor, *last} & set(n.output)]
        kept += [helper.make_node("Identity", [last[0]], [end], f"{mark}{end}") for end in last[1:]]
        given = {name: ends.get(name, [name])[0] for name in begin}
        for node in nodes:
            fresh = onnx.NodeProto()
            fresh.CopyFrom(node)
            fresh.name = mark + node.name
            fresh.input[:] = [given.get(n, mark + n) if n else n for n in node.input]
            fresh.output[:] = [last[0] if n == layer.tensor else mark + n for n in node.output]
            kept.append(fresh)
            for name in weights.keys() & set(node.input):
                own = onnx.TensorProto()
                own.CopyFrom(weights[name])
                own.name = mark + name
                added.append(own)
    mixed = copy.deepcopy(two)
    mixed.graph.initializer.extend(added)
    in_order = [copy.deepcopy(n) for n in _sorted(_used(kept, mixed), mixed)]
    del mixed.graph.node[:]
    mixed.graph.node.extend(in_order)
    onnx.save(mixed, str(to))


def _loaded(path: Path) -> Any:
    import onnx

    return onnx.load(str(path))


def _common(one: Any, two: Any) -> dict[str, str]:
    """Tensors that a product gives in the reference and that the other has too, with the layer's name."""
    there = {o for n in two.graph.node for o in n.output}
    readers: dict[str, list[Any]] = {}
    for node in one.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in one.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        tensor = node.output[0]
        while tensor not in there:  # what comes right behind a product is often merged with it
            behind = readers.get(tensor, [])
            if len(behind) != 1 or behind[0].op_type not in MERGED:
                break
            tensor = behind[0].output[0]
        if tensor in there:
            found[tensor] = (node.name or node.output[0]).strip("/").removesuffix(f"/{node.op_type}")
    return found


def _handed_on(model: Any, tensor: str) -> list[str]:
    """What later nodes read of a tensor: where it is rounded for all of them, the rounded values' names."""
    readers = [n for n in model.graph.node if tensor in n.input]
    if not readers or any(n.op_type != "QuantizeLinear" for n in readers):
        return [tensor]
    if tensor in {o.name for o in model.graph.output}:
        return [tensor]
    rounded = {n.output[0] for n in readers}
    found = [
        n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in rounded
    ]
    others = [n for n in model.graph.node if n.op_type != "DequantizeLinear" and rounded & set(n.input)]
    return [tensor] if others or not found else found


def _values(model: Any, names: Sequence[str], feeds: Feeds) -> dict[str, np.ndarray]:
    """What tensors within a model hold."""
    import onnx

    opened = copy.deepcopy(model)
    known = {o.name for o in opened.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    return dict(zip(names, _run(opened, names, feeds), strict=True))


def _run(model: Any, names: Sequence[str], feeds: Feeds) -> list[np.ndarray]:
    from compressbench.hardware.onnxruntime_cpu import open_session, package

    session = open_session(package(), model.SerializeToString(), 1)
    wanted = {i.name for i in session.get_inputs()}
    found: list[np.ndarray] = session.run(list(names), {n: a for n, a in feeds.items() if n in wanted})
    return found


def _frontier(model: Any, tensor: str, known: Collection[str]) -> set[str]:
    """The nearest known tensors that one depends on, behind it."""
    made = {o: n for n in model.graph.node for o in n.output}
    found: set[str] = set()
    todo, seen = list(made[tensor].input), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in known:
            found.add(name)
        elif name in made:
            todo += made[name].input
    return found


def _between(model: Any, begin: set[str], tensor: str) -> list[Any]:
    """The nodes from some tensors to one, in the graph's order."""
    made = {o: n for n in model.graph.node for o in n.output}
    wanted: set[int] = set()
    todo = [tensor]
    while todo:
        name = todo.pop()
        node = made.get(name)
        if (name in begin and name != tensor) or node is None or id(node) in wanted:
            continue
        wanted.add(id(node))
        todo += node.input
    return [n for n in model.graph.node if id(n) in wanted]


def _part(model: Any, begin: set[str], tensor: str, values: Feeds) -> np.ndarray:
    """What a part of a model gives for the values of the tensors that it begins with."""
    import onnx
    from onnx import helper

    nodes = _between(model, begin, tensor)
    used = {name for n in nodes for name in n.input}
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(values[n].dtype), values[n].shape)
        for n in sorted(begin)
    ]
    graph = helper.make_graph(
        nodes,
        "part",
        inputs,
        [onnx.ValueInfoProto(name=tensor)],
        [i for i in model.graph.initializer if i.name in used],
    )
    opsets = list(model.opset_import)
    made = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    return _run(made, [tensor], {n: values[n] for n in begin})[0]


def _used(nodes: Sequence[Any], model: Any) -> list[Any]:
    """Those that an output of the model depends on."""
    made = {o: n for n in nodes for o in n.output}
    wanted: set[int] = set()
    todo = [o.name for o in model.graph.output]
    while todo:
        node = made.get(todo.pop())
        if node is not None and id(node) not in wanted:
            wanted.add(id(node))
            todo += node.input
    return [n for n in nodes if id(n) in wanted]


def _sorted(nodes: Sequence[Any], model: Any) -> list[Any]:
    """Nodes so that each comes after those that it reads."""
    ready = {i.name for i in model.graph.input} | {i.name for i in model.graph.initializer} | {""}
    left, found = list(nodes), []
    while left:
        fit = [n for n in left if set(n.input) <= ready]
        if not fit:
            raise UserError("the mixed graph has a circle, or reads a tensor that nothing gives")
        for node in fit:
            ready |= set(node.output)
        found += fit
        done = {id(n) for n in fit}
        left = [n for n in left if id(n) not in done]
    return found
