"""L0: each weight times a gate that can be exactly 0, the number of open gates is penalised (Louizos et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.models.build import prunable
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span, one_each, positions, rising

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


def gate(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """A hard-concrete gate in [0, 1] from numbers uniform in (0, 1)."""
    s = torch.sigmoid((torch.log(uniform) - torch.log1p(-uniform) + log_alpha) / BETA)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Probability that a gate is not 0: what the penalty sums."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def expected_gate(log_alpha: Tensor) -> Tensor:
    """The gate in evaluation, without noise."""
    return (torch.sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def l0(
    module: nn.Module,
    bench: Bench,
    state: State,
    span: Span,
    weight: float = 1.0,
    start: float = 0.0,
    stop: float = 0.5,
    initial: float = 2.197,
    lr: float | None = None,
) -> Reparametrisation:
    """Trains weights and gates; gates are drawn in every forward, one a weight and batch.

    Weights whose gate is 0 in evaluation are pruned at the end, the others are multiplied by theirs.

    Args:
        weight: of the expected number of open gates divided by the number of training examples.
        start, stop: shares of the length between which that weight rises linearly from 0.
        initial: log alpha at the start; 2.197 opens a gate with probability 0.978.
        lr: peak learning rate of log alpha, null for the training's.

    Raises:
        UserError: settings out of range.
    """
    weights = prunable(module)
    allowed = positions(module, state)
    logs = one_each(weights, initial)

    def effective(name: str) -> Any:
        def change(value: Tensor, training: bool) -> Tensor:
            if not training:
                return value * expected_gate(logs[name])
            uniform = torch.rand_like(value).clamp(1e-6, 1 - 1e-6)
            return value * gate(logs[name], uniform)

        return change

    def opened() -> Iterator[Tensor]:
        return ((open_probability(p) * allowed[n]).sum() for n, p in logs.items())

    return Reparametrisation(
        effective={n: effective(n) for n in weights},
        parameters=logs,
        lr=lr,
        penalty=rising(weight, start, stop, span, bench, opened),
        masks=lambda: {n: (expected_gate(p.detach()) > 0) & allowed[n] for n, p in logs.items()},
        whole=True,
    )
