"""Whether a value may be what a parameter is annotated with, as far as the annotation's text tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from compressbench.specs.spec import is_spec
from compressbench.specs.words import SHORT

PLAIN: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "None": (type(None),),
}
LISTS = ("list", "tuple", "Sequence")
PLACEHOLDER = re.compile(r"@[a-z_]+")
"""What a model's spec asks of the task: ``@classes``, ``@shape``, ``@vocabulary`` … (``Task.facts``)."""

PLAINLY = {
    "None": "null",
    "Ref": "a state's name",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}
EACH = {"str": "texts", "int": "whole numbers", "float": "numbers", "bool": "true or false"}


def fits(annotation: str, value: Any) -> bool:
    """Whether a value may be what a parameter is annotated with; true wherever that can't be seen from the text."""
    if not annotation or (isinstance(value, str) and PLACEHOLDER.fullmatch(value)):
        return True
    if re.search(r"\bRef\b", annotation):  # one pattern may stand for a tuple: member*.train
        named = list(value) if isinstance(value, list | tuple) else [value]
        return all(isinstance(v, str) for v in named) or (value is None and "None" in annotation)
    return any(_fits(part, value) for part in _parted(annotation, "|"))


def _fits(annotation: str, value: Any) -> bool:
    if annotation in SHORT:
        return is_spec(value) or isinstance(value, str)
    if annotation in PLAIN:
        good = isinstance(value, PLAIN[annotation])
        return good and (not isinstance(value, bool) or annotation == "bool")
    found = re.fullmatch(r"(\w+)\[(.*)\]", annotation)
    if found and found[1] in LISTS:
        if not isinstance(value, list | tuple):
            return False
        inner = _parted(found[2], ",")
        if found[1] == "tuple" and inner[-1] != "...":
            return len(inner) == len(value) and all(map(fits, inner, value))
        return all(fits(inner[0], v) for v in value)
    if found and found[1] in ("Mapping", "dict"):
        return isinstance(value, Mapping) and all(fits(_parted(found[2], ",")[1], v) for v in value.values())
    return annotation not in LISTS or isinstance(value, list | tuple)


def _parted(text: str, mark: str) -> list[str]:
    """The parts of an annotation between marks that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == mark and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [p.strip() for p in parts]


def its_unit(name: str, value: Any) -> str:
    """What is to be said of a bare number where a length is wanted."""
    bare = isinstance(value, int) and name in ("length", "start", "stop", "warmup", "validate", "follow")
    return f"; a length has a unit, {value}ep or {value}it" if bare else ""


def in_words(annotation: str) -> str:
    """An annotation for a user: ``a whole number or null``, ``a list of numbers``."""
    words = []
    for part in _parted(annotation, "|"):
        found = re.fullmatch(r"(\w+)\[(.*)\]", part)
        if found and found[1] in LISTS:
            inner = [EACH.get(p, in_words(p)) for p in _parted(found[2], ",") if p not in ("...", "Any")]
            words.append(f"a list of {' and '.join(inner)}" if inner else "a list")
        elif found and found[1] in ("Mapping", "dict"):
            inner = [in_words(p) for p in _parted(found[2], ",")[1:] if p != "Any"]
            words.append(f"a mapping of names to {inner[0]}" if inner else "a mapping")
        else:
            short = f"the name or a spec of one of {SHORT[part]}" if part in SHORT else part
            words.append(PLAINLY.get(part, short))
    return " or ".join(words)
