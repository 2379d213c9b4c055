"""The optimiser of a training: built from its spec, and its state as named tensors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError, nearest
from compressbench.models.build import copies
from compressbench.specs import TARGET
from compressbench.training.reparametrise import Reparametrised

if TYPE_CHECKING:
    from compressbench.stages.train import Train


def made(
    settings: Train,
    module: nn.Module,
    lr: float,
    methods: Reparametrised | None,
    own: Mapping[str, nn.Parameter],
) -> torch.optim.Optimizer:
    """The optimiser of a training; unless ``decay`` says ``all``, only weights of two or more dimensions decay."""
    params = [p for p in (*module.parameters(), *own.values()) if p.requires_grad]
    decayed = [p for p in params if p.ndim > 1 or settings.decay == "all"]
    plain = [p for p in params if p.ndim <= 1 and settings.decay != "all"]
    groups: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, settings.weight_decay), (plain, 0.0))
        if group
    ]
    groups += methods.optimised(settings.weight_decay, lr) if methods else []
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
        made: torch.optim.Optimizer = factory(groups, lr=lr, **fused)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {settings.optimizer[TARGET]}: {error}") from error
    if fused and type(made) is torch.optim.SGD:
        made.register_step_pre_hook(late_comers)
    return made


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


def tensors(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Optimiser state by ``parameter|entry``, as CPU copies."""
    return copies(
        {
            f"{name}|{entry}": torch.as_tensor(value)
            for name, param in named.items()
            for entry, value in optimizer.state.get(param, {}).items()
            if value is not None
        }
    )


def restore(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]
) -> None:
    """Puts ``tensors`` back, laid out in memory like their parameters; those of frozen ones are left out."""
    for full, value in saved.items():
        name, _, entry = full.rpartition("|")
        param = named[name]
        if not param.requires_grad:
            continue
        like = torch.empty_like(param).copy_(value) if value.shape == param.shape else value.clone()
        optimizer.state[param][entry] = like
