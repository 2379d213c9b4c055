"""Building what a spec names."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from compressbench.errors import UserError, reason
from compressbench.specs.spec import PARTIAL, TARGET, is_spec, settings_of
from compressbench.specs.trust import locate


def build(spec: Mapping[str, Any], where: str = "", **given: Any) -> Any:
    """Builds what a spec names: nested specs first, then the target itself with its settings and ``given``.

    With ``_partial_: true`` the result is the target with its settings bound.
    """
    target = str(spec[TARGET])
    settings = {name: _built(value, f"{where}.{name}") for name, value in settings_of(spec).items()}
    found = locate(target, where)
    if spec.get(PARTIAL):
        return functools.partial(found, **settings, **given)
    try:
        return found(**settings, **given)
    except UserError:
        raise
    except Exception as error:  # whatever a constructor says of the settings that it is given
        said, kind = reason(error), type(error).__name__
        plain = isinstance(error, TypeError | MemoryError) or said.startswith((kind, "not enough memory"))
        raise UserError(
            f"{where or target}: can't build {target}: {said if plain else f'{kind}: {said}'}"
        ) from error


def _built(value: Any, where: str) -> Any:
    if is_spec(value):
        return build(value, where)
    if isinstance(value, Mapping):
        return {k: _built(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_built(v, f"{where}[{i}]") for i, v in enumerate(value)]
    return value
