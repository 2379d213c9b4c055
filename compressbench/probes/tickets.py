"""Tickets: does a subnetwork, trained alone, reach the dense net's accuracy, and in no more iterations?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.probes.learning import NO_CURVE, readable
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

WHICH = ("ticket_as_accurate", "ticket_in_time", "ticket_wins")


@dataclass(frozen=True)
class Tickets:
    """A winning ticket is no worse than dense, by a test of non-inferiority, and no later (Frankle & Carbin 2019).

    No worse: on the test split the lower end of the one-sided interval of (its accuracy - dense's), Newcombe's for two
    shares of the same examples, lies above ``-margin``. No later: its validation accuracy first comes to that of the
    dense net at its end, less the margin, at no later iteration than the dense net's own. Iterations are of curves on
    the validation split; the test split decides how accurate it is, and chooses nothing.

    Attributes:
        margin: points, above 0: what counts as no loss. An equal net isn't sure to pass: it does in half of all cases
            where the margin is 1.645 standard errors of the difference (at a level of 95 %), in more where it is wider.
            So shares are read beside that of the dense net trained again.
        level: of the one-sided interval.
    """

    margin: float = 2.0
    level: float = 0.95
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.margin < 100:
            raise UserError(f"tickets: margin is {self.margin}, must be above 0 and below 100 points")
        if not 0.5 < self.level < 1:
            raise UserError(f"tickets: level is {self.level}, must be between 0.5 and 1")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of one subnetwork beside its dense net; the three verdicts are 1 or 0."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        right, other = subject.right.tolist(), reference.right.tolist()
        change, low = change_and_low(right, other, self.level)
        n = len(right)
        rule = f"margin {self.margin:g} points, one-sided {100 * self.level:g} % interval"
        yield Metric("ticket_change", change, "points", n=n)
        yield Metric("ticket_change_low", low, "points", n=n, note=f"one-sided {100 * self.level:g} %")
        accurate = low > -self.margin
        yield Metric("ticket_as_accurate", float(accurate), "1", "computed", n=n, note=rule)
        facts = subject.state.facts
        whole = facts.get("whole")
        why = "" if whole is not None else "the state doesn’t say how many weights it was drawn with"
        kept = None if whole is None else float(round(facts["density"] * whole))
        yield Metric(
            "ticket_net_weights",
            None if whole is None else float(whole),
            "1",
            "theoretical",
            note=why or "prunable",
        )
        yield Metric("ticket_kept_weights", kept, "1", "theoretical", note=why)
        name = f"validation_{bench.task.metric}"
        own, dense = (readable(view.state.facts, name) for view in (subject, reference))
        if not own or not dense:
            why = NO_CURVE if not own else f"reference: {NO_CURVE}"
            for metric, unit in (("ticket_reached", "iterations"), ("ticket_dense_reached", "iterations")):
                yield Metric(metric, None, unit, note=why)
            yield from (Metric(metric, None, "1", note=why) for metric in WHICH[1:])
            return
        wanted = dense[-1][name] - self.margin
        mine, theirs = first_at(own, name, wanted), first_at(dense, name, wanted)
        told = (
            f"validation accuracy of {wanted:.4g} %, the dense net’s at its end less {self.margin:g} points"
        )
        missed = "" if mine is not None else f"never reached: {told}"
        yield Metric("ticket_reached", mine, "iterations", note=missed or told)
        yield Metric("ticket_dense_reached", theirs, "iterations", note=told)
        in_time = mine is not None and theirs is not None and mine <= theirs
        yield Metric("ticket_in_time", float(in_time), "1", "computed", note="no later than the dense net")
        yield Metric("ticket_wins", float(accurate and in_time), "1", "computed", n=n, note=rule)


def change_and_low(own: Sequence[bool], dense: Sequence[bool], level: float) -> tuple[float, float]:
    """Difference of two accuracies on the same examples and the lower end of its one-sided interval, in points.

    Args:
        own, dense: (n,) whether each answer is right.
    """
    from compressbench.proportions import paired_difference

    both = sum(a and b for a, b in zip(own, dense, strict=True))
    only, lost = sum(own) - both, sum(dense) - both
    change, low, _ = paired_difference(both, only, lost, len(own) - both - only - lost, 2 * level - 1)
    return 100 * float(change), 100 * float(low)


def first_at(curve: Sequence[Mapping[str, float]], name: str, wanted: float) -> float | None:
    """The first iteration of a curve at which a figure is at least so high; None where it never is."""
    return next((float(point["step"]) for point in curve if point[name] >= wanted), None)
