"""Forgetting: which classes pay for the compression (Hooker et al. 2019, 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.views import View

CLASSES = "classes"


@dataclass(frozen=True)
class Forgetting:
    """Recall per class, its change, and the examples that only one of the two models gets right.

    Attributes:
        by: what the examples are grouped by: ``classes``, or an attribute of the data set's.
    """

    VERSION: ClassVar[int] = 2  # 2: answers that are no numbers are said
    by: str = CLASSES

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the whole test split, against the reference; a class without examples has no figures."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench import metrics

        right, before = subject.right, reference.right
        whole = metrics.flips(right, before)
        yield Metric("forgotten", whole.forgotten, "%", n=whole.n)
        yield Metric("learned", whole.learned, "%", n=whole.n)
        for name, own in _groups(bench, self.by):
            if not own.any():
                yield Metric("recall", None, "%", group=name, note="no test example of this class")
                continue
            part = metrics.flips(right[own], before[own])
            yield Metric("recall", part.recall, "%", n=part.n, group=name)
            yield Metric("recall_change", part.recall - part.reference, "points", n=part.n, group=name)
            yield Metric("forgotten", part.forgotten, "%", n=part.n, group=name)
            yield Metric("learned", part.learned, "%", n=part.n, group=name)


def _groups(bench: Bench, by: str) -> Iterable[tuple[str, Tensor]]:
    """(name, which test examples are of it); one with several labels is in the group of each.

    Raises:
        UserError: the data set has no such attribute.
    """
    import torch

    examples = bench.feed("test")
    if by != CLASSES:
        if by not in bench.dataset.groups:
            known = [CLASSES, *bench.dataset.groups]
            raise UserError(
                f"forgetting: by: {bench.dataset.name} has no attribute {by!r}; {nearest(by, known)}"
            )
        codes = examples.groupings[by].cpu()
        yield from ((f"{by}={name}", codes == k) for k, name in enumerate(bench.dataset.groups[by]))
        return
    labels = torch.as_tensor(examples.labels).cpu()
    several = labels.ndim == 2
    if labels.ndim > 2 or (several and labels.shape[1] != len(bench.task.classes)):
        raise UserError(
            f"forgetting: by: labels of {tuple(labels.shape[1:])} an example say no class of "
            f"{len(bench.task.classes)}; name an attribute of the data set"
        )
    for k, name in enumerate(bench.task.classes):
        yield name, labels[:, k] > 0 if several else labels == k
