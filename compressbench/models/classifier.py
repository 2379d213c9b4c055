"""The last layer of a net, and what it reads: the representation that the classes are told apart by."""

from __future__ import annotations

from torch import Tensor, nn


def classifier(module: nn.Module, classes: int) -> tuple[str, Tensor] | None:
    """Name and weight (classes, …) of the last linear or convolutional layer with one output a class, if any."""
    found = None
    for name, part in module.named_modules():
        weight = getattr(part, "weight", None)
        if isinstance(part, nn.Linear | nn.Conv2d) and weight is not None and weight.shape[0] == classes:
            found = (name, weight)
    return found
