"""Rewind: the weights, or their places, set back; one stage for each of the lottery ticket's arms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.specs import Ref

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State


@dataclass(frozen=True)
class Weights:
    """Weights, buffers and optimiser state of an earlier state, under the masks of this one (Frankle & Carbin 2019).

    Attributes:
        to: the state to go back to.
    """

    to: Ref
    VERSION: ClassVar[int] = 2

    def describe(self) -> str:
        """The stage in words."""
        return f"rewind the weights that are left to {self.to}"

    def apply(self, state: State, bench: Bench) -> State:
        """The rewound state; what was cut out of the net since is cut out of the old tensors too."""
        from compressbench.pruning.rewinding import rewound

        return rewound(state, bench, self)


@dataclass(frozen=True)
class LearningRate:
    """Keeps the trained weights; only the schedule starts again, by the next training's ``start`` (Renda et al. 2020)."""

    VERSION: ClassVar[int] = 1

    def describe(self) -> str:
        """The stage in words."""
        return "keep the weights, forget the optimiser's state"

    def apply(self, state: State, bench: Bench) -> State:
        """The state without optimiser state."""
        return state.settled()


@dataclass(frozen=True)
class Reinit:
    """A fresh draw of all weights under the masks of this state: the control that keeps only the structure.

    A net from which channels were removed is drawn whole, then cut.
    """

    VERSION: ClassVar[int] = 1

    def describe(self) -> str:
        """The stage in words."""
        return "draw all weights anew, keep the masks"

    def apply(self, state: State, bench: Bench) -> State:
        """The redrawn state."""
        from compressbench.pruning.rewinding import reinitialised

        return reinitialised(state, bench)


@dataclass(frozen=True)
class RandomMask:
    """This state's weights under a random mask with the layer densities of another state.

    Channels that were removed from the other state are removed here too, the same ones.

    Attributes:
        like: the state whose kept counts per tensor are taken.
    """

    like: Ref
    VERSION: ClassVar[int] = 1

    def describe(self) -> str:
        """The stage in words."""
        return f"keep random weights, as many in each layer as {self.like}"

    def apply(self, state: State, bench: Bench) -> State:
        """The masked state; its training cost does not include that of finding the other mask."""
        from compressbench.pruning.rewinding import randomly_masked

        return randomly_masked(state, bench, self)
