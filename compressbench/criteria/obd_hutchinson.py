"""Optimal Brain Damage with Hutchinson's estimator: Hessian-vector products with random signs."""

from __future__ import annotations

import torch

from compressbench.criteria.curvature import deletion_costs, hutchinson
from compressbench.criteria.given import Given, Saliency
from compressbench.criteria.gradients import batches, differentiable, finite
from compressbench.errors import UserError
from compressbench.models.attention import unfused_attention
from compressbench.models.exits import deep_loss


def obd_hutchinson(given: Given, examples: int = 1024, split: str = "train", probes: int = 2) -> Saliency:
    """h w^2 / 2 with h the mean of z * (H z) over random signs z, clamped at 0; H is the Hessian of the mean loss.

    The estimate of entry i has the variance sum of H_ij^2 over all other j, over the number of z; the signs are drawn
    anew for every batch of 128, so more examples help as more probes do. One below 0 says "free to go".

    Args:
        examples: how many are drawn; all there are if fewer.
        split: ``train`` or ``validation``.
        probes: how many z a batch.

    Raises:
        UserError: see ``gradients.batches``; fewer than one probe; scores that are not finite.
    """
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise UserError(f"criterion.probes: {probes!r} is not a whole number of at least 1")
    module, named = differentiable(given)
    parameters = list(named.values())
    total = [torch.zeros_like(p, requires_grad=False) for p in parameters]
    for place, (inputs, labels, share) in enumerate(batches(given, examples, split)):
        signs = [
            [
                torch.randint(0, 2, p.shape, generator=given.generator(f"{name} {place} {k}")).to(p) * 2 - 1
                for name, p in named.items()
            ]
            for k in range(probes)
        ]
        with unfused_attention():  # the fused kernel has no second derivative on CPUs
            loss = share * deep_loss(given.bench.task, module, module, inputs, labels)
            for sum_, part in zip(total, hutchinson(loss, parameters, signs), strict=True):
                sum_ += part
    diagonal = {name: t.clamp(min=0).cpu() for name, t in zip(named, total, strict=True)}
    return Saliency(finite(deletion_costs(given.weights, diagonal), "obd_hutchinson"), predicts_loss=True)
