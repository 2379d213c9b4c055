"""Masks: exact counts, scopes and rates. Pure functions of tensors; ties are broken by position."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressbench.errors import UserError, nearest

ROLES = ("@output", "@conv", "@linear")


def keep_count(kept: int, whole: int, fraction: float, of: str) -> int:
    """How many weights stay: ``fraction`` of what is left, or of the whole, goes; rounded to the nearest count.

    What is gone stays gone: the result is never more than ``kept``.
    """
    base = kept if of == "left" else whole
    return min(kept, base - round(fraction * base))


def keep_top(scores: Sequence[Tensor], masks: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks of the ``count`` highest scores among what the given masks keep, over all tensors together.

    Exact under ties: equal scores stay in order of position. Scores that are not a number rank lowest.
    """
    flat = torch.cat([s.reshape(-1).double() for s in scores])
    old = torch.cat([m.reshape(-1) for m in masks])
    flat = torch.nan_to_num(flat, nan=-torch.inf)
    places = old.nonzero().squeeze(1)
    chosen = places[torch.sort(flat[places], descending=True, stable=True).indices[:count]]
    new = torch.zeros_like(old)
    new[chosen] = True
    return [part.view(m.shape) for part, m in zip(new.split([m.numel() for m in masks]), masks, strict=True)]


def role_names(weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The tensors that ``@output`` (the last linear or, without one, the last), ``@conv``, ``@linear`` stand for."""
    linear = [n for n, w in weights.items() if w.ndim == 2]
    conv = [n for n, w in weights.items() if w.ndim > 2]
    output = linear[-1:] or list(weights)[-1:]
    return {"@output": output, "@conv": conv, "@linear": [n for n in linear if n not in output]}


def rates_by_tensor(weights: Mapping[str, Tensor], rates: Mapping[str, float]) -> dict[str, float]:
    """Own rates of single tensors from ``{pattern: fraction}``; the last pattern that fits counts.

    A pattern is a role (``@output``, ``@conv``, ``@linear`` without the output) or a glob over parameter names.

    Raises:
        UserError: a pattern fits no prunable tensor.
    """
    roles = role_names(weights)
    out: dict[str, float] = {}
    for pattern, rate in rates.items():
        if pattern.startswith("@") and pattern not in roles:
            raise UserError(f"rates: unknown role {pattern!r}; {nearest(pattern, ROLES)}")
        found = roles.get(pattern, [n for n in weights if fnmatch.fnmatchcase(n, pattern)])
        if not found and pattern not in roles:
            raise UserError(f"rates: {pattern!r} fits no prunable tensor; {nearest(pattern, weights)}")
        out.update(dict.fromkeys(found, rate))
    return out


def choose(
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    fraction: float,
    scope: str,
    of: str,
    rates: Mapping[str, float],
) -> dict[str, Tensor]:
    """New masks. Tensors with a rate of their own are pruned by themselves; the rest in one pool, or each alone.

    Args:
        scope: ``global`` (one pool) or ``layer`` (each tensor keeps the same share).
        of: ``left`` or ``whole``, see ``keep_count``.
        rates: own rates by tensor name; a rate of 0 leaves the tensor as it is.
    """
    shared = [n for n in scores if n not in rates]
    pools: list[tuple[list[str], float]] = [([n], r) for n, r in rates.items()]
    pools += [(shared, fraction)] if scope == "global" and shared else [([n], fraction) for n in shared]
    new: dict[str, Tensor] = {}
    for names, rate in pools:
        old = [masks[n] for n in names]
        count = keep_count(int(sum(int(m.sum()) for m in old)), sum(m.numel() for m in old), rate, of)
        new.update(zip(names, keep_top([scores[n] for n in names], old, count), strict=True))
    return {n: new[n] for n in scores}


def random_like(masks: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Masks that keep as many weights in each tensor as the given ones, at random places."""
    out = {}
    for name, mask in masks.items():
        flat = torch.zeros(mask.numel(), dtype=torch.bool)
        flat[torch.randperm(mask.numel(), generator=generator)[: int(mask.sum())]] = True
        out[name] = flat.view(mask.shape)
    return out


def density(masks: Mapping[str, Tensor], sizes: Mapping[str, int]) -> float:
    """Share of prunable weights kept; tensors without a mask are whole."""
    whole = sum(sizes.values())
    return (whole - sum(int((~m).sum()) for m in masks.values())) / whole


def emptied(masks: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors in which nothing is kept."""
    return [name for name, mask in masks.items() if not bool(mask.any())]
