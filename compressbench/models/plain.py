"""Weights that are computed from others (weight norm, spectral norm, one of the user's own) made plain parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from compressbench.errors import UserError

OLD = (WeightNorm, SpectralNorm)


def computed(module: nn.Module) -> list[str]:
    """Names of the tensors that parametrizations, or the older hooks of torch, compute, in module order."""
    found = []
    for path, part in module.named_modules():
        leaves = list(part.parametrizations) if parametrize.is_parametrized(part) else []
        leaves += [hook.name for hook in part._forward_pre_hooks.values() if type(hook) in OLD]
        found += [f"{path}.{leaf}" if path else str(leaf) for leaf in leaves]
    return found


def made_plain(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """The same module, in evaluation mode; the named tensors are parameters that hold what was computed last.

    Raises:
        UserError: one isn't computed, or can't be made plain.
    """
    module.eval()  # in training a spectral norm takes another step when it is read
    for name in names:
        path, _, leaf = name.rpartition(".")
        if name not in computed(module):
            raise UserError(f"edits: plain: {name} is no tensor that a parametrization computes")
        part: Any = module.get_submodule(path)
        hooks = {key: hook for key, hook in part._forward_pre_hooks.items() if type(hook) in OLD}
        try:
            if parametrize.is_parametrized(part, leaf):
                _of_its_own_class(part)
                parametrize.remove_parametrizations(part, leaf, leave_parametrized=True)
            for key, hook in hooks.items():
                if hook.name == leaf:
                    with torch.no_grad():
                        hook.remove(part)
                    del part._forward_pre_hooks[key]
        except Exception as error:  # whatever a user's parametrization may raise
            raise UserError(
                f"edits: plain: {name}: {[*str(error).splitlines(), type(error).__name__][0]}"
            ) from error
    return module


def _of_its_own_class(part: nn.Module) -> None:
    """A copy of a parametrized module shares its class, off which torch would take the parameter of both."""
    kind = type(part)
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    part.__class__ = type(kind.__name__, kind.__bases__, own)
