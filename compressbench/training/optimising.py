"""The optimiser of a training: built from its spec, and its state as named tensors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError, nearest
from compressbench.models.build import copies
from compressbench.specs import TARGET
from compressbench.training.reparametrise import Reparametrised

if TYPE_CHECKING:
    from compressbench.stages.train import Train
    from compressbench.training.live import Optimised


def made(
    settings: Train,
    params: Sequence[nn.Parameter],
    lr: float,
    methods: Sequence[Reparametrised],
    device: str,
    lanes: bool = False,
) -> torch.optim.Optimizer:
    """The optimiser of a training; unless ``decay`` says ``all``, only weights of two or more dimensions decay.

    Args:
        params: what is trained.
        lanes: whether the first dimension is of trainings that go at once.

    Raises:
        UserError: settings that the optimiser doesn't take.
    """
    decayed = [p for p in params if p.ndim - lanes > 1 or settings.decay == "all"]
    plain = [p for p in params if p.ndim - lanes <= 1 and settings.decay != "all"]
    groups: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, settings.weight_decay), (plain, 0.0))
        if group
    ]
    groups += [group for each in methods for group in each.optimised(settings.weight_decay, lr)]
    factory = settings.built("optimizer")
    known = inspect.signature(getattr(factory, "func", factory)).parameters
    for key in getattr(factory, "keywords", {}):
        if key not in known and all(p.kind is not p.VAR_KEYWORD for p in known.values()):
            raise UserError(
                f"optimizer {settings.optimizer[TARGET]}: unknown key {key!r}; {nearest(key, known)}"
            )
    try:
        takes = inspect.signature(factory).parameters
        fused = {"fused": True} if "fused" in takes and all(p.is_floating_point() for p in params) else {}
        if fused and "capturable" in takes and device.startswith("cuda"):
            fused["capturable"] = True
        made: torch.optim.Optimizer = factory(groups, lr=lr, **fused)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {settings.optimizer[TARGET]}: {error}") from error
    if fused and type(made) is torch.optim.SGD:
        made.register_step_pre_hook(late_comers)
    if fused and device.startswith("cuda"):  # what a recorded step reads must lie on the GPU
        for group in made.param_groups:
            group["lr"] = torch.tensor(float(lr), device=device)
    return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives each group its share of the learning rate, in the tensor that a recorded step reads where there is one."""
    for group in optimizer.param_groups:
        now = rate * group.get("share", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(now)
        else:
            group["lr"] = now


def late_comers(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Momentum for parameters that get their first gradient after others did, as fused SGD wants it (torch 2.15).

    Its first step has momentum = gradient; m b + (1 - d) g is that for b = d g / m.
    """
    for group in optimizer.param_groups:
        state = [(p, optimizer.state[p]) for p in group["params"] if p.grad is not None]
        missing = [(p, s) for p, s in state if s.get("momentum_buffer") is None]
        if group["momentum"] and missing and len(missing) < len(state):
            for p, own in missing:
                own["momentum_buffer"] = p.grad * (group["dampening"] / group["momentum"])


def tensors(optimizer: Optimised, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Optimiser state by ``parameter|entry``, as CPU copies."""
    return copies(
        {
            f"{name}|{entry}": torch.as_tensor(value)
            for name, param in named.items()
            for entry, value in optimizer.state.get(param, {}).items()
            if value is not None
        }
    )


def restore(optimizer: Optimised, named: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Puts ``tensors`` back, laid out in memory like their parameters; those of frozen ones are left out."""
    fused = getattr(optimizer, "defaults", {}).get("fused")
    for full, value in saved.items():
        name, _, entry = full.rpartition("|")
        param = named[name]
        if not param.requires_grad:
            continue
        like = torch.empty_like(param).copy_(value) if value.shape == param.shape else value.clone()
        optimizer.state[param][entry] = like.to(param.device) if fused else like
