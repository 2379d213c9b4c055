"""The loop that learns pictures: Adam on what is learned, checkpoints, a loss that is looked at."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from compressbench.data.examples import Examples, order
from compressbench.errors import Diverged, UserError
from compressbench.models.build import copies
from compressbench.seeds import derive_seed
from compressbench.specs.length import steps
from compressbench.store import save_checkpoint
from compressbench.training import optimising
from compressbench.training.checkpoints import left_over

if TYPE_CHECKING:
    from compressbench.bench import Bench

CHECK_EVERY = 10
"""Iterations after which losses are looked at."""


class Settings(Protocol):
    """What the loop asks of a stage."""

    @property
    def length(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def betas(self) -> tuple[float, ...]: ...
    @property
    def halve(self) -> str | None: ...
    @property
    def order(self) -> str: ...


def learned(
    bench: Bench,
    settings: Settings,
    leaves: Mapping[str, Tensor],
    gradient: Callable[[int, Examples], Tensor],
) -> tuple[list[dict[str, float]], float]:
    """Changes the leaves in place, batch by batch of the training split.

    Args:
        leaves: what is learned, by name; on the device.
        gradient: given the iteration and real examples, fills ``.grad`` of the leaves; returns the loss.

    Returns:
        The curve, mean losses of all iterations in a hundred parts at most (whenever checkpoints were written), and the
        seconds spent.

    Raises:
        UserError: a batch larger than the training set.
        Diverged: the loss is no finite number.
    """
    real = bench.feed("train")
    if settings.batch_size > len(real):
        raise UserError(f"batch_size: {settings.batch_size} is more than the {len(real)} training examples")
    per_epoch = len(real) // settings.batch_size
    total = steps(settings.length, per_epoch)
    halve = steps(settings.halve, per_epoch) if settings.halve else 0
    first, second = settings.betas
    optimizer = torch.optim.Adam(list(leaves.values()), lr=settings.lr, betas=(first, second))
    step, curve, seen, seconds = _resumed(bench, leaves, optimizer)
    began = saved = time.monotonic()
    losses: list[Tensor] = []
    rows, epoch, part = torch.empty(0), -1, max(CHECK_EVERY, -(-total // 100))
    while step < total:
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            rows = order(len(real), derive_seed(bench.seed, settings.order, epoch)).to(bench.device)
        begin = step % per_epoch * settings.batch_size
        now = settings.lr * 0.5 ** (step // halve if halve else 0)
        for group in optimizer.param_groups:
            group["lr"] = now
        optimizer.zero_grad(set_to_none=True)
        losses.append(gradient(step, real.take(rows[begin : begin + settings.batch_size])).detach())
        optimizer.step()
        step += 1
        last = step == total
        due = bench.checkpoints is not None and time.monotonic() - saved > bench.checkpoint_seconds
        whole = step % part == 0 or last
        if whole or due:
            seen += _checked(losses, step, total, now)
            losses.clear()
            mean = math.fsum(seen) / len(seen)
            bench.progress.step(step, total, loss=mean, lr=now)
        if whole:
            curve.append({"step": step, "loss": mean, "lr": now})
            seen.clear()
        if due and not last:
            assert bench.checkpoints is not None
            spent = seconds + time.monotonic() - began
            _write(bench, leaves, optimizer, {"step": step, "curve": curve, "losses": seen, "seconds": spent})
            saved = time.monotonic()
    return curve, seconds + time.monotonic() - began


def _checked(losses: list[Tensor], step: int, total: int, lr: float) -> list[float]:
    values: list[float] = torch.stack(losses).double().tolist()
    for place, value in enumerate(values):
        if not math.isfinite(value):
            raise Diverged(
                f"loss is {value} at iteration {step - len(values) + place} of {total}: training on the pictures left "
                f"all bounds; a lower rate, fewer inner steps or a lower lr ({lr:g}) may help"
            )
    return values


def _write(
    bench: Bench,
    leaves: Mapping[str, Tensor],
    optimizer: torch.optim.Adam,
    header: Mapping[str, Any],
) -> None:
    assert bench.checkpoints is not None
    tensors = copies({f"leaf/{name}": leaf for name, leaf in leaves.items()})
    tensors |= {f"adam/{name}": value for name, value in optimising.tensors(optimizer, leaves).items()}
    save_checkpoint(bench.checkpoints, tensors, header)


def _resumed(
    bench: Bench, leaves: Mapping[str, Tensor], optimizer: torch.optim.Adam
) -> tuple[int, list[dict[str, float]], list[float], float]:
    """Iteration, curve, losses since its last point, seconds: from this stage's own checkpoint if there is one."""
    found = left_over(bench)
    if found is None:
        return 0, [], [], 0.0
    tensors, header = found
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(tensors[f"leaf/{name}"])
    adam = {
        name.removeprefix("adam/"): tensor for name, tensor in tensors.items() if name.startswith("adam/")
    }
    optimising.restore(optimizer, leaves, adam)
    return header["step"], header["curve"], header["losses"], header["seconds"]
