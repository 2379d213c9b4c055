"""What learning pictures, or solving for weights, cost, for a state's facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressbench.state import State


@dataclass(frozen=True)
class Spent:
    """Of one stage.

    Attributes:
        macs: all that was computed; a backward counts twice its forward.
        examples: those learned from, each time that they were.
        seconds: on the clock.
    """

    macs: int
    examples: int
    seconds: float

    def added_to(self, state: State) -> State:
        """The state with this beside what led to it before."""
        facts = state.facts
        return state.with_facts(
            macs=facts.get("macs", 0) + self.macs,
            examples=facts.get("examples", 0) + self.examples,
            seconds=facts.get("seconds", 0.0) + self.seconds,
        )
