"""How nets are traced: what of them is a leaf, and what a batch norm's own class does beside normalising."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OWN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias")


class Tracer(fx.Tracer):
    """torch's layers are leaves, and so are those of a user's own class derived from one; buffers are values."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module's forward isn't looked into."""
        derived = any(k.__module__.startswith("torch.nn.") and k not in _CONTAINERS for k in type(m).__mro__)
        return derived or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """A module's call as it is traced; a ``DataParallel`` is what it holds."""
        if isinstance(m, nn.DataParallel):
            return m.module(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def own_tensors(norm: str) -> tuple[str, ...]:
    """Names of the tensors by which a batch norm normalises."""
    return tuple(f"{norm}.{leaf}" for leaf in _OWN)


def rest_of(norm: nn.Module) -> nn.Module | None:
    """What is left of a batch norm when its normalising is done elsewhere: the activation of a class that has one.

    ``nn.Identity`` of torch's own classes; None where a class does anything before or beside the normalising, has no
    running statistics, or can't be traced.
    """
    if getattr(norm, "running_mean", None) is None:
        return None
    if type(norm) in _NORMS:
        return nn.Identity()
    source = copy.copy(norm)
    source.training = False
    source.__dict__["_check_input_dim"] = lambda _: None  # it would branch on the input
    try:
        traced = fx.GraphModule(source, Tracer().trace(source))
    except Exception:  # a user's forward may fail to trace in any way at all
        return None
    graph = traced.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is torch._assert:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    norms = [n for n in graph.nodes if n.op == "call_function" and n.target is F.batch_norm]
    if len(inputs) != 1 or len(norms) != 1 or list(inputs[0].users) != norms:
        return None
    given: dict[str, Any] = {**dict(zip(_ARGUMENTS, norms[0].args, strict=False)), **norms[0].kwargs}
    eps = norms[0].kwargs.get("eps", norms[0].args[7] if len(norms[0].args) > 7 else 1e-5)
    if (
        given["input"] is not inputs[0]
        or eps != norm.eps
        or not all(_is_its(given.get(n), n, norm) for n in _ARGUMENTS[1:])
    ):
        return None
    norms[0].replace_all_uses_with(inputs[0])
    graph.eliminate_dead_code()
    if any(n.op == "get_attr" and n.target in _OWN for n in graph.nodes):
        return None
    return fx.GraphModule(traced, graph, f"RestOf{type(norm).__name__}").eval()


def _is_its(value: Any, leaf: str, norm: nn.Module) -> bool:
    if getattr(norm, leaf, None) is None:
        return value is None
    return isinstance(value, fx.Node) and value.op == "get_attr" and value.target == leaf
