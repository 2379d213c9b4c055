"""Theseus and its kin: nets with fewer blocks, made from deeper ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError, nearest

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

BEGINS = ("own", "first")


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
        from compressbench.pruning.replacing import shortened

        return shortened(state, bench, self)


@dataclass(frozen=True)
class FirstBlocks:
    """Keeps the first of a net's blocks in a row, weights included: where PKD's students of BERT begin (Sun et al. 2019).

    Attributes:
        every: 2 halves the depth, 3 leaves a third of it.
        blocks: the container whose blocks are meant (``layers``); null for all.
    """

    every: int = 2
    blocks: str | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _several(self.every)

    def describe(self) -> str:
        """The stage in words."""
        share = "half" if self.every == 2 else f"1/{self.every}"
        return f"keep the first {share} of the blocks{f' of {self.blocks}' if self.blocks else ''}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state without the other blocks."""
        from compressbench.pruning.replacing import begin_of

        return begin_of(state, bench, self)


@dataclass(frozen=True)
class Replace:
    """Begins to replace every ``every`` blocks by one; the trainings that follow train the replacements only.

    In every training step each successor stands in for its blocks with probability
    ``min(1, start + growth * step)``; all else is frozen. A ``theseus/successor`` stage ends it.

    Attributes:
        every: blocks of the predecessor that one successor replaces.
        start, growth: of the probability (published example: 0.3 and 0.0006; constant alternative: 0.5 and 0).
        blocks: the container whose blocks are meant; null for all.
        begin: what successors begin as: ``own``, the first of the blocks that each replaces; ``first``, the net's first
            blocks, the k-th of a row as the k-th, as the published code has it.
    """

    every: int = 2
    start: float = 0.3
    growth: float = 0.0006
    blocks: str | None = None
    begin: str = "own"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _several(self.every)
        if not 0 <= self.start <= 1:
            raise UserError(f"start: {self.start} is not in [0, 1]")
        if not self.growth >= 0 or not self.start + self.growth > 0:
            raise UserError(f"start {self.start:g}, growth {self.growth:g}: no block would ever be replaced")
        if self.begin not in BEGINS:
            raise UserError(f"begin: {self.begin!r} is unknown; {nearest(str(self.begin), BEGINS)}")

    def in_key(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Without ``begin`` where it is what it was before there was a choice."""
        return {name: value for name, value in spec.items() if name != "begin" or value != "own"}

    def describe(self) -> str:
        """The stage in words."""
        return (
            f"replace every {self.every} blocks by one, at first with probability {self.start:g}, "
            f"{self.growth:g} more at each step{', begun as the first blocks' if self.begin == 'first' else ''}"
        )

    def apply(self, state: State, bench: Bench) -> State:
        """The net in replacement; its training is reckoned at the predecessor's cost."""
        from compressbench.pruning.replacing import in_replacement

        return in_replacement(state, self)


@dataclass(frozen=True)
class Successor:
    """Takes the successor out of a net whose blocks were being replaced."""

    VERSION: ClassVar[int] = 1

    def describe(self) -> str:
        """The stage in words."""
        return "take the successor out"

    def apply(self, state: State, bench: Bench) -> State:
        """The predecessor's net without the blocks that went, with the successors' weights."""
        from compressbench.pruning.replacing import succeeded

        return succeeded(state, bench)


def _several(every: int) -> None:
    if every < 2:
        raise UserError(f"every: {every} is less than 2; 2 halves the depth")
