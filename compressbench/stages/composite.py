"""Ensemble and Take: nets put together as one state, and one of them taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.specs import Ref

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

ENSEMBLE = "compressbench.models.composite.Ensemble"
BEST = "best"


@dataclass(frozen=True)
class Ensemble:
    """States as one: it answers the mean of their probabilities.

    Attributes:
        members: the states; ``"member*.train"`` for all that fit.
    """

    members: tuple[Ref, ...]
    BEGINS: ClassVar[bool] = True
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("members: the ensemble is empty; name at least one state")

    def describe(self) -> str:
        """The stage in words."""
        return f"put {len(self.members)} nets together as one ensemble"

    def apply(self, state: State | None, bench: Bench) -> State:
        """The ensemble; its training cost is that of all members together, what they share counted for each."""
        from compressbench.models.composing import together

        return together([bench.references[name] for name in self.members], ENSEMBLE, bench)


@dataclass(frozen=True)
class Take:
    """Takes one member out of a composite (students of an online distillation, an ensemble).

    Attributes:
        member: its place, from 0; or ``best``, that of the highest top-1 on the validation split.
    """

    member: int | str = 0
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if isinstance(self.member, str) and self.member != BEST:
            raise UserError(f"member: {self.member!r} is neither a place, from 0, nor {BEST!r}")
        if isinstance(self.member, int) and self.member < 0:
            raise UserError(f"member: {self.member} is below 0; the first is 0")

    def describe(self) -> str:
        """The stage in words."""
        return f"take {'the best member' if self.member == BEST else f'member {self.member}'} out"

    def apply(self, state: State, bench: Bench) -> State:
        """The member; its training cost stays that of the whole composite, which it took to make it."""
        from compressbench.models.composing import best, taken

        return taken(state, best(state, bench) if isinstance(self.member, str) else self.member, bench)
