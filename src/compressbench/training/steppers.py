"""Steppers: how a gradient becomes an update. SAM and its kin are further functions of this form."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer

Gradient = Callable[[], Tensor]
Stepper = Callable[[Gradient], Tensor]


def plain(module: nn.Module, optimizer: Optimizer) -> Stepper:
    """One gradient, one step of the optimiser. ``gradient()`` fills the ``.grad`` fields and returns the loss."""

    def step(gradient: Gradient) -> Tensor:
        loss = gradient()
        optimizer.step()
        return loss

    return step
