"""What a state, or an arm of a sweep, is called where several of one series stand beside each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compressbench.report.panels import Point, Series
from compressbench.specs.overrides import key_of


def point_names(series: Series, points: Sequence[Point]) -> list[str]:
    """The series' label for each of its points; of several with what tells them apart: ``SGD, 0.03``."""
    names = told_apart([p.states[0] for p in points])
    return [f"{series.label}, {name}" if name else series.label for name in names]


def told_apart(states: Sequence[str]) -> list[str]:
    """What tells states apart: ``0.03`` of ``rate_0p03.train`` among others; empty for a single one."""
    if len(states) < 2:
        return ["" for _ in states]
    parts = [s.split(".") for s in states]
    if len({len(p) for p in parts}) == 1:
        places = [k for k in range(len(parts[0])) if len({p[k] for p in parts}) > 1]
        names = [" ".join(_value(p[k]) for k in places) for p in parts]
        if len(set(names)) == len(states):
            return names
    return list(states)


def _value(part: str) -> str:
    """``0.03`` of a stage's name ``rate_0p03`` or ``of_sgd_0p03``, as ``for_each`` names its branches."""
    branch = part.rpartition("_")[2]
    try:
        return f"{float(branch.replace('p', '.').replace('m', '-')):g}"
    except ValueError:
        return part.partition("_")[2] or part


def arms(settings: Sequence[Sequence[str]]) -> list[str]:
    """What tells runs of one recipe apart, in few words: ``lamp``, ``times=6``; empty for one without overrides.

    Args:
        settings: the overrides of each run.
    """
    whole = [{key_of(text): _setting(text) for text in own} for own in settings]
    made = [{key: value for key, value in own.items() if not _only_measures(key)} for own in whole]
    alike = len({tuple(own.items()) for own in made}) < len({tuple(own.items()) for own in whole})
    given = whole if alike else made
    keys = list(dict.fromkeys(key for own in given for key in own))
    apart = [key for key in keys if len({own.get(key) for own in given}) > 1]
    parts = {key: re.split(r"[.@/]", key) for key in apart}
    chosen: dict[str, set[str]] = {}
    for own in given:
        for key in apart:
            if _is_choice(key) and key in own:
                chosen.setdefault(_last(own[key]), set()).add(key)

    def words(key: str, value: str) -> str:
        if value == "~":
            return f"without {_shortest(key, parts)}"
        if _is_choice(key) and len(chosen[_last(value)]) == 1 and value not in ("null", ""):
            return _last(value)
        return f"{_shortest(key, parts)}={_last(value) if _is_choice(key) else value}"

    return [", ".join(words(key, own[key]) for key in apart if key in own) for own in given]


def _only_measures(key: str) -> bool:
    """Whether an override changes what is measured, not what is made."""
    return key.split(".")[0].split("@")[-1] == "evaluation" or key.startswith("evaluation/")


def _setting(text: str) -> str:
    return "~" if text.startswith("~") else text.partition("=")[2]


def _is_choice(key: str) -> bool:
    """Whether an override chooses a config of a group: ``stage/prune@recipe.stages.prune=lamp``."""
    return "@" in key or "/" in key


def _last(value: str) -> str:
    return value.rpartition("/")[2]


def _shortest(key: str, parts: dict[str, list[str]]) -> str:
    """The shortest end of a key that no other key among them has."""
    own = parts[key]
    others = [found for other, found in parts.items() if other != key]
    for count in range(1, len(own)):
        if all(found[-count:] != own[-count:] for found in others):
            return ".".join(own[-count:])
    return ".".join(own)
