"""References: settings that name another state of the recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from compressbench.specs.signatures import signature
from compressbench.specs.spec import TARGET, is_spec


class Ref(str):
    """The name of another state of the recipe. A parameter annotated with it is a reference."""

    __slots__ = ()


def map_refs(value: Any, change: Callable[[Any, bool, str], Any], where: str = "") -> Any:
    """A copy of a value in which every reference inside a spec is replaced by ``change(reference, many, where)``.

    A parameter is a reference when its annotation names ``Ref``; ``many`` when it is a tuple of them.
    """
    if is_spec(value):
        seen = signature(str(value[TARGET]))
        out = {}
        for name, inner in value.items():
            annotation = seen.parameters[name].annotation if seen and name in seen.parameters else ""
            place = f"{where}.{name}"
            if inner is not None and re.search(r"\bRef\b", annotation):
                out[name] = change(inner, "tuple" in annotation, place)
            else:
                out[name] = map_refs(inner, change, place)
        return out
    if isinstance(value, Mapping):
        return {str(k): map_refs(v, change, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [map_refs(v, change, f"{where}[{i}]") for i, v in enumerate(value)]
    return value
