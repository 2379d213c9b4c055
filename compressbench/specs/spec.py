"""What a spec is: a mapping that names a target, with settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TARGET = "_target_"
PARTIAL = "_partial_"


def is_spec(value: Any) -> bool:
    """True for a mapping that names a target."""
    return isinstance(value, Mapping) and TARGET in value


def settings_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's settings without the keys that only say how it is built."""
    return {k: v for k, v in spec.items() if k not in (TARGET, PARTIAL)}


def walk(value: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All specs inside a value, outermost first, each with its place such as ``stages.prune.criterion``."""
    if isinstance(value, Mapping):
        if TARGET in value:
            yield where, value
        for name, inner in value.items():
            yield from walk(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from walk(inner, f"{where}[{place}]")
