"""Shrink: channels, heads, units, layers or blocks physically removed; what remains needs no sparse kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench import specs
from compressbench.errors import UserError, nearest
from compressbench.specs import Criterion

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

HOW = ("uniform", "global")


@dataclass(frozen=True)
class Channels:
    """Removes channels with all that reads and writes them (Li et al. 2017 with ``magnitude``), as far as one goal.

    A channel's score is the mean of the criterion's scores over the weights of the filters that produce it, in all
    layers whose outputs are summed or concatenated with it. At least one channel of each group stays; the net's input
    and its output layer stay, and so do channels that are normalised or attended to together.

    Attributes:
        criterion: spec of a function ``(Given, **settings) -> scores``; the lowest go.
        how: ``uniform`` (each group the same share) or ``global`` (one pool, scores divided by their group's mean).
        fraction: goal: this share of the channels goes, in [0, 1).
        macs: goal: the net has at most this share of the multiply-accumulates that it had, in (0, 1).
        latency: goal: it takes at most this share of the time, as measured on ``target`` at its first batch size.
        target: spec of a hardware target, for ``latency`` alone.
        inside: only channels within blocks, those of one layer that pass no sum: for nets whose shortcuts pad.
    """

    criterion: Criterion
    how: str = "uniform"
    fraction: float | None = None
    macs: float | None = None
    latency: float | None = None
    target: Mapping[str, Any] | None = None
    inside: bool = False
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _among(self.how)
        goals = {n: getattr(self, n) for n in ("fraction", "macs", "latency") if getattr(self, n) is not None}
        if len(goals) != 1:
            given = " and ".join(goals) or "none"
            raise UserError(f"fraction, macs, latency: exactly one says how much goes; {given} is given")
        _share("fraction", self.fraction, True)
        _share("macs", self.macs, False)
        _share("latency", self.latency, False)
        if self.latency is not None and not specs.is_spec(self.target):
            raise UserError("latency: it is measured on a target; add target=${hardware.target}")

    def describe(self) -> str:
        """The stage in words."""
        goal = next(
            text
            for value, text in (
                (self.fraction, f"{self.fraction or 0:.4g} of the channels"),
                (self.macs, f"channels to {self.macs or 0:.4g} of the MACs"),
                (self.latency, f"channels to {self.latency or 0:.4g} of the measured latency"),
            )
            if value is not None
        )
        return (
            f"remove {goal} by {_name(self.criterion)}, {self.how}{', inside blocks' if self.inside else ''}"
        )

    def apply(self, state: State, bench: Bench) -> State:
        """The shrunk state: weights, masks and all other tensors cut, its forward verified."""
        from compressbench.pruning import structured

        return structured.channels(state, bench, self)


@dataclass(frozen=True)
class Blocks:
    """Removes whole layers or residual blocks: those that give back the shape they take become the identity.

    A block's score is the mean of the criterion's scores over its weights.

    Attributes:
        criterion: spec of a function ``(Given, **settings) -> scores``; the lowest go.
        fraction: share of the candidates that goes, in [0, 1).
        blocks: the candidates, as a glob over module names (``layer*.*``); null for the outermost that qualify.
    """

    criterion: Criterion
    fraction: float
    blocks: str | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _share("fraction", self.fraction, True)

    def describe(self) -> str:
        """The stage in words."""
        which = f" of {self.blocks}" if self.blocks else ""
        return f"remove {self.fraction:.4g} of the blocks{which} by {_name(self.criterion)}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state without these blocks, its forward verified."""
        from compressbench.pruning import structured

        return structured.blocks(state, bench, self)


@dataclass(frozen=True)
class Heads:
    """Removes attention heads (Michel et al. 2019): their queries, keys, values, and the columns that read them.

    A head's score is the mean of the criterion's scores over its weights that are left; ``gates`` gives each weight the
    importance of its head.

    Attributes:
        criterion: spec of a function ``(Given, **settings) -> scores``; the lowest go.
        fraction: share of the heads that the net has that goes, in [0, 1).
        how: ``global`` (the lowest of all layers) or ``uniform`` (each layer the same share).
        least: heads of each layer that stay, at least 1.
    """

    criterion: Criterion
    fraction: float
    how: str = "global"
    least: int = 1
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _share("fraction", self.fraction, True)
        _among(self.how)
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 1:
            raise UserError(f"least: {self.least!r} is no whole number of at least 1; a layer keeps a head")

    def describe(self) -> str:
        """The stage in words."""
        return f"remove {self.fraction:.4g} of the attention heads by {_name(self.criterion)}, {self.how}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state without these heads, its forward verified."""
        from compressbench.pruning import heads

        return heads.heads(state, bench, self)


@dataclass(frozen=True)
class FeedForward:
    """Removes hidden units of the feed-forward layers of Transformers, with what makes and reads them.

    A unit's score is the mean of the criterion's scores over its weights that are left.

    Attributes:
        criterion: spec of a function ``(Given, **settings) -> scores``; the lowest go.
        fraction: share of the units that the net has that goes, in [0, 1).
        how: ``uniform`` (each layer the same share) or ``global`` (the lowest of all layers).
    """

    criterion: Criterion
    fraction: float
    how: str = "uniform"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _share("fraction", self.fraction, True)
        _among(self.how)

    def describe(self) -> str:
        """The stage in words."""
        return f"remove {self.fraction:.4g} of the feed-forward units by {_name(self.criterion)}, {self.how}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state without these units, its forward verified."""
        from compressbench.pruning import heads

        return heads.feed_forward(state, bench, self)


@dataclass(frozen=True)
class Layers:
    """Removes whole layers of a row of them, those whose weights score lowest on average, also where they take a mask.

    Attributes:
        criterion: spec of a function ``(Given, **settings) -> scores``; the lowest go.
        fraction: share of the layers that goes, in [0, 1).
        layers: the container whose members are meant (``layers``); null for all.
    """

    criterion: Criterion
    fraction: float
    layers: str | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _share("fraction", self.fraction, True)

    def describe(self) -> str:
        """The stage in words."""
        which = f" of {self.layers}" if self.layers else ""
        return f"remove {self.fraction:.4g} of the layers{which} by {_name(self.criterion)}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state without these layers; it runs."""
        from compressbench.pruning import heads

        return heads.layers(state, bench, self)


def _among(how: str) -> None:
    if how not in HOW:
        raise UserError(f"how: unknown {how!r}; {nearest(str(how), HOW)}")


def _share(name: str, value: float | None, zero: bool) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value < 1 if zero else 0 < value < 1):
        bounds = "[0, 1); all of them would leave no net" if zero else "(0, 1); 0.5 halves it"
        raise UserError(f"{name}: {value!r} is not in {bounds}")


def _name(criterion: Mapping[str, Any]) -> str:
    *_, module, function = str(criterion[specs.TARGET]).split(".")
    return function if function == module else f"{module}.{function}"
