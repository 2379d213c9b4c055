"""Outputs: what a forward yields, whatever the module returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from compressbench.errors import UserError


@dataclass(frozen=True)
class Outputs:
    """Logits (n, classes) and named intermediate tensors ("taps")."""

    logits: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)


def forward(module: Callable[[Tensor], Any], inputs: Tensor) -> Outputs:
    """Runs a module (or a function) and reads its logits from a tensor, an ``Outputs``, a tuple, a dict or an attribute.

    Raises:
        UserError: no logits can be found in what the module returned.
    """
    result = module(inputs)
    if isinstance(result, Tensor):
        return Outputs(result)
    if isinstance(result, Outputs):
        return result
    logits = getattr(result, "logits", None)
    if logits is None and isinstance(result, Mapping):
        logits = result.get("logits", result.get("out"))
    if logits is None and isinstance(result, tuple | list) and result:
        logits = result[0]
    if not isinstance(logits, Tensor):
        raise UserError(
            f"{type(module).__name__}.forward returned {type(result).__name__} without logits; return a tensor"
        )
    return Outputs(logits)
