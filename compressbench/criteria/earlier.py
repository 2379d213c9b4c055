"""The weights of an earlier state, for criteria that compare with it."""

from __future__ import annotations

from torch import Tensor

from compressbench.criteria.given import Given
from compressbench.errors import UserError


def earlier(given: Given, since: str) -> dict[str, Tensor]:
    """The prunable weights as they were in the referenced state.

    Raises:
        UserError: that state has no such weight, or one of another shape.
    """
    before = given.bench.references[since].weights
    for name, weight in given.weights.items():
        if name not in before or before[name].shape != weight.shape:
            had = f"of shape {tuple(before[name].shape)}" if name in before else "missing"
            raise UserError(
                f"criterion.since: {name} is {had} in {since}, here {tuple(weight.shape)}; "
                "name a state of the same net"
            )
    return {name: before[name] for name in given.weights}
