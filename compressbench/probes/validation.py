"""Validation: accuracy on the held-out split, by which something may be chosen, as nothing may be by the test split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

SPLIT = "validation"
NO_SPLIT = "no validation split, and the test split chooses nothing; set dataset.validation"
ONE_CLASS = "a share of right answers is of one class an example"
METRICS = ("validation_accuracy", "validation_lost", "validation_allowed", "validation_within")


@dataclass(frozen=True)
class Validation:
    """Accuracy on the validation split, points lost there against the reference, and whether these are few enough.

    The report's overview chooses by it the strength at which families of methods are compared.

    Attributes:
        within: points that may be lost.
    """

    within: float = 1.0
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.within <= 100:
            raise UserError(f"validation: within is {self.within}, must be from 0 to 100 points")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject beside the reference; early exits leave by their policy."""
        from compressbench.metrics import percent

        units = ("%", "points", "points", "1")
        if why := _why_not(subject, bench):
            yield from (Metric(name, None, unit, note=why) for name, unit in zip(METRICS, units, strict=True))
            return
        own, base = (percent(view.right_on_validation) for view in (subject, reference))
        lost, n = base - own, len(subject.right_on_validation)
        values = (own, lost, self.within, float(lost <= self.within))
        for name, value, unit in zip(METRICS, values, units, strict=True):
            yield Metric(name, value, unit, "measured" if unit != "1" else "computed", n=n)


def _why_not(subject: View, bench: Bench) -> str:
    if SPLIT not in bench.dataset.splits:
        return NO_SPLIT
    if subject.streams or getattr(bench.feed(SPLIT).labels, "ndim", 0) != 1 or len(bench.task.classes) < 2:
        return ONE_CLASS
    return ""
