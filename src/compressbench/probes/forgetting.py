"""Forgetting: which classes pay for the compression (Hooker et al. 2019, 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View


@dataclass(frozen=True)
class Forgetting:
    """Recall per class, its change, and the examples that only one of the two models gets right."""

    VERSION: ClassVar[int] = 2  # 2: answers that are no numbers are said

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the whole test split, against the reference; a class without examples has no figures."""
        from compressbench.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench import metrics

        labels = subject.labels
        right = metrics.hits(subject.log_probs, labels)
        before = metrics.hits(reference.log_probs, labels)
        whole = metrics.flips(right, before)
        yield Metric("forgotten", whole.forgotten, "%", n=whole.n)
        yield Metric("learned", whole.learned, "%", n=whole.n)
        for label, name in enumerate(bench.task.classes):
            own = labels == label
            if not own.any():
                yield Metric("recall", None, "%", group=name, note="no test example of this class")
                continue
            part = metrics.flips(right[own], before[own])
            yield Metric("recall", part.recall, "%", n=part.n, group=name)
            yield Metric("recall_change", part.recall - part.reference, "points", n=part.n, group=name)
            yield Metric("forgotten", part.forgotten, "%", n=part.n, group=name)
            yield Metric("learned", part.learned, "%", n=part.n, group=name)
