"""One iteration: from places in the training set to new weights, all on the device, of one training or of several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.inputs import Inputs
from compressbench.models.where import reason_of, watched
from compressbench.outputs import Outputs, tapped
from compressbench.training.held import Held
from compressbench.training.live import Job
from compressbench.training.objectives import Batch
from compressbench.training.steppers import Stepper


class Team(Protocol):
    """One training, or several of the same shape that go at once.

    Attributes:
        jobs: the trainings.
        optimizer: what moves all their weights.
        held: their masks.
        lanes: how many go at once, None for one by itself; tensors of several then have a first dimension for them.
    """

    @property
    def jobs(self) -> Sequence[Job]: ...
    @property
    def optimizer(self) -> torch.optim.Optimizer: ...
    @property
    def held(self) -> Held: ...
    @property
    def lanes(self) -> int | None: ...

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Around all iterations."""

    def compile(self) -> None:
        """Has the nets' forwards compiled from now on."""

    def laid(self, inputs: Inputs, labels: Any, rows: Tensor) -> tuple[Inputs, Any, Tensor]:
        """Inputs, labels and places, end to end for several trainings, as ``losses`` takes them."""

    def losses(self, inputs: Inputs, labels: Any, rows: Tensor) -> Tensor:
        """The loss, or (lanes,) losses."""

    def clip(self, limit: float) -> None:
        """Scales gradients down to a norm."""

    def remembered(self) -> list[Tensor]:
        """What a forward in training moves."""

    def hold(self) -> None:
        """Takes the trainings' masks as they are now."""

    def settle(self) -> None:
        """Gives each training its own part of the optimiser's state, before that is written."""


@dataclass
class Alone:
    """One training."""

    job: Job
    optimizer: torch.optim.Optimizer
    held: Held = field(default_factory=Held)
    lanes: int | None = None
    _compute: Callable[..., Outputs] | None = None

    @property
    def jobs(self) -> Sequence[Job]:
        """The one."""
        return (self.job,)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """What the objective wants to see is watched."""
        with tapped(self.job.live.module, getattr(self.job.objective, "taps", ())) as self._compute:
            yield

    def compile(self) -> None:
        """The forward by inductor: for one shape, or for any where batches are of unlike length."""
        assert self._compute is not None
        unlike = hasattr(self.job.bench.task, "lengths")
        self._compute = torch.compile(self._compute, dynamic=None if unlike else False)

    def laid(self, inputs: Inputs, labels: Any, rows: Tensor) -> tuple[Inputs, Any, Tensor]:
        """As the module's memory lies."""
        return self.job.live.lay(inputs), labels, rows

    def losses(self, inputs: Inputs, labels: Any, rows: Tensor) -> Tensor:
        """The objective's, and the methods' penalties."""
        live, run = self.job.live, self.job.run
        with autocast(run.autocast, self.job.bench.device), live.computing(True):
            loss = self.job.objective(Batch(self._outputs(inputs), inputs, labels, rows, not run.varies))
        if live.methods and (penalty := live.methods.penalties(live.step)) is not None:
            loss = loss + penalty
        return loss

    def _outputs(self, inputs: Inputs) -> Outputs:
        assert self._compute is not None
        try:
            return self._compute(*inputs)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a user's forward may fail in any way at all
            raise UserError(_why_not(self.job.live.module, inputs, error)) from error

    def clip(self, limit: float) -> None:
        """By the norm of all gradients together."""
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], limit)

    def remembered(self) -> list[Tensor]:
        """The module's and the methods'."""
        return self.job.live.remembered()

    def hold(self) -> None:
        """The live ones."""
        self.held.put(dict(self.job.live.module.named_parameters()), [self.job.live.masks])

    def settle(self) -> None:
        """It has it."""


@dataclass
class Iteration:
    """One iteration; a GPU records it, so that what differs from one to the next comes in by the arguments alone.

    Attributes:
        seed: of the noise in the next one (dropout).
    """

    team: Team
    stepper: Stepper
    seed: int = 0

    def __call__(self, rows: Tensor, variation: Inputs | None) -> Tensor:
        """New weights; returns the loss, (lanes,) of several trainings, without a gradient.

        Args:
            rows: int64, places in the training set.
            variation: how the examples are varied, see ``tasks.task.Task.variation``.
        """
        team, bench = self.team, self.team.jobs[0].bench
        examples = bench.feed("train").take(rows)
        given = team.laid(bench.task.encode(examples, variation), examples.labels, rows)
        asks_again = getattr(self.stepper, "passes", 1) > 1
        before = [t.detach().clone() for t in team.remembered()] if asks_again else None
        loss = self.stepper(_Gradient(team, *given, self.seed, before))
        team.held.apply()
        return loss


@dataclass
class _Gradient:
    """The gradient of one iteration, as often as a stepper asks for it; see ``steppers.Gradient``."""

    team: Team
    inputs: Inputs
    labels: Any
    rows: Tensor
    seed: int
    before: list[Tensor] | None

    @property
    def masked(self) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters with a mask, and the masks as multipliers."""
        return self.team.held.params, self.team.held.by

    @property
    def lanes(self) -> int | None:
        """How many trainings go at once."""
        return self.team.lanes

    def __call__(self) -> Tensor:
        """Fills the gradients; returns the loss."""
        team, first = self.team, self.team.jobs[0]
        if not (first.bench.device.startswith("cuda") and torch.cuda.is_current_stream_capturing()):
            torch.default_generator.manual_seed(self.seed)
            if self.inputs[0].is_cuda:
                torch.cuda.manual_seed(self.seed)
        team.optimizer.zero_grad(set_to_none=True)
        loss = team.losses(self.inputs, self.labels, self.rows)
        try:
            (loss.sum() if loss.ndim else loss).backward()
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(f"no gradient could be taken: {reason_of(error)}") from error
        for job in team.jobs:
            if job.live.methods:
                job.live.methods.after_gradient()
        if first.run.clip is not None:
            team.clip(first.run.clip)
        return loss.detach()

    def again(self) -> Tensor:
        """The same, from what was remembered before the first time; afterwards that is what the first time left.

        Raises:
            UserError: the stepper didn't say that it asks more than once.
        """
        if self.before is None:
            raise UserError(
                "stepper: one that asks for the gradient again needs an attribute passes, 2 or more"
            )
        remembered = self.team.remembered()
        after = [tensor.detach().clone() for tensor in remembered]
        _put_back(remembered, self.before)
        loss = self()
        _put_back(remembered, after)
        return loss


def autocast(wanted: bool, device: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 where that is wanted."""
    if not wanted:
        return contextlib.nullcontext()
    return torch.autocast(device.partition(":")[0], torch.bfloat16)


def _why_not(module: nn.Module, inputs: Inputs, error: Exception) -> str:
    """Which layer failed on a training batch, why, and what to do."""
    place = ""
    with watched(module) as where:
        try:
            module(*inputs)
        except Exception:  # as the first time
            place = where()
    count = len(inputs[0])
    single = count == 1 and "more than 1 value" in str(error)
    way = "set batch_size to 2 or more" if single else "in evaluation mode, with 2 examples, it worked"
    return f"the forward of a training batch of {count} fails: {place}{reason_of(error)}; {way}"


def _put_back(tensors: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
