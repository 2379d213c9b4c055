"""Attach, Cascade and Choose: early exits on a net, nets in a row, and the policy by which examples leave them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench import specs
from compressbench.errors import UserError
from compressbench.specs import ExitCriterion, ExitHead, Ref, Share, check_fields, within
from compressbench.wording import counted

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

CASCADE = "compressbench.models.composite.Cascade"
THRESHOLDS = {"Certainty": "Share", "Streak": "Count"}
"""The range of a threshold, by what the criterion says that it returns."""


@dataclass(frozen=True)
class Attach:
    """Puts exits on a net: fresh heads at named points of it. Nothing is trained here.

    A point is a module, by its path; the value that it gives must be all that the rest of the net needs (a cut), so that
    examples can leave there. What else is needed, and has one row for each example, can be carried along by ``side``;
    further inputs of the net, as a mask, and what is computed of them alone, go along by themselves.

    Attributes:
        points: paths of modules, e.g. ``[layer1, layer2]``.
        head: what makes logits of the value there, see ``compressbench.exit_heads``.
        side: names, or globs of names, of other values to be carried over the exits: a module's path, the input's name,
            or the name that the error gives.
    """

    points: tuple[str, ...]
    head: ExitHead
    side: tuple[str, ...] = ()
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in ("points", "side"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise UserError(f"{name}: {value!r} is no list of names")
            if not all(isinstance(x, str) for x in value):
                raise UserError(f"{name}: names are wanted; a number that is one in quotes, e.g. ['1']")
        if not specs.is_spec(self.head):
            raise UserError(f"head: {self.head!r} is no head; name one of exit_head, e.g. pooled")
        if not self.points:
            raise UserError("points: at least one module is wanted, e.g. [layer1]")
        if len(set(self.points)) < len(self.points):
            raise UserError("points: one is named twice")

    def describe(self) -> str:
        """The stage in words."""
        return f"put exits at {', '.join(self.points)}"

    def apply(self, state: State, bench: Bench) -> State:
        """The net with its exits; their weights are drawn from (seed, stage name)."""
        from compressbench.models.exit_policies import with_exits

        return with_exits(state, bench, self)


@dataclass(frozen=True)
class Cascade:
    """Separate nets in a row, the cheapest first: what the first isn't sure of goes to the next one, from the start.

    It shares nothing between them, and pays for every net that is asked (Viola & Jones 2001 for the idea).

    Attributes:
        members: the states, in order.
    """

    members: tuple[Ref, ...]
    BEGINS: ClassVar[bool] = True
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise UserError("members: a cascade has at least two nets")

    def describe(self) -> str:
        """The stage in words."""
        return f"put {len(self.members)} nets in a row, to ask the next where one isn't sure"

    def apply(self, state: State | None, bench: Bench) -> State:
        """The cascade; its training cost is that of all members together."""
        from compressbench.models.composing import together

        return together([bench.references[name] for name in self.members], CASCADE, bench)


@dataclass(frozen=True)
class Choose:
    """Chooses when an example leaves, on the validation split; the policy becomes part of the state.

    Exactly one of ``threshold``, ``budget`` and ``accuracy`` says by what.

    Attributes:
        criterion: how sure the net is, see ``compressbench.exit_criteria``.
        threshold: how sure is sure enough; one number for all exits, or one for each but the last.
        budget: the share of the full cost, in MACs, that an example may take on average over the validation split.
        accuracy: points of validation top-1 that may be lost against the last exit; as much cost as that allows is saved.
        shared: one threshold for all exits; with a budget, false takes one for each, so that the share of the examples
            that exit k takes is proportional to q^k (MSDNet's budgeted batches, Huang et al. 2018).
        calibrate: divides each early exit's logits by a temperature fitted on validation first (Guo et al. 2017).
    """

    criterion: ExitCriterion
    threshold: float | tuple[float, ...] | None = None
    budget: Share | None = None
    accuracy: float | None = None
    shared: bool = True
    calibrate: bool = True
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if sum(x is not None for x in (self.threshold, self.budget, self.accuracy)) != 1:
            raise UserError("exactly one of threshold, budget and accuracy is wanted")
        if self.accuracy is not None:
            within("NonNegative", self.accuracy, "accuracy")
        if not self.shared and self.budget is None:
            raise UserError(
                "shared: false goes with a budget; thresholds of your own are a list in threshold"
            )
        if self.budget == 0:
            raise UserError("budget: 0 would let nobody in; a share of the full cost above 0 is wanted")
        if not specs.is_spec(self.criterion):
            raise UserError(
                f"criterion: {self.criterion!r} is none; name one of exit_criterion, e.g. max_probability"
            )
        for value in self.thresholds:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"threshold: {value!r} is no finite number")
            if self.says in THRESHOLDS:
                within(THRESHOLDS[self.says], value, "threshold")

    @property
    def says(self) -> str:
        """What the criterion returns, as its source has it; empty where that can't be seen."""
        seen = specs.signature(str(self.criterion[specs.TARGET]))
        return seen.returns if seen else ""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Those given, in a tuple."""
        if self.threshold is None:
            return ()
        return tuple(self.threshold) if isinstance(self.threshold, Sequence) else (self.threshold,)

    def describe(self) -> str:
        """The stage in words."""
        name = str(self.criterion[specs.TARGET]).rpartition(".")[2].replace("_", " ")
        if self.budget is not None:
            return f"leave early by {name}, {100 * self.budget:g} % of the MACs on average"
        if self.accuracy is not None:
            return (
                f"leave early by {name}, at most {counted(self.accuracy, 'point')} of validation top-1 lost"
            )
        return f"leave early by {name} of {', '.join(f'{t:g}' for t in self.thresholds)} or more"

    def apply(self, state: State, bench: Bench) -> State:
        """The state with its policy."""
        from compressbench.models.exit_policies import with_policy

        return with_policy(state, bench, self)
