"""Taylor: first-order change of the loss when a weight is set to zero (Molchanov et al. 2017, 2019)."""

from __future__ import annotations

from compressbench.criteria.given import Given, Scores
from compressbench.criteria.gradients import batches, differentiable, finite, mean_gradients


def taylor(given: Given, examples: int = 1024, split: str = "train", square: bool = False) -> Scores:
    """|w g|, with g the gradient of the mean loss.

    Args:
        examples: how many are drawn; all there are if fewer.
        split: ``train`` or ``validation``.
        square: (w g)^2 instead, the form of 2019: the same order of single weights, another sum over groups.

    Raises:
        UserError: see ``gradients.batches``; scores that are not finite.
    """
    module, parameters = differentiable(given)
    gradient = mean_gradients(module, parameters, batches(given, examples, split), given.bench.task)
    change = {name: w * gradient[name] for name, w in given.weights.items()}
    return finite({name: c.square() if square else c.abs() for name, c in change.items()}, "taylor")
