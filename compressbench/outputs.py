"""Outputs: what a forward yields, whatever the module returns."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from compressbench.errors import UserError, nearest


@dataclass(frozen=True)
class Outputs:
    """Logits (n, classes) and named intermediate tensors ("taps")."""

    logits: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)


def forward(module: Callable[..., Any], *inputs: Tensor | tuple[Tensor, ...]) -> Outputs:
    """Runs a module (or a function) and reads its logits from a tensor, an ``Outputs``, a tuple, a dict or an attribute.

    Args:
        inputs: what the module is called with; a tuple of them, as batches hold it, will do.

    Raises:
        UserError: no logits can be found in what the module returned.
    """
    if len(inputs) == 1 and isinstance(inputs[0], tuple):
        inputs = inputs[0]
    result = module(*inputs)
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


def tensors_of(result: Any) -> list[Tensor]:
    """All tensors of floating point in what a module returned, in order: of a tensor, tuple, mapping or ``Outputs``."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    if isinstance(result, Outputs):
        return [result.logits, *result.taps.values()]
    inner: Any = ()
    if isinstance(result, Mapping):
        inner = result.values()
    elif isinstance(result, tuple | list):
        inner = result
    return [tensor for part in inner for tensor in tensors_of(part)]


@contextlib.contextmanager
def tapped(module: nn.Module, names: Sequence[str] = ()) -> Iterator[Callable[..., Outputs]]:
    """``forward`` of a module as a function of its inputs, with what the named submodules gave among the taps.

    The module is left as it is: the names are paths as in ``named_modules``, watched by hooks while the block lasts.

    Raises:
        UserError: there is no such submodule, or one gave no tensor or was not reached.
    """
    if not names:
        yield functools.partial(forward, module)
        return
    parts, seen, hooks = dict(module.named_modules()), {}, []
    for name in names:
        if not name or name not in parts:
            raise UserError(
                f"taps: the model has no module {name!r}; {nearest(name, [n for n in parts if n])}"
            )

    def watch(name: str) -> Callable[..., None]:
        def note(part: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = output

        return note

    def run(*inputs: Tensor) -> Outputs:
        seen.clear()
        found = forward(module, *inputs)
        for name in names:
            if not isinstance(seen.get(name), Tensor):
                raise UserError(f"taps: {name} gave no tensor in the model's forward")
        return replace(found, taps={**found.taps, **{name: seen[name] for name in names}})

    try:
        hooks += [parts[name].register_forward_hook(watch(name)) for name in names]
        yield run
    finally:
        for hook in hooks:
            hook.remove()
