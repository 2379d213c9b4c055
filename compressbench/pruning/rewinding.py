"""Weights, or their places, set back to those of an earlier state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressbench.bench import Bench
from compressbench.masks import masked, random_like
from compressbench.models.cutting import cut_groups, later
from compressbench.models.draw import redrawn
from compressbench.models.exit_policies import without_policy
from compressbench.pruning.structured import edited
from compressbench.state import UNFINISHED, State

if TYPE_CHECKING:
    from compressbench.stages.rewind import RandomMask, Weights


def rewound(state: State, bench: Bench, settings: Weights) -> State:
    """Applies a ``stages.rewind.Weights``: what was cut out of the net since is cut out of the old tensors too.

    Raises:
        UserError: the states are of nets that were changed in other ways.
    """
    source = bench.references[settings.to]
    groups = cut_groups(source.tensors, later(state.edits, source.edits, f"to: {settings.to}"))
    kept = {name: groups.get(name, {}) for name in UNFINISHED}
    back = without_policy(state).with_groups(weights=groups["weights"], **kept)
    return masked(
        back.with_facts(
            optimizer=source.facts.get("optimizer"),
            averager=source.facts.get("averager"),
            curve=source.facts.get("curve", []),
        ),
        state.masks,
    )


def reinitialised(state: State, bench: Bench) -> State:
    """Applies a ``stages.rewind.Reinit``."""
    fresh = redrawn(state, bench)
    return masked(without_policy(state.settled()).with_groups(weights=fresh), state.masks)


def randomly_masked(state: State, bench: Bench, settings: RandomMask) -> State:
    """Applies a ``stages.rewind.RandomMask``.

    Raises:
        UserError: the states are of nets that were changed in other ways.
    """
    other = bench.references[settings.like]
    if other.edits != state.edits:
        state = edited(state, later(other.edits, state.edits, f"like: {settings.like}"), bench)
    return masked(state, random_like(other.masks, bench.generator("mask")))
