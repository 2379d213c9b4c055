"""What a state is called where several of one series stand beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from compressbench.report.panels import Point, Series


def labels(series: Series, points: Sequence[Point]) -> list[str]:
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
