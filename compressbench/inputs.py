"""Inputs: what a model is called with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

Inputs = tuple["Tensor", ...]
"""As a forward takes them; the first dimension of each is the example's."""


def first(inputs: Inputs, count: int) -> Inputs:
    """The first examples of a model's inputs."""
    return tuple(x[:count] for x in inputs)


def rows(inputs: Inputs, places: Any) -> Inputs:
    """Some examples of a model's inputs, by an index or a slice."""
    return tuple(x[places] for x in inputs)


def batches(inputs: Inputs, size: int) -> list[Inputs]:
    """Consecutive batches; the last one may be smaller."""
    return [rows(inputs, slice(at, at + size)) for at in range(0, len(inputs[0]), size)]


def shorter(inputs: Inputs, names: Sequence[str], axes: Mapping[str, tuple[str, ...]]) -> Inputs:
    """Inputs whose dimensions that may differ are cut to half, but for the examples': as those of shorter texts."""
    found = []
    for x, name in zip(inputs, names, strict=True):
        for place, free in enumerate(axes.get(name, ())):
            if place and free:
                x = x.narrow(place, 0, (x.shape[place] + 1) // 2)
        found.append(x)
    return tuple(found)


def apart(one: Inputs, other: Inputs, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which dimensions of inputs are free, by two of them of other lengths: ``tasks.task.Axes``."""
    found = {}
    for name, x, y in zip(names, one, other, strict=True):
        pairs = enumerate(zip(x.shape, y.shape, strict=True))
        found[name] = tuple("n" if k == 0 else "tokens" if a != b else "" for k, (a, b) in pairs)
    return found


def on(inputs: Inputs, device: Any) -> Inputs:
    """A model's inputs on a device."""
    return tuple(x.to(device) for x in inputs)
