"""Fitting: the training loss step by step, as the training wrote it down, and when it was down to given values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric
from compressbench.training.descent import FOLLOWED

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

LOSS = "train_loss"
NOT_FOLLOWED = "its training loss was not written down; set follow in the training stage (10it, 1ep)"
UNKNOWN = "steps can't be told as epochs: its parts had other batch sizes or data, or an older version wrote it down"
SHOWN = 61
"""Steps at most of which the loss becomes a record."""


@dataclass(frozen=True)
class Fitting:
    """Training loss against steps (a stage's setting ``follow``), and the epochs until it was at most each level.

    An epoch is as many examples as that training's own set has, of whatever data it was.

    Attributes:
        levels: of the loss, in its own unit, above 0.

    Raises:
        UserError: a level that is no number above 0.
    """

    levels: Sequence[float] = (1.0, 0.5, 0.2)
    VERSION: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for level in self.levels:
            if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < math.inf:
                raise UserError(f"levels: {level!r} is no loss above 0")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject's own training."""
        curve = followed(subject.state.facts)
        of = subject.state.facts.get(FOLLOWED) or {}
        n = of.get("examples") or 0
        if not curve:
            yield Metric("fitted_loss", None, "1", note=NOT_FOLLOWED)
            return
        for point in thinned(curve, SHOWN):
            yield Metric("fitted_loss_at", point[LOSS], "1", n=n, group=str(int(point["step"])))
        yield Metric("fitted_loss", curve[-1][LOSS], "1", n=n)
        steps = int(curve[-1]["step"])
        yield Metric("fitted_steps", float(steps), "iterations", "computed")
        epochs = of["batch_size"] / n if n and of.get("batch_size") else None
        gap = max((int(b["step"] - a["step"]) for a, b in pairwise(curve)), default=0)
        seen = f"the loss was written down every {gap} steps (follow)" if gap else ""
        for level in self.levels:
            step = first_at(curve, level)
            yield Metric(
                "epochs_to_loss",
                None if step is None or epochs is None else step * epochs,
                "epochs",
                n=n,
                group=f"{level:g}",
                note=f"never within {steps} steps" if step is None else UNKNOWN if epochs is None else seen,
            )


def followed(facts: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """The points of a state's curve at which the training loss was written down."""
    return [point for point in facts.get("curve") or () if LOSS in point]


def first_at(curve: Sequence[Mapping[str, float]], level: float) -> int | None:
    """The first step written down at which the loss is at most ``level``; None where there is none."""
    return next((int(point["step"]) for point in curve if point[LOSS] <= level), None)


def thinned(curve: Sequence[Mapping[str, float]], most: int) -> list[Mapping[str, float]]:
    """At most so many points, evenly over their order, first and last among them."""
    if len(curve) <= most:
        return list(curve)
    places = sorted({round(k * (len(curve) - 1) / (most - 1)) for k in range(most)})
    return [curve[place] for place in places]
