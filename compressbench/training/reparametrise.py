"""Reparametrisations: what a training computes with in place of a weight, as a value of the one loop.

The module's parameters stay where they are: stored, optimised and checkpointed under their names. Only during a
forward does a layer see the effective tensor made from its parameter; autograd does the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compressbench import masks as masking
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import copies, prunable
from compressbench.state import State

Effective = Callable[[Tensor, bool], Tensor]
"""(parameter, training) to the tensor that the layer computes with; in evaluation it draws nothing at random."""

Masks = Mapping[str, Tensor]


class Span(Protocol):
    """What a method may know of the training: iterations and the peak learning rate; ``live.Run`` is one."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def per_epoch(self) -> int: ...
    @property
    def lr(self) -> float: ...


@dataclass(frozen=True)
class Reparametrisation:
    """One method; what it doesn't need stays at its default.

    A method is a function ``(module, bench, state, span, **settings) -> Reparametrisation``.

    Attributes:
        effective: by name of the module's parameter, the tensor that stands in for it; several methods chain.
        parameters: tensors of the method's own that the optimiser trains (scores, log variances).
        lr: peak learning rate of ``parameters``, null for the training's; schedule and warm-up are the training's.
        decay: whether weight decay goes to ``parameters``.
        frozen: none of the module's own parameters is trained.
        steady: ``effective`` is the same work on the device at every iteration, so that a GPU may record it.
        penalty: added to the loss of iteration ``step``.
        remask: called before the first and after every iteration with the number of iterations done and a function
            that gives the present state; new masks, and new weights or None; or None where all stays. Must give the
            same again for the same state.
        after_gradient: called when the ``.grad`` fields are filled.
        after_step: called after every iteration, when the weights are updated and masked.
        masks: what is kept, asked once at the end; pruned weights then are zero.
        groups: groups of tensors, changed in place, that the trained state carries under these names.
        whole: the method can't be stopped short and go on in another stage, since a state holds no ``parameters``.
    """

    effective: Mapping[str, Effective] = field(default_factory=dict)
    parameters: Mapping[str, nn.Parameter] = field(default_factory=dict)
    lr: float | None = None
    decay: bool = False
    frozen: bool = False
    steady: bool = False
    penalty: Callable[[int], Tensor] | None = None
    remask: Callable[[int, Callable[[], State]], tuple[Masks, Masks | None] | None] | None = None
    after_gradient: Callable[[], None] | None = None
    after_step: Callable[[], None] | None = None
    masks: Callable[[], Masks] | None = None
    groups: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    whole: bool = False


Method = Callable[[nn.Module, Bench, State, Span], Reparametrisation]


