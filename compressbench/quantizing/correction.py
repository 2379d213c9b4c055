"""After rounding: biases that take up the mean error, and weights rounded up or down so that a layer's output stays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.models.quantized import rounded
from compressbench.quantizing.calibration import Drawn, run, watching

GAMMA, ZETA = -0.1, 1.1
DAMP = 0.01
MARGIN = 0.49
LARGEST_GRAM = 8192


def mean_errors(
    module: nn.Module, rounding: nn.Module, bench: Bench, data: Drawn, layers: list[str]
) -> dict[str, Tensor]:
    """What rounding adds to a layer's output on average, (out,), of each layer that has a bias (Nagel et al. 2019).

    Each layer is given the float net's inputs, so that errors of the layers before don't count twice.

    Args:
        module: the float net.
        rounding: the same net whose layers round.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, layer: Any, x: Tensor) -> None:
        other: Any = rounding.get_submodule(name)
        if getattr(layer, "bias", None) is None:  # an embedding has none
            return
        error = other(x) - layer.forward(x)
        channels = 1 if isinstance(layer, nn.modules.conv._ConvNd) else error.ndim - 1
        total = error.double().movedim(channels, 0).flatten(1)
        sums[name] = sums.get(name, 0) + total.sum(1)
        counts[name] = counts.get(name, 0) + total.shape[1]

    with watching(module, layers, see):
        run(module, bench, data)
    return {name: (total / counts[name]).float().cpu() for name, total in sums.items()}


def grams(module: nn.Module, bench: Bench, data: Drawn, layers: list[str]) -> dict[str, Tensor]:
    """E[x x^T] of what each output of a layer is a product with, (groups, k, k), k = inputs times kernel size.

    Layers whose k is above ``LARGEST_GRAM``, three-dimensional convolutions and subclasses, which may pad in their own
    way, have no entry.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, layer: Any, x: Tensor) -> None:
        plain = type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d)
        if layer.weight[0].numel() > LARGEST_GRAM or not plain:
            return
        rows = columns(layer, x)
        sums[name] = sums.get(name, 0) + rows.transpose(1, 2) @ rows
        counts[name] = counts.get(name, 0) + rows.shape[1]

    with watching(module, layers, see):
        run(module, bench, data)
    return {name: total / counts[name] for name, total in sums.items()}


def columns(layer: Any, x: Tensor) -> Tensor:
    """A layer's inputs as (groups, positions, k), so that its output is their product with ``weight.flatten(1)``."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    pads = layer._reversed_padding_repeated_twice
    x = F.pad(x, pads, "constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    flat = layer.weight.ndim == 3  # one-dimensional: an image of height 1

    def pair(sizes: Any) -> tuple[int, ...]:
        return (1, *sizes) if flat else tuple(sizes)

    unfolded = F.unfold(
        x.unsqueeze(2) if flat else x,
        pair(layer.weight.shape[2:]),
        dilation=pair(layer.dilation),
        stride=pair(layer.stride),
    )  # (n, c k, positions)
    n, size, positions = unfolded.shape
    grouped = unfolded.view(n, layer.groups, size // layer.groups, positions)
    return grouped.permute(1, 0, 3, 2).reshape(layer.groups, n * positions, -1)


def adapted(
    weight: Tensor, form: Mapping[str, Any], scale: Tensor, zero: Tensor, gram: Tensor, steps: int
) -> Tensor:
    """Each entry moved to where it rounds up or down as changes the layer's output least (AdaRound).

    Minimises tr(D G D^T), D = W^ - W, over soft choices h in [0, 1] that a growing penalty 1 - |2 h - 1|^beta drives
    to 0 or 1 (Nagel et al. 2020, their equation 13 in place of stochastic batches). Zeros stay zero; an entry that
    rounds to its nearest step stays as it is.

    Args:
        weight: (out, ...), float.
        gram: (groups, k, k).
        steps: of Adam.
    """
    shape = (-1, *[1] * (weight.ndim - 1)) if scale.ndim else ()
    s, z = scale.view(shape), zero.view(shape).to(weight.dtype)
    exact = weight / s
    floor = exact.floor()
    part = (exact - floor).clamp(1e-4, 1 - 1e-4)
    free = weight != 0
    groups, size, _ = gram.shape
    trace = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
    damped = gram + DAMP * trace.view(-1, 1, 1) * torch.eye(size, device=gram.device)
    nearest = rounded(weight, form, scale, zero)

    def error(on_grid: Tensor) -> Tensor:
        rows = (on_grid - weight).reshape(groups, -1, size)
        return ((rows @ damped) * rows).sum()

    unit = error(nearest).detach().clamp(min=1e-12)
    logits = torch.logit((part - GAMMA) / (ZETA - GAMMA)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)

    def soft() -> Tensor:
        return (torch.sigmoid(logits) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def grid(h: Tensor) -> Tensor:
        q = (floor + h + z).clamp(form["low"], form["high"]) - z
        return torch.where(free, s * q, 0.0)

    with torch.enable_grad():
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            h = soft()
            loss = error(grid(h)) / unit
            done = step / max(1, steps - 1)
            if done > 0.2:
                beta = 2 + 18 * 0.5 * (1 + math.cos(math.pi * (done - 0.2) / 0.8))
                loss = loss + 2 * (1 - (2 * h - 1).abs().pow(beta)).masked_select(free).mean() * done
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        hard = grid((soft() >= 0.5).to(weight.dtype))
        if not bool(error(hard) < error(nearest)):
            return weight.clone()
        steps_from_zero = (hard / s).round()
        moved = s * exact.clamp(steps_from_zero - MARGIN, steps_from_zero + MARGIN)
        return torch.where(hard == nearest, weight, moved)
