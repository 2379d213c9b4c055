"""Optimal Brain Damage with the empirical Fisher: the mean of squared per-example gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from compressbench.criteria.curvature import deletion_costs
from compressbench.criteria.given import Given, Saliency
from compressbench.criteria.gradients import batches, differentiable, finite, per_example


def mean_square(gradients: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of squares over all examples of ``{name: (chunk, *shape)}`` chunks; never the square of a mean."""
    total: dict[str, Tensor] = {}
    count = 0
    for chunk in gradients:
        for name, g in chunk.items():
            own = torch.linalg.vecdot(g, g, dim=0)
            total[name] = total[name] + own if name in total else own
        count += len(g)
    return {name: t / count for name, t in total.items()}


def obd_fisher(given: Given, examples: int = 1024, split: str = "train") -> Saliency:
    """h w^2 / 2 with h the mean squared gradient of the loss of one example, labels as they are (empirical).

    On data that the net fits perfectly it vanishes; ``split: validation`` then says more.

    Args:
        examples: how many are drawn; all there are if fewer.
        split: ``train`` or ``validation``.

    Raises:
        UserError: see ``gradients.batches`` and ``gradients.per_example``; scores that are not finite.
    """
    module, parameters = differentiable(given)
    diagonal = mean_square(per_example(module, parameters, batches(given, examples, split), given.bench.task))
    return Saliency(
        finite(deletion_costs(given.weights, {n: h.cpu() for n, h in diagonal.items()}), "obd_fisher"),
        predicts_loss=True,
    )
