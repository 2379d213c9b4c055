"""Criteria: scores that can be repeated, have the weights' shapes, and make masks that hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compressbench import specs
from compressbench.bench import Bench
from compressbench.checking.states import check_state
from compressbench.checking.traces import Unfit, blind, differs, twice, unchanged
from compressbench.criteria.given import Given, Saliency
from compressbench.pruning.unstructured import prune, whole_masks
from compressbench.stages.prune import Prune
from compressbench.state import State


def check_criterion(spec: Mapping[str, Any], state: State, bench: Bench, fraction: float = 0.75) -> Saliency:
    """What a criterion says of a state, asked twice, and pruned by.

    Args:
        spec: of the criterion, its references names in ``bench.references``.
        fraction: of the weights that is pruned by it.

    Raises:
        Unfit: it prints, reads test examples, changes what it is given, can't be repeated; its scores are missing, of
            another shape or not finite; or what it compensates isn't what is stored.
    """
    criterion = specs.build(spec, "criterion")
    weights = {n: state.weights[n] for n in state.facts["prunable"]}
    others = {f"reference {n}": s for n, s in bench.references.items()}

    def found() -> Saliency:
        masks = whole_masks(state)
        with blind(bench) as place, unchanged(state=state, masks=masks, **others):
            result = criterion(Given(weights, masks, state, place))
        saliency = result if isinstance(result, Saliency) else Saliency(result)
        check_scores(saliency.scores, weights)
        return saliency

    saliency = twice(found, "given.generator(name)", lambda a, b: differs(a.scores, b.scores, "scores"))
    dense = replace(state, tensors={g: t for g, t in state.tensors.items() if g != "masks"})
    pruned = prune(dense, bench, Prune(spec, fraction))
    check_state(pruned)
    whole = sum(w.numel() for w in weights.values())
    left = sum(int(m.sum()) for m in pruned.masks.values())
    if left != whole - round(fraction * whole):
        raise Unfit(f"pruning {fraction:.0%} by it leaves {left} of {whole} weights")
    expected = saliency.compensate(pruned.masks) if saliency.compensate else weights
    for name, mask in pruned.masks.items():
        if not torch.equal(pruned.weights[name], expected[name] * mask):
            raise Unfit(
                f"compensate gives other weights of {name} when it is asked again; it must not keep a state"
            )
    return saliency


def check_scores(scores: Any, weights: Mapping[str, Tensor]) -> None:
    """That there is a finite score for every weight.

    Raises:
        Unfit: naming the first tensor of which there is none.
    """
    if not isinstance(scores, Mapping):
        raise Unfit(
            f"returned {type(scores).__name__}; a mapping of a tensor for every one of given.weights is wanted"
        )
    if lacking := [n for n in weights if n not in scores]:
        raise Unfit(f"no scores for {lacking[0]}; every one of given.weights wants some")
    if more := [n for n in scores if n not in weights]:
        raise Unfit(f"scores for {more[0]}, which is none of given.weights")
    for name, weight in weights.items():
        score = scores[name]
        if not isinstance(score, Tensor):
            raise Unfit(f"the scores of {name} are a {type(score).__name__}; a tensor is wanted")
        if score.shape != weight.shape:
            raise Unfit(
                f"the scores of {name} have the shape {tuple(score.shape)}; that of the weight is wanted, "
                f"{tuple(weight.shape)}"
            )
        if not torch.isfinite(score).all():
            bad = int((~torch.isfinite(score)).sum())
            raise Unfit(
                f"the scores of {name}: {bad} of {score.numel()} are not finite (NaN or inf); clamp what is divided by"
            )
