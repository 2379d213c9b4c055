"""Compute: what the training of a state's whole lineage has cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View


@dataclass(frozen=True)
class Compute:
    """Examples, multiply-accumulates and seconds of training, from the first stage to this one.

    Ten lottery levels cost eleven trainings: compare at equal cost as well as at equal size.
    """

    VERSION: ClassVar[int] = 1

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject, and its MACs as a multiple of the reference's."""
        facts = subject.state.facts
        macs = float(facts.get("macs", 0))
        yield Metric("train_examples", float(facts.get("examples", 0)), "examples", "computed")
        yield Metric("train_macs", macs, "MACs", "computed")
        yield Metric("train_seconds", float(facts.get("seconds", 0)), "s")
        base = float(reference.state.facts.get("macs", 0))
        if base:
            yield Metric("train_cost_ratio", macs / base, "1", "computed", note="MACs, to the reference's")
        else:
            yield Metric("train_cost_ratio", None, "1", "computed", note="the reference has no training cost")
