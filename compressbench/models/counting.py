"""Counts: parameters and multiply-accumulates, in theory; what a device makes of them is another column."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from compressbench.errors import UserError, nearest
from compressbench.inputs import Inputs, on
from compressbench.models.attention import unfused_attention
from compressbench.models.build import left_alone, prunable, shortened
from compressbench.models.exits import every_exit
from compressbench.models.reached import Ways, modes_kept, ways_of
from compressbench.models.theseus import idle
from compressbench.models.where import reason_of, watched
from compressbench.outputs import forward


@dataclass(frozen=True)
class Counts:
    """What a module holds and computes for one example.

    Attributes:
        parameters: all of them, shared ones once; but for blocks that a successor stands in for.
        prunable: weights of convolutions and linear layers (see ``build.prunable``).
        macs: multiply-accumulates of convolutions, linear layers and matrix products (attention): half of
            what ``torch.utils.flop_counter`` counts. Norms, activations and sums don't count, as in the
            papers.
        layers: the part of ``macs`` that goes through each prunable weight, by its module's name; 0 if
            unused.
        uncounted: operations that multiply and have no formula, ``module: operation``; ``macs`` is without them.
    """

    parameters: int
    prunable: int
    macs: int
    layers: Mapping[str, int]
    uncounted: tuple[str, ...] = ()

    @property
    def others(self) -> int:
        """MACs that pass through no prunable weight, e.g. the products inside attention."""
        return self.macs - sum(self.layers.values())

    @property
    def said(self) -> str:
        """What is to be said of ``macs``; empty where all is counted."""
        return f"not counted: {shortened(self.uncounted)}" if self.uncounted else ""

    def if_zeros_were_free(self, density: Mapping[str, float]) -> float:
        """MACs that would remain if every zero weight were skipped at no cost.

        Args:
            density: share of weights kept in [0, 1], by parameter name (``layer1.0.conv1.weight``) as in a
                state's masks; a weight without an entry is dense.

        Raises:
            UserError: a name that is no prunable weight.
        """
        weights = {f"{name}.weight" if name else "weight": macs for name, macs in self.layers.items()}
        for name in density:
            if name not in weights:
                raise UserError(f"no prunable weight {name!r}; {nearest(name, weights)}")
        return self.others + sum(macs * density.get(name, 1.0) for name, macs in weights.items())


def count(module: nn.Module, inputs: Inputs) -> Counts:
    """Counts parameters, and MACs by running one blank example in evaluation mode; the module stays as it is.

    Args:
        inputs: one blank example, as a task makes it.

    Raises:
        UserError: the module can't take the inputs.
    """
    weights = prunable(module)
    names = {id(weight): name.removesuffix("weight").removesuffix(".") for name, weight in weights.items()}
    owners = {w.untyped_storage().data_ptr(): names[id(w)] for w in weights.values() if w.numel()}
    beside = idle(module)
    other = {
        p.untyped_storage().data_ptr() for p in left_alone(module).values() if sum(n > 1 for n in p.shape) > 1
    }
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    ledger = _Ledger(counter, dict.fromkeys(names.values(), 0), owners, other)
    with unfused_attention(), _inside(module, names, ledger), counter, ledger:
        _run(module, inputs)
    return Counts(
        parameters=sum(p.numel() for p in module.parameters() if id(p) not in beside),
        prunable=sum(w.numel() for w in weights.values()),
        macs=counter.get_total_flops() // 2 + of_itself(module),
        layers={name: flops // 2 for name, flops in ledger.flops.items()},
        uncounted=tuple(dict.fromkeys(ledger.uncounted)),
    )


def in_training_alone(module: nn.Module, inputs: Inputs) -> int:
    """MACs of one example that only a forward in training has, by ``count``'s rule: of heads that evaluation never runs.

    Args:
        inputs: one blank example.
    """
    first = next(module.parameters(), torch.empty(0))
    inputs = on(inputs, first.device)
    ways = ways_of(module, inputs)
    found = []
    for way in (Ways(), Ways(evaluation=False, training=True)) if ways.training else ():
        counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        with torch.no_grad(), unfused_attention(), counter:
            way.outputs(module, inputs)
        found.append(counter.get_total_flops() // 2)
    return max(0, found[1] - found[0]) if found else 0


def of_exits(parts: Sequence[nn.Module], inputs: Inputs) -> list[int]:
    """MACs until each exit has answered one example, its own head and all before it counted, by ``count``'s rule."""
    first = next((p for part in parts for p in part.parameters()), torch.empty(0))
    counter, found, own = FlopCounterMode(display=False, custom_mapping=FORMULAS), [], 0
    live: tuple[Tensor, ...] = on(inputs, first.device)
    with torch.no_grad(), unfused_attention(), counter:
        for part in parts:
            live = tuple(part(*live)[1:])
            own += of_itself(part)
            found.append(counter.get_total_flops() // 2 + own)
    return found


def of_itself(module: nn.Module) -> int:
    """MACs that no operation shows and a module says itself, for one example, in ``own_macs``: a feature's look-ups."""
    return sum(getattr(part, "own_macs", 0) for part in module.modules())


def with_norms_and_sums(module: nn.Module, inputs: Inputs) -> int:
    """MACs by another rule: two more for each element out of a batch norm, one for each of a sum of two activations.

    The papers' rule, of ``count``, leaves both out. By this one ResNet-56 with shortcut A needs 126,808,704 on
    3 x 32 x 32, the 126.81 M of Xie et al. 2019, whose cheap nets are counted without.

    Args:
        inputs: one blank example.

    Raises:
        UserError: the module can't take the inputs.
    """
    more: list[int] = []
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [m.register_forward_hook(lambda _, __, out: more.append(2 * out.numel())) for m in norms]
    try:
        with _Sums(more):
            _run(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return count(module, inputs).macs + sum(more)


class _Sums(TorchDispatchMode):
    """Notes the elements of every sum of two tensors of one shape; a bias has another."""

    def __init__(self, elements: list[int]) -> None:
        super().__init__()
        self.elements = elements

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _ADDITIONS and all(isinstance(a, Tensor) for a in args[:2]):
            self.elements += [result.numel()] * (args[0].shape == args[1].shape)
        return result


_ADDITIONS = (torch.ops.aten.add, torch.ops.aten.add_)


def _run(module: nn.Module, inputs: Inputs) -> None:
    first = next(module.parameters(), torch.empty(0))
    size = " and ".join("x".join(map(str, x.shape[1:])) for x in inputs)
    with modes_kept(module), watched(module.eval()) as where:
        try:
            with torch.no_grad(), every_exit(module):
                forward(module, *on(inputs, first.device))
        except UserError:
            raise
        except Exception as error:  # a user's forward may fail in any way at all
            what = f"{type(module).__name__} can't take inputs of {size}"
            raise UserError(f"{what}: {where()}{reason_of(error)}") from error


class _Ledger(TorchDispatchMode):
    """Books each operation's FLOPs on the layer that runs or, outside of any, on the weight that it reads."""

    def __init__(
        self, counter: FlopCounterMode, flops: dict[str, int], owners: Mapping[int, str], other: Set[int]
    ) -> None:
        super().__init__()
        self.counter = counter
        self.flops = flops
        self.owners = owners
        self.other = other
        self.running: list[str] = []
        self.within: list[str] = [""]
        self.uncounted: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        spent = self.counter.get_total_flops() - before
        places = [a.untyped_storage().data_ptr() for a in args if _is_plain(a)]
        if not spent and (_multiplies(func) or (_weighs(func) and not self.other.isdisjoint(places))):
            self.uncounted.append(f"{self.within[-1] or 'the net'}: {func.overloadpacket.__name__}")
        if spent:
            read = [self.owners[place] for place in places if place in self.owners]
            for layer in (self.running or read)[-1:]:
                self.flops[layer] += spent
        return result


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _multiplies(func: Any) -> bool:
    """Whether an operation without a formula multiplies much: of another library, or of these families."""
    return func.namespace not in _NAMESPACES or bool(_FAMILIES.search(func.overloadpacket.__name__))


def _weighs(func: Any) -> bool:
    """Whether an operation multiplies element by element, as a user's own layer may with its own weight."""
    return func.overloadpacket in _PRODUCTS


_NAMESPACES = ("aten", "prim", "prims", "profiler", "quantized_decomposed", "mkldnn")
_FAMILIES = re.compile(
    r"fft|rnn|lstm|gru|linalg|matrix_exp|solve|svd|_qr|eig|pdist|deform|attention|multi_head"
)
_PRODUCTS = (torch.ops.aten.mul, torch.ops.aten.mul_, torch.ops.aten.addcmul, torch.ops.aten.prod)


def _matrix_vector(matrix: Sequence[int], vector: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _sum_and_matrix_vector(
    first: Sequence[int], matrix: Sequence[int], vector: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * math.prod(matrix)


def _two_vectors(one: Sequence[int], other: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(one)


def _distances(one: Sequence[int], other: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(one) * other[-2]


def _bilinear(one: Sequence[int], weight: Sequence[int], other: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * one[0] * math.prod(weight)


def _recurrent(inputs: Sequence[int], inner: Sequence[int], hidden: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * inputs[0] * inputs[1] * (math.prod(inner) + math.prod(hidden))


def _recurrent_on_gpu(inputs: Sequence[int], weights: Sequence[Sequence[int]], *_: Any, **__: Any) -> int:
    return 2 * inputs[0] * inputs[1] * sum(math.prod(w) for w in weights if len(w) > 1)


FORMULAS = {
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.addmv: _sum_and_matrix_vector,
    torch.ops.aten.dot: _two_vectors,
    torch.ops.aten.vdot: _two_vectors,
    torch.ops.aten._cdist_forward: _distances,
    torch.ops.aten._trilinear: _bilinear,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.aten._cudnn_rnn: _recurrent_on_gpu,
}
"""FLOPs, twice the multiply-accumulates, of operations that torch's counter has no formula for, from their shapes."""


@contextmanager
def _inside(module: nn.Module, names: Mapping[int, str], ledger: _Ledger) -> Iterator[None]:
    """Tells the ledger which prunable layer runs, so that one that rewrites its weight is booked too."""

    def enter(part: nn.Module, _: Any) -> None:
        ledger.running.append(names[id(part.weight)])

    def leave(*_: Any) -> None:
        ledger.running.pop()

    def outside(*_: Any) -> None:
        ledger.within.pop()

    handles = []
    for name, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(lambda *_, n=name: ledger.within.append(n)))
        handles.append(part.register_forward_hook(outside))
        if id(part._parameters.get("weight")) in names:
            handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
