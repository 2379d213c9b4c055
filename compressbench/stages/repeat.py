"""Repeat and ForEach: one block of stages several times. They make no state of their own; the plan unrolls them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compressbench.errors import UserError, nearest


@dataclass(frozen=True)
class Repeat:
    """Levels: each continues the one before, named ``level1``, ``level2`` … after the stage's name.

    Attributes:
        times: number of levels, 1 or more.
        stages: the block, a mapping of stages.
    """

    times: int
    stages: Mapping[str, Any]
    CHAINS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.times < 1:
            raise UserError(f"times: {self.times} is less than 1")
        _check_block(self.stages)

    def unroll(self, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(prefix, stages) of each level."""
        for level in range(1, self.times + 1):
            yield f"{name}{level}", copy.deepcopy(dict(self.stages))


@dataclass(frozen=True)
class ForEach:
    """Branches: each continues what came before the block, with one setting changed.

    Attributes:
        values: the setting's values; a mapping gives the branches names, a list names them after the values
            (``0.25`` becomes ``at_0p25`` in a stage called ``at``).
        set: which setting, as a dotted path into the block, e.g. ``prune.fraction``; where both the setting and the
            value are mappings they are merged, so ``set: prune`` changes several settings of one stage at once.
        stages: the block, a mapping of stages.
    """

    values: list[Any] | Mapping[str, Any]
    set: str
    stages: Mapping[str, Any]
    CHAINS: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping | list | tuple):
            raise UserError(f"values: {self.values!r} is neither a list nor a mapping of names to values")
        if not self.values:
            raise UserError("values: at least one is needed")
        _check_block(self.stages)

    def unroll(self, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(prefix, stages) of each branch."""
        pairs = (
            self.values.items() if isinstance(self.values, Mapping) else ((label(v), v) for v in self.values)
        )
        for text, value in pairs:
            stages = copy.deepcopy(dict(self.stages))
            _put(stages, self.set, value)
            yield f"{name}_{text}", stages


def _check_block(stages: Any) -> None:
    if not isinstance(stages, Mapping) or all(spec is None for spec in stages.values()):
        raise UserError(f"stages: {stages!r} is no block, a mapping of names to at least one stage")


def label(value: Any) -> str:
    """A value as a part of a name: letters, digits, ``p`` for the decimal point, ``m`` for minus."""
    text = str(value)
    return "".join(c if c.isalnum() else {".": "p", "-": "m"}.get(c, "_") for c in text)


def _put(stages: dict[str, Any], path: str, value: Any) -> None:
    *folders, last = path.split(".")
    inner: Any = stages
    for step in folders:
        if not isinstance(inner, Mapping) or step not in inner:
            raise UserError(
                f"set: {path!r} leads nowhere; {nearest(step, inner if isinstance(inner, Mapping) else ())}"
            )
        inner = inner[step]
    both = isinstance(inner, dict) and isinstance(inner.get(last), Mapping) and isinstance(value, Mapping)
    if not isinstance(inner, dict) or not (folders or both):
        raise UserError(f"set: {path!r} must name a setting of a stage in the block, e.g. prune.fraction")
    inner[last] = {**inner[last], **value} if both else value
