"""Shared: weights that share a value move together, so that a codebook of the trained state is no longer than before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.errors import UserError, nearest
from compressbench.hardware.coding import shared as coded
from compressbench.models.build import prunable
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span

GRADIENT = ("sum", "mean")


def shared(
    module: nn.Module, bench: Bench, state: State, span: Span, gradient: str = "sum"
) -> Reparametrisation:
    """Every weight of a cluster gets the cluster's gradient; all that acts entry by entry then keeps them equal.

    Args:
        gradient: ``sum`` over the cluster (Han et al. 2016, equation 3), which for thousands of weights wants a
            rate as much smaller; or its ``mean``.

    Raises:
        UserError: no weight is shared, or an unknown gradient.
    """
    if gradient not in GRADIENT:
        raise UserError(f"gradient: unknown {gradient!r}; {nearest(gradient, GRADIENT)}")
    found = {name: coded(state.weights[name]) for name in prunable(module)}
    clusters = {name: c.codes.reshape(-1) for name, c in found.items() if c is not None}
    if not clusters:
        raise UserError(
            "no weights are shared in the state; a stage before does that: - /stage/share@stages.share: kmeans"
        )
    parameters = dict(module.named_parameters())
    place = next(iter(parameters.values())).device
    clusters = {name: codes.to(place) for name, codes in clusters.items()}
    sizes = {name: torch.bincount(codes) for name, codes in clusters.items()}
    kept = {n: (state.weights[n] != 0).reshape(-1).to(place) for n in clusters}

    def after_gradient() -> None:
        for name, codes in clusters.items():
            own = parameters[name].grad
            if own is not None:
                _together(own, codes, sizes[name], kept[name], gradient == "mean")

    first = {name: _first(codes, len(sizes[name])) for name, codes in clusters.items()}

    def after_step() -> None:
        # Equal weights with equal gradients can part: a tensor's last entries, too few for a vector register, are
        # rounded differently by the optimiser. So all of a cluster take its first weight.
        with torch.no_grad():
            for name, codes in clusters.items():
                weight = parameters[name]
                flat = weight.reshape(-1)
                weight.copy_((flat[first[name]][codes] * kept[name]).view(weight.shape))

    return Reparametrisation(after_gradient=after_gradient, after_step=after_step)


def _first(codes: Tensor, count: int) -> Tensor:
    """(count,) where each code stands first; every code does somewhere."""
    places = torch.arange(len(codes), device=codes.device)
    return torch.zeros(count, dtype=torch.int64, device=codes.device).scatter_reduce_(
        0, codes, places, "amin", include_self=False
    )


def _together(gradient: Tensor, codes: Tensor, sizes: Tensor, kept: Tensor, mean: bool) -> None:
    flat = gradient.reshape(-1)
    sums = torch.zeros(len(sizes), dtype=flat.dtype, device=flat.device).index_add_(0, codes, flat)
    if mean:
        sums /= sizes
    gradient.copy_((sums[codes] * kept).view(gradient.shape))
