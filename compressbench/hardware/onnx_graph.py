"""From a state to an ONNX graph: the net in float by torch's exporter, then its own scales put in by hand.

A quantized layer becomes the usual QDQ form: its input through ``QuantizeLinear`` and ``DequantizeLinear``, its
weight an int8 initializer behind a ``DequantizeLinear``. Inputs are uint8 and weights int8 (U8S8, the pair that
x86 kernels are fast in) whatever signs the state's grid has: moved by 128 it is the same function. Fewer bits are
integers in their smaller range, for that is what runs. Nothing is calibrated here: all scales are the state's.
"""

from __future__ import annotations

import copy
import io
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.hardware import agreement
from compressbench.inputs import Inputs, batches, first, shorter
from compressbench.models.attention import unfused_attention
from compressbench.models.plain import computed, made_plain
from compressbench.models.quantized import (
    Form,
    affine,
    forms_of,
    integers,
    quantized,
    rounded,
    shared_weights,
)
from compressbench.models.reached import ran
from compressbench.outputs import forward
from compressbench.tasks.task import EXAMPLES, Axes

OPSET = 17
INPUT, OUTPUT = "images", "logits"
BYTE = 8
_OFFSET = 128
_MULTIPLIES = ("Conv", "Gemm", "MatMul")
_MINE = "net."


@dataclass(frozen=True)
class Graph:
    """An ONNX model of a state.

    Attributes:
        model: ``onnx.ModelProto``; inputs as the task names them, encoded (of pictures ``images``, float32
            (n, c, h, w)); output ``logits`` (n, classes).
        integer: layers that the graph gives integer inputs and weights.
        rounded: quantized layers that it can't; why, by name.
        unused: quantized layers that the logits of an evaluation don't depend on, as heads of the training alone: the
            graph lacks them.
        fixed: what of the net's forward became a constant while it was traced, in words; empty if nothing did.
    """

    model: Any
    integer: tuple[str, ...] = ()
    rounded: Mapping[str, str] = field(default_factory=dict)
    fixed: str = ""
    unused: tuple[str, ...] = ()

    def bytes(self) -> bytes:
        """The file's content."""
        return self.model.SerializeToString(deterministic=True)


def onnx() -> Any:
    """The package.

    Raises:
        UserError: it isn't installed.
    """
    try:
        import onnx as package
        import onnx.numpy_helper
    except ImportError as error:
        raise UserError(f"ONNX needs a package ({error}): pip install 'compressbench[onnx]'") from error
    return package


def graph_of(
    module: nn.Module,
    sample: Inputs,
    images: Inputs | None = None,
    kept: Collection[str] = (),
    outputs: Sequence[str] = (OUTPUT,),
    names: Sequence[str] = (INPUT,),
    axes: Axes | None = None,
) -> Graph:
    """The ONNX graph of a module as ``module_of`` builds it.

    Args:
        sample: encoded inputs on the CPU, to trace with; n is free in the graph.
        images: encoded inputs on which ranges of convolutions' *results* are taken, for a runtime whose integer
            kernels must round these too; they are rounded to 8 bits wherever nothing else rounds them. None leaves
            results as they are.
        kept: layers that round by float operations though their bits would allow integers.
        outputs: names of what the module returns, where that is a tuple: a part of a net with early exits.
        names: of the inputs.
        axes: dimensions that are free in the graph, see ``tasks.task.axes_of``; None: n alone.

    Raises:
        UserError: torch can't export the net, or a package is missing.
    """
    model, fixed = exported(floating(module), sample, outputs, names, axes)
    layers = quantized(module)
    if not layers:
        return Graph(model, fixed=fixed)
    for name, other in shared_weights(module).items():
        if name in layers or other in layers:
            raise UserError(
                f"{name} and {other} share a weight, and rounding them apart can't be lowered; keep both in float by "
                f"layers={{{other}.weight: null}}"
            )
    surgery = _Surgery(model, kept)
    for name, most in _calls(layers, module, first(sample, 2)).items():
        if any(forms_of(layers[name]).values()) and len(surgery.multipliers(name)) > most:
            raise UserError(
                f"{name} rounds its weight, and a forward reads it beside the layer as it is, which can't be lowered; "
                f"keep it in float by layers={{{name}.weight: null}}"
            )
    if images is not None:
        surgery.results(layers, _ranges(module, layers, images))
    lacking = [name for name in layers if not surgery.has(name)]
    reached = _reached(module, lacking, first(sample, 2))
    unused = tuple(name for name in lacking if name not in reached)
    for name, layer in layers.items():
        if name not in unused:
            surgery.layer(name, layer)
    surgery.finish()
    return Graph(model, tuple(surgery.integer), surgery.rounded, fixed, unused)


