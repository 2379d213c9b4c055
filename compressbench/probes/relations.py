"""Relations: which classes a net takes for alike, and how dense its answers are: what a soft label says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric
from compressbench.specs import Positive, within

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.views import View

SEPARATOR = " · "
FLAT = "no correlation: too few classes, or all of them are equally related"


@dataclass(frozen=True)
class Relations:
    """Entropy of the softened answers, and the geometry of the classes in the representation.

    The representation is what the layer reads that gives the logits; the relation of two classes is the cosine between
    their means in it, taken about the mean of all classes. ``relation_agreement`` is the correlation (Pearson) of the
    relations of the subject and of the reference over all pairs; ``relation_confusion`` the rank correlation (Spearman)
    between the relation of a and b in the subject and the probability that the reference, softened, gives b on
    examples of a: above 0 where classes that the teacher takes for each other lie close.

    Attributes:
        temperature: at which answers are softened.
        classes_shown: of the matrix ``relation``, the first ones; the agreements are over all classes.

    Raises:
        UserError: a setting out of range.
    """

    VERSION: ClassVar[int] = 3  # 2, 3: answers that are no numbers are said
    temperature: Positive = 4.0
    classes_shown: int = 20

    def __post_init__(self) -> None:
        within("Positive", self.temperature, "temperature")
        if self.classes_shown < 1:
            raise UserError(f"classes_shown: {self.classes_shown!r} is less than 1")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the whole test split; a class without a test example has no relations."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench import metrics
        from compressbench.data.examples import one_class
        from compressbench.models.representation import relations

        one_class(subject.labels, "relations")
        names, n = bench.task.classes, len(subject.labels)
        yield from _entropies(subject.log_probs, self.temperature)
        own, other = subject.class_means, reference.class_means
        present = own.counts > 0
        matrix, facing = relations(own.means[present]), relations(other.means[present])
        kept = present.nonzero().flatten().tolist()
        yield from self._matrix(matrix, kept, names, own.counts.tolist(), subject.unanswered)
        taken = confusion(reference.log_probs, subject.labels, self.temperature)[present][:, present]
        empty = [name for name, there in zip(names, present.tolist(), strict=True) if not there]
        notes = [own.words if own.layer == other.layer else f"{own.words}; the reference’s {other.words}"]
        notes += [f"no test example of {', '.join(empty)}"] if empty else []
        agreement = metrics.pearson(*pairs(matrix, facing))
        yield _correlation("relation_agreement", agreement, n, notes)
        confused = metrics.spearman(*pairs(matrix, taken))
        yield _correlation("relation_confusion", confused, n, notes)

    def _matrix(
        self,
        matrix: Tensor,
        kept: Sequence[int],
        names: Sequence[str],
        counts: Sequence[int],
        unanswered: int,
    ) -> Iterable[Metric]:
        why = (
            "" if unanswered else "a class lies at the mean of all"
        )  # ``answered`` says that they are no numbers
        shown = [k for k, label in enumerate(kept) if label < self.classes_shown]
        note = (
            f"the first {self.classes_shown} of {len(names)} classes"
            if self.classes_shown < len(names)
            else ""
        )
        for row in shown:
            for column in shown:
                one, other = kept[row], kept[column]
                n = counts[one] + counts[other] * (one != other)
                value = float(matrix[row, column])
                lost = not math.isfinite(value)
                yield Metric(
                    "relation",
                    None if lost else value,
                    "1",
                    n=n,
                    group=f"{names[one]}{SEPARATOR}{names[other]}",
                    note=why if lost else note,
                )


def entropy(log_probs: Tensor, temperature: float) -> float:
    """Mean entropy in nats of answers (n, classes) softened at the temperature."""
    soft = (log_probs.double() / temperature).log_softmax(dim=1)
    return float(-(soft.exp() * soft).sum(dim=1).mean())


def confusion(log_probs: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """(classes, classes) float64: row a is the mean softened answer to examples of class a; zero without any."""
    import torch

    known = labels >= 0
    soft = (log_probs[known].double() / temperature).softmax(dim=1)
    classes = soft.shape[1]
    sums = torch.zeros(classes, classes, dtype=soft.dtype).index_add_(0, labels[known], soft)
    return sums / torch.bincount(labels[known], minlength=classes).clamp(min=1).unsqueeze(1)


def pairs(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Entries off the diagonal of two (k, k) matrices, those that both have; two (n,) tensors."""
    import torch

    both = ~torch.eye(len(one), dtype=torch.bool) & one.isfinite() & other.isfinite()
    return one[both], other[both]


def _entropies(log_probs: Tensor, temperature: float) -> Iterable[Metric]:
    n, classes = log_probs.shape
    found, note = entropy(log_probs, temperature), f"softened at temperature {temperature:g}"
    yield Metric("entropy", found, "nats", n=n, note=note)
    if classes < 2:
        yield Metric("entropy_share", None, "%", n=n, note="one class has no entropy")
    else:
        yield Metric(
            "entropy_share", 100 * found / math.log(classes), "%", n=n, note=f"of ln {classes}; {note}"
        )


def _correlation(name: str, value: float, n: int, notes: Sequence[str]) -> Metric:
    if math.isfinite(value):
        return Metric(name, value, "1", n=n, note="; ".join(notes))
    return Metric(name, None, "1", n=n, note="; ".join([*notes, FLAT]))
