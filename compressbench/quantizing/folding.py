"""Batch norms folded into the convolutions before them, as an edit of the state."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import fx, nn

from compressbench.bench import Bench
from compressbench.models.build import module_of
from compressbench.models.exits import Exiting
from compressbench.models.quantized import unfit
from compressbench.models.reached import ran
from compressbench.models.tracing import Tracer, rest_of
from compressbench.pruning.structured import edited
from compressbench.state import State

_NORM_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


def pairs(module: nn.Module) -> dict[str, list[Any]]:
    """``{convolution: [norm, eps]}`` of every batch norm that alone reads a convolution's result.

    Raises:
        Exception: whatever a module may raise that can't be traced.
    """
    nodes = [node for graph in _graphs(module) for node in graph.nodes]
    modules = dict(module.named_modules())
    calls = Counter(id(modules[str(n.target)]) for n in nodes if n.op == "call_module")
    read = [str(n.target) for n in nodes if n.op == "get_attr"]
    owners = Counter(id(p) for m in modules.values() for p in m._parameters.values() if p is not None)
    found: dict[str, list[Any]] = {}
    for node in nodes:
        if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) != 1:
            continue
        name, conv = str(before.target), modules[str(before.target)]
        norm = modules[str(node.target)]
        kinds = [of for plain, of in _NORM_OF.items() if isinstance(conv, plain)]
        if len(kinds) != 1 or not isinstance(norm, kinds[0]) or rest_of(norm) is None or unfit(conv):
            continue
        shared = any(owners[id(p)] > 1 for m in (conv, norm) for p in m._parameters.values() if p is not None)
        used = any(r.startswith((f"{name}.", f"{node.target}.")) for r in read)
        if calls[id(conv)] == calls[id(norm)] == 1 and not shared and not used:
            eps: Any = norm.eps
            found[name] = [str(node.target), float(eps)]
    return found


def _graphs(module: nn.Module) -> list[fx.Graph]:
    """The net's graph; of one with exits those of its parts, where a head reads a value too."""
    if isinstance(module, Exiting):
        return [part.graph for part in module.parts() if isinstance(part, fx.GraphModule)]
    return [Tracer().trace(module)]


def folded(state: State, bench: Bench) -> tuple[State, list[str]]:
    """(the state with all batch norms folded that can be, what is to be said of those that can't)."""
    module = module_of(state)
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()):
        return state, []
    # A user's module may refuse to be traced in any way at all; then its norms stay, and that is said.
    try:
        found = pairs(module)
    except Exception as error:
        reason = [*str(error).splitlines(), type(error).__name__][0][:80]
        return state, [f"batch norms are not folded, the net can't be traced: {reason}"]
    folds = {norm for norm, _ in found.values()}
    evaluated = ran(module, bench.task.blank(1))  # others, of auxiliary heads, never run
    left = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and name in evaluated and name not in folds
    ]
    flags = [f"batch norms not folded, no convolution alone before them: {', '.join(left)}"] if left else []
    return (edited(state, [{"fold": found}], bench) if found else state), flags
