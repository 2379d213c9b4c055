"""Variational dropout: each weight learns its own noise; those that are mostly noise go (Molchanov et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import prunable
from compressbench.state import State
from compressbench.training.reparametrise import (
    Reparametrisation,
    Span,
    layers,
    one_each,
    positions,
    rising,
)

K1, K2, K3 = 0.63576, 1.87320, 1.48695
EPSILON = 1e-8
CLIP = 8.0


def log_alpha(log_variance: Tensor, weight: Tensor) -> Tensor:
    """Log of variance over squared mean, clipped to [-8, 8] (Gale et al. 2019)."""
    return (log_variance - torch.log(weight * weight + EPSILON)).clamp(-CLIP, CLIP)


def divergence(log_alpha: Tensor) -> Tensor:
    """KL divergence to the log-uniform prior of each weight, by Molchanov's fit; falls to 0 with growing alpha."""
    return K1 - K1 * torch.sigmoid(K2 + K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)


def variational_dropout(
    module: nn.Module,
    bench: Bench,
    state: State,
    span: Span,
    weight: float = 1.0,
    start: float = 0.0,
    stop: float = 0.5,
    threshold: float = 3.0,
    initial: float = -10.0,
    lr: float | None = None,
) -> Reparametrisation:
    """Trains means and log variances by local reparametrisation: the noise is drawn on each layer's outputs.

    Weights whose log alpha is above the threshold are zero in evaluation and pruned at the end.

    Args:
        weight: of the divergence, which is summed over weights and divided by the number of training examples;
            1 is the variational bound.
        start, stop: shares of the length between which that weight rises linearly from 0.
        threshold: on log alpha; 3 in Molchanov et al., 0.5 for ResNet-50 in Gale et al.
        initial: log variance of every weight at the start.
        lr: peak learning rate of the log variances, null for the training's.

    Raises:
        UserError: a transposed convolution, or settings out of range.
    """
    weights = prunable(module)
    allowed = positions(module, state)
    logs = one_each(weights, initial)

    def noise(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not layer.training:
                return output
            mean = weights[name]
            variance = torch.exp(log_alpha(logs[name], mean)) * (mean * mean + EPSILON) * allowed[name]
            squares = inputs[0] * inputs[0]
            spread = (
                layer._conv_forward(squares, variance, None)
                if isinstance(layer, nn.modules.conv._ConvNd)
                else F.linear(squares, variance)
            )
            return output + torch.sqrt(spread + EPSILON) * torch.randn_like(spread)

        return hook

    for name, layer in layers(module).items():
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            raise UserError(
                f"{name} is a transposed convolution; only linear layers and convolutions can be noised"
            )
        layer.register_forward_hook(noise(name))

    def chosen(name: str) -> Tensor:
        return (log_alpha(logs[name], weights[name]).detach() <= threshold) & allowed[name]

    def effective(name: str) -> Any:
        return lambda mean, training: mean if training else mean * chosen(name)

    def divergences() -> Iterator[Tensor]:
        return ((divergence(log_alpha(logs[n], p)) * allowed[n]).sum() for n, p in weights.items())

    return Reparametrisation(
        effective={n: effective(n) for n in weights},
        parameters=logs,
        lr=lr,
        penalty=rising(weight, start, stop, span, bench, divergences),
        masks=lambda: {n: chosen(n) for n in weights},
        whole=True,
    )
