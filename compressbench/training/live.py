"""A training at work: what it was told, and what changes while it runs."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.errors import Diverged
from compressbench.inputs import Inputs
from compressbench.state import State
from compressbench.training.averaging import Average
from compressbench.training.objectives import Objective
from compressbench.training.reparametrise import Reparametrised

if TYPE_CHECKING:
    from compressbench.stages.train import Train

OBJECTIVE = "objective"
AVERAGE = "average"


@dataclass(frozen=True)
class Run:
    """A training in iterations, everything built; see ``stages.train.Train`` for the settings.

    Attributes:
        rates: of each iteration a factor of the rate, where examples come in their own order; empty for neither.
    """

    start: int
    stop: int
    total: int
    per_epoch: int
    batch_size: int
    lr: float
    clip: float | None
    schedule: Callable[[float], float]
    warmup: int
    order: str
    varies: bool
    autocast: bool
    validate: int
    tf32: bool = False
    follow: int = 0
    rates: tuple[float, ...] = ()


class Optimised(Protocol):
    """What is kept of an optimiser: by parameter its tensors by name."""

    @property
    def state(self) -> Any: ...


@dataclass
class Kept:
    """An optimiser's state apart from it, as one of several trainings that share an optimiser has it."""

    state: dict[nn.Parameter, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))


@dataclass
class Live:
    """What changes while a training runs."""

    module: nn.Module
    optimizer: Optimised
    step: int
    masks: dict[str, Tensor] = field(default_factory=dict)
    methods: Reparametrised | None = None
    own: dict[str, nn.Parameter] = field(default_factory=dict)
    average: Average | None = None
    frozen: list[nn.Module] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    lay: Callable[[Inputs], Inputs] = tuple

    def training(self) -> None:
        """Training mode, but for what is frozen: its norms keep their statistics."""
        self.module.train()
        for part in self.frozen:
            part.training = False

    def named(self) -> dict[str, nn.Parameter]:
        """All that may be trained, by name: the module's parameters, its reparametrisations' and the objective's."""
        return dict(self.module.named_parameters()) | self.beside()

    def beside(self) -> dict[str, nn.Parameter]:
        """What is trained beside the module's parameters."""
        return self.own | (self.methods.own() if self.methods else {})

    def remembered(self) -> list[Tensor]:
        """What a forward in training moves: statistics of norms, ranges that a method observes."""
        found = [*self.module.buffers(), *(self.methods.kept().values() if self.methods else ())]
        return [tensor for tensor in found if not isinstance(tensor, nn.Parameter)]

    def computing(self, training: bool) -> contextlib.AbstractContextManager[None]:
        """Inside, the module computes with effective weights."""
        return self.methods.in_place(training) if self.methods else contextlib.nullcontext()


@dataclass
class Job:
    """One training made ready.

    Attributes:
        state: what it began with.
        lost: why it ended before its time, None while it goes well.
    """

    state: State
    bench: Bench
    settings: Train
    run: Run
    live: Live
    objective: Objective
    lost: Diverged | None = None
