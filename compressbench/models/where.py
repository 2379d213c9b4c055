"""Where in a net something fails: the module that was running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from compressbench.errors import reason


@contextmanager
def watched(module: nn.Module) -> Iterator[Callable[[], str]]:
    """Gives a function that says which part is running, or was when an error left it: ``layer1.0 (Conv2d): ``."""
    inside: list[tuple[str, nn.Module]] = []

    def leave(*_: Any) -> None:
        inside.pop()

    handles = []
    for name, part in module.named_modules():
        if name:
            handles.append(part.register_forward_pre_hook(lambda p, _, n=name: inside.append((n, p))))
            handles.append(part.register_forward_hook(leave))
    try:
        yield lambda: f"{inside[-1][0]} ({type(inside[-1][1]).__name__}): " if inside else ""
    finally:
        for handle in handles:
            handle.remove()


def reason_of(error: BaseException, most: int = 160) -> str:
    """The first line of an error, or what kind it is."""
    return reason(error, most)
