"""What a CUDA graph does, on the CPU: operations are recorded with their tensors, and a replay writes to these again.

As in a graph nothing of Python happens in a replay: a number that Python computed is the recorded one for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WAITS = (
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.lift_fresh.default,
)
"""Operations that on a GPU wait for it, or copy a number of Python's to it."""
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
"""The same where a mask chooses."""


class Graph:
    """Stands for ``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, before in self.steps:
                after = function(*args, **kwargs)
                given = {
                    t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
                }
                for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                    if isinstance(old, Tensor) and old.untyped_storage()._cdata not in given:
                        old.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = [t for t in tree_leaves(args[1:]) if isinstance(t, Tensor)]
        if function in WAITS or (function in INDEXED and any(t.dtype == torch.bool for t in indices)):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        out = function(*args, **(kwargs or {}))
        self.graph.steps.append((function, args, kwargs or {}, out))
        return out


class _Stream:
    def wait_stream(self, other: _Stream) -> None: ...


class Cuda:
    """Stands for ``torch.cuda`` where an iteration is recorded."""

    CUDAGraph, Stream = Graph, _Stream
    capturing = False

    def __init__(self) -> None:
        self.graphs: list[Graph] = []

    def current_stream(self) -> _Stream:
        return _Stream()

    @contextlib.contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def graph(self, graph: Graph) -> Iterator[None]:
        self.graphs.append(graph)
        with _Recording(graph):
            yield

    def manual_seed(self, seed: int) -> None: ...
