"""Supermask: weights stay as drawn, each computes with a learned probability (Zhou, Lan, Liu, Yosinski 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.models.build import prunable
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span, one_each, positions


class Drawn(torch.autograd.Function):
    """Probabilities forward to 0 and 1; the gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, probability: Tensor) -> Tensor:
        return torch.bernoulli(probability)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def supermask(
    module: nn.Module, bench: Bench, state: State, span: Span, initial: float = 0.0, lr: float | None = 100.0
) -> Reparametrisation:
    """Trains v, with mask ~ Bernoulli(sigmoid(v)) drawn in every forward; norms and biases stay as they are.

    Evaluation and the mask that is left take the likelier value, ``v > 0`` (the paper averages over drawn masks).

    Args:
        initial: v of every weight; 0 begins with each weight computing half of the time.
        lr: peak learning rate of v; 100 with SGD as in the authors' code.
    """
    weights = prunable(module)
    allowed = positions(module, state)
    v = one_each(weights, initial)

    def chosen(name: str) -> Tensor:
        return (v[name].detach() > 0) & allowed[name]

    def effective(name: str) -> Any:
        def change(weight: Tensor, training: bool) -> Tensor:
            return weight * (Drawn.apply(torch.sigmoid(v[name])) if training else chosen(name))

        return change

    return Reparametrisation(
        effective={n: effective(n) for n in weights},
        parameters=v,
        lr=lr,
        frozen=True,
        masks=lambda: {n: chosen(n) for n in weights},
        whole=True,
    )
