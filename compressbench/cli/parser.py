"""An argument parser whose errors are the tool's own: one line, exit code 2."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from compressbench.errors import UserError, nearest
from compressbench.paths import given_path

N = TypeVar("N", int, float)


class Parser(argparse.ArgumentParser):
    """``argparse``'s, raising ``UserError``; options are written whole."""

    def __init__(self, **settings: Any) -> None:
        settings["description"] = str(settings.get("description") or "").replace("``", "")
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """One line and how to ask for help."""
        verb = self.prog.split()[1]
        stray = re.search(r"^unrecognized arguments: (-\S+)", message)
        if stray:
            message += misspelt(stray[1], self)
        raise UserError(f"{verb}: {message}; try: compressbench {verb} --help")


def misspelt(given: str, parser: argparse.ArgumentParser) -> str:
    """The option of a parser that was probably meant, as the end of a sentence; empty where none is near."""
    word = given.partition("=")[0].lstrip("-")
    known = [o.lstrip("-") for o in parser._option_string_actions if o.startswith("--")]
    near = nearest(word, known, limit=1)
    return (
        f"; did you mean --{near.split()[-1]}" if near.startswith("did you mean ") and "," not in near else ""
    )


def number(text: str) -> float:
    """A finite number, for ``type=``."""
    return _as(float, text, math.isfinite, "a finite number")


def percent(text: str) -> float:
    """A number from 0 to 100, for ``type=``."""
    return _as(float, text, lambda value: 0 <= value <= 100, "a percentage, from 0 to 100")


def count(text: str) -> int:
    """A whole number of at least 1, for ``type=``."""
    return _as(int, text, lambda value: value >= 1, "a whole number of 1 or more")


def _as(kind: type[N], text: str, fits: Callable[[N], bool], words: str) -> N:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is not {words}")
    return value


def a_path(text: str) -> Path:
    """A path, ``~`` taken for the user's home (shells leave it in ``--output=~/x``), for ``type=``.

    Raises:
        UserError: it is none.
    """
    return given_path(text, "path")
