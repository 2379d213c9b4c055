"""Loss increase: what pruning cost on training data, and what the criterion predicted (LeCun et al. 1989, fig. 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

FACT = "predicted_loss_increase"


@dataclass(frozen=True)
class LossIncrease:
    """Mean training loss of the subject minus that of the reference, measured and predicted.

    A prediction exists where the last stage pruned by a criterion whose scores are losses (Optimal Brain Damage,
    Optimal Brain Surgeon): the sum of the scores of what went.

    Attributes:
        examples: of the training split, the first ones.
    """

    examples: int = 2000
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise UserError(f"examples: {self.examples} is less than 1")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject against the reference."""
        n = min(self.examples, len(bench.feed("train")))
        own, base = mean_loss(subject, n), mean_loss(reference, n)
        yield Metric("train_loss", own, "nats", n=n)
        yield Metric("loss_increase", own - base, "nats", n=n)
        predicted = subject.state.facts.get(FACT)
        note = "" if predicted is not None else "no criterion predicted it"
        yield Metric(FACT, predicted, "nats", "computed", note=note)
        if predicted and predicted > 0 and own > base:
            ratio = math.log2(predicted / (own - base))
            yield Metric(
                "prediction_log2_ratio", ratio, "1", "computed", n=n, note="log2(predicted / measured)"
            )


def mean_loss(view: View, count: int) -> float:
    """Mean task loss over the first ``count`` training examples, in evaluation mode."""
    import torch

    from compressbench.outputs import forward
    from compressbench.walking import walk

    task, total = view.bench.task, 0.0
    with torch.inference_mode():
        for _, batch in walk(view.bench.task, view.bench.feed("train"), 250, count):
            outputs = forward(view.fast, *task.encode(batch))
            total += float(task.loss(outputs, batch.labels)) * len(batch)
    return total / count
