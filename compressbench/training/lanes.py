"""Lanes: several trainings of the same shape as one program, for many seeds at once on a GPU.

Their weights lie on top of each other, a first dimension for the lanes, and one batched forward (``torch.func.vmap``: a
convolution becomes a grouped one) does for all. What each lane keeps for itself (masks, curve, checkpoints, the average)
is a training's own, on views of these weights. A lane's result is a function of its own seed and of how many lanes
there are, whoever is in the others; it differs from the training by itself by rounding alone, which a training amplifies.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.errors import Diverged, UserError
from compressbench.inputs import Inputs
from compressbench.models.reached import modes_kept
from compressbench.models.where import reason_of
from compressbench.outputs import Outputs, forward, tapped
from compressbench.training import launching, loop, optimising
from compressbench.training.held import Held
from compressbench.training.live import Job, Kept
from compressbench.training.objectives import Batch
from compressbench.training.steppers import Stepper
from compressbench.training.team import autocast

if TYPE_CHECKING:
    from compressbench.stages.train import Train
    from compressbench.state import State

Forward = Callable[[Inputs, Mapping[str, Tensor]], tuple[Tensor, Mapping[str, Tensor]]]

TOLERANCE = 1e-3
"""Of a net's answers in lanes, as a share of its largest one, before training begins."""
WITHOUT = "train it by itself: hardware.lanes=1"


def train(
    states: Sequence[State], benches: Sequence[Bench], settings: Sequence[Train], width: int
) -> list[State | Diverged]:
    """Trains several states at once; a training that diverges harms no other, and is told in its place.

    Args:
        width: how many lanes there are; where fewer trainings are given the rest are copies that nobody looks at, so
            that a result doesn't depend on the company.

    Raises:
        UserError: the trainings are not of one shape, there are more than lanes, their examples are of unlike length
            (others' padding would round otherwise), or the net can't be batched.
    """
    if hasattr(benches[0].task, "lengths"):
        raise UserError(
            f"lanes: examples are of unlike length, and a batch is as long as its longest; {WITHOUT}"
        )
    if not 1 <= len(states) <= width:
        raise UserError(f"lanes: {len(states)} trainings in {width} lanes")
    jobs = [loop.ready(*each) for each in zip(states, benches, settings, strict=True)]
    if len({shape(job.state, job.settings) for job in jobs}) > 1:
        raise UserError("lanes: these trainings are not of one shape")
    for job in jobs:
        loop.go_on(job)
    steps = sorted({job.live.step for job in jobs})  # a killed run may have left some of them further on
    by = [_train([job for job in jobs if job.live.step == step], width) for step in steps]
    return [job.lost or loop.finished(job, by[0]).with_facts(lanes=width) for job in jobs]


def shape(state: State, settings: Train) -> tuple[Any, ...]:
    """What two trainings must have in common to go at once: the net's tensors and all settings but what they refer to."""
    from compressbench import specs

    tensors = {n: (tuple(t.shape), str(t.dtype)) for n, t in state.weights.items()}
    parts = {
        name: getattr(settings, name) for name in vars(settings) if name not in ("objective", "checkpoint")
    }
    return (
        repr(sorted(tensors.items())),
        repr(specs.settings_of(state.model)),
        len(state.edits),
        repr(sorted(parts.items(), key=str)),
        repr(specs.map_refs(settings.objective, lambda ref, many, _: "*")),
    )


def _train(jobs: Sequence[Job], width: int) -> Stepper:
    """Trains what begins at the same iteration; returns the stepper."""
    team = Lanes.of(jobs, width)
    stepper = loop.stepper(jobs[0].settings, jobs[0].live.module, team.optimizer)
    loop.carry_out(team, stepper)
    return stepper


