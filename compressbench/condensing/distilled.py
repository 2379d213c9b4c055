"""Dataset distillation: pictures and step sizes such that a few gradient steps on them train a net (Wang et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from compressbench.condensing import memory
from compressbench.condensing.outer import learned
from compressbench.condensing.starts import RATES, Pictures, begun, each, examples
from compressbench.condensing.unrolled import Weights, saved_bytes, trained
from compressbench.data.transfer import carrying
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.draw import redrawn
from compressbench.outputs import Outputs, forward
from compressbench.training.launching import exact
from compressbench.training.spent import Spent

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.examples import Examples
    from compressbench.stages.condense import Distilled
    from compressbench.state import State
    from compressbench.tasks.task import Task

WHO = "data/distilled"
DOUBLE = 9
"""Forwards' worth of a step: itself, its backward of twice as much, and of both a backward of twice as much."""


def distilled(state: State, bench: Bench, settings: Distilled) -> State:
    """Applies a ``stages.condense.Distilled``.

    Raises:
        UserError: a net with batch norm, dropout or masks; images that don't fit the classes; a class with too few
            pictures to begin with.
        Diverged: the loss of the trained nets is no finite number.
    """
    of_class = each(settings.images, bench, WHO)
    pictures = begun(bench, settings.begin, settings.steps, of_class, settings.draw, WHO).to(bench.device)
    change = torch.zeros_like(pictures.pixels, requires_grad=True)
    raw = torch.full((settings.epochs, settings.steps), _inverse(settings.rate), device=bench.device)
    leaves = {"change": change}
    if settings.learn_rates:
        leaves["raw"] = raw.requires_grad_()
    module = module_of(state, bench.device)
    whole(state, module, WHO)
    if wanting := _wanting(module, bench, settings, of_class):
        bench.say(f"{bench.name}: {wanting}; going on all the same")  # hours of a run may be behind it
    loss, labels = OfTask(module, bench.task), pictures.labels.chunk(settings.steps)

    def gradient(step: int, real: Examples) -> Tensor:
        (inputs,) = bench.task.encode(real)
        total = torch.zeros((), device=bench.device)
        for place in range(settings.nets):
            sets = list(zip(encoded(pictures, change, bench).chunk(settings.steps), labels, strict=True))
            start = start_of(state, module, bench, f"{step}.{place}" if settings.random_inits else "")
            weights = trained(loss, start, sets, F.softplus(raw))
            own = loss(weights, inputs, real.labels) / settings.nets
            own.backward(inputs=list(leaves.values()))
            total += own.detach()
        return total

    with exact(False, bench.device):
        curve, seconds = learned(bench, settings, leaves, gradient)
    with torch.no_grad():
        pixels, rates = pictures.changed(change), F.softplus(raw)
    images = len(pictures.labels) // settings.steps
    column = rates.t().repeat_interleave(images, 0)
    iterations = int(curve[-1]["step"]) if curve else 0
    inner, real = settings.steps * settings.epochs * images, settings.batch_size
    forwards = iterations * settings.nets * (DOUBLE * inner + 3 * real)
    spent = Spent(
        forwards * state.facts.get("forward_macs", 0), iterations * settings.nets * (inner + real), seconds
    )
    made = carrying(state, examples(pixels, pictures.labels, **{RATES: column}))
    return spent.added_to(made).with_facts(condensed=curve)


def forewarned(drawn: Callable[[], State | None], bench: Bench, settings: Distilled) -> None:
    """Refuses what can't work, and what the memory can't hold, before anything is learned.

    Raises:
        UserError: a net with batch norm, dropout or masks; images that don't fit the classes; more inner steps than the
            memory holds.
    """
    of_class = each(settings.images, bench, WHO)
    state = drawn()
    if state is None:
        return
    module = module_of(state, bench.device)
    whole(state, module, WHO)
    if wanting := _wanting(module, bench, settings, of_class):
        raise UserError(f"{WHO}: {wanting}")


