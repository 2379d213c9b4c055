"""SNIP: connection sensitivity on one batch, before any training (Lee, Ajanthan, Torr 2019)."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.criteria.given import Given, Scores
from compressbench.criteria.gradients import batches, differentiable, finite, mean_gradients


def snip(given: Given, examples: int = 128) -> Scores:
    """|g w| as a share of its sum over all weights; meant right after ``init``.

    One batch, on which batch norm takes its own statistics: the running ones of an untrained net say nothing.

    Args:
        examples: size of the batch.

    Raises:
        UserError: see ``gradients.batches``; scores that are not finite.
    """
    module, parameters = differentiable(given)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.train()
    gradient = mean_gradients(module, parameters, batches(given, examples, size=examples), given.bench.task)
    effect = {name: (w * gradient[name]).abs() for name, w in given.weights.items()}
    whole = max(sum(float(e.sum(dtype=e.double().dtype)) for e in effect.values()), 1e-30)
    return finite({name: e / whole for name, e in effect.items()}, "snip")
