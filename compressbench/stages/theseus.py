"""Theseus and its kin: nets with fewer blocks, made from deeper ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.specs import TARGET

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

MIXED = "compressbench.models.theseus.theseus"


@dataclass(frozen=True)
class Shallower:
    """Keeps the first of every ``every`` blocks in a row, weights included (as PKD's students begin, Sun et al. 2019).

    Attributes:
        every: 2 halves the depth.
        blocks: the container whose blocks are meant (``layer3``); null for all.
    """

    every: int = 2
    blocks: str | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _several(self.every)

    def describe(self) -> str:
        """The stage in words."""
        return f"keep the first of every {self.every} blocks{f' of {self.blocks}' if self.blocks else ''}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state without the other blocks."""
        from compressbench.models.build import module_of
        from compressbench.models.theseus import groups_of
        from compressbench.pruning.structured import edited

        groups = groups_of(module_of(state), self.every, self.blocks)
        return edited(state.settled(), [_dropping(groups)], bench)


@dataclass(frozen=True)
class Replace:
    """Begins to replace every ``every`` blocks by one; the trainings that follow train the replacements only.

    Each successor begins as a copy of the first of its blocks. In every training step each stands in for them with
    probability ``min(1, start + growth * step)``; all else is frozen. A ``theseus/successor`` stage ends it.

    Attributes:
        every: blocks of the predecessor that one successor replaces.
        start, growth: of the probability (published example: 0.3 and 0.0006; constant alternative: 0.5 and 0).
        blocks: the container whose blocks are meant; null for all.
    """

    every: int = 2
    start: float = 0.3
    growth: float = 0.0006
    blocks: str | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _several(self.every)
        if not 0 <= self.start <= 1:
            raise UserError(f"start: {self.start} is not in [0, 1]")
        if not self.growth >= 0 or not self.start + self.growth > 0:
            raise UserError(f"start {self.start:g}, growth {self.growth:g}: no block would ever be replaced")

    def describe(self) -> str:
        """The stage in words."""
        return (
            f"replace every {self.every} blocks by one, at first with probability {self.start:g}, "
            f"{self.growth:g} more at each step"
        )

    def apply(self, state: State, bench: Bench) -> State:
        """The net in replacement; its training is reckoned at the predecessor's cost."""
        from compressbench.models.build import module_of, prunable
        from compressbench.models.theseus import begun, groups_of, renamed

        if state.group("scales"):
            raise UserError("a quantized net's blocks can't be replaced; quantize after the successor stage")
        if state.model.get(TARGET) == MIXED:
            raise UserError("blocks are being replaced already; a theseus/successor stage has to come before")
        groups = groups_of(module_of(state), self.every, self.blocks)
        model: dict[str, Any] = {
            TARGET: MIXED,
            "predecessor": dict(state.model),
            "groups": groups,
            "edits": [dict(e) for e in state.edits],
            "start": self.start,
            "growth": self.growth,
        }
        fresh = {f"{first}.steps": _zero() for first in groups}
        tensors = {"weights": {**begun(state.weights, groups), **fresh}, "masks": begun(state.masks, groups)}
        mixed = replace(state, model=model, tensors=tensors, edits=(), key="").with_groups()
        named = prunable(module_of(mixed))
        facts = {
            name: renamed(state.facts[name], groups, "", ".new")
            for name in ("drawn", "left_alone")
            if name in state.facts
        }
        return mixed.with_facts(prunable={name: p.numel() for name, p in named.items()}, **facts)


@dataclass(frozen=True)
class Successor:
    """Takes the successor out of a net whose blocks were being replaced."""

    VERSION: ClassVar[int] = 1

    def describe(self) -> str:
        """The stage in words."""
        return "take the successor out"

    def apply(self, state: State, bench: Bench) -> State:
        """The predecessor's net without the blocks that went, with the successors' weights."""
        from compressbench.models.theseus import renamed, taken
        from compressbench.pruning.structured import edited

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


def _several(every: int) -> None:
    if every < 2:
        raise UserError(f"every: {every} is less than 2; 2 halves the depth")


def _zero() -> Any:
    import torch

    return torch.zeros((), dtype=torch.int64)
