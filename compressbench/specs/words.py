"""Plain words for specs: ``magnitude`` stands for ``compressbench.criteria.magnitude.magnitude``."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressbench.errors import UserError, nearest
from compressbench.specs.signatures import signature
from compressbench.specs.spec import PARTIAL, TARGET, is_spec
from compressbench.specs.trust import OWN

# A parameter annotated with one of these takes a plain word for what ships in that folder.
Criterion = Mapping[str, Any]
Scope = Mapping[str, Any]
Grain = Mapping[str, Any]
Observer = Mapping[str, Any]
ExitCriterion = Mapping[str, Any]
ExitHead = Mapping[str, Any]
SHORT = {
    "Criterion": "criteria",
    "Scope": "scopes",
    "Grain": "grains",
    "Observer": "observers",
    "Distance": "distances",
    "Labels": "labels",
    "Feature": "features",
    "ExitCriterion": "exit_criteria",
    "ExitHead": "exit_heads",
}
# What the caller of each fills in itself.
GIVEN = {
    "Criterion": ("given",),
    "Scope": ("units", "fraction", "of", "rates"),
    "Grain": (),
    "Observer": ("observed",),
    "Distance": ("student", "teacher"),
    "Labels": ("lesson",),
    "Feature": ("student", "teacher"),
    "ExitCriterion": ("said",),
    "ExitHead": ("shape", "classes"),
}


def expand(value: Any, where: str = "") -> Any:
    """A copy of a value in which plain words for criteria, scopes, grains and observers are specs.

    ``magnitude`` as a criterion becomes ``compressbench.criteria.magnitude.magnitude``.

    Raises:
        UserError: there is no such file (names the nearest), or a setting without a default is missing.
    """
    if is_spec(value):
        seen = signature(str(value[TARGET]))
        out = {}
        for name, inner in value.items():
            annotation = seen.parameters[name].annotation if seen and name in seen.parameters else ""
            place = f"{where}.{name}"
            if annotation in SHORT and isinstance(inner, Mapping) and not is_spec(inner):
                raise UserError(
                    f"{place}: {dict(inner)!r} are settings of nothing; name the function too, "
                    f"{{{TARGET}: {OWN}.{SHORT[annotation]}.NAME.NAME, {PARTIAL}: true, …}}, or choose it by its YAML"
                )
            if annotation in SHORT and isinstance(inner, str):
                inner = _named(inner, SHORT[annotation], place)
            if annotation in SHORT and is_spec(inner):
                _complete(inner, GIVEN[annotation], place)
            out[name] = expand(inner, place)
        return out
    if isinstance(value, Mapping):
        return {str(k): expand(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [expand(v, f"{where}[{i}]") for i, v in enumerate(value)]
    return value


def _named(word: str, folder: str, where: str) -> dict[str, Any]:
    name = f"{word}_" if keyword.iskeyword(word) else word
    target = f"{OWN}.{folder}.{name}.{name}"
    if not name.isidentifier() or signature(target) is None:
        files = sorted(p.stem for p in (Path(__file__).parents[1] / folder).glob("*.py"))
        known = [f.rstrip("_") for f in files if signature(f"{OWN}.{folder}.{f}.{f}") is not None]
        raise UserError(f"{where}: there is no {word!r} in {folder}; {nearest(word, known)}")
    return {TARGET: target, PARTIAL: True}


def _complete(spec: Mapping[str, Any], given: tuple[str, ...], where: str) -> None:
    private = any(part.startswith("_") for part in str(spec[TARGET]).split("."))
    seen = None if private else signature(str(spec[TARGET]))
    missing = [
        k
        for k, p in (seen.parameters.items() if seen else ())
        if p.required and k not in given and k not in spec
    ]
    if missing:
        raise UserError(
            f"{where}: {spec[TARGET]} needs {', '.join(missing)}; "
            f"write {{{TARGET}: {spec[TARGET]}, {PARTIAL}: true, {missing[0]}: ...}}"
        )
