"""Forgetting: which classes pay for the compression (Hooker et al. 2019, 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.probes.families import CLASSES, known
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.views import View


@dataclass(frozen=True)
class Forgetting:
    """Recall per class, its change, and the examples that only one of the two models gets right.

    The worst of what was forgotten is shown: those examples that the reference got right and the subject gets wrong, the
    ones first of which both are surest (see ``comparing.gallery``).

    Attributes:
        by: what the examples are grouped by: ``classes``, or an attribute of the data set's.
        shown: how many forgotten examples are kept, at most; 0 for none.
    """

    VERSION: ClassVar[int] = 3  # 2: answers that are no numbers are said; 3: forgotten examples
    by: str = CLASSES
    shown: int = 8

    def __post_init__(self) -> None:
        if self.shown < 0:
            raise UserError(f"forgetting: shown is {self.shown}, must be 0 or more")

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: a data set without such an attribute is refused.

        Raises:
            UserError: see above.
        """
        known(dataset, [self.by], "forgetting")

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import by_token

        return by_token(dataset)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the whole test split, against the reference; a class without examples has no figures."""
        from compressbench.probes.answered import answered

        if why := self.unfit(bench.dataset):
            yield from (Metric(name, None, "%", note=why) for name in ("forgotten", "learned"))
            return

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)
        nothing = len(subject.labels) in (subject.unanswered, reference.unanswered)
        if self.by == CLASSES and self.shown and not nothing:
            yield from _examples(subject, reference, bench, self.shown)

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


def _examples(subject: View, reference: View, bench: Bench, most: int) -> Iterable[Metric]:
    """The worst forgotten examples, one record each: its group is its rank from 1, its value its row in the source.

    None where an example has no single class.
    """
    import numpy as np

    from compressbench.comparing.answers import changes
    from compressbench.comparing.gallery import KINDS, flips
    from compressbench.probes.thumbnails import attributes, thumbnails

    labels = subject.labels
    if labels.ndim != 1 or subject.wanted.shape != labels.shape or subject is reference:
        return
    truth = labels.numpy()
    told = [(v.answers.numpy(), v.log_probs.double().exp().amax(dim=1).numpy()) for v in (reference, subject)]
    before, after = told
    found = flips(changes(before[0], after[0], truth), before, after, truth)
    worst = [f for f in found if f.kind == KINDS[0]][:most]
    examples = bench.feed("test").take([f.row for f in worst]).to("cpu") if worst else None
    shown = thumbnails(examples, bench.task) if examples is not None else []
    beside = attributes(examples, bench.dataset) if examples is not None else []
    names = bench.task.classes
    for rank, (flip, seen) in enumerate(zip(worst, shown, strict=True), 1):
        said = names[flip.other] if flip.other >= 0 else "nothing"
        sure = "" if np.isnan(flip.other_confidence) else f" {flip.other_confidence:.2f}"
        before_it = f"dense {names[flip.reference]} {flip.reference_confidence:.2f}"
        note = f"true {names[flip.label]} · {before_it} · this net {said}{sure}{beside[rank - 1]}"
        row = int(examples.rows[rank - 1]) if examples is not None else flip.row
        yield Metric("forgotten_example", row, "1", n=1, group=str(rank), note=note, artefact=seen)


def _groups(bench: Bench, by: str) -> Iterable[tuple[str, Tensor]]:
    """(name, which test examples are of it); one with several labels is in the group of each.

    Raises:
        UserError: the data set has no such attribute.
    """
    import torch

    examples = bench.feed("test")
    if by != CLASSES:
        known(bench.dataset, [by], "forgetting")
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
