"""Masks: which tensors a rate means, random masks, densities. Pure functions of tensors, and of states."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import torch
from torch import Tensor

from compressbench.errors import UserError, nearest
from compressbench.state import State

ROLES = ("@input", "@output", "@conv", "@linear")


def role_names(weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The tensors that ``@input`` (the first), ``@output`` (the last linear or, without one, the last), ``@conv``,
    ``@linear`` (without the output) stand for.
    """
    linear = [n for n, w in weights.items() if w.ndim == 2]
    conv = [n for n, w in weights.items() if w.ndim > 2]
    output = linear[-1:] or list(weights)[-1:]
    return {
        "@input": list(weights)[:1],
        "@output": output,
        "@conv": conv,
        "@linear": [n for n in linear if n not in output],
    }


def rates_by_tensor(weights: Mapping[str, Tensor], rates: Mapping[str, float]) -> dict[str, float]:
    """Own rates of single tensors from ``{pattern: fraction}``; the last pattern that fits counts.

    A pattern is a role (see ``role_names``) or a glob over parameter names.

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


def random_like(masks: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Masks that keep as many weights in each tensor as the given ones, at random places."""
    out = {}
    for name, mask in masks.items():
        flat = torch.zeros(mask.numel(), dtype=torch.bool)
        flat[torch.randperm(mask.numel(), generator=generator)[: int(mask.sum())]] = True
        out[name] = flat.view(mask.shape)
    return out


def density(masks: Mapping[str, Tensor], sizes: Mapping[str, int], whole: int) -> float:
    """Weights kept as a share of ``whole``; of the tensors in ``sizes``, those without a mask are whole."""
    return (sum(sizes.values()) - sum(int((~m).sum()) for m in masks.values())) / whole


def emptied(masks: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors in which nothing is kept."""
    return [name for name, mask in masks.items() if not bool(mask.any())]


def masked(state: State, masks: Mapping[str, Tensor]) -> State:
    """The state under the given masks: weights zeroed, density and emptied layers among its facts.

    The density counts against the net as it was drawn, so that removed channels count like masked ones, and with the
    weights that no layer owns (``models.build.left_alone``), which stay.
    """
    weights = {n: w * masks[n] if n in masks else w for n, w in state.weights.items()}
    result = state.with_groups(weights=weights, masks=dict(masks))
    sizes, other = state.facts["prunable"], state.facts.get("left_alone", {})
    whole = state.facts.get("whole", sum(sizes.values())) + sum(other.values())
    left = {name: weights[name].numel() for name in other if name in weights}
    return result.with_facts(
        density=density(masks, {**sizes, **left}, whole),
        empty_layers=emptied(masks),
    )
