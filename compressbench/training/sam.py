"""Sharpness-aware minimisation: the update's gradient is taken uphill, where the loss nearby is nearly worst."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressbench.specs import NonNegative, within
from compressbench.training.steppers import Gradient, Stepper, without_closure

TINY = 1e-12


def sam(module: nn.Module, optimizer: Optimizer, rho: NonNegative = 0.05) -> Stepper:
    """e = rho g / ||g||, the norm over all parameters; then the optimiser's step by the gradient at w + e, taken at w.

    Foret, Kleiner, Mobahi, Neyshabur, ICLR 2021, equations 2 and 3 for p = 2. Two gradients an update. Masked weights
    are not moved and don't count in the norm; batch-norm statistics are of the first gradient alone; rho 0 is the
    optimiser itself, bit by bit. Weight decay stays where it was, in the optimiser's step at w.

    Args:
        rho: radius in weight space, 0 or more.

    Raises:
        UserError: rho out of range, or an optimiser that evaluates the loss itself.
    """
    within("NonNegative", rho, "rho")
    without_closure(optimizer, "sam")
    return _Ascending(optimizer, rho, adaptive=False)


def asam(module: nn.Module, optimizer: Optimizer, rho: NonNegative = 2.0) -> Stepper:
    """As ``sam`` with e = rho T² g / ||T g||, T = |w|: a radius that a rescaling of the weights leaves as it is.

    Kwon, Kim, Park, Choi, ICML 2021, without their constant added to T.

    Args:
        rho: radius relative to the weights, 0 or more.

    Raises:
        UserError: rho out of range, or an optimiser that evaluates the loss itself.
    """
    within("NonNegative", rho, "rho")
    without_closure(optimizer, "asam")
    return _Ascending(optimizer, rho, adaptive=True)


@dataclass(frozen=True)
class _Ascending:
    """The step of both; ``passes`` is read by the loop."""

    optimizer: Optimizer
    rho: float
    adaptive: bool
    passes: int = 2

    def __call__(self, gradient: Gradient) -> Tensor:
        """One update; returns the loss at the weights themselves."""
        loss = gradient()
        params = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        with torch.no_grad():
            masked = {id(p): m for p, m in zip(*gradient.masked, strict=True)}
            grads = [
                p.grad * masked[id(p)] if id(p) in masked else p.grad for p in params if p.grad is not None
            ]
            moves = uphill(params, grads, self.rho, self.adaptive, gradient.lanes is not None)
            before = [p.detach().clone() for p in params]  # kept, since in floating point w + e - e is not w
            torch._foreach_add_(params, moves)
        gradient.again()
        with torch.no_grad():
            torch._foreach_copy_(params, before)
        self.optimizer.step()
        return loss


def uphill(
    params: list[Tensor], grads: list[Tensor], rho: float, adaptive: bool = False, lanes: bool = False
) -> list[Tensor]:
    """The move e to first order worst within the radius, a tensor for each parameter; zero where the gradient is.

    Args:
        lanes: whether the first dimension of each tensor is of trainings of their own, each with its radius.
    """
    if adaptive:
        sizes = torch._foreach_abs(params)
        grads = list(torch._foreach_mul(sizes, grads))
    if lanes:
        norms = torch.linalg.vector_norm(torch.stack([g.flatten(1).norm(dim=1) for g in grads]), dim=0)
        by = [(rho / (norms + TINY)).view(-1, *(1,) * (g.ndim - 1)) for g in grads]
        moves = torch._foreach_mul(grads, by)
    else:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        moves = torch._foreach_mul(grads, rho / (norm + TINY))
    return list(torch._foreach_mul(sizes, moves) if adaptive else moves)
