"""N:M: in each group of M consecutive inputs N weights stay; sparse tensor cores execute 2:4 (Mishra et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compressbench.errors import UserError
from compressbench.scopes.units import Chosen, Units


def groups(tensor: Tensor, m: int) -> Tensor:
    """(out, in, ...) as (groups, m), each group m consecutive entries along the input dimension."""
    return tensor.movedim(1, -1).reshape(-1, m)


def ungrouped(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of ``groups``."""
    moved = torch.empty(shape).movedim(1, -1).shape
    return rows.reshape(moved).movedim(-1, 1)


def n_m(
    units: Mapping[str, Units],
    fraction: float | None,
    of: str,
    rates: Mapping[str, float],
    n: int = 2,
    m: int = 4,
) -> Chosen:
    """The n highest scores of every m consecutive inputs.

    Args:
        fraction: null, since n and m fix it.
        rates: 0 leaves a tensor out (the first layer, the output); other rates can't hold.

    Raises:
        UserError: units that are no single weights, a fraction, or inputs that are no multiple of m.
    """
    if not 0 < n <= m:
        raise UserError(f"scope: {n}:{m} is not possible, n must be in 1..m")
    if fraction is not None:
        raise UserError(
            f"fraction: {fraction}, but {n}:{m} removes {1 - n / m:.0%} by itself; set fraction=null"
        )
    for name, rate in rates.items():
        if rate:
            raise UserError(
                f"rates: {rate} for {name}; with {n}:{m} a tensor can only be left out, by rate 0"
            )
    chosen = {}
    for name, u in units.items():
        if name in rates:
            chosen[name] = u.alive
            continue
        if u.sizes is not None:
            raise UserError(f"scope: {n}:{m} chooses single weights; set grain=weight")
        if len(u.shape) < 2 or u.shape[1] % m:
            raise UserError(
                f"scope: {name} of shape {u.shape} has {u.shape[1] if len(u.shape) > 1 else 0} inputs, "
                f"no multiple of {m}; leave it out by rates={{{name}: 0}}"
            )
        scores = u.scores.masked_fill(~u.alive, -torch.inf).view(u.shape)
        rows = groups(scores, m)
        top = torch.sort(rows, dim=1, descending=True, stable=True).indices[:, :n]
        stay = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, top, True)
        chosen[name] = ungrouped(stay, u.shape).reshape(-1) & u.alive
    return chosen