class Reparametrised:
    """All methods of one training on its module, in order."""

    def __init__(self, module: nn.Module, methods: Mapping[str, Reparametrisation]) -> None:
        self.methods = dict(methods)
        self._module = module
        self._named = dict(module.named_parameters())
        self._chains: dict[str, list[Effective]] = {}
        for label, method in self.methods.items():
            for name, effective in method.effective.items():
                if name not in self._named:
                    raise UserError(f"reparametrise.{label}: the model has no parameter {name!r}")
                self._chains.setdefault(name, []).append(effective)
        names = {id(p): n for n, p in self._named.items()}
        self._places = [
            (part, slot, names[id(p)])
            for part in module.modules()
            for slot, p in part._parameters.items()
            if p is not None and names.get(id(p)) in self._chains
        ]
        if any(m.frozen for m in self.methods.values()):
            for parameter in self._named.values():
                parameter.requires_grad_(False)

    def own(self) -> dict[str, nn.Parameter]:
        """The methods' own parameters as ``reparametrise.METHOD.name``."""
        return {
            f"reparametrise.{label}.{name}": parameter
            for label, method in self.methods.items()
            for name, parameter in method.parameters.items()
        }

    def optimised(self, weight_decay: float, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups of the methods' own parameters; ``share`` is their part of the training's learning rate."""
        return [
            {
                "params": list(m.parameters.values()),
                "weight_decay": weight_decay if m.decay else 0.0,
                "share": 1.0 if m.lr is None else m.lr / lr,
            }
            for m in self.methods.values()
            if m.parameters
        ]

    def kept(self) -> dict[str, Tensor]:
        """The groups' tensors as ``METHOD.group.name``, the live ones: for checkpoints."""
        return {
            f"{label}.{group}.{name}": tensor
            for label, method in self.methods.items()
            for group, named in method.groups.items()
            for name, tensor in named.items()
        }

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """The groups as CPU copies, for a state."""
        return {
            group: copies(named) for method in self.methods.values() for group, named in method.groups.items()
        }

    def replaced(self) -> tuple[str, ...]:
        """The parameters that something stands in for."""
        return tuple(self._chains)

    def effective(self, name: str, training: bool) -> Tensor:
        """The tensor that stands in for a parameter."""
        weight: Tensor = self._named[name]
        for change in self._chains[name]:
            weight = change(weight, training)
        return weight

    @contextlib.contextmanager
    def in_place(self, training: bool) -> Iterator[None]:
        """Layers compute with effective tensors inside; the parameters are back afterwards, whatever happens."""
        if not self._places:
            yield
            return
        made = {name: self.effective(name, training) for name in self._chains}
        slots: list[tuple[dict[str, Any], str, str]] = [
            (part._parameters, slot, name) for part, slot, name in self._places
        ]
        for parameters, slot, name in slots:
            parameters[slot] = made[name]
        try:
            yield
        finally:
            for parameters, slot, name in slots:
                parameters[slot] = self._named[name]

    def penalties(self, step: int) -> Tensor | None:
        """The sum of the methods' penalties, None where there are none."""
        found = [m.penalty(step) for m in self.methods.values() if m.penalty]
        return sum(found[1:], found[0]) if found else None

    def after_gradient(self) -> None:
        """Tells the methods that want to know."""
        for method in self.methods.values():
            if method.after_gradient:
                method.after_gradient()

    def after_step(self) -> None:
        """Tells the methods that want to know."""
        with torch.no_grad():
            for method in self.methods.values():
                if method.after_step:
                    method.after_step()

    def remask(self, step: int, current: Callable[[], State]) -> tuple[Masks, Masks | None] | None:
        """New masks of the first method that has some after ``step`` iterations."""
        for method in self.methods.values():
            found = method.remask(step, current) if method.remask else None
            if found is not None:
                return found
        return None

    def finished(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What stands for the parameters from now on, and the methods' masks, together where there are several."""
        with torch.no_grad():
            weights = {name: self.effective(name, False).clone() for name in self._chains}
            masks: dict[str, Tensor] = {}
            for method in self.methods.values():
                for name, mask in (method.masks() if method.masks else {}).items():
                    masks[name] = masks[name] & mask if name in masks else mask
        return weights, masks


def built(
    module: nn.Module, bench: Bench, state: State, span: Span, methods: Mapping[str, Method]
) -> Reparametrised | None:
    """The methods on a module, None where there are none.

    Raises:
        UserError: settings that a method does not take, two methods that choose masks by themselves during the
            training, or a training that stops short with a method that can't.
    """
    if not methods:
        return None
    made: dict[str, Reparametrisation] = {}
    for label, method in methods.items():
        try:
            made[label] = method(module, bench, state, span)
        except UserError as error:
            raise UserError(f"reparametrise.{label}: {error}") from error
        except TypeError as error:
            raise UserError(f"reparametrise.{label}: {str(error).replace('()', '')}") from error
        if made[label].whole and span.stop < span.total:
            raise UserError(
                f"stop: with reparametrise.{label} a training can't be interrupted at {span.stop} of {span.total} "
                "iterations and go on in another stage; leave stop out"
            )
    if sum(m.remask is not None for m in made.values()) > 1:
        raise UserError(f"reparametrise: only one of {', '.join(made)} may prune during the training")
    return Reparametrised(module, made)


def positions(module: nn.Module, state: State) -> dict[str, Tensor]:
    """Where each prunable parameter may still be something, as bool tensors laid out like it."""
    return {
        name: torch.empty_like(p, dtype=torch.bool).copy_(state.masks[name])
        if name in state.masks
        else torch.ones_like(p, dtype=torch.bool)
        for name, p in prunable(module).items()
    }


def top(scores: Tensor, count: int) -> Tensor:
    """Bool tensor of exactly the ``count`` highest scores, laid out like them."""
    flat = scores.detach().reshape(-1)
    stay = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    stay.scatter_(0, torch.topk(flat, min(count, flat.numel()), sorted=False).indices, True)
    return torch.empty_like(scores, dtype=torch.bool).copy_(stay.view(scores.shape))


def layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers of prunable weights by the weight's name, in module order; the first one of a tied weight."""
    names = {id(p): n for n, p in prunable(module).items()}
    out: dict[str, nn.Module] = {}
    for part in module.modules():
        name = names.get(id(part._parameters.get("weight")))
        if name is not None:
            out.setdefault(name, part)
    return out


def ramp(step: int, total: int, start: float, stop: float) -> float:
    """Rises linearly from 0 to 1 between two shares of the length."""
    done = step / max(1, total)
    return 1.0 if done >= stop else max(0.0, (done - start) / (stop - start))


def one_each(weights: Mapping[str, Tensor], initial: float) -> dict[str, nn.Parameter]:
    """A trained number for every weight, all alike at first."""
    return {n: nn.Parameter(torch.full_like(p, initial, requires_grad=False)) for n, p in weights.items()}


def shares(weights: Mapping[str, Tensor], keep: float, own: Mapping[str, float] | None) -> dict[str, float]:
    """Which share of each layer's weights computes: ``keep``, or its own, ``{pattern: share}``.

    Raises:
        UserError: a share out of [0, 1], or a pattern that fits nothing.
    """
    check_share("keep", keep)
    found = masking.rates_by_tensor(weights, own or {})
    return {name: found.get(name, keep) for name in weights}


def largest(scores: Tensor, count: int, allowed: Tensor) -> Tensor:
    """Where the ``count`` largest absolute scores are, among those that are allowed."""
    return top(scores.detach().abs().masked_fill(~allowed, -1), count) & allowed


def rising(
    weight: float, start: float, stop: float, span: Span, bench: Bench, sums: Callable[[], Iterable[Tensor]]
) -> Callable[[int], Tensor]:
    """A penalty: sums a training example, times a weight that rises linearly from 0 between two shares of the length.

    Raises:
        UserError: shares out of order, or a weight below 0.
    """
    check_span(start, stop)
    if weight < 0:
        raise UserError(f"weight: {weight} is below 0")
    examples = len(bench.feed("train"))

    def penalty(step: int) -> Tensor:
        return ramp(step, span.total, start, stop) * weight / examples * torch.stack(list(sums())).sum()

    return penalty


def check_share(name: str, value: float, low: float = 0.0, high: float = 1.0) -> None:
    """Refuses a number out of its range.

    Raises:
        UserError: naming the range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name}: {value!r} is not in [{low:g}, {high:g}]")


def check_span(start: float, stop: float) -> None:
    """Refuses shares of the length that are out of order.

    Raises:
        UserError: naming both.
    """
    check_share("start", start)
    check_share("stop", stop)
    if start > stop:
        raise UserError(f"start {start:g}, stop {stop:g}: must not decrease")
