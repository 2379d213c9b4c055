"""Loyalty: does the compressed model answer as the reference does, right or wrong (Xu et al., EMNLP 2021)?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View


@dataclass(frozen=True)
class Loyalty:
    """Label loyalty, and probability loyalty with the natural logarithm (as published) and with base 2."""

    VERSION: ClassVar[int] = 2  # 2: answers that are no numbers agree with nothing

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the whole test split, against the reference."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench import metrics

        own, other = subject.log_probs, reference.log_probs
        n = len(own)
        yield Metric(
            "label_loyalty", metrics.label_loyalty(metrics.named(own), metrics.named(other)), "%", n=n
        )
        natural = metrics.probability_loyalty(own, other)
        yield Metric("probability_loyalty", natural, "%", n=n, note="natural logarithm")
        binary = metrics.probability_loyalty(own, other, base=2)
        yield Metric("probability_loyalty_base2", binary, "%", n=n, note="base 2")
