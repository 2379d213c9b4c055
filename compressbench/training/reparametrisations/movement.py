"""Movement: remembers which weights moved away from zero (Sanh, Wolf, Rush 2020); the criterion of that name reads it."""

from __future__ import annotations

import torch
from torch import nn

from compressbench.bench import Bench
from compressbench.models.build import prunable
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span


def movement(module: nn.Module, bench: Bench, state: State, span: Span) -> Reparametrisation:
    """Sums ``-gradient * weight`` over all iterations into the state's tensor group ``movement``.

    A training that continues another's (``start``) goes on with its sums.
    """
    weights = prunable(module)
    sums = {n: torch.zeros_like(p, requires_grad=False) for n, p in weights.items()}
    for name, before in state.group("movement").items() if span.start else ():
        if name in sums:
            sums[name].copy_(before)

    def after_gradient() -> None:
        for name, weight in weights.items():
            if weight.grad is not None:
                sums[name].addcmul_(weight.grad, weight.detach(), value=-1)

    return Reparametrisation(after_gradient=after_gradient, groups={"movement": sums})