@dataclass
class Lanes:
    """Trainings that go at once.

    Attributes:
        jobs: the trainings, at most ``lanes``; their modules' parameters and buffers are views of these:
        params, buffers: by name, (lanes, ...).
    """

    jobs: Sequence[Job]
    lanes: int
    params: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    held: Held = field(default_factory=Held)
    _forward: Forward | None = None

    @staticmethod
    def of(jobs: Sequence[Job], width: int) -> Lanes:
        """Puts weights, buffers and what is kept of optimisers on top of each other."""
        filled = [*jobs, *[jobs[0]] * (width - len(jobs))]
        modules = [job.live.module for job in filled]
        first, settings, run = modules[0], jobs[0].settings, jobs[0].run
        params, buffers = {}, {}
        with torch.no_grad():
            for name, parameter in first.named_parameters():
                own = [m.get_parameter(name) for m in modules]
                stacked = torch.stack([p.detach() for p in own])
                params[name] = nn.Parameter(stacked, requires_grad=parameter.requires_grad)
                for p, view in zip(own[: len(jobs)], stacked.unbind(), strict=False):
                    p.data = view
            for name, _ in first.named_buffers():
                kept = [m.get_buffer(name) for m in modules]
                buffers[name] = torch.stack(kept)
                for t, view in zip(kept[: len(jobs)], buffers[name].unbind(), strict=False):
                    t.data = view
        trained = [p for p in params.values() if p.requires_grad]
        methods = [job.live.methods for job in jobs if job.live.methods]
        optimizer = optimising.made(settings, trained, run.lr, methods, jobs[0].bench.device, True)
        for name, parameter in params.items():
            own = [job.live.module.get_parameter(name) for job in filled]
            before = [job.live.optimizer.state.get(p, {}) for job, p in zip(filled, own, strict=True)]
            for entry, value in before[0].items():
                each = [torch.as_tensor(part[entry]) for part in before]
                by_element = (
                    entry != "step" and value.shape == own[0].shape
                )  # a parameter may be one number too
                optimizer.state[parameter][entry] = torch.stack(each) if by_element else value
        for job in jobs:
            for parameter in job.live.beside().values():
                optimizer.state[parameter] = job.live.optimizer.state[parameter]
            job.live.optimizer = Kept()  # it is in the stacked one now; ``settle`` cuts it out again
        return Lanes(jobs, width, params, buffers, optimizer)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """The batched forward, tried on some examples first.

        Raises:
            UserError: the net can't be batched, or answers otherwise in lanes.
        """
        job = self.jobs[0]
        net = copy.deepcopy(job.live.module)
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="There is a performance drop")
            compute = stack.enter_context(tapped(net, getattr(job.objective, "taps", ())))
            self._forward = _batched(_Computing(net, compute), self.params, self.buffers)
            with launching.exact(False, job.bench.device):
                self._try(net)
            with modes_kept(job.live.module):
                job.live.training()
                for part, other in zip(net.modules(), job.live.module.modules(), strict=True):
                    part.training = other.training
                with launching.exact(False, job.bench.device):
                    self._try_statistics()
            yield

    def compile(self) -> None:
        """The batched forward by inductor."""
        assert self._forward is not None
        self._forward = torch.compile(self._forward, dynamic=False)

    def laid(self, inputs: Inputs, labels: Any, rows: Tensor) -> tuple[Inputs, Any, Tensor]:
        """A first dimension for the lanes; inputs of lanes that nobody looks at are the first one's."""
        count = len(self.jobs)

        def lay(x: Tensor) -> Tensor:
            apart = x.view(count, -1, *x.shape[1:])
            return torch.cat([apart, apart[:1].expand(self.lanes - count, *apart.shape[1:])])

        return (
            tuple(map(lay, self.jobs[0].live.lay(inputs))),
            labels.view(count, -1, *labels.shape[1:]),
            rows.view(count, -1),
        )

    def losses(self, inputs: Inputs, labels: Any, rows: Tensor) -> Tensor:
        """(trainings,): what each one's objective says of its own lane."""
        first = self.jobs[0]
        with autocast(first.run.autocast, first.bench.device):
            logits, taps = self._answers(inputs, self._effective(True))
            each = [
                job.objective(
                    Batch(
                        Outputs(logits[k], {name: tap[k] for name, tap in taps.items()}),
                        tuple(x[k] for x in inputs),
                        labels[k],
                        rows[k],
                        not job.run.varies,
                    )
                )
                for k, job in enumerate(self.jobs)
            ]
        return torch.stack(each)

    def _effective(self, training: bool) -> dict[str, Tensor]:
        """What methods compute with in place of parameters, (lanes, ...)."""
        each = [job.live.methods for job in self.jobs if job.live.methods]
        filled = [*each, *each[:1] * (self.lanes - len(each))]
        names = each[0].replaced() if each else ()
        return {name: torch.stack([one.effective(name, training) for one in filled]) for name in names}

    def _answers(
        self, inputs: Inputs, effective: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert self._forward is not None
        try:
            return self._forward(inputs, effective)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a user's forward may fail in any way at all
            why = "it draws random numbers" if "randomness" in str(error) else reason_of(error)
            raise UserError(f"lanes: the net can't be batched: {why}; {WITHOUT}") from error

    def _try(self, net: nn.Module) -> None:
        """Compares each lane with its own module, both in evaluation mode."""
        bench = self.jobs[0].bench
        net.eval()
        some = bench.feed("train").head(8)
        plain = bench.task.encode(some)
        inputs = tuple(torch.stack([x] * self.lanes) for x in self.jobs[0].live.lay(plain))
        with torch.no_grad():
            logits, _ = self._answers(inputs, self._effective(False))
            for job, own in zip(self.jobs, logits, strict=False):
                with job.live.computing(False):
                    wanted = forward(job.live.module, *job.live.lay(plain)).logits
                own, wanted = (
                    own.nan_to_num(),
                    wanted.nan_to_num(),
                )  # a net that is lost already is lost in its lane too
                far, most = float((own - wanted).abs().max()), float(wanted.abs().max())
                if not far <= TOLERANCE * max(most, TOLERANCE):
                    raise UserError(
                        f"lanes: {job.bench.name} answers otherwise in lanes, by {far:.2g} of {most:.2g}; {WITHOUT}"
                    )

    def _try_statistics(self) -> None:
        """Compares what a forward in training makes of the first lane's buffers and of its own module's; puts them back.

        A forward that gives its module another tensor, and doesn't write into the one there, would do so in vain.
        """
        job, before = self.jobs[0], {n: t.clone() for n, t in self.buffers.items()}
        if not before:
            return
        plain = job.live.lay(job.bench.task.encode(job.bench.feed("train").head(8)))
        with torch.no_grad():
            self._answers(tuple(torch.stack([x] * self.lanes) for x in plain), self._effective(True))
            moved = {n: t[0].clone() for n, t in self.buffers.items()}
            torch._foreach_copy_([*self.buffers.values()], [*before.values()])
            with job.live.computing(True):
                forward(job.live.module, *plain)
        for name, lane in moved.items():
            own = job.live.module.get_buffer(name).float().nan_to_num()
            far, most = float((lane.float().nan_to_num() - own).abs().max()), float(own.abs().max())
            if not far <= TOLERANCE * max(most, TOLERANCE):
                raise UserError(
                    f"lanes: the net's buffer {name} becomes another one in lanes, by {far:.2g} of {most:.2g}; a forward "
                    f"must write into it (copy_, add_), or {WITHOUT}"
                )
        with torch.no_grad():
            torch._foreach_copy_([*self.buffers.values()], [*before.values()])

    def clip(self, limit: float) -> None:
        """Each lane by the norm of its own gradients."""
        grads = [p.grad for p in self.params.values() if p.grad is not None]
        norms = torch.linalg.vector_norm(torch.stack([g.flatten(1).norm(dim=1) for g in grads]), dim=0)
        by = (limit / (norms + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, [by.view(-1, *(1,) * (g.ndim - 1)) for g in grads])

    def remembered(self) -> list[Tensor]:
        """All buffers."""
        return list(self.buffers.values())

    def hold(self) -> None:
        """The live ones, lane by lane."""
        masks = [job.live.masks for job in self.jobs]
        self.held.put(self.params, [*masks, *masks[:1] * (self.lanes - len(masks))])

    def settle(self) -> None:
        """Cuts the optimiser's state into lanes."""
        for k, job in enumerate(self.jobs):
            live = job.live
            kept = Kept()
            for name, parameter in self.params.items():
                own = live.module.get_parameter(name)
                for entry, value in self.optimizer.state.get(parameter, {}).items():
                    cut = isinstance(value, Tensor) and value.shape == parameter.shape
                    kept.state[own][entry] = value[k] if cut else value
            for parameter in live.beside().values():
                kept.state[parameter] = self.optimizer.state[parameter]
            live.optimizer = kept


class _Computing(nn.Module):
    """A net whose answers come as plain tensors, as ``vmap`` wants them."""

    def __init__(self, net: nn.Module, compute: Callable[..., Outputs]) -> None:
        super().__init__()
        self.net, self.compute = net, compute

    def forward(self, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and taps of one lane's batch."""
        outputs = self.compute(*inputs)
        return outputs.logits, dict(outputs.taps)


def _batched(computing: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Forward:
    """The forward of all lanes: inputs (lanes, n, ...), and what stands in for parameters, to logits and taps."""

    def one(own: dict[str, Tensor], kept: dict[str, Tensor], inputs: Inputs) -> Any:
        return torch.func.functional_call(computing, {**own, **kept}, inputs)

    every = torch.func.vmap(one, randomness="error")
    own, kept = ({f"net.{n}": t for n, t in part.items()} for part in (params, buffers))
    return lambda inputs, instead: every({**own, **{f"net.{n}": t for n, t in instead.items()}}, kept, inputs)
