"""Rows of a YAML file that says things rather than configures them: what stands where, and one line for what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressbench.errors import UserError, nearest
from compressbench.specs.overrides import is_override, key_of
from compressbench.wording import shown

GIVEN = ("recipe", "scale", "seed", "hardware")
"""Overrides that whoever runs a row's recipe gives beside its own."""


def loaded(path: Path) -> Any:
    """What a file holds.

    Raises:
        UserError: it can't be read or is no YAML, and where.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        at = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path.name}{at}: no valid YAML: {error.problem}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name}: can't be read: {error}") from error


def mapping(content: Any, where: str, keys: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """A mapping that isn't empty, of these keys where some are given.

    Raises:
        UserError: it is none, or has another key.
    """
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{where}: a mapping{' with ' + ', '.join(keys) if keys else ' of names'} is wanted")
    for key in content:
        if keys and key not in keys:
            raise UserError(f"{where}: unknown key {shown(key)}; {nearest(str(key), keys)}")
    return content


def text(block: Mapping[str, Any], key: str, where: str, otherwise: str | None = None) -> str:
    """A text of one line; empty only where that is allowed by ``otherwise``.

    Raises:
        UserError: it is none.
    """
    value = block.get(key, otherwise)
    if not isinstance(value, str) or "\n" in value or (not value.strip() and otherwise is None):
        raise UserError(f"{where}.{key}: {shown(value)} is no text of one line")
    return value


def texts(
    block: Mapping[str, Any], key: str, where: str, otherwise: list[str] | None = None
) -> tuple[str, ...]:
    """A list of texts of one line, which may be empty; left out only where that is allowed by ``otherwise``.

    Raises:
        UserError: it is none.
    """
    value = block.get(key, otherwise)
    if not isinstance(value, list) or not all(
        isinstance(v, str) and v.strip() and "\n" not in v for v in value
    ):
        raise UserError(f"{where}.{key}: {shown(value)} is no list of texts of one line")
    return tuple(value)


def overrides(words: tuple[str, ...], where: str, example: str = "") -> tuple[str, ...]:
    """The words, each an override of a row's recipe.

    Args:
        example: what the refusal ends in.

    Raises:
        UserError: one is none, or is not the row's to give.
    """
    for word in words:
        if not is_override(word) or key_of(word) in GIVEN:
            raise UserError(f"{where}: {shown(word)} is no override beside {', '.join(GIVEN)}{example}")
    return words


def number(block: Mapping[str, Any], key: str, where: str) -> float | None:
    """A finite number, None where there is none.

    Raises:
        UserError: it is something else.
    """
    value = block.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}.{key}: {shown(value)} is no number")
    return float(value)
