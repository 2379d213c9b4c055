"""Where a training goes on: from what a stage that stopped short left in the state, or from its own checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import copies, load, snapshot
from compressbench.state import State
from compressbench.store import Damaged, discard_checkpoint, read_checkpoint, save_checkpoint
from compressbench.training import optimising
from compressbench.training.live import AVERAGE, OBJECTIVE, Live


def take_up(live: Live, state: State, optimizer: str) -> None:
    """Optimiser state and the objective's own parameters as the stage before left them, which stopped short.

    Args:
        optimizer: the name of this stage's.

    Raises:
        UserError: they were another optimiser's or objective's.
    """
    if state.facts.get("optimizer") != optimizer:
        raise another(state.facts.get("optimizer"), optimizer)
    left = state.group(OBJECTIVE)
    if any(name not in live.own or live.own[name].shape != tensor.shape for name, tensor in left.items()):
        raise UserError(
            f"start: the state before was left by an objective with {', '.join(left)}, which this stage's doesn't "
            "train; use the same, or a rewind/learning_rate stage in between"
        )
    with torch.no_grad():
        for name, tensor in left.items():
            live.own[name].copy_(tensor)
    optimising.restore(live.optimizer, live.named(), state.group("optimizer"))


def another(before: str | None, now: str) -> UserError:
    """What to say where a stage can't go on with what the one before left."""
    return UserError(
        f"start: the state before was left by {before}, this stage goes on with {now}; "
        "use the same, or a rewind/learning_rate stage in between"
    )


def write(live: Live, folder: Path) -> None:
    """One file, written aside and renamed: weights, optimiser state, position, curve."""
    tensors = {f"weights/{k}": v for k, v in snapshot(live.module).items()}
    tensors |= {f"optimizer/{k}": v for k, v in optimising.tensors(live.optimizer, live.named()).items()}
    own = {**live.beside(), **(live.methods.kept() if live.methods else {})}
    tensors |= {f"own/{k}": v for k, v in copies(own).items()}
    if live.methods:
        tensors |= {f"masks/{k}": v.contiguous() for k, v in live.masks.items()}
    if live.average:
        tensors |= {f"{AVERAGE}/{k}": v for k, v in live.average.tensors().items()}
    save_checkpoint(folder, tensors, {"step": live.step, "curve": live.curve, "seconds": live.seconds})


def left_over(bench: Bench) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, header) of this stage's own checkpoint, if there is a whole one; a damaged one is told and removed."""
    if bench.checkpoints is None:
        return None
    try:
        return read_checkpoint(bench.checkpoints)
    except Damaged as error:
        bench.say(f"{bench.name}: the checkpoint is damaged, this stage begins anew ({error})")
        discard_checkpoint(bench.checkpoints)
        return None


def resume(live: Live, bench: Bench) -> None:
    """Continues from this stage's own checkpoint, if there is a whole one."""
    found = left_over(bench)
    if found is None:
        return
    tensors, header = found
    groups: dict[str, dict[str, Tensor]] = {
        "weights": {},
        "optimizer": {},
        "own": {},
        "masks": {},
        AVERAGE: {},
    }
    for full, tensor in tensors.items():
        group, _, name = full.partition("/")
        groups[group][name] = tensor
    load(live.module, groups["weights"], "the checkpoint")
    own = {**live.beside(), **(live.methods.kept() if live.methods else {})}
    with torch.no_grad():
        for name, tensor in groups["own"].items():
            own[name].copy_(tensor)
    if live.methods:
        live.masks = groups["masks"]
    if live.average:
        live.average = live.average.begun(live.average.share, groups[AVERAGE])
    optimising.restore(live.optimizer, live.named(), groups["optimizer"])
    live.step, live.curve, live.seconds = header["step"], header["curve"], header["seconds"]
