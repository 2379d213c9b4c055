"""Counts: parameters and multiply-accumulates, in theory; what a device makes of them is another column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from compressbench.errors import UserError, nearest
from compressbench.models.attention import unfused_attention
from compressbench.models.build import prunable
from compressbench.models.exits import every_exit
from compressbench.models.theseus import idle
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
    """

    parameters: int
    prunable: int
    macs: int
    layers: Mapping[str, int]

    @property
    def others(self) -> int:
        """MACs that pass through no prunable weight, e.g. the products inside attention."""
        return self.macs - sum(self.layers.values())

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


def count(module: nn.Module, shape: Sequence[int]) -> Counts:
    """Counts parameters, and MACs by running one blank example in evaluation mode; the module stays as it is.

    Args:
        shape: of one example without the batch dimension, e.g. (channels, height, width).

    Raises:
        UserError: the module can't take the shape.
    """
    weights = prunable(module)
    names = {id(weight): name.removesuffix("weight").removesuffix(".") for name, weight in weights.items()}
    owners = {w.untyped_storage().data_ptr(): names[id(w)] for w in weights.values() if w.numel()}
    beside = idle(module)
    counter = FlopCounterMode(display=False)
    ledger = _Ledger(counter, dict.fromkeys(names.values(), 0), owners)
    with unfused_attention(), _inside(module, names, ledger), counter, ledger:
        _run(module, shape)
    return Counts(
        parameters=sum(p.numel() for p in module.parameters() if id(p) not in beside),
        prunable=sum(w.numel() for w in weights.values()),
        macs=counter.get_total_flops() // 2,
        layers={name: flops // 2 for name, flops in ledger.flops.items()},
    )


def of_exits(parts: Sequence[nn.Module], shape: Sequence[int]) -> list[int]:
    """MACs until each exit has answered one example, its own head and all before it counted, by ``count``'s rule."""
    first = next((p for part in parts for p in part.parameters()), torch.empty(0))
    counter, found = FlopCounterMode(display=False), []
    live: tuple[Tensor, ...] = (torch.zeros(1, *shape, device=first.device, dtype=first.dtype),)
    with torch.no_grad(), unfused_attention(), counter:
        for part in parts:
            live = tuple(part(*live)[1:])
            found.append(counter.get_total_flops() // 2)
    return found


def with_norms_and_sums(module: nn.Module, shape: Sequence[int]) -> int:
    """MACs by another rule: two more for each element out of a batch norm, one for each of a sum of two activations.

    The papers' rule, of ``count``, leaves both out. By this one ResNet-56 with shortcut A needs 126,808,704 on
    3 x 32 x 32, the 126.81 M of Xie et al. 2019, whose cheap nets are counted without.

    Args:
        shape: of one example without the batch dimension.

    Raises:
        UserError: the module can't take the shape.
    """
    more: list[int] = []
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [m.register_forward_hook(lambda _, __, out: more.append(2 * out.numel())) for m in norms]
    try:
        with _Sums(more):
            _run(module, shape)
    finally:
        for handle in handles:
            handle.remove()
    return count(module, shape).macs + sum(more)


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


def _run(module: nn.Module, shape: Sequence[int]) -> None:
    first = next(module.parameters(), torch.empty(0))
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), every_exit(module):
            forward(module, torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ZeroDivisionError) as error:
        reason = [*str(error).splitlines(), type(error).__name__][0]
        size = "x".join(map(str, shape))
        raise UserError(f"{type(module).__name__} can't take inputs of {size}: {reason}") from error
    finally:
        for part, training in modes.items():
            part.training = training


class _Ledger(TorchDispatchMode):
    """Books each operation's FLOPs on the layer that runs or, outside of any, on the weight that it reads."""

    def __init__(self, counter: FlopCounterMode, flops: dict[str, int], owners: Mapping[int, str]) -> None:
        super().__init__()
        self.counter = counter
        self.flops = flops
        self.owners = owners
        self.running: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        spent = self.counter.get_total_flops() - before
        if spent:
            places = [a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)]
            read = [self.owners[place] for place in places if place in self.owners]
            for layer in (self.running or read)[-1:]:
                self.flops[layer] += spent
        return result


@contextmanager
def _inside(module: nn.Module, names: Mapping[int, str], ledger: _Ledger) -> Iterator[None]:
    """Tells the ledger which prunable layer runs, so that one that rewrites its weight is booked too."""

    def enter(part: nn.Module, _: Any) -> None:
        ledger.running.append(names[id(part.weight)])

    def leave(*_: Any) -> None:
        ledger.running.pop()

    handles = []
    for part in module.modules():
        if id(getattr(part, "weight", None)) in names:
            handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
