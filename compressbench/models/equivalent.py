"""The same function by other weights: layers before and after a ReLU rescaled (Dinh, Pascanu, Bengio, Bengio, ICML 2017).

ReLU passes a positive factor through, so (a W1, W2 / a) computes what (W1, W2) does, and a measure of flatness that
the two differ in is a measure of the weights as they are written, not of the function.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from compressbench.inputs import Inputs
from compressbench.outputs import forward

AGREE = 1e-5
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_RELUS = (nn.ReLU, nn.LeakyReLU)
_PASSING = (
    *(nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
_RELU_CALLS = (F.relu, torch.relu, "relu", "relu_", F.leaky_relu)
_PASSING_CALLS = (
    *(torch.flatten, "flatten", "view", "reshape", "mean", "contiguous"),
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.dropout),
)
# Methods that read a tensor's shape and not its values.
_SHAPES = ("size", "dim")


@dataclass(frozen=True)
class Pair:
    """Modules by path: what ``before`` gives reaches ``after`` through a ReLU and nothing that isn't homogeneous."""

    before: str
    after: str


def pairs(module: nn.Module) -> list[Pair]:
    """All of a module's pairs, in the order of its forward; empty where it can't be traced.

    A batch norm right after a layer stands for it: its weight and bias are what is scaled. Modules that run twice and
    parameters that are shared are left out.
    """
    # A user's forward may fail to trace in any way at all.
    try:
        graph = fx.symbolic_trace(copy.deepcopy(module).eval()).graph
    except Exception:
        return []
    parts = dict(module.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    owners = Counter(id(p) for part in parts.values() for p in part._parameters.values() if p is not None)

    def alone(path: str) -> bool:
        own = [p for p in parts[path]._parameters.values() if p is not None]
        plain = path not in read and not is_parametrized(parts[path])
        return plain and calls[path] == 1 and bool(own) and all(owners[id(p)] == 1 for p in own)

    found, taken = [], set()
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(parts[str(node.target)], _LAYERS):
            continue
        pair = _followed(node, parts)
        # The second layer of one pair is not the first of another: scaled up and down it would stay as it was.
        if pair and alone(pair.before) and alone(pair.after) and pair.before not in taken:
            found.append(pair)
            taken.add(pair.after)
    return found


def _followed(node: fx.Node, parts: dict[str, nn.Module]) -> Pair | None:
    before, relu = str(node.target), False
    while True:
        users = [u for u in node.users if not _only_asks(u)]
        if len(users) != 1:
            return None
        node = users[0]
        part = parts[str(node.target)] if node.op == "call_module" else None
        if isinstance(part, _LAYERS):
            return Pair(before, str(node.target)) if relu else None
        if isinstance(part, _NORMS) and not relu and part.affine:
            before = str(node.target)
        elif isinstance(part, _RELUS) or (part is None and node.target in _RELU_CALLS):
            relu = True
        elif not (isinstance(part, _PASSING) or (part is None and node.target in _PASSING_CALLS)):
            return None


def _only_asks(node: fx.Node) -> bool:
    return (node.op == "call_method" and node.target in _SHAPES) or (
        node.op == "call_function" and node.target is getattr and node.args[1:] in (("shape",), ("device",))
    )


def rescaled(module: nn.Module, factor: float, sample: Inputs) -> tuple[nn.Module, int] | str:
    """A copy whose pairs are scaled by ``factor`` and its inverse, and how many; or why there is none.

    Args:
        factor: above 0; a power of two leaves every product of the forward exact.
        sample: encoded inputs, on which the copy's logits are compared with the module's.
    """
    found = pairs(module)
    if not found:
        return "no layer is followed by a ReLU and one other layer alone, or the net can't be traced"
    other = copy.deepcopy(module).eval()
    with torch.no_grad():
        for pair in found:
            for parameter in other.get_submodule(pair.before)._parameters.values():
                if parameter is not None:
                    parameter.mul_(factor)
            after = other.get_submodule(pair.after).weight
            assert isinstance(after, Tensor)
            after.div_(factor)
        own, same = forward(module, *sample).logits, forward(other, *sample).logits
    if not bool(((own - same).abs() <= AGREE * own.abs().max()).all()):
        return "a rescaled copy doesn't compute the same"
    return other, len(found)