def checked_graph(
    module: nn.Module,
    sample: Inputs,
    opened: Callable[[bytes], agreement.Answers],
    who: str,
    images: Inputs | None = None,
    outputs: Sequence[str] = (OUTPUT,),
    names: Sequence[str] = (INPUT,),
    axes: Axes | None = None,
) -> tuple[Graph, agreement.Answers]:
    """``graph_of`` and the runtime that opened it: it answers as the net does, or it is refused.

    Args:
        sample: true inputs, two or more.
        opened: the runtime, from the file's content to answers.
        who: the runtime in words.

    Raises:
        UserError: as ``graph_of``; the runtime refuses the graph, or answers otherwise than the net.
    """
    found = graph_in_float(module, sample, opened, who, outputs, names, axes)
    if not quantized(module):
        return found
    graph = graph_of(module, sample, images, outputs=outputs, names=names, axes=axes)
    return graph, _compared(graph, module, _lengths(sample, names, axes), opened, who, outputs, "")


def graph_in_float(
    module: nn.Module,
    sample: Inputs,
    opened: Callable[[bytes], agreement.Answers],
    who: str,
    outputs: Sequence[str] = (OUTPUT,),
    names: Sequence[str] = (INPUT,),
    axes: Axes | None = None,
) -> tuple[Graph, agreement.Answers]:
    """``checked_graph`` of a net that rounds nothing: what tracing gets wrong would hide behind what rounding moves."""
    plain = floating(module)
    graph = graph_of(plain, sample, outputs=outputs, names=names, axes=axes)
    lengths = _lengths(sample, names, axes)
    return graph, _compared(graph, plain, lengths, opened, who, outputs, graph.fixed or agreement.HINT)


def _lengths(sample: Inputs, names: Sequence[str], axes: Axes | None) -> list[Inputs]:
    """A sample, and the same cut where dimensions other than n are free."""
    short = shorter(sample, names, axes) if axes else sample
    same = all(x.shape == y.shape for x, y in zip(sample, short, strict=True))
    return [sample] if same else [sample, short]


def _compared(
    graph: Graph,
    net: nn.Module,
    samples: Sequence[Inputs],
    opened: Callable[[bytes], agreement.Answers],
    who: str,
    outputs: Sequence[str],
    hint: str,
) -> agreement.Answers:
    try:
        run = opened(graph.bytes())
    except Exception as error:  # a runtime's own errors have no common base
        raise UserError(f"{who} refuses the graph: {agreement.reason_of(error)}") from error

    def wanted(*x: Tensor) -> Any:
        return net(*x) if len(outputs) > 1 else forward(net, *x).logits

    for sample in samples:
        sizes = agreement.two_sizes((1, len(sample[0])))
        agreement.check(wanted, run, sample, sizes, who, bool(quantized(net)), hint)
    return run


def floating(module: nn.Module) -> nn.Module:
    """A copy on the CPU that rounds nothing: the latent weights as they are, those that are computed made plain."""
    plain = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    made_plain(plain, computed(plain)).requires_grad_(False)
    for layer in quantized(plain).values():
        layer.__class__ = type(layer).__bases__[0]
        layer.__dict__.pop("_forms", None)
        for part in ("weight_scale", "weight_zero", "input_scale", "input_zero"):
            layer._buffers.pop(part, None)
    return plain


