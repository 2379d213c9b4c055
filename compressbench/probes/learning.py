"""Learning: how fast a state learned, by the validation curve of its training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

LOSS = "validation_loss"
NO_CURVE = (
    "no validation curve; set validate in the training stage (500it, 1ep) and hold out a validation split"
)


@dataclass(frozen=True)
class Learning:
    """The iteration of minimum validation loss, the lottery ticket papers' measure of speed, and accuracy there.

    Nothing is chosen by it: the state that other probes measure is the one at the end of training.
    """

    VERSION: ClassVar[int] = 1

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject's curve; ``..._by_reference_stop`` is its main metric when the reference had its early stop."""
        metric = bench.task.metric
        right = f"validation_{metric}"
        curve = readable(subject.state.facts, right)
        if not curve:
            yield Metric("early_stop_iteration", None, "iterations", note=NO_CURVE)
            return
        n = len(bench.dataset.split("validation")) if "validation" in bench.dataset.splits else 0
        best = early_stop(curve)
        note = _said(curve, best)
        yield Metric("early_stop_iteration", float(best["step"]), "iterations", n=n, note=note)
        yield Metric(f"early_stop_{right}", best[right], "%", n=n)
        yield Metric(f"final_{right}", curve[-1][right], "%", n=n)
        yield Metric("iterations", float(curve[-1]["step"]), "iterations", "computed")
        theirs = readable(reference.state.facts, right)
        by = [point for point in curve if theirs and point["step"] <= early_stop(theirs)["step"]]
        yield Metric(
            f"{right}_by_reference_stop",
            by[-1][right] if by else None,
            "%",
            n=n,
            note="" if by else "not validated by then" if theirs else f"reference: {NO_CURVE}",
        )


def readable(facts: Mapping[str, Any], right: str) -> Sequence[Mapping[str, float]]:
    """The points of a state's curve that were validated."""
    return [point for point in facts.get("curve") or () if LOSS in point and right in point]


def early_stop(curve: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The point of minimum validation loss, the first of equals."""
    return min(curve, key=lambda point: (point[LOSS], point["step"]))


def _said(curve: Sequence[Mapping[str, float]], best: Mapping[str, float]) -> str:
    """How fine the curve is, and where it may mislead."""
    steps = [int(point["step"]) for point in curve]
    told = [f"validated from iteration {steps[0]}"]
    if len(steps) > 1:
        told.append(f"every {steps[1] - steps[0]}")
    if best is curve[-1]:
        told.append("still falling at the end")
    return ", ".join(told)
