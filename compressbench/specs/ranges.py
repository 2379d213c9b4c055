"""Ranges of numbers: an annotation such as ``Share`` says what a setting may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from compressbench.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# A number annotated with one of these is checked before anything runs, wherever in a config it stands.
Positive = float
NonNegative = float
Share = float
Count = int
Moderate = float
# Epochs or iterations, ``4ep`` or ``500it``.
Length = str
RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "Positive": (lambda x: 0 < x < math.inf, "not a number above 0"),
    "NonNegative": (lambda x: 0 <= x < math.inf, "not a number of 0 or more"),
    "Share": (lambda x: 0 <= x <= 1, "not in [0, 1]"),
    "Moderate": (lambda x: 1 / 1024 <= x <= 1024, "not a factor between 1/1024 and 1024"),
    "Count": (lambda x: isinstance(x, int) and x >= 1, "not a whole number of 1 or more"),
}


def check_fields(settings: DataclassInstance) -> None:
    """Refuses a frozen dataclass's values that are out of the ranges that its fields are annotated with.

    Raises:
        UserError: the first such field.
    """
    for field in fields(settings):
        in_range(str(field.type), getattr(settings, field.name), field.name)


def in_range(annotation: str, value: Any, where: str) -> None:
    """Refuses what is out of the range that an annotation names; any other annotation says nothing.

    Raises:
        UserError: the place, the value and what would be right.
    """
    range_name = annotation.removesuffix(" | None")
    if range_name in RANGES and not (value is None and range_name != annotation):
        within(range_name, value, where)


def within(range_name: str, value: Any, where: str) -> None:
    """Refuses what is out of one of ``RANGES``.

    Raises:
        UserError: the place, the value and what would be right.
    """
    fits, words = RANGES[range_name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
        raise UserError(f"{where}: {value!r} is {words}")
