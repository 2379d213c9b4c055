"""KD-rel: relations of the classes as one knows them, groups of classes that are alike (Tang et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressbench.errors import UserError, nearest
from compressbench.labels.lesson import Lesson
from compressbench.specs import Share


def kd_rel(
    lesson: Lesson, groups: Sequence[Sequence[str]], top: Share = 0.8, siblings: Share = 0.15
) -> Tensor:
    """``top`` for the true class, ``siblings`` shared by the other classes of its group, the rest by all others.

    A class that is in no group, or alone in one, has no siblings: their part goes to all others.

    Args:
        groups: lists of class names; a class is in one at most.

    Raises:
        UserError: a class that is not there or is in two groups, or parts that are negative or come to more than 1.
    """
    if not (top > 0 and siblings >= 0 and top + siblings <= 1):
        raise UserError(
            f"labels: top {top!r} and siblings {siblings!r} must be above 0 and come to 1 at most"
        )
    table = lesson.once(
        f"labels.kd_rel {groups} {top} {siblings}",
        lambda: relations(lesson.bench.task.classes, groups, top, siblings).to(lesson.logits.device),
    )
    return lesson.says(table[lesson.target])


def relations(classes: Sequence[str], groups: Sequence[Sequence[str]], top: float, siblings: float) -> Tensor:
    """(classes, classes): row c is the label of every example of class c."""
    places = {name: place for place, name in enumerate(classes)}
    group: dict[int, int] = {}
    if not _lists_of_names(groups):
        raise UserError(f"labels: groups {groups!r} are no lists of class names, [[cat, dog], [ship, truck]]")
    for number, names in enumerate(groups):
        for name in names:
            if name not in places:
                raise UserError(f"labels: there is no class {name!r}; {nearest(str(name), classes)}")
            if places[name] in group:
                raise UserError(f"labels: class {name!r} is in two groups")
            group[places[name]] = number
    table = torch.zeros(len(classes), len(classes))
    for own in range(len(classes)):
        alike = [c for c in range(len(classes)) if c != own and own in group and group.get(c) == group[own]]
        others = [c for c in range(len(classes)) if c != own and c not in alike]
        near = siblings if alike and others else (1 - top if alike else 0.0)
        table[own, own] = top
        for members, share in ((alike, near), (others, 1 - top - near)):
            for c in members:
                table[own, c] = share / len(members)
    return table


def _lists_of_names(groups: object) -> bool:
    lists = isinstance(groups, list | tuple) and all(isinstance(g, list | tuple) for g in groups)
    return lists and all(isinstance(name, str) for g in groups for name in g)  # type: ignore[attr-defined]
