"""Straight line: does the training loss fall all along the line from where a training began to where it ended?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric
from compressbench.specs import Count, check_fields

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

NAMES = (
    ("line_rise", "1"),
    ("line_monotone", "1"),
    ("line_length", "1"),
    ("line_length_relative", "%"),
    ("dimensions", "1"),
)
ROUNDING = 1e-6
"""A rise by less than this part of the largest loss on the line is rounding."""


@dataclass(frozen=True)
class StraightLine:
    """Mean training loss at places (1 - a) x reference + a x subject, the reference being the training's start.

    Goodfellow, Vinyals, Saxe, ICLR 2015. ``line_rise``: the largest rise of the loss above any lower value before it;
    ``line_monotone``: 1 where there is none. A narrow hump between two places is not seen. Batch-norm statistics are
    interpolated like weights.

    Attributes:
        points: on the line, both ends among them, evenly spaced; 3 or more.
        examples: of the training split, the first ones.

    Raises:
        UserError: a setting out of range.
    """

    points: int = 25
    examples: Count = 2000
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        from compressbench.errors import UserError

        check_fields(self)
        if isinstance(self.points, bool) or self.points < 3:
            raise UserError(f"straight_line: points: {self.points} is less than 3: two ends and a middle")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the line from the reference to the subject."""
        from compressbench.probes.connectivity import apart, between
        from compressbench.probes.loss_increase import mean_loss

        why = apart(subject.state, reference.state)
        if why:
            yield from (Metric(name, None, unit, note=f"no straight line: {why}") for name, unit in NAMES)
            return
        n = min(self.examples, len(bench.feed("train")))
        places = [k / (self.points - 1) for k in range(self.points)]
        losses: list[float] = []
        for done, place in enumerate(places):
            losses.append(mean_loss(between(reference, subject, place), n))
            bench.progress.step(done + 1, self.points, loss=losses[-1])
        for place, loss in zip(places, losses, strict=True):
            known = math.isfinite(loss)
            yield Metric(
                "line_loss", loss if known else None, "1", n=n, group=f"{place:.3g}",
                note="" if known else f"the loss is {loss} there",
            )  # fmt: skip
        rise = largest_rise(losses)
        if rise is None:
            note = f"{self.points} points, and the loss isn't finite at {sum(not math.isfinite(x) for x in losses)}"
        else:
            note = f"{self.points} points"
        yield Metric("line_rise", rise, "1", n=n, note=note)
        monotone = None if rise is None else float(rise <= ROUNDING * max(losses))
        yield Metric("line_monotone", monotone, "1", n=n, note=note)
        length, start, count = _lengths(subject, reference)
        yield Metric("line_length", length, "1", "computed")
        relative = 100 * length / start if start else None
        yield Metric(
            "line_length_relative", relative, "%", "computed",
            note="of the length of the start's weights" if start else "the start's weights are all 0",
        )  # fmt: skip
        yield Metric("dimensions", float(count), "1", "computed")


def largest_rise(values: Sequence[float]) -> float | None:
    """By how much a sequence rises above the least value before, at most; 0 where it never does.

    ``None`` where a value isn't finite: nothing can be said of what comes before or after it.
    """
    if not all(map(math.isfinite, values)):
        return None
    least, most = values[0], 0.0
    for value in values:
        least = min(least, value)
        most = max(most, value - least)
    return most


def _lengths(subject: View, reference: View) -> tuple[float, float, int]:
    """Length of the line between all parameters, of those at the start, and how many there are."""
    theirs = dict(reference.module.named_parameters())
    pairs = [(p.detach().double(), theirs[n].detach().double()) for n, p in subject.module.named_parameters()]
    moved = sum(float(((p - q) ** 2).sum()) for p, q in pairs)
    start = sum(float((q**2).sum()) for _, q in pairs)
    return moved**0.5, start**0.5, sum(p.numel() for p, _ in pairs)
