"""Nets with early exits on a runtime: every part lowered by itself, rows leaving the batch between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compressbench.errors import UserError
from compressbench.hardware.target import HardwareTarget, Lowered, Unsupported
from compressbench.hardware.torch_cpu import said, timed_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.hardware.onnx_graph import Graph
    from compressbench.inputs import Inputs
    from compressbench.tasks.task import Axes
    from compressbench.views import View


@dataclass(frozen=True)
class Compiled:
    """A part on a runtime.

    Attributes:
        run: what it takes to what it gives, at any batch size.
        graph: what the runtime read.
        left: layers with integers in the graph that the runtime computes in float.
    """

    run: Callable[..., Sequence[Tensor]]
    graph: Graph
    left: tuple[str, ...]


Compile = Callable[["nn.Module", "Inputs", Sequence[str], Sequence[str], "Axes"], Compiled]
"""From a part, a sample of what it takes, names of what it takes and gives, and which of their dimensions are free."""


def lower(target: HardwareTarget, view: View) -> Lowered | Unsupported:
    """What a target makes of a state; one that takes whole nets alone refuses a state whose examples leave early.

    A net with exits that nobody leaves by is lowered without them. Of texts it is said how long the timed ones are.
    """
    from compressbench.tasks.task import one_size

    if view.leaves_early and not getattr(target, "EXITS", False):
        return Unsupported("early exits: this target takes whole nets alone, and would price the last exit")
    found = target.lower(view if view.leaves_early else without_exits(view))
    if isinstance(found, Unsupported) or not one_size(view.bench.task):
        return found
    tokens = int(found.inputs[0].shape[1])
    return replace(found, runtime=f"{found.runtime}, {tokens} tokens", tokens=tokens)


def without_exits(view: View) -> View:
    """The same view, or one of the net that answers by its last layer, where it has exits."""
    from compressbench.models.exits import last_alone
    from compressbench.views import View

    alone = last_alone(view.state)
    return view if alone is view.state else View(alone, view.bench, view.label)


def in_parts(view: View, most: int, runtime: str, make: Compile) -> Lowered | Unsupported:
    """A state with early exits, each part by itself.

    Args:
        most: the largest batch to be timed.
        runtime: in words.
        make: compiles one part.
    """
    import torch

    from compressbench.exit_criteria.policy import compacted, everything, policy_of
    from compressbench.hardware import agreement
    from compressbench.hardware.onnx_graph import Graph
    from compressbench.hardware.onnxruntime_cpu import kind
    from compressbench.inputs import apart, first, on, shorter
    from compressbench.models.build import module_of
    from compressbench.models.exits import parts_of
    from compressbench.tasks.task import axes_of

    inputs = on(timed_inputs(view, most), "cpu")
    module, policy = module_of(view.state), policy_of(view.state.policies)
    assert policy is not None
    began = time.perf_counter()
    made: list[Compiled] = []
    live, takes = first(inputs, 8), view.bench.task.inputs
    axes = axes_of(view.bench.task)
    brief = shorter(live, takes, axes)
    own = parts_of(module)
    try:
        for part in own:
            with torch.no_grad():
                _, *rest = part(*live)
                _, *less = part(*brief)
            alive = tuple(f"alive{k}" for k in range(len(rest)))
            given = apart(tuple(rest), tuple(less), alive)
            made.append(make(part, live, takes, ("logits", *alive), {**axes, **given}))
            live, brief = tuple(rest), tuple(less)
            takes = tuple(f"reached{k}" for k in range(len(rest)))
            axes = dict(zip(takes, given.values(), strict=True))
    except UserError as error:
        if "pip install" in str(error):
            raise
        return Unsupported(str(error))
    took = time.perf_counter() - began
    parts = [part.run for part in made]
    try:
        agreement.check(
            lambda *x: everything(own, *x),
            lambda *x: everything(parts, *x),
            inputs,
            (3, 8),
            runtime,
            rounds=True,
        )
    except agreement.Otherwise as wrong:
        return Unsupported(str(wrong))

    def run(*batch: Tensor) -> object:
        with torch.inference_mode():
            return compacted(parts, policy, *batch).logits

    left = tuple(name for part in made for name in part.left)
    graph = Graph(
        None,
        integer=tuple(name for part in made for name in part.graph.integer),
        rounded={name: why for part in made for name, why in part.graph.rounded.items()},
    )
    words = f"{runtime}, {kind(graph, left)}, in parts{said(view)}"
    return Lowered(
        run,
        inputs,
        words,
        compile_seconds=took,
        in_float=(*left, *graph.rounded),
        varies=True,
        parts=tuple(parts),
    )


def numpy_of(tensor: Tensor) -> Any:
    """The array that a runtime reads; contiguous, as most want it, and no doubles, which graphs have none of."""
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()
