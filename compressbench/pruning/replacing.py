"""Nets with fewer blocks: some left out, or replaced by fewer that are trained in their place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import module_of, prunable
from compressbench.models.theseus import (
    Groups,
    begun,
    first_ones,
    groups_of,
    none_in_a_row,
    renamed,
    rows_of,
    taken,
)
from compressbench.pruning.structured import edited
from compressbench.specs import TARGET
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.stages.theseus import FirstBlocks, Replace, Shallower

MIXED = "compressbench.models.theseus.theseus"


def shortened(state: State, bench: Bench, settings: Shallower) -> State:
    """Applies a ``stages.theseus.Shallower``.

    Raises:
        UserError: no block can be left out.
    """
    groups = groups_of(module_of(state), settings.every, settings.blocks)
    return edited(state.settled(), [_dropping(groups)], bench)


def begin_of(state: State, bench: Bench, settings: FirstBlocks) -> State:
    """Applies a ``stages.theseus.FirstBlocks``.

    Raises:
        UserError: no block can be left out.
    """
    rows = rows_of(module_of(state), settings.blocks)
    gone = [
        name
        for names in rows
        if len(names) >= settings.every
        for name in names[len(names) // settings.every :]
    ]
    if not gone:
        raise UserError(none_in_a_row(settings.every, settings.blocks))
    return edited(state.settled(), [{"drop": gone}], bench)


def in_replacement(state: State, settings: Replace) -> State:
    """Applies a ``stages.theseus.Replace``.

    Raises:
        UserError: the net is quantized, blocks are being replaced already, none can be, or one can't begin as another.
    """
    if state.group("scales"):
        raise UserError("a quantized net's blocks can't be replaced; quantize after the successor stage")
    if state.model.get(TARGET) == MIXED:
        raise UserError("blocks are being replaced already; a theseus/successor stage has to come before")
    groups = groups_of(module_of(state), settings.every, settings.blocks)
    model: dict[str, Any] = {
        TARGET: MIXED,
        "predecessor": dict(state.model),
        "groups": groups,
        "edits": [dict(e) for e in state.edits],
        "start": settings.start,
        "growth": settings.growth,
    }
    fresh = {f"{first}.steps": torch.zeros((), dtype=torch.int64) for first in groups}
    begins = _begins(state, groups, settings)
    tensors = {
        "weights": {**begun(state.weights, groups, begins), **fresh},
        "masks": begun(state.masks, groups, begins),
    }
    mixed = replace(state, model=model, tensors=tensors, edits=(), key="").with_groups()
    named = prunable(module_of(mixed))
    facts = {
        name: renamed(state.facts[name], groups, "", ".new")
        for name in ("drawn", "left_alone")
        if name in state.facts
    }
    return mixed.with_facts(prunable={name: p.numel() for name, p in named.items()}, **facts)


def _begins(state: State, groups: Groups, settings: Replace) -> dict[str, str]:
    """The block that each successor begins as, by the first of its group."""
    if settings.begin == "own":
        return {first: first for first in groups}
    begins = first_ones(module_of(state), settings.every, settings.blocks)

    def shapes(block: str) -> dict[str, tuple[int, ...]]:
        inside = {n: t for n, t in state.weights.items() if n.startswith(f"{block}.")}
        return {n.removeprefix(block): tuple(t.shape) for n, t in inside.items()}

    for first, other in begins.items():
        if shapes(first) != shapes(other):
            raise UserError(
                f"begin: the successor of {first} can't begin as {other}, of other sizes; begin: own is for such nets"
            )
    return begins


def succeeded(state: State, bench: Bench) -> State:
    """Applies a ``stages.theseus.Successor``.

    Raises:
        UserError: no blocks are being replaced, or the net was changed since.
    """
    if state.model.get(TARGET) != MIXED:
        raise UserError("there is no successor in this net; a theseus/replace stage has to come before")
    if state.edits:
        kinds = ", ".join(dict.fromkeys(kind for edit in state.edits for kind in edit))
        raise UserError(
            f"the net was changed while its blocks were being replaced ({kinds}); "
            "what quantizes, cuts or puts exits on belongs after the successor stage"
        )
    groups = state.model["groups"]
    edits = tuple(state.model["edits"])
    tensors = {"weights": taken(state.weights, groups), "masks": taken(state.masks, groups)}
    whole = replace(state, model=state.model["predecessor"], tensors=tensors, edits=edits, key="")
    whole = whole.with_facts(
        **{
            name: renamed(state.facts[name], groups, ".new", "")
            for name in ("drawn", "left_alone")
            if name in state.facts
        }
    )
    return edited(whole.with_groups(), [_dropping(groups)], bench)


def _dropping(groups: Any) -> dict[str, list[str]]:
    return {"drop": [name for others in groups.values() for name in others]}
