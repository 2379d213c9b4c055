"""Checks of specs: targets allowed and found, keys known, values plain and in their ranges."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from typing import Any

from compressbench.errors import UserError, nearest
from compressbench.specs.annotations import fits, in_words, its_unit
from compressbench.specs.conf import conf_dir
from compressbench.specs.length import check as check_length
from compressbench.specs.ranges import in_range
from compressbench.specs.signatures import signature
from compressbench.specs.spec import PARTIAL, TARGET, settings_of, walk
from compressbench.specs.trust import OWN, PARTS, check_target, source_of
from compressbench.wording import shown


def check(
    spec: Mapping[str, Any],
    where: str,
    trusted: Iterable[str] = (),
    given: Iterable[str] = (),
    parts: Iterable[str] = PARTS,
) -> None:
    """Checks a spec and all inside it: targets allowed, found, keys known, none missing.

    Args:
        given: parameters that the caller fills in itself.
        parts: of compressbench's own, what the spec itself may be.

    Raises:
        UserError: the first fault, with its place.
    """
    check_plain(spec, where)
    for place, inner in walk(spec, where):
        target = str(inner[TARGET])
        check_target(target, trusted, place, parts if inner is spec else PARTS)
        if source_of(target) is None and importlib.util.find_spec(target.split(".")[0]) is None:
            raise UserError(
                f"{place}: can't find {target.split('.')[0]!r} to import {target}; is it installed, or beside you?"
            )
        seen = signature(target)
        if seen is None:
            if target.startswith(f"{OWN}."):
                raise UserError(f"{place}: there is no {target}")
            continue
        settings = settings_of(inner)
        if not seen.open:
            for key in settings:
                if key not in seen.parameters:
                    raise UserError(
                        f"{place}: unknown key {key!r} for {target}; {nearest(key, seen.parameters)}"
                    )
        for key, value in settings.items():
            annotation = seen.parameters[key].annotation if key in seen.parameters else ""
            in_range(annotation, value, f"{place}.{key}")
            if annotation == "Length":
                check_length(value, f"{place}.{key}")
            may_lack = value is None and "None" in annotation
            if annotation.startswith("Mapping[") and not isinstance(value, Mapping) and not may_lack:
                word = isinstance(value, str) and value.isidentifier() and len(value) < 100
                shipped = word and (conf_dir() / key / f"{value}.yaml").is_file()
                way = f"; choose it by its YAML: +{key}@{place}.{key}={value}" if shipped else ""
                raise UserError(f"{place}.{key}: {value!r} is no mapping such as {{name: value}}{way}")
            if target.startswith(f"{OWN}.") and not fits(annotation, value):
                raise UserError(
                    f"{place}.{key}: {shown(value)} is not {in_words(annotation)}{its_unit(key, value)}"
                )
        if inner is spec and not inner.get(PARTIAL):
            missing = [
                k for k, p in seen.parameters.items() if p.required and k not in settings and k not in given
            ]
            if missing:
                raise UserError(f"{place}: {target} needs {', '.join(missing)}")


def check_plain(value: Any, where: str) -> None:
    """Refuses what is no plain data: YAML also has dates, bytes and sets, and figures that are none.

    Raises:
        UserError: the first such value, with its place; or a ``_partial_`` that is neither true nor false.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise UserError(f"{where}: the key {name!r} is no text; put it in quotes")
            if name == PARTIAL and not isinstance(inner, bool):
                raise UserError(f"{where}.{PARTIAL}: {inner!r} is neither true nor false")
            check_plain(inner, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            check_plain(inner, f"{where}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {value} is not a finite number")
    elif isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: {value!r} is not valid UTF-8") from error
    elif value is not None and not isinstance(value, bool | int | float):
        raise UserError(
            f"{where}: {value!r} is a {type(value).__name__}; a number, a text, a list or a mapping is wanted"
        )
