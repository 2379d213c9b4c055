"""From scores to a pruned state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressbench import masks as masking
from compressbench import specs
from compressbench.bench import Bench
from compressbench.criteria.given import Given, Saliency, Scores
from compressbench.errors import UserError
from compressbench.grains.grain import Grain
from compressbench.masks import masked
from compressbench.models.build import shortened
from compressbench.scopes.units import Chosen, Units
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.stages.prune import Prune

Criterion = Callable[[Given], Scores | Saliency]
Scope = Callable[[Mapping[str, Units], float | None, str, Mapping[str, float]], Chosen]


def whole_masks(state: State) -> dict[str, Tensor]:
    """A mask for every prunable tensor; all True where nothing was pruned yet."""
    return {
        name: state.masks[name]
        if name in state.masks
        else torch.ones_like(state.weights[name], dtype=torch.bool)
        for name in state.facts["prunable"]
    }


def scored(state: State, bench: Bench, criterion: Criterion) -> tuple[Given, Saliency]:
    """What a criterion says of a state's prunable weights, on the CPU, checked.

    Raises:
        UserError: a score is missing or has another shape than its weight.
    """
    old = whole_masks(state)
    given = Given({name: state.weights[name] for name in old}, old, state, bench)
    found = criterion(given)
    saliency = found if isinstance(found, Saliency) else Saliency(found)
    for name, weight in given.weights.items():
        score = saliency.scores.get(name)
        if score is None or score.shape != weight.shape:
            target = getattr(criterion, "func", criterion)
            raise UserError(
                f"criterion {getattr(target, '__name__', target)}: no score of shape {tuple(weight.shape)} for {name}"
            )
    return given, replace(saliency, scores={n: saliency.scores[n].detach().cpu() for n in given.weights})


def units_of(score: Tensor, mask: Tensor, grain: Grain) -> Units:
    """A tensor's units: their score is the mean over the weights that are left in them."""
    shape = tuple(score.shape)
    if grain.single:
        return Units(score.reshape(-1), mask.reshape(-1), None, shape)
    sizes = grain.fold(mask.long()).sum(1)
    clean = torch.where(mask, score, torch.zeros_like(score))
    return Units(grain.fold(clean).double().sum(1) / sizes.clamp(min=1), sizes > 0, sizes, shape)


@dataclass(frozen=True)
class Decision:
    """What pruning does to a state.

    Attributes:
        masks: of every prunable tensor.
        weights: new ones where the criterion compensates for what goes, else None.
        predicted: the loss increase that the criterion's scores sum up to, in nats; None if they are no losses.
    """

    masks: dict[str, Tensor]
    weights: Mapping[str, Tensor] | None
    predicted: float | None


def decide(
    state: State,
    bench: Bench,
    criterion: Criterion,
    scope: Scope,
    grain: Grain,
    fraction: float | None,
    of: str,
    rates: Mapping[str, float],
) -> Decision:
    """Scores a state's weights and decides what stays.

    Args:
        fraction: share to remove, null where the scope fixes it.
        of: ``left``, ``whole`` or ``more``, see ``scopes.units.keep_count``.
        rates: own fractions, ``{pattern: fraction}``, see ``masks.rates_by_tensor``.

    Raises:
        UserError: a rate's pattern fits nothing, scores don't fit, or nothing would be left.
    """
    given, saliency = scored(state, bench, criterion)
    own = masking.rates_by_tensor(given.weights, rates)
    units = {n: units_of(s, given.masks[n], grain) for n, s in saliency.scores.items()}
    stay = scope(units, fraction, of, own)
    masks = {}
    for name, old in given.masks.items():
        spread = grain.spread(stay[name], tuple(old.shape))
        masks[name] = spread.contiguous() if grain.single else spread & old
    if not any(bool(m.any()) for m in masks.values()):
        total = sum(m.numel() for m in masks.values())
        raise UserError(
            f"fraction: {fraction} would leave none of the {total} weights; a smaller one is wanted"
        )
    predicted = None
    if saliency.predicts_loss:
        gone = [float(s[given.masks[n] & ~masks[n]].double().sum()) for n, s in saliency.scores.items()]
        predicted = sum(gone)
    return Decision(masks, saliency.compensate(masks) if saliency.compensate else None, predicted)


def prune(state: State, bench: Bench, settings: Prune) -> State:
    """Applies a ``stages.prune.Prune``; see ``decide`` for what is refused."""
    decision = decide(
        state,
        bench,
        specs.build(settings.criterion, "criterion"),
        specs.build(settings.scope, "scope"),
        specs.build({k: v for k, v in settings.grain.items() if k != specs.PARTIAL}, "grain"),
        settings.fraction,
        settings.of,
        settings.rates,
    )
    if decision.weights is not None:
        state = state.with_groups(weights={**state.weights, **decision.weights})
    pruned = saying_what_stays(masked(state.settled(), decision.masks), bench)
    return pruned.with_facts(predicted_loss_increase=decision.predicted)


def saying_what_stays(state: State, bench: Bench) -> State:
    """The state, flagged where weights that no convolution or linear layer owns stay dense; said when that is new."""
    other = state.facts.get("left_alone", {})
    if not other:
        return state
    share = sum(other.values()) / (sum(other.values()) + state.facts["whole"])
    flag = f"left dense, {100 * share:.3g} % of the weights: {shortened(other)} (of no convolution or linear layer)"
    if any(".parametrizations." in f".{name}" for name in other):
        flag += "; +model.remove_parametrizations=true makes those that are computed plain weights"
    flags = state.facts.get("flags", [])
    if flag in flags:
        return state
    bench.say(f"{bench.name}: {flag}")
    return state.with_facts(flags=[*flags, flag])
