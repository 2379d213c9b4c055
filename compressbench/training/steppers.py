"""Steppers: how a gradient becomes an update.

A stepper is made of the module and its optimiser, and then called once an iteration with that iteration's gradient.
One that asks for it more than once has an attribute ``passes``, which the record of the training's cost counts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from compressbench.errors import UserError


class Gradient(Protocol):
    """The gradient of one iteration's loss, at whatever the parameters are when it is asked for.

    The examples, their augmentation and all noise (dropout) are the same each time.

    Attributes:
        masked: parameters with a mask, and the masks as multipliers.
        lanes: how many trainings go at once, a first dimension of all tensors; None for one by itself.
    """

    @property
    def masked(self) -> tuple[list[Tensor], list[Tensor]]: ...
    @property
    def lanes(self) -> int | None: ...

    def __call__(self) -> Tensor:
        """Fills the ``.grad`` fields and returns the loss."""
        ...

    def again(self) -> Tensor:
        """As a call; but batch-norm statistics and observed ranges are afterwards what they were."""
        ...


Stepper = Callable[[Gradient], Tensor]


def plain(module: nn.Module, optimizer: Optimizer) -> Stepper:
    """One gradient, one step of the optimiser.

    Raises:
        UserError: an optimiser that evaluates the loss itself.
    """
    without_closure(optimizer, "plain")

    def step(gradient: Gradient) -> Tensor:
        loss = gradient()
        optimizer.step()
        return loss

    return step


def without_closure(optimizer: Optimizer, name: str) -> None:
    """Refuses an optimiser whose step needs a closure, as L-BFGS does.

    Raises:
        UserError: naming it.
    """
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"stepper {name}: it can't wrap {type(optimizer).__name__}, which evaluates the loss itself by a closure; "
            "an optimiser that takes one gradient a step is wanted, such as torch.optim.SGD"
        )
