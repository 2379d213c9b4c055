"""From scores to a pruned state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressbench import masks as masking
from compressbench import specs
from compressbench.bench import Bench
from compressbench.criteria.given import Given
from compressbench.errors import UserError
from compressbench.state import State


def whole_masks(state: State) -> dict[str, Tensor]:
    """A mask for every prunable tensor; all True where nothing was pruned yet."""
    return {
        name: state.masks[name]
        if name in state.masks
        else torch.ones_like(state.weights[name], dtype=torch.bool)
        for name in state.facts["prunable"]
    }


def prune(state: State, bench: Bench, settings: Any) -> State:
    """Applies a ``stages.prune.Prune``.

    Raises:
        UserError: a rate's pattern fits nothing, or the criterion's scores don't fit the weights.
    """
    old = whole_masks(state)
    weights = {name: state.weights[name] for name in old}
    given = Given(weights, old, state, bench)
    scores = specs.build(settings.criterion, "criterion")(given)
    for name, weight in weights.items():
        if name not in scores or scores[name].shape != weight.shape:
            raise UserError(
                f"criterion {settings.criterion[specs.TARGET]}: no score of shape {tuple(weight.shape)} for {name}"
            )
    rates = masking.rates_by_tensor(weights, settings.rates)
    scores = {name: scores[name].detach().cpu() for name in weights}
    new = masking.choose(scores, old, settings.fraction, settings.scope, settings.of, rates)
    return masked(state.with_groups(optimizer={}), new)


def masked(state: State, masks: Mapping[str, Tensor]) -> State:
    """The state under the given masks: weights zeroed, density and emptied layers among its facts."""
    weights = {n: w * masks[n] if n in masks else w for n, w in state.weights.items()}
    result = state.with_groups(weights=weights, masks=dict(masks))
    return result.with_facts(
        density=masking.density(masks, state.facts["prunable"]), empty_layers=masking.emptied(masks)
    )
