"""What an exit criterion sees, and what it says; the annotation of what it returns tells the range of a threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Certainty = Tensor
"""In [0, 1], and so is a threshold; a criterion that returns plain ``Tensor`` takes any number."""
Streak = Tensor
"""Whole numbers; a threshold is one of 1 or more."""


@dataclass(frozen=True)
class Said:
    """What a net has said of some rows, up to one of its exits.

    Attributes:
        logits: (n, classes) of this exit, calibrated.
        before: of the exits before it, the first one first, for the same rows.
    """

    logits: Tensor
    before: tuple[Tensor, ...] = ()

    @property
    def probabilities(self) -> Tensor:
        """(n, classes)."""
        return self.logits.softmax(dim=1)


ExitCriterion = Callable[[Said], Tensor]
"""(n,) how sure the net is of each row; a row leaves where this is not below the threshold."""