def _calls(layers: Mapping[str, nn.Module], module: nn.Module, sample: Inputs) -> dict[str, int]:
    """How often a forward runs each layer that it runs."""
    found: dict[str, int] = {}

    def ran_once(name: str) -> None:
        found[name] = found.get(name, 0) + 1

    handles = [p.register_forward_pre_hook(lambda *_, n=n: ran_once(n)) for n, p in layers.items()]
    try:
        with torch.no_grad(), unfused_attention():
            module(*sample)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _reached(module: nn.Module, names: Sequence[str], sample: Inputs) -> set[str]:
    """Those of some layers whose weights the logits depend on: a second head may run, and answer beside them."""
    evaluated = ran(module, sample)
    plain = floating(module)
    parameters = dict(plain.named_parameters(remove_duplicate=False))
    weights = {n: parameters[f"{n}.weight"].requires_grad_() for n in names if n in evaluated}
    if not weights:
        return set()
    with torch.enable_grad():
        logits = forward(plain, *sample).logits.sum()
    if not logits.requires_grad:
        return set()
    found = torch.autograd.grad(logits, list(weights.values()), allow_unused=True)
    return {name for name, gradient in zip(weights, found, strict=True) if gradient is not None}


def _ranges(module: nn.Module, layers: Mapping[str, Any], images: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
    """Smallest and largest entry of each layer's result."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, result: Tensor) -> None:
        low, high = result.amin(), result.amax()
        before = found.get(name, (low, high))
        found[name] = (torch.minimum(before[0], low), torch.maximum(before[1], high))

    handles = [
        layer.register_forward_hook(lambda _, __, result, n=name: look(n, result))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for part in batches(images, 64):
                module(*part)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Logits(nn.Module):
    """Of whatever the net returns; or all of it, of a part of a net."""

    def __init__(self, net: nn.Module, everything: bool) -> None:
        super().__init__()
        self.net, self.everything = net, everything

    def forward(self, *inputs: Tensor) -> Any:
        """A net's inputs to (n, classes)."""
        return self.net(*inputs) if self.everything else forward(self.net, *inputs).logits


def exported(
    plain: nn.Module,
    sample: Inputs,
    outputs: Sequence[str] = (OUTPUT,),
    names: Sequence[str] = (INPUT,),
    axes: Axes | None = None,
) -> tuple[Any, str]:
    """(``onnx.ModelProto`` of a float net, what became a constant in it); initializers carry the net's tensors' names.

    The net is traced with its own values: a forward may read some of them as numbers, which stay in the graph.
    """
    package = onnx()
    net = _Logits(plain, len(outputs) > 1).eval()
    net.training = (
        True  # it alone: in an evaluated net the exporter makes one of equal tensors, and loses names
    )
    buffer: Any = io.BytesIO()
    try:
        with _noting(net.net) as noted, torch.no_grad(), unfused_attention(), _quiet():
            torch.onnx.export(
                net,
                tuple(x.contiguous() for x in first(sample, 2)),
                buffer,
                dynamo=False,
                do_constant_folding=False,
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,  # batch norms stay as they are
                input_names=list(names),
                output_names=list(outputs),
                dynamic_axes={
                    name: {k: free for k, free in enumerate((axes or {}).get(name, EXAMPLES)) if free}
                    for name in (*names, *outputs)
                },
            )
    except Exception as error:  # the exporter fails in many ways, all with the user's net as the reason
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = _running(net, first(sample, 2), _OPERATOR.search(reason))
        raise UserError(
            f"torch can't export the net to ONNX: {where}{reason.rstrip('. ')}; write it with other operations, or use "
            "hardware=compiled and export --to torch_export, which need no ONNX"
        ) from error
    model = package.load_from_string(buffer.getvalue())
    del model.metadata_props[:]
    _with_all_inputs(package, model.graph, names, sample, axes or {})
    _in_single(package, model.graph)
    return model, _fixed(noted)


def _with_all_inputs(package: Any, graph: Any, names: Sequence[str], sample: Inputs, axes: Axes) -> None:
    """Puts back the inputs that a net doesn't read, which the exporter leaves out: files are fed all of them."""
    there = {value.name: value for value in graph.input}
    for name, tensor in zip(names, sample, strict=False):
        if name not in there:
            kind = package.helper.np_dtype_to_tensor_dtype(tensor.numpy().dtype)
            free = axes.get(name, EXAMPLES)
            sizes = [
                *(own or size for own, size in zip(free, tensor.shape, strict=False)),
                *tensor.shape[len(free) :],
            ]
            there[name] = package.helper.make_tensor_value_info(name, kind, sizes)
    found = [there[name] for name in names if name in there]
    rest = [value for name, value in there.items() if name not in names]
    del graph.input[:]
    graph.input.extend([*found, *rest])


def _in_single(package: Any, graph: Any) -> None:
    """Doubles become floats: runtimes have no kernels for them, and what they then answer is compared with the net."""
    double, single = package.TensorProto.DOUBLE, package.TensorProto.FLOAT

    def turned(tensor: Any) -> None:
        if tensor.data_type == double:
            values = package.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(package.numpy_helper.from_array(values, tensor.name))

    for tensor in graph.initializer:
        turned(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == double:
            value.type.tensor_type.elem_type = single
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == double:
                attribute.i = single
            turned(attribute.t)
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _in_single(package, inner)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints a graph that fails, whole: torch 2.15 turns its log on whatever ``verbose`` says."""
    turn = torch._C._jit_set_onnx_log_enabled
    turn(False)
    torch._C._jit_set_onnx_log_enabled = lambda on: None  # type: ignore[assignment]
    try:
        yield
    finally:
        torch._C._jit_set_onnx_log_enabled = turn


def _running(net: nn.Module, sample: Inputs, operator: re.Match[str] | None) -> str:
    """The module that runs an operator, in words; empty where that can't be told."""
    if operator is None:
        return ""
    try:
        with warnings.catch_warnings(), torch.no_grad(), unfused_attention():
            warnings.simplefilter("ignore")
            graph = torch.jit.trace(net, sample, check_trace=False).inlined_graph
        node = graph.findNode(operator[1])
        found = str(node.scopeName()).rpartition("/")[2].removeprefix("__module.").removeprefix("net")
    except Exception:  # what the exporter can't trace, this can't either
        return ""
    return f"{found.removeprefix('.') or 'the net itself'} runs {operator[1]}; "


_OPERATOR = re.compile(r"'(aten::\w+)'")


@contextmanager
def _noting(net: nn.Module) -> Iterator[list[tuple[str, Any]]]:
    """Notes what torch's tracer warns of, with the name of the module that was running."""
    found: list[tuple[str, Any]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", torch.jit.TracerWarning)

        inside: list[str] = [""]

        def note() -> None:
            found.extend((inside[-1], warning) for warning in caught)
            caught.clear()

        def enter(name: str) -> None:
            note()
            inside.append(name)

        def leave() -> None:
            note()
            inside.pop()

        handles = []
        for name, part in net.named_modules():
            handles.append(part.register_forward_pre_hook(lambda *_, n=name: enter(n)))
            handles.append(part.register_forward_hook(lambda *_: leave()))
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


def _fixed(noted: Sequence[tuple[str, Any]]) -> str:
    """The first constant that came of a value, in words: which layer, where, and what would be right."""
    for name, warning in noted:
        told = str(warning.message)
        if "might cause the trace to be incorrect" in told:
            what = told.partition(" might cause")[0]
            where = f"{PurePath(warning.filename).name}:{warning.lineno}"
            return (
                f"{name or 'the net'} ({where}): {what[:1].lower()}{what[1:]} fixes it as it is while tracing; "
                "compute with tensors, or read a number in __init__"
            )
    return ""


class _Surgery:
    """Q and DQ nodes put into a float graph, layer by layer."""

    def __init__(self, model: Any, kept: Collection[str] = ()) -> None:
        self.package = onnx()
        self.kept = kept
        self.graph = model.graph
        self.initial = {i.name: i for i in self.graph.initializer}
        self.readers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.before: dict[int, list[Any]] = {}
        self.after: dict[int, list[Any]] = {}
        self.integer: list[str] = []
        self.rounded: dict[str, str] = {}

    def has(self, name: str) -> bool:
        """Whether the graph reads a layer's weight."""
        return f"{_MINE}{name}.weight" in self.initial

    def multipliers(self, name: str) -> list[Any]:
        """Nodes that multiply by a layer's weight."""
        return self._multipliers(f"{_MINE}{name}.weight")

    def layer(self, name: str, layer: Any) -> None:
        """Rounds one layer's weight and input."""
        weight = f"{_MINE}{name}.weight"
        if isinstance(layer, nn.Embedding):
            self._table(name, weight, layer)
            return
        users = self._multipliers(weight)
        if weight not in self.initial or not users:
            raise UserError(
                f"{name} is quantized, but its weight reaches no convolution or matrix product in the ONNX graph; "
                "a weight that two layers share can't be lowered"
            )
        forms = forms_of(layer)
        missing = [part for part in ("weight", "input") if not forms.get(part)]
        whole = all(is_byte(forms.get(part)) for part in ("weight", "input")) and name not in self.kept
        if whole:
            self.integer.append(name)
        elif name in self.kept:
            self.rounded[name] = "integer kernels answer wrongly there"
        else:
            self.rounded[name] = f"its {missing[0]} is float" if missing else _why(forms)
        for place, user in enumerate(users):
            user.name = name if place == 0 else f"{name}|{place}"
            if entering := forms.get("input"):
                own = f"{name}.input" if place == 0 else f"{name}.input|{place}"
                self._input(own, user, entering, layer, whole)
        if inside := forms.get("weight"):
            self._weight(name, weight, inside, layer, name not in self.kept)
        if not whole or "input_scale" not in layer._buffers:
            return
        if min(form["bits"] for form in forms.values() if form) < BYTE:
            for user in users:
                self._bias_behind(user)
        elif [u.op_type for u in users] == ["Gemm"]:
            self._bias(name, users[0], layer)

    def results(self, layers: Mapping[str, Any], ranges: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Rounds the results of integer convolutions that no integer layer alone reads; before any ``layer``."""
        integer = {
            name: self._multipliers(f"{_MINE}{name}.weight")
            for name, layer in layers.items()
            if all(is_byte(forms_of(layer).get(part)) for part in ("weight", "input"))
            and "input_scale" in layer._buffers
        }
        multipliers = {id(node) for nodes in integer.values() for node in nodes}
        for name, nodes in integer.items():
            if len(nodes) != 1 or nodes[0].op_type != "Conv" or name not in ranges:
                continue
            low, high = ranges[name]
            result, readers = nodes[0].output[0], self.readers.get(nodes[0].output[0], [])
            if [r.op_type for r in readers] == ["Relu"]:
                low = low.clamp(min=0)
                result, readers = readers[0].output[0], self.readers.get(readers[0].output[0], [])
            if not readers or all(id(r) in multipliers for r in readers):
                continue
            scale, zero = affine(low, high, 0, 255)
            import numpy as np

            parts = [
                self._constant(f"{name}.result|scale", np.float32(scale)),
                self._constant(f"{name}.result|zero", np.uint8(zero)),
            ]
            self._node(readers[0], "QuantizeLinear", [result, *parts], [f"{name}.result|q"])
            self._node(readers[0], "DequantizeLinear", [f"{name}.result|q", *parts], [f"{name}.result|dq"])
            for reader in readers:
                for place, entered in enumerate(reader.input):
                    if entered == result:
                        reader.input[place] = f"{name}.result|dq"

    def finish(self) -> None:
        """Writes the nodes in order."""
        nodes = []
        for node in self.graph.node:
            nodes += [*self.before.get(id(node), []), node, *self.after.get(id(node), [])]
        head = self.before.get(0, [])
        copies = [copy.deepcopy(n) for n in (*head, *nodes)]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        del self.graph.initializer[:]
        self.graph.initializer.extend(self.initial.values())

    def _multipliers(self, weight: str) -> list[Any]:
        """Nodes that multiply by a weight, straight or turned over."""
        found = []
        for node in self.readers.get(weight, []):
            if node.op_type == "Transpose":
                found += [n for n in self.readers.get(node.output[0], []) if n.op_type in _MULTIPLIES]
            elif node.op_type in _MULTIPLIES:
                found.append(node)
        return found

    def _node(self, at: Any, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        made = self.package.helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes)
        self.before.setdefault(id(at) if at is not None else 0, []).append(made)

    def _constant(self, name: str, value: Any) -> str:
        self.initial[name] = self.package.numpy_helper.from_array(value, name)
        return name

    def _input(self, name: str, node: Any, form: Form, layer: Any, whole: bool) -> None:
        """Rounds what a node reads; ``whole``: its weight is integers too.

        ONNX Runtime quantizes a float weight by itself, in silence, where it meets a quantized input: so that such
        an input is rounded by float operations.
        """
        source = node.input[0]
        if "dtype" in form:
            return  # a cast input: the runtime is told its precision as a whole
        if form.get("dynamic"):
            if (form["low"], form["high"]) != (0, 255):
                raise UserError(
                    f"{name}: ranges of each batch are lowered at 8 bits only, not {form['low']}..{form['high']}"
                )
            parts = [f"{name}|q", f"{name}|scale", f"{name}|zero"]
            self._node(node, "DynamicQuantizeLinear", [source], parts)
            self._node(node, "DequantizeLinear", parts, [f"{name}|dq"])
            node.input[0] = f"{name}|dq"
            return
        scale, zero = float(layer.input_scale), int(layer.input_zero)
        low, high = form["low"], form["high"]
        if not whole:
            node.input[0] = self._in_float(name, node, source, (scale, zero), (low, high))
            return
        if low < 0:
            low, high, zero = low + _OFFSET, high + _OFFSET, zero + _OFFSET
        import numpy as np

        scale_name = self._constant(f"{name}|scale", np.float32(scale))
        zero_name = self._constant(f"{name}|zero", np.uint8(zero))
        self._node(node, "QuantizeLinear", [source, scale_name, zero_name], [f"{name}|q"])
        steps = f"{name}|q"
        if (low, high) != (0, 255):  # a clip after the rounding: runtimes drop one that stands before it
            bounds = [
                self._constant(f"{name}|{end}", np.uint8(value))
                for end, value in (("low", low), ("high", high))
            ]
            self._node(node, "Clip", [steps, *bounds], [f"{name}|clip"])
            steps = f"{name}|clip"
        self._node(node, "DequantizeLinear", [steps, scale_name, zero_name], [f"{name}|dq"])
        node.input[0] = f"{name}|dq"

    def _in_float(
        self, name: str, node: Any, source: str, grid: tuple[float, int], ends: tuple[int, int]
    ) -> str:
        """More bits than a byte: rounded by float operations, as the simulation does."""
        import numpy as np

        scale, zero = grid
        step = self._constant(f"{name}|scale", np.float32(scale))
        low, high = (
            self._constant(f"{name}|{end}", np.float32(v - zero))
            for end, v in zip(("low", "high"), ends, strict=True)
        )
        self._node(node, "Div", [source, step], [f"{name}|steps"])
        self._node(node, "Round", [f"{name}|steps"], [f"{name}|whole"])
        self._node(node, "Clip", [f"{name}|whole", low, high], [f"{name}|clip"])
        self._node(node, "Mul", [f"{name}|clip", step], [f"{name}|rounded"])
        return f"{name}|rounded"

    def _table(self, name: str, weight: str, layer: Any) -> None:
        """An embedding's integers, looked up before they are scaled: the table as a whole is never made of floats.

        Raises:
            UserError: the table is read by something else than a look-up.
        """
        import numpy as np

        form, readers = forms_of(layer)["weight"], self.readers.get(weight, [])
        if not form:
            return
        if any(node.op_type != "Gather" or node.input[0] != weight for node in readers):
            raise UserError(f"{name} is an embedding that rounds, and something else reads its weight too")
        if not is_byte(form):
            self._weight(name, weight, form, layer, False)
            return
        q = integers(layer.weight.detach().cpu(), form, layer.weight_scale.cpu(), layer.weight_zero.cpu())
        move = _OFFSET if form["high"] > 127 else 0
        steps = self._constant(f"{name}.weight|q", (q - move).numpy().astype(np.int8))
        scale = layer.weight_scale.detach().cpu().numpy().astype(np.float32)
        zero = (layer.weight_zero.cpu() - move).numpy().astype(np.float32)
        parts = {"scale": scale, "zero": zero} if zero.any() else {"scale": scale}
        for part, values in parts.items():
            self._constant(f"{name}.weight|{part}", values.reshape(-1, 1) if scale.ndim else values)
        del self.initial[weight]
        for place, node in enumerate(readers):
            own = f"{name}|{place}" if place else name
            rows, ids = f"{own}|rows", node.input[1]
            self._node(node, "Gather", [steps, ids], [rows], axis=0)
            self._node(node, "Cast", [rows], [f"{own}|steps"], to=self.package.TensorProto.FLOAT)
            found = {}
            for part in parts:
                found[part] = f"{name}.weight|{part}"
                if scale.ndim:
                    found[part] = f"{own}|{part}"
                    self._node(node, "Gather", [f"{name}.weight|{part}", ids], [found[part]], axis=0)
            moved = f"{own}|steps"
            if "zero" in found:
                moved = f"{own}|moved"
                self._node(node, "Sub", [f"{own}|steps", found["zero"]], [moved])
            del node.attribute[:]
            del node.input[:]
            node.op_type = "Mul"
            node.input.extend([moved, found["scale"]])

    def _weight(self, name: str, weight: str, form: Form, layer: Any, integer: bool) -> None:
        import numpy as np

        tensor = layer.weight.detach().cpu()
        del self.initial[weight]
        if "dtype" in form:
            half = rounded(tensor, form, None, None)
            kind = self.package.TensorProto.BFLOAT16 if form["dtype"] == "bfloat16" else None
            if kind is None:
                self._constant(f"{name}.weight|half", half.numpy().astype(np.float16))
            else:
                raw = half.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
                self.initial[f"{name}.weight|half"] = self.package.helper.make_tensor(
                    f"{name}.weight|half", kind, tuple(half.shape), raw, raw=True
                )
            self._node(None, "Cast", [f"{name}.weight|half"], [weight], to=self.package.TensorProto.FLOAT)
            return
        scale, zero = layer.weight_scale.cpu(), layer.weight_zero.cpu()
        if not is_byte(form) or not integer:
            self.initial[weight] = self.package.numpy_helper.from_array(
                rounded(tensor, form, scale, zero).numpy(), weight
            )
            return
        steps = integers(tensor, form, scale, zero)
        if form["high"] > 127:
            steps, zero = steps - _OFFSET, zero - _OFFSET
        parts = [
            self._constant(f"{name}.weight|q", steps.numpy().astype(np.int8)),
            self._constant(f"{name}.weight|scale", scale.numpy().astype(np.float32)),
            self._constant(f"{name}.weight|zero", zero.numpy().astype(np.int8)),
        ]
        axis = {"axis": 0} if scale.ndim else {}
        self._node(None, "DequantizeLinear", parts, [weight], **axis)

    def _bias_behind(self, node: Any) -> None:
        """A bias as a sum of its own, in float: ONNX Runtime would round it in steps that are wide at few bits."""
        if len(node.input) < 3 or node.input[2] not in self.initial:
            return
        value = self.package.numpy_helper.to_array(self.initial[node.input[2]])
        rank = 1 if node.op_type == "Gemm" else len(self._dims(node.input[1])) or 4
        column = self._constant(f"{node.name}.bias|column", value.reshape(-1, *[1] * max(0, rank - 2)))
        if self.readers[node.input[2]] == [node]:
            del self.initial[node.input[2]]
        del node.input[2]
        result, node.output[0] = node.output[0], f"{node.name}|product"
        made = self.package.helper.make_node(
            "Add", [node.output[0], column], [result], name=f"{node.name}|biased"
        )
        self.after.setdefault(id(node), []).append(made)

    def _dims(self, weight: str) -> tuple[int, ...]:
        found = self.initial.get(weight) or self.initial.get(f"{weight.removeprefix(_MINE)}|q")
        return tuple(found.dims) if found is not None else ()

    def _bias(self, name: str, node: Any, layer: Any) -> None:
        """A linear layer's bias as int32 in steps of input scale x weight scale: what its integer kernel adds."""
        import numpy as np

        if len(node.input) < 3 or node.input[2] not in self.initial or layer.bias is None:
            return
        scale = layer.input_scale.cpu().double() * layer.weight_scale.cpu().double()
        steps = torch.round(layer.bias.detach().cpu().double() / scale)
        if bool((steps.abs() >= 2**31).any()):
            return
        bias = node.input[2]
        del self.initial[bias]
        zero = np.zeros(tuple(scale.shape), np.int32)
        parts = [
            self._constant(f"{name}.bias|q", steps.numpy().astype(np.int32)),
            self._constant(f"{name}.bias|scale", scale.numpy().astype(np.float32)),
            self._constant(f"{name}.bias|zero", zero),
        ]
        self._node(None, "DequantizeLinear", parts, [bias], **({"axis": 0} if scale.ndim else {}))


def is_byte(form: Form | None) -> bool:
    """Whether the integers of a form fit one byte."""
    return bool(form) and "dtype" not in form and form["high"] - form["low"] < 2**BYTE  # type: ignore[index,operator]


def _why(forms: Mapping[str, Form | None]) -> str:
    dtypes = {form["dtype"] for form in forms.values() if form and "dtype" in form}
    if dtypes:
        return f"{' and '.join(sorted(dtypes))}, no integers"
    return "more than 8 bits have no integer kernels"
