"""Accuracy: how often right, how sure, and whether it is as sure as it should be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View


@dataclass(frozen=True)
class Accuracy:
    """The task's main metric (of pictures top-1), top-5 (with more than five classes), likelihood, calibration.

    Negative log-likelihood and expected calibration error.
    Of a task that says several things of an example, likelihood and calibration are over all of them. Of texts the main
    metric is what the task says of the whole (``overall``: perplexity), and the share of right tokens stands beside it.

    Attributes:
        bins: of confidence, equally wide, for the calibration error (Guo et al. 2017 take 15).
    """

    VERSION: ClassVar[int] = 2  # 2: answers that are no numbers are said; the commonest class
    bins: int = 15

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject on the whole test split."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench import metrics

        if subject.streams:
            yield from self._streamed(subject, bench)
            return
        log_probs, labels = subject.log_probs, subject.wanted
        n = len(subject.labels)
        yield Metric(bench.task.metric, metrics.percent(subject.right), "%", n=n)
        single = labels.shape == subject.labels.shape
        if single and log_probs.shape[1] > 5:
            yield Metric("top5", metrics.percent(metrics.hits(log_probs, labels, k=5)), "%", n=n)
        yield Metric("nll", metrics.negative_log_likelihood(log_probs, labels), "nats", n=len(labels))
        yield Metric("ece", metrics.calibration_error(log_probs, labels, self.bins), "%", n=len(labels))
        yield Metric("n", n, "examples", n=n)
        if not single:
            return
        most = 100 * int(labels.bincount().max()) / n
        yield Metric("majority_top1", most, "%", "computed", n=n, note="the commonest class named each time")

    def _streamed(self, subject: View, bench: Bench) -> Iterable[Metric]:
        """Of a task whose log-probabilities are never kept: its main metric, and the rest over all pieces."""
        from compressbench import metrics
        from compressbench.declared import unit_of

        told, n = subject.told, len(subject.labels)
        overall = getattr(bench.task, "overall", None)
        if overall is None:
            yield Metric(bench.task.metric, metrics.percent(subject.right), "%", n=n)
        else:
            yield Metric(bench.task.metric, overall(subject), unit_of(bench.task.metric) or "1", n=n)
        pieces, right = len(told.labels), told.said == told.labels
        yield Metric("token_top1", metrics.percent(right), "%", n=pieces)
        yield Metric("nll", -float(told.likelihood.mean()), "nats", n=pieces)
        yield Metric("ece", metrics.calibration_error_of(told.sure, right, self.bins), "%", n=pieces)
        yield Metric("n", n, "examples", n=n)
