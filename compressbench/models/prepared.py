"""Inference: the same function as a module, faster on many images; still differentiable by its input.

Parameters frozen, batch norms folded into their convolutions, ``channels_last``, activations in place; and
where no gradient is asked for, convolution, sum and ReLU in one oneDNN kernel. Each form is compared with
the module itself on a sample, logits and input gradients, and only one that agrees is used: a module that
can't be traced, or that needs the plain memory layout, just stays as it is.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from compressbench.inputs import first
from compressbench.models.exits import alone
from compressbench.models.tracing import Tracer
from compressbench.outputs import forward

LOGIT_TOLERANCE = 1e-3
GRADIENT_TOLERANCE = 1e-2
# Elements up to which a 1 x 1 convolution is faster as one matrix product than as a call of oneDNN.
FEW = 131_072

_NORM_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}
# Layers whose result is new memory that their backward doesn't read, so that a ReLU may work on it in place.
_FRESH = (*_NORM_OF, *_NORM_OF.values(), nn.Linear)
_SUMS = (operator.add, torch.add, "add")
_RELUS = (F.relu, torch.relu, "relu")


class Prepared(nn.Module):
    """Two forms of one module: one that a gradient can pass, one for forwards under ``no_grad``."""

    def __init__(
        self, differentiable: nn.Module, forward_only: nn.Module, layout: torch.memory_format
    ) -> None:
        super().__init__()
        self.differentiable = differentiable
        self.forward_only = forward_only
        self.layout = layout
        self.training = False

    def forward(self, *inputs: Tensor) -> Any:
        """What the module itself returns for (n, c, h, w)."""
        form = self.differentiable if torch.is_grad_enabled() else self.forward_only
        return form(*(_laid_out(x, self.layout) for x in inputs))

    def train(self, mode: bool = True) -> Prepared:
        """Does nothing: a prepared module has evaluation mode only."""
        return self


def _laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    return x.contiguous(memory_format=layout) if x.ndim == 4 else x


def prepared(module: nn.Module, *sample: Tensor) -> Prepared:
    """A copy of a module for inference and attacks; the given one is left as it is.

    Args:
        sample: encoded inputs (n, c, h, w) on the module's device, on which the copy is verified: logits, and other
            tensors that it returns, within ``LOGIT_TOLERANCE`` of the largest, input gradients within
            ``GRADIENT_TOLERANCE`` of their norm. A part of a net may take several tensors.
    """
    # Under the caller's inference mode the copies would be inference tensors, which no gradient can pass.
    with torch.inference_mode(False), torch.no_grad():
        sample = tuple(x.detach().clone() for x in sample)
        plain = alone(copy.deepcopy(module)).eval().requires_grad_(False)
        judge = _Judge(plain, sample)
        layouts = [torch.contiguous_format]
        if any(x.ndim == 4 for x in sample) and any(p.ndim == 4 for p in plain.parameters()):
            layouts.insert(0, torch.channels_last)
        for layout in layouts:
            # The plain module first: a traced one that fails in a layout prints its code to the terminal.
            laid_out = judge.accept(lambda: copy.deepcopy(plain), layout)
            if laid_out is not None:
                form = judge.accept(lambda: _overwriting(_folded(plain), sample), layout) or laid_out
                fused = judge.accept(lambda: _one_kernel(_folded(plain), sample), layout, gradients=False)
                return Prepared(form, fused or form, layout)
        return Prepared(plain, plain, torch.contiguous_format)


class _Judge:
    """What the module itself answers on the sample; lets pass only forms that answer the same."""

    def __init__(self, plain: nn.Module, sample: tuple[Tensor, ...]) -> None:
        self.sample = sample
        self.whole = _answers(plain, sample)
        self.gradient = _gradient(plain, sample)

    def accept(
        self, make: Callable[[], nn.Module], layout: torch.memory_format, gradients: bool = True
    ) -> nn.Module | None:
        """The form if it can be made and agrees, else None."""
        # A user's module may fail in a form in any way at all (untraceable, ``view`` on another layout …);
        # then that form is not for it, and the plain module is what is measured.
        try:
            form = make().to(memory_format=layout)
            return form if self._agrees(form, layout, gradients) else None
        except Exception:
            return None

    def _agrees(self, form: nn.Module, layout: torch.memory_format, gradients: bool) -> bool:
        inputs = tuple(_laid_out(x, layout) for x in self.sample)
        whole, single = _answers(form, inputs), _answers(form, first(inputs, 1))
        for wanted, found, one in zip(self.whole, whole, single, strict=True):
            limit = LOGIT_TOLERANCE * wanted.abs().max()
            if not ((found - wanted).abs().max() <= limit and (one - wanted[:1]).abs().max() <= limit):
                return False
        if not gradients or self.gradient is None:
            return True
        own = _gradient(form, inputs)
        return own is not None and bool(
            (own - self.gradient).norm() <= GRADIENT_TOLERANCE * self.gradient.norm()
        )


def _answers(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A module's logits, or all tensors that a part of a net returns; copies, since a form may reuse its memory."""
    found = module(*(x.clone() for x in inputs))
    if type(found) is tuple and all(isinstance(t, Tensor) for t in found):
        return tuple(t.clone() for t in found)
    return (forward(lambda _: found, inputs[0]).logits.clone(),)


