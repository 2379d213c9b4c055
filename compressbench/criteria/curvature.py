"""What deleting a weight costs, from the curvature of the loss (LeCun, Denker, Solla 1989)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def deletion_costs(weights: Mapping[str, Tensor], diagonal: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """h w^2 / 2, in nats of mean loss: the predicted rise when that weight alone is set to zero at a minimum.

    Args:
        weights, diagonal: by name, of equal shapes; ``diagonal`` is the Hessian's.
    """
    return {name: diagonal[name].to(w.dtype) * w.square() / 2 for name, w in weights.items()}


def hutchinson(
    loss: Tensor, parameters: Sequence[Tensor], probes: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """Mean over probes z of z * (H z), H the Hessian of a scalar ``loss``; exact where H is diagonal.

    Args:
        probes: for each probe one tensor of +1 and -1 per parameter, of its shape.
    """
    gradients = torch.autograd.grad(
        loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
    )
    total = [torch.zeros_like(p, requires_grad=False) for p in parameters]
    for probe in probes:
        along = sum(((g * z).sum() for g, z in zip(gradients, probe, strict=True)), loss.new_zeros(()))
        products = torch.autograd.grad(
            along, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for sum_, product, z in zip(total, products, probe, strict=True):
            sum_ += product * z / len(probes)
    return total