def _wanting(module: nn.Module, bench: Bench, settings: Distilled, of_class: int) -> str:
    """What the inner steps want and the memory doesn't have, in words; empty where it holds them."""
    if float(settings.length[:-2]) == 0:
        return ""
    images = of_class * len(bench.task.classes)
    step, last = inner_bytes(module, bench, images), real_bytes(module, bench, settings.batch_size)
    count = settings.steps * settings.epochs
    wanted, there = count * step + last, memory.available(bench.device)
    if there is None or wanted <= there:
        return ""
    return (
        f"{count:,} inner steps ({settings.steps} sets x {settings.epochs} epochs) need about {_size(wanted)} at once, "
        f"{_size(step)} each; {_size(there)} are free, enough for {max(0, (there - last) // step):,}"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def whole(state: State, module: nn.Module, who: str) -> None:
    """Refuses a net whose training isn't a function of its weights and examples alone.

    Raises:
        UserError: naming the layer.
    """
    if state.masks:
        raise UserError(f"{who}: the net is pruned, and steps through masks aren't unrolled; use a dense one")
    for name, part in module.named_modules():
        drops = isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
        if drops or any(b is not None for b in part._buffers.values()):
            what = "draws at random" if drops else "keeps statistics"
            raise UserError(
                f"{who}: {name or 'the net'} ({type(part).__name__}) {what} in training, which isn't unrolled; a net "
                "without is wanted, e.g. lenet_5, lenet_300_100 or conv_2"
            )


@dataclass(frozen=True)
class OfTask:
    """A task's loss of a net as a function of the weights; the module's own are not touched."""

    module: nn.Module
    task: Task

    def logits(self, weights: Weights, inputs: Tensor) -> Tensor:
        """(n, classes) with these weights."""
        return self._outputs(weights, inputs).logits

    def __call__(self, weights: Weights, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean loss."""
        return self.task.loss(self._outputs(weights, inputs), labels)

    def _outputs(self, weights: Weights, inputs: Tensor) -> Outputs:
        return forward(lambda x: functional_call(self.module, dict(weights), (x,)), inputs)


def encoded(pictures: Pictures, change: Tensor, bench: Bench) -> Tensor:
    """Pictures after a change as a net's input."""
    (inputs,) = bench.task.encode(examples(pictures.changed(change), pictures.labels))
    return inputs


def inner_bytes(module: nn.Module, bench: Bench, images: int) -> int:
    """Bytes that one more inner step keeps for the backward through it: what three keep and one doesn't, halved."""
    (inputs,) = bench.task.encode(_some(bench, images))
    inputs.requires_grad_()
    labels = torch.zeros(len(inputs), dtype=torch.int64, device=bench.device)
    start, loss = _own(module), OfTask(module, bench.task)

    def kept(steps: int) -> int:
        rates = torch.full((steps, 1), 0.01, device=bench.device, requires_grad=True)
        return saved_bytes(lambda: trained(loss, start, [(inputs, labels)], rates))

    return (kept(3) - kept(1)) // 2


def real_bytes(module: nn.Module, bench: Bench, batch: int) -> int:
    """Bytes that the loss of the trained net on real examples keeps, from those of a few."""
    few = min(64, batch, len(bench.feed("train")))
    (inputs,) = bench.task.encode(_some(bench, few))
    labels = torch.zeros(few, dtype=torch.int64, device=bench.device)
    start = _own(module)
    return saved_bytes(lambda: OfTask(module, bench.task)(start, inputs, labels)) * batch // few


def _some(bench: Bench, count: int) -> Examples:
    feed = bench.feed("train")
    return feed.take(torch.arange(count, device=bench.device) % len(feed))


def start_of(state: State, module: nn.Module, bench: Bench, name: str) -> dict[str, Tensor]:
    """Weights to train from: the state's own, or freshly drawn ones where a name is given."""
    if not name:
        return _own(module)
    fresh = redrawn(state, replace(bench, name=f"{bench.name}.net{name}"))
    return {n: fresh[n].to(bench.device).requires_grad_() for n, _ in module.named_parameters()}


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().requires_grad_() for n, p in module.named_parameters()}


def _inverse(rate: float) -> float:
    """What softplus makes ``rate`` of."""
    return math.log(math.expm1(rate)) if rate < 30 else rate
