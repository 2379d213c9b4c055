"""Connectivity: is there a barrier on the straight line between two trained nets (Frankle et al., ICML 2020)?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.state import State
    from compressbench.views import View

STABLE = "two trainings that differ in data order alone count as stable below 2 points (Frankle et al. 2020)"
BUFFERS = "batch-norm statistics interpolated like weights"


@dataclass(frozen=True)
class Connectivity:
    """Test error along (1 - a) x reference + a x subject, and how far it rises above the mean of its ends.

    The line is drawn between all weights and buffers as they stand; batch-norm statistics are not computed
    anew. A weight that is pruned in both ends is zero all along; one that is pruned in one end fades.

    Attributes:
        points: on the line, both ends among them, evenly spaced.
    """

    VERSION: ClassVar[int] = 1
    points: int = 11

    def __post_init__(self) -> None:
        if isinstance(self.points, bool) or self.points < 3:
            raise UserError(
                f"connectivity: points is {self.points}, must be at least 3: two ends and a middle"
            )

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """``error_at`` by place (0 the reference, 1 the subject) and ``barrier``, on the whole test split."""
        from compressbench import metrics

        why = apart(subject.state, reference.state)
        if why:
            yield Metric("barrier", None, "points", note=f"no straight line: {why}")
            return
        places = [k / (self.points - 1) for k in range(self.points)]
        same = subject.is_of_the_state_of(reference)
        errors: list[float] = []
        for done, place in enumerate(places):
            view = reference if same else between(reference, subject, place)
            errors.append(100 - metrics.percent(view.right))
            bench.progress.step(done + 1, self.points, error=errors[-1])
        n = len(subject.labels)
        for place, error in zip(places, errors, strict=True):
            yield Metric("error_at", error, "%", n=n, group=f"{place:.3g}")
        note = f"{self.points} points; {BUFFERS}; {STABLE}"
        yield Metric("barrier", max(errors) - (errors[0] + errors[-1]) / 2, "points", n=n, note=note)


def apart(one: State, other: State) -> str:
    """Why two states don't span a line; empty if they do."""
    if one.model != other.model:
        return "the models differ"
    if tuple(one.edits) != tuple(other.edits):
        return "the structures were edited differently"
    mine = {name: tuple(w.shape) for name, w in one.weights.items()}
    theirs = {name: tuple(w.shape) for name, w in other.weights.items()}
    return "" if mine == theirs else "the shapes of the weights differ"


def between(reference: View, subject: View, place: float) -> View:
    """The state at a place on the line; the ends are the states themselves."""
    from compressbench.views import View

    if place in (0.0, 1.0):
        return subject if place else reference
    weights = interpolated(reference.state.weights, subject.state.weights, place)
    tensors = {**reference.state.tensors, "weights": weights, "masks": {}}
    return View(replace(reference.state, tensors=tensors, key=""), reference.bench)


def interpolated(one: Mapping[str, Tensor], other: Mapping[str, Tensor], place: float) -> dict[str, Tensor]:
    """(1 - place) x one + place x other, tensor by tensor; exact where both agree; counters are taken from ``one``."""
    import torch

    return {n: torch.lerp(w, other[n], place) if w.is_floating_point() else w for n, w in one.items()}
