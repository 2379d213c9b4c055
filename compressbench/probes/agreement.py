"""Agreement: do two populations of nets, each by its most frequent answer, say the same (Hooker et al. 2019)?"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric
from compressbench.wording import NUMBERS

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.populations import Population


@dataclass(frozen=True)
class Agreement:
    """Accuracy over a population, and the share of examples whose modal label is not the reference population's.

    The modal label of an example is the one that most members give it; of several that are as frequent it is the
    highest, as in the authors' code. Answers that are no numbers count as wrong and for no label.
    """

    VERSION: ClassVar[int] = 1

    def measure_many(self, subjects: Population, references: Population, bench: Bench) -> Iterable[Metric]:
        """On the whole test split; ``n`` of the accuracy is the number of members, else that of examples."""
        from compressbench.data.examples import one_class
        from compressbench.metrics import percent

        one_class(bench.feed("test").labels, "agreement")
        classes = len(bench.task.classes)
        yield from _accuracy(subjects.labels, bench)
        own, tied = modal(subjects.labels, classes)
        other, _ = modal(references.labels, classes)
        both = (own >= 0) & (other >= 0)
        n, lost = int(both.sum()), int((~both).sum())
        note = f"{lost} of {len(both)} examples got no answer that is a number" if lost else ""
        if not n:
            yield Metric("modal_disagreement", None, "%", note=note)
            yield Metric("modal_ties", None, "%", note=note)
            return
        yield Metric("modal_disagreement", percent(own[both] != other[both]), "%", n=n, note=note)
        yield Metric("modal_ties", percent(tied[both]), "%", n=n, note=note)


def modal(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(n,) the most frequent label of each example, and (n,) whether another one is as frequent.

    Args:
        labels: (members, n) int64; -1, which is no label, is not counted.

    Of equally frequent labels the highest is taken; -1 where no member gave a label.
    """
    import torch

    from compressbench.comparing import many

    highest, tied = many.modal(many.votes(labels.numpy(), classes))
    return torch.from_numpy(highest), torch.from_numpy(tied)


def _accuracy(labels: Tensor, bench: Bench) -> Iterable[Metric]:
    """Of the task's main metric mean and spread: of pictures ``population_top1`` and ``population_top1_sd``."""
    from compressbench.metrics import percent

    name, truth = f"population_{bench.task.metric}", bench.feed("test").to("cpu").labels
    found = [percent(bench.task.right(row, truth) & (row >= 0)) for row in labels]
    lost = int((labels < 0).any(dim=1).sum())
    notes = [f"{lost} of {len(labels)} nets give answers that {NUMBERS} and count as wrong"] if lost else []
    yield Metric(name, statistics.fmean(found), "%", n=len(found), note="; ".join(notes))
    if len(found) > 1:
        yield Metric(f"{name}_sd", statistics.stdev(found), "points", n=len(found))
    else:
        yield Metric(f"{name}_sd", None, "points", n=1, note="one net has no spread")
