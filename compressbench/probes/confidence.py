"""Confidence: does a probability mean what it says, and what does a threshold do before and after compression?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.comparing.arrays import Floats
    from compressbench.comparing.confidence import Beliefs
    from compressbench.views import View

VALIDATION = "validation"
NO_VALIDATION = (
    "no validation split to fit a temperature on, and the test split is not for that; set dataset.validation"
)


@dataclass(frozen=True)
class Confidence:
    """Calibration beside ``accuracy``'s, a temperature, selective accuracy, and what thresholds do.

    The temperature is fitted on the validation split and on nothing else; its effect is measured on the test split.
    Examples of which a model's answers are no numbers are left out of calibration and are never answered at a
    threshold.

    Attributes:
        bins: of confidence, for both calibration errors.
        thresholds: of confidence, in (0, 1); answers below one would be thrown away.
        coverages: shares of the examples in percent, of which a model is surest, for selective accuracy.
    """

    VERSION: ClassVar[int] = 1
    bins: int = 15
    thresholds: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)
    coverages: tuple[float, ...] = (95.0, 90.0, 80.0, 70.0, 50.0)

    def __post_init__(self) -> None:
        for name in ("thresholds", "coverages"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.bins < 1:
            raise UserError(f"confidence: bins is {self.bins}, must be 1 or more")
        for name, most in (("thresholds", 1), ("coverages", 100)):
            found = getattr(self, name)
            if any(not 0 < x <= most for x in found) or len(set(found)) < len(found):
                raise UserError(
                    f"confidence: {name} are {list(found)}, must be different numbers above 0 and at most {most}"
                )

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject on the whole test split, at thresholds beside the reference; one class an example."""
        from compressbench.comparing.arrays import table
        from compressbench.comparing.confidence import (
            adaptive_calibration_error,
            selective_accuracy,
        )

        if subject.streams or subject.wanted.shape != subject.labels.shape or len(bench.task.classes) < 2:
            yield Metric("ece_adaptive", None, "%", note="confidence is of one class of several an example")
            return
        labels = subject.labels.numpy()
        scores = table(subject.log_probs.numpy())
        own = _beliefs(scores, labels)
        same = subject is reference
        before = own if same else _beliefs(reference.log_probs.numpy(), labels)
        known, n = own.known, int(own.known.sum())
        lost = int(((labels >= 0) & ~known).sum())
        note = f"{lost} of {len(labels)} answers are no numbers (NaN) and are left out" if lost else ""
        sure, right = own.confidence[known], own.right[known]
        error = adaptive_calibration_error(sure, right, self.bins)
        yield _known("ece_adaptive", error, "%", n, note=note)
        yield _known("brier", float(own.brier[known].mean()) if n else math.nan, "1", n, note=note)
        yield from self._tempered(subject, scores, note)
        for coverage, value in selective_accuracy(sure, right, self.coverages).items():
            yield _known("selective_top1", value, "%", n, f"at {coverage:g} % coverage", note)
        yield from self._thresholds(before, own, note)

    def _tempered(self, subject: View, scores: Floats, note: str) -> Iterable[Metric]:
        from compressbench.comparing.confidence import tempered

        bench, names = subject.bench, (("temperature", "1"), ("ece_tempered", "%"), ("nll_tempered", "nats"))
        why = NO_VALIDATION
        found = None
        if VALIDATION in bench.dataset.splits:
            seen = subject.log_probs_of(VALIDATION).numpy(), bench.feed(VALIDATION).labels.cpu().numpy()
            found = tempered(seen, (scores, subject.labels.numpy()), self.bins)
            why = "no answers that are numbers to fit a temperature on"
        if found is None:
            yield from (Metric(name, None, unit, note=why) for name, unit in names)
            return
        told = f"fitted on {found.fitted_on:,} validation examples"
        if found.at_bound:
            told += "; the loss still falls at this bound of those looked at"
        values = (found.value, found.error_after, found.loss_after)
        for (name, unit), value in zip(names, values, strict=True):
            yield Metric(name, value, unit, n=found.n, note="; ".join(x for x in (told, note) if x))

    def _thresholds(self, before: Beliefs, own: Beliefs, note: str) -> Iterable[Metric]:
        from compressbench.comparing.confidence import thresholds

        if not (before.known | own.known).any():
            return
        for at in thresholds(before, own, self.thresholds):
            group = f"confidence {at.threshold:g}"
            change, answered = at.coverage_change, at.after.coverage
            yield Metric("coverage", answered.value, "%", n=answered.n, group=group, note=note)
            wrong = at.after.error
            assert wrong is not None  # there are labels
            if wrong.n:
                yield Metric("error_above", wrong.value, "%", n=wrong.n, group=group, note=note)
            else:
                yield Metric("error_above", None, "%", group=group, note="no answer is that sure")
            for name, value in (("", change.value), ("_low", change.low), ("_high", change.high)):
                yield Metric(f"coverage_change{name}", value, "points", n=change.n, group=group)


def _beliefs(scores: Floats, labels: object) -> Beliefs:
    from compressbench.comparing.confidence import SMALLEST, beliefs
    from compressbench.comparing.probabilities import LOGITS

    return beliefs(scores, LOGITS, labels, SMALLEST)  # type: ignore[arg-type]


def _known(name: str, value: float, unit: str, n: int, group: str = "", note: str = "") -> Metric:
    """A metric; without a value where it is of no example."""
    if math.isnan(value):
        return Metric(name, None, unit, group=group, note=note or "no example with a label")
    return Metric(name, value, unit, n=n, group=group, note=note)