def _gradient(module: nn.Module, sample: tuple[Tensor, ...]) -> Tensor | None:
    """Of the sum over examples of the largest logit, by the first input; None where there is none."""
    if not sample[0].is_floating_point():
        return None
    with torch.enable_grad():
        inputs = sample[0].detach().requires_grad_()
        # clones, since a net may begin with an operation in place
        logits = forward(lambda x: module(x.clone(), *(y.clone() for y in sample[1:])), inputs).logits
        if not logits.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(logits.amax(dim=-1).sum(), inputs, allow_unused=True)
    return gradient


def _folded(plain: nn.Module) -> fx.GraphModule:
    """A traced copy in which every batch norm that alone follows a convolution is part of its weights."""
    source = copy.deepcopy(plain)
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in source.modules()):
        raise ValueError("hooks would run once, at tracing, and never again")
    graph = Tracer().trace(source)
    traced = fx.GraphModule(source, graph)
    modules = dict(traced.named_modules())
    calls = Counter(id(modules[str(n.target)]) for n in graph.nodes if n.op == "call_module")
    read = [str(n.target) for n in graph.nodes if n.op == "get_attr"]
    for node in list(graph.nodes):
        if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm, name = modules[str(before.target)], modules[str(node.target)], str(before.target)
        if _NORM_OF.get(type(conv)) is not type(norm) or norm.running_mean is None:
            continue
        if calls[id(conv)] != 1 or calls[id(norm)] != 1 or any(r.startswith(f"{name}.") for r in read):
            continue
        parent, _, leaf = name.rpartition(".")
        merged = fuse_conv_bn_eval(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))
        setattr(traced.get_submodule(parent), leaf, merged)
        node.replace_all_uses_with(before)
        graph.erase_node(node)
    return _finished(traced)


def _finished(traced: fx.GraphModule) -> fx.GraphModule:
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced.eval().requires_grad_(False)


class _Shapes(fx.Interpreter):
    """Notes the shape and dtype of every tensor (``ShapeProp`` does too, but imports sympy: 2.5 s)."""

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = (result.shape, result.dtype)
        return result


