"""Structured pruning of Transformers: attention heads, hidden units and whole layers taken out of a net."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compressbench import specs
from compressbench.bench import Bench
from compressbench.criteria.given import Given, Saliency
from compressbench.errors import UserError, reason
from compressbench.models import parts
from compressbench.models.build import module_of
from compressbench.models.cutting import Edit, cut_module
from compressbench.models.parts import Row
from compressbench.models.quantized import unrounded
from compressbench.models.theseus import groups_of
from compressbench.outputs import forward
from compressbench.pruning.structured import edited
from compressbench.pruning.unstructured import saying_what_stays, scored
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.stages.shrink import FeedForward, Heads, Layers

AGREE = 1e-3
Rows = Callable[[nn.Module], list[Row]]


def heads(state: State, bench: Bench, settings: Heads) -> State:
    """Applies a ``stages.shrink.Heads``.

    Raises:
        UserError: the net has no heads that can be taken out, or too few; without them it computes otherwise than
            with their gates at zero.
    """
    return _without(state, bench, settings, parts.heads, settings.least, "attention heads")


def feed_forward(state: State, bench: Bench, settings: FeedForward) -> State:
    """Applies a ``stages.shrink.FeedForward``; see ``heads`` for what is refused."""
    return _without(state, bench, settings, parts.feed_forward, 1, "units of feed-forward layers")


def layers(state: State, bench: Bench, settings: Layers) -> State:
    """Applies a ``stages.shrink.Layers``.

    Raises:
        UserError: there are no layers in a row, none would be left, or the net doesn't run without them.
    """
    module = module_of(state)
    given, saliency = scored(state, bench, specs.build(settings.criterion, "criterion"))
    found = list(groups_of(module, 1, settings.layers))
    rank = {name: _mean(given, saliency, name) for name in found}
    count = round(settings.fraction * len(found))
    if count >= len(found):
        raise UserError(f"fraction: {settings.fraction} would leave none of {len(found)} layers")
    gone = sorted(found, key=lambda name: rank[name])[:count]
    base = state.settled()
    if not gone:
        return base
    edit = {"drop": [name for name in found if name in gone]}
    inputs = bench.task.drawn(2, torch.Generator().manual_seed(0))
    _given_back(module, gone, inputs)
    small = _run(cut_module(copy.deepcopy(module), edit), inputs, "layers")
    if small.shape != _run(module, inputs, "layers").shape:
        raise UserError("layers: the net without them gives no logits of the same shape")
    return edited(base, [edit], bench)


def _mean(given: Given, saliency: Saliency, name: str) -> float:
    inner = [
        score[given.masks[n]]
        for n, score in saliency.scores.items()
        if n.startswith(f"{name}.") and bool(given.masks[n].any())
    ]
    return float(torch.cat(inner).double().mean()) if inner else 0.0


def _given_back(module: nn.Module, names: Sequence[str], inputs: tuple[Tensor, ...]) -> None:
    """Refuses layers that don't give back one tensor of the shape of their first input."""
    odd: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def note(part: nn.Module, given: tuple[object, ...], output: object) -> None:
            alike = bool(given) and isinstance(given[0], Tensor) and isinstance(output, Tensor)
            if not alike or given[0].shape != output.shape:  # type: ignore[attr-defined]
                odd.append(name)

        return note

    hooks = [module.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        _run(module, inputs, "layers")
    finally:
        for hook in hooks:
            hook.remove()
    if odd:
        raise UserError(f"layers: {odd[0]} gives back something else than it takes, and can't be left out")


def _without(
    state: State,
    bench: Bench,
    settings: Heads | FeedForward,
    rows_of: Rows,
    least: int,
    what: str,
) -> State:
    module = module_of(state)
    rows = rows_of(module)
    if not rows:
        raise UserError(
            f"{type(module).__name__} has no {what} that can be taken out: linear layers of their own are wanted, under "
            "the names that compressbench/models/parts.py lists"
        )
    given, saliency = scored(state, bench, specs.build(settings.criterion, "criterion"))
    gone = lowest([ranked(row, given, saliency) for row in rows], settings.how, settings.fraction, least)
    base = state.settled()
    cut = {
        name: dims for row, units in zip(rows, gone, strict=True) for name, dims in row.edit(units).items()
    }
    if not cut:
        return base
    edit = {"cut": cut}
    _verify(module, rows, gone, edit, bench, what)
    return saying_what_stays(edited(base, [edit], bench), bench)


def ranked(row: Row, given: Given, saliency: Saliency) -> Tensor:
    """(units,) float64: a unit's score is the mean of its weights' that are left, 0 where none is.

    Raises:
        UserError: a score that is no finite number.
    """
    sums, counts = torch.zeros(row.units).double(), torch.zeros(row.units).double()
    for name, dim in row.cuts.items():
        if name not in given.weights:  # a bias
            continue
        mask = given.masks[name]
        score = torch.where(mask, saliency.scores[name].double(), 0.0)
        if not bool(score.isfinite().all()):
            raise UserError(f"criterion: a score of {name} is no finite number")
        for total, values in ((sums, score), (counts, mask.double())):
            total += values.movedim(dim, 0).reshape(row.units, -1).sum(1)
    return sums / counts.clamp(min=1)


def lowest(scores: Sequence[Tensor], how: str, fraction: float, least: int) -> list[list[int]]:
    """The units that go from each row; ties go in order. More of a fraction takes the same ones and more.

    Args:
        how: ``uniform``, the same share of each row; or ``global``, the lowest of all.
        least: units of each row that stay.

    Raises:
        UserError: fewer would have to stay than that.
    """
    orders = [torch.sort(s, stable=True).indices.tolist() for s in scores]
    total = sum(map(len, orders))
    if how == "uniform":
        counts = [round(fraction * len(order)) for order in orders]
        if any(n > len(o) - least for n, o in zip(counts, orders, strict=True)):
            raise UserError(_too_much(fraction, total, least, sum(len(o) - least for o in orders)))
        return [sorted(order[:n]) for order, n in zip(orders, counts, strict=True)]
    pool = sorted(
        (float(scores[row][unit]), row, place)
        for row, order in enumerate(orders)
        for place, unit in enumerate(order[: len(order) - least])
    )
    wanted = round(fraction * total)
    if wanted > len(pool):
        raise UserError(_too_much(fraction, total, least, len(pool)))
    out: list[list[int]] = [[] for _ in orders]
    for _, row, place in pool[:wanted]:
        out[row].append(orders[row][place])
    return [sorted(units) for units in out]


def _too_much(fraction: float, total: int, least: int, most: int) -> str:
    return (
        f"fraction: {fraction:g} of {total} can't go, as {least} of each layer must stay; at most {max(most, 0)} can, "
        f"{max(most, 0) / total:.3g}"
    )


def _run(module: nn.Module, inputs: tuple[Tensor, ...], what: str) -> Tensor:
    with torch.no_grad():
        try:
            return forward(module.eval(), *inputs).logits
        except UserError:
            raise
        except Exception as error:  # a user's net may fail in any way at all
            raise UserError(f"{what}: the net doesn't run without them: {reason(error, 120)}") from error


def _verify(
    module: nn.Module,
    rows: Sequence[Row],
    gone: Sequence[Sequence[int]],
    edit: Edit,
    bench: Bench,
    what: str,
) -> None:
    """Compares the net without some units with the whole one, whose gates on them are zero; in float."""
    inputs = bench.task.drawn(4, torch.Generator().manual_seed(0))
    small = unrounded(cut_module(copy.deepcopy(module), edit))
    before = _run(parts.closed(unrounded(copy.deepcopy(module)), rows, gone), inputs, what)
    after = _run(small, inputs, what)
    near = AGREE * before.abs().max().clamp(min=0.01)
    if before.shape != after.shape or not bool((after - before).abs().max() <= near):
        raise UserError(f"{what}: the net without them differs from the net with their gates at zero")
