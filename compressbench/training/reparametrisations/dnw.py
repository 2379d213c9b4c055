"""DNW: the largest weights of each layer compute, all of them learn (Wortsman, Farhadi, Rastegari 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.models.build import prunable
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span, largest, positions, shares


class Through(torch.autograd.Function):
    """``weight * mask`` forward; backward the gradient reaches every weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def dnw(
    module: nn.Module,
    bench: Bench,
    state: State,
    span: Span,
    keep: float = 0.1,
    update: bool = True,
    layers: Mapping[str, float] | None = None,
) -> Reparametrisation:
    """Chooses the edges of each layer anew in every forward, by magnitude.

    Args:
        keep: share of each layer's weights that compute.
        update: whether edges that don't compute get gradients too; without it a sleeping edge can't wake.
        layers: own shares, ``{pattern: keep}``; ``@input``, ``@output``, ``@conv``, ``@linear`` or globs over names.
    """
    weights = prunable(module)
    counts = {n: max(1, round(s * weights[n].numel())) for n, s in shares(weights, keep, layers).items()}
    allowed = positions(module, state)

    def chosen(name: str) -> Tensor:
        return largest(weights[name], counts[name], allowed[name])

    def effective(name: str) -> Any:
        def change(weight: Tensor, training: bool) -> Tensor:
            mask = chosen(name)
            return Through.apply(weight, mask) if update and training else weight * mask

        return change

    return Reparametrisation(
        effective={n: effective(n) for n in weights},
        masks=lambda: {n: chosen(n) for n in weights},
        whole=True,
    )
