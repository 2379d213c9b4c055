"""How an iteration is launched: as Python says it, compiled, or recorded once on a GPU and then replayed as a whole.

Small nets wait for launches, not for arithmetic: a recorded iteration (a CUDA graph) is one launch. Recording and replay
were never run on a GPU in this repository; what is tested on the CPU is all around them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.inputs import Inputs
from compressbench.specs import TARGET
from compressbench.specs.trust import OWN
from compressbench.training.team import Iteration, Team

Launch = Callable[[Tensor, Inputs | None], Tensor]

FIRST = 3
"""Iterations before the recording: optimisers make their state in the first, libraries choose their kernels."""
FAR = 0.05
"""Distance between a recorded and a plain iteration's step, as a share of the step, from which on it is another."""


def launched(iteration: Iteration, bench: Bench) -> Launch:
    """The iteration as ``bench.launch`` says; what can't be recorded is launched as Python says it, and that is said.

    Raises:
        UserError: a recording is asked for where there is no GPU.
    """
    team = iteration.team
    if bench.launch == "compiled":
        if why := _python_matters(team):
            bench.say(f"{bench.name}: not compiled, {why}")
        else:
            team.compile()
    if bench.launch == "graph" and not bench.device.startswith("cuda"):
        raise UserError(
            f"hardware.launch: a graph is recorded on a GPU, the device is {bench.device}; set eager"
        )
    if bench.launch == "eager" or not bench.device.startswith("cuda"):
        return iteration
    if why := _unlike(team) or _python_matters(team) or _not_on_the_device(team.optimizer):
        bench.say(f"{bench.name}: not recorded as a CUDA graph, {why}")
        return iteration
    return Recorded(iteration, bench)


@contextlib.contextmanager
def exact(tf32: bool, device: str) -> Iterator[None]:
    """On a GPU float32 inside is float32, or TF32 where that is asked for, by the fastest kernels; then as it was."""
    if not device.startswith("cuda"):
        yield
        return
    before = torch.get_float32_matmul_precision()
    flags = torch.backends.cudnn
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        with flags.flags(
            enabled=flags.enabled,
            benchmark=True,  # shapes stay the same, so that trying kernels once pays
            deterministic=flags.deterministic,
            allow_tf32=tf32,
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _unlike(team: Team) -> str:
    """Why no recording of one batch would do for the next; empty where it would."""
    return "its batches are of unlike length" if hasattr(team.jobs[0].bench.task, "lengths") else ""


def _python_matters(team: Team) -> str:
    """Why the iteration is not the same program every time; empty where it is."""
    for job in team.jobs:
        for label, method in job.live.methods.methods.items() if job.live.methods else ():
            changes = method.effective and not method.steady
            if changes or method.penalty or method.after_gradient or method.after_step:
                return f"reparametrise.{label} may do something else at each iteration"
        for part in ("objective", "stepper", "optimizer"):
            target = str(getattr(job.settings, part)[TARGET])
            if not target.startswith((f"{OWN}.", "torch.optim.")):
                return f"{part} {target} may do something else at each iteration"
        if not job.bench.feed("train").labelled:
            return "examples without a label are picked out batch by batch"
    return ""


def _not_on_the_device(optimizer: torch.optim.Optimizer) -> str:
    kind = type(optimizer)
    if kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW) and optimizer.defaults.get("fused"):
        return ""
    return f"{kind.__name__} isn't one of SGD, Adam and AdamW, whose steps read nothing from the CPU"


@dataclass
class Recorded:
    """An iteration as a CUDA graph, recorded after some plain ones and compared with one more of these.

    Where recording fails, or the graph moves the weights elsewhere, the iteration stays a plain one, and that is said.
    """

    iteration: Iteration
    bench: Bench
    _done: int = 0
    _graph: Any = None
    _version: int = -1
    _given: tuple[Tensor, Inputs | None] | None = None
    _loss: Tensor | None = None
    _refused: bool = False
    _stream: Any = field(default=None)

    def __call__(self, rows: Tensor, variation: Inputs | None) -> Tensor:
        """One iteration; see ``team.Iteration``."""
        held = self.iteration.team.held
        if self._refused:
            return self.iteration(rows, variation)
        if self._graph is not None and held.version == self._version:
            return self._replay(rows, variation)
        self._graph = None
        self._done += 1
        if self._done <= FIRST:
            return self._aside(rows, variation)
        self._version = held.version
        return self._record(rows, variation)

    def _aside(self, rows: Tensor, variation: Inputs | None) -> Tensor:
        """A plain iteration on another stream, as recordings want the ones before them."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self.iteration(rows, variation)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _record(self, rows: Tensor, variation: Inputs | None) -> Tensor:
        moved = self._moved()
        before = [t.detach().clone() for t in moved]
        loss = self._aside(rows, variation)
        plain = [t.detach().clone() for t in moved]
        self._given = rows.clone(), None if variation is None else tuple(v.clone() for v in variation)
        why = ""
        try:
            graph = torch.cuda.CUDAGraph()
            self.iteration.team.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                self._loss = self.iteration(*self._given)
            self._put(moved, before)
            graph.replay()
            far = _distance(moved, plain, before)
            if not far <= FAR:
                why = f"it moves the weights elsewhere, by {far:.2g} of the step"
        except (RuntimeError, UserError) as error:
            why = str(error).strip().splitlines()[0]
        if why:
            self.bench.say(f"{self.bench.name}: not recorded as a CUDA graph, {why}")
            self._refused = True
        else:
            self._graph = graph
        self._put(moved, plain)
        return loss

    def _replay(self, rows: Tensor, variation: Inputs | None) -> Tensor:
        assert self._given is not None
        assert self._loss is not None
        torch.cuda.manual_seed(self.iteration.seed)
        self._given[0].copy_(rows)
        for there, new in zip(self._given[1] or (), variation or (), strict=True):
            there.copy_(new)
        self._graph.replay()
        return self._loss.clone()

    def _moved(self) -> list[Tensor]:
        """All that an iteration changes."""
        team = self.iteration.team
        params = [p for group in team.optimizer.param_groups for p in group["params"]]
        kept = [t for p in params for t in team.optimizer.state[p].values() if isinstance(t, Tensor)]
        return [p.detach() for p in params] + kept + team.remembered()

    @staticmethod
    def _put(tensors: list[Tensor], values: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(tensors, values)


def _distance(now: list[Tensor], wanted: list[Tensor], before: list[Tensor]) -> float:
    """How far apart two ways are, as a share of the way."""
    pairs = [
        (n.float() - w.float(), w.float() - b.float())
        for n, w, b in zip(now, wanted, before, strict=True)
        if n.is_floating_point()
    ]
    apart, way = (
        torch.linalg.vector_norm(torch.stack([x.norm() for x in part])) for part in zip(*pairs, strict=True)
    )
    return float(apart / way) if float(way) else 0.0 if not float(apart) else float("inf")