def _overwriting(traced: fx.GraphModule, sample: tuple[Tensor, ...]) -> fx.GraphModule:
    """Sums and ReLUs written over results that nothing else reads."""
    _Shapes(traced).run(*sample)
    graph, modules = traced.graph, dict(traced.named_modules())
    kinds = (*_FRESH, _ConvReLU)
    fresh = {n for n in graph.nodes if n.op == "call_module" and type(modules[str(n.target)]) in kinds}
    for node in list(graph.nodes):
        if _is_relu(node, modules) and node.args[0] in fresh and len(node.args[0].users) == 1:
            new = _instead(node, torch.relu_, (node.args[0],))
        elif (pair := _sum_of(node)) is not None:
            own = next((x for x in pair if x in fresh and len(x.users) == 1 and _alike(x, node)), None)
            other = pair[1] if own is pair[0] else pair[0]
            if own is None or own is other:
                fresh.add(node)
                continue
            new = _instead(node, torch.Tensor.add_, (own, other))
        else:
            continue
        fresh.add(new)
    return _finished(traced)


class _ConvReLU(nn.Module):
    """relu(conv(x)) or relu(conv(x) + other), of more than a few elements in one pass over memory; has no backward."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.rest = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.pointwise = conv.kernel_size == (1, 1)

    def forward(self, inputs: Tensor, other: Tensor | None = None) -> Tensor:
        """(n, c, h, w) to (n, d, h', w'); ``other`` has the result's shape."""
        convolve, conv = torch.ops.mkldnn._convolution_pointwise, self.conv
        if self.pointwise and inputs.numel() <= FEW and torch.get_num_threads() == 1:
            result = conv(inputs)
            return (result if other is None else result.add_(other)).relu_()
        if other is None:
            return convolve(inputs, conv.weight, conv.bias, *self.rest, "relu", [], "")
        return convolve.binary(inputs, other, conv.weight, conv.bias, *self.rest, "add", 1.0, "relu", [], "")


def _one_kernel(traced: fx.GraphModule, sample: tuple[Tensor, ...]) -> fx.GraphModule:
    """Every convolution with the ReLU, or the sum and ReLU, alone following it as one oneDNN call; the rest in place."""
    if sample[0].device.type != "cpu" or not torch.backends.mkldnn.is_available():
        raise ValueError("oneDNN's fused convolutions are for the CPU")
    _Shapes(traced).run(*sample)
    graph, modules = traced.graph, dict(traced.named_modules())
    for node in list(graph.nodes):
        if not _is_relu(node, modules) or len(node.args[0].users) != 1:
            continue
        replaced, pair = [node, node.args[0]], _sum_of(node.args[0])
        if pair is None:
            conv, others = node.args[0], []
        else:
            conv = pair[1] if _fusable(pair[1], modules) else pair[0]
            others = [pair[0] if conv is pair[1] else pair[1]]
            replaced.append(conv)
        if not _fusable(conv, modules) or not all(_alike(o, conv) for o in others):
            continue
        name = f"fused_{node.name}"
        traced.add_submodule(name, _ConvReLU(cast(nn.Conv2d, modules[str(conv.target)])))
        with graph.inserting_before(node):
            fused = graph.call_module(name, (conv.args[0], *others))
        node.replace_all_uses_with(fused)
        for old in replaced:
            graph.erase_node(old)
    return _overwriting(_finished(traced), sample)


def _fusable(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op != "call_module" or len(node.users) != 1 or len(node.args) != 1:
        return False
    conv = modules[str(node.target)]
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.weight.dtype is torch.float32
    )


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    return node.op in ("call_function", "call_method") and node.target in _RELUS


def _sum_of(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The two tensors that a node adds without a factor, or None."""
    if node.op not in ("call_function", "call_method") or node.target not in _SUMS or node.kwargs:
        return None
    if len(node.args) != 2 or not all(isinstance(a, fx.Node) and "shape" in a.meta for a in node.args):
        return None
    return node.args[0], node.args[1]  # type: ignore[return-value]


def _alike(one: fx.Node, other: fx.Node) -> bool:
    return "shape" in one.meta and one.meta["shape"] == other.meta.get("shape")


def _instead(node: fx.Node, function: Callable[..., Tensor], args: tuple[fx.Node, ...]) -> fx.Node:
    with node.graph.inserting_before(node):
        new = node.graph.call_function(function, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
    return new
