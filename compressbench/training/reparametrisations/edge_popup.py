"""Edge-popup: weights stay as drawn, scores decide which of them compute (Ramanujan et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.models.build import prunable
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span, largest, positions, shares


class Chosen(torch.autograd.Function):
    """Absolute scores forward to 0 and 1; the gradient goes straight through to all of them, as in the authors' code."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor) -> Tensor:
        return mask.to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def kept(numel: int, keep: float) -> int:
    """How many weights of a layer compute: ``numel - int((1 - keep) numel)``, as in the authors' code."""
    return numel - int((1 - keep) * numel)


def edge_popup(
    module: nn.Module,
    bench: Bench,
    state: State,
    span: Span,
    keep: float = 0.5,
    signed_constant: bool = False,
    layers: Mapping[str, float] | None = None,
    lr: float | None = None,
) -> Reparametrisation:
    """Trains one score a weight and nothing else; the highest absolute scores of each layer are the mask.

    Norms and biases stay as they are (running statistics go on). Scores start Kaiming uniform with a = sqrt 5.

    Args:
        keep: share of each layer's weights that compute.
        signed_constant: every weight becomes its sign times sqrt(2 / fan_in) before the training.
        layers: own shares, ``{pattern: keep}``.
        lr: peak learning rate of the scores, null for the training's.
    """
    weights = prunable(module)
    counts = {n: kept(weights[n].numel(), s) for n, s in shares(weights, keep, layers).items()}
    allowed = positions(module, state)
    scores = {}
    for name, weight in weights.items():
        drawn = torch.empty(weight.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=bench.generator("edge_popup", name))
        scores[name] = nn.Parameter(torch.empty_like(weight, requires_grad=False).copy_(drawn))
        if signed_constant:
            with torch.no_grad():
                weight.copy_(weight.sign() * math.sqrt(2 / weight[0].numel()))

    def chosen(name: str) -> Tensor:
        return largest(scores[name], counts[name], allowed[name])

    def effective(name: str) -> Any:
        return lambda weight, training: weight * Chosen.apply(scores[name].abs(), chosen(name))

    return Reparametrisation(
        effective={n: effective(n) for n in weights},
        parameters=scores,
        lr=lr,
        decay=True,
        frozen=True,
        steady=True,
        masks=lambda: {n: chosen(n) for n in weights},
        whole=True,
    )
