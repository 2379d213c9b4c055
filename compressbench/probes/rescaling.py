"""Rescaling: how distillation weighs each example, against learning from labels alone (Tang et al. 2020, 2002.03532)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric
from compressbench.specs import Positive, Share, within
from compressbench.wording import NUMBERS

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.views import View

SURE = 1e-4
FLAT = "no correlation: fewer than two examples, or all are rescaled alike"


@dataclass(frozen=True)
class Rescaling:
    """The factor by which a teacher's soft labels rescale the gradient of each example's true-class logit.

    The teacher is the reference, the student the subject, as it stands after its training. The metrics are the mean and
    the median factor; the median over the quarter of examples whose true class the teacher thinks least likely
    (``rescaling_hard``) and most likely (``rescaling_easy``), by its probability softened at the temperature; and the
    rank correlation of factor and that probability, above 0 where the teacher makes easy examples count for more.

    Attributes:
        temperature: T of the distillation that is asked about; it need not be the one that the student had.
        share: of the soft labels in its loss.
        examples: of the training split, the first ones.

    Raises:
        UserError: a setting out of range.
    """

    VERSION: ClassVar[int] = 2  # 2: answers that are no numbers are left out and said
    temperature: Positive = 4.0
    share: Share = 0.9
    examples: int = 1000

    def __post_init__(self) -> None:
        within("Positive", self.temperature, "temperature")
        within("Share", self.share, "share")
        if self.examples < 1:
            raise UserError(f"examples: {self.examples!r} is less than 1")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the first training examples; all figures are None, with a note, where no example is left."""
        from compressbench import metrics
        from compressbench.data.examples import one_class

        labels = bench.feed("train").labels[: self.examples].cpu()
        one_class(labels, "rescaling")
        student, teacher = (v.log_probs_of("train", len(labels)).double() for v in (subject, reference))
        numbers = ~(student.isnan() | teacher.isnan()).any(dim=1)
        whole, kept = int(numbers.sum()), numbers & unsure(student, labels)
        lost = len(numbers) - whole
        student, teacher, labels = student[kept], teacher[kept], labels[kept]
        factor = rescaling(student, teacher, labels, self.temperature, self.share)
        believed = _of((teacher / self.temperature).log_softmax(dim=1), labels).exp()
        notes = _notes(subject.state is reference.state, whole, len(labels), lost)
        hard, easy = ends(factor, believed)
        mean = float(factor.mean()) if len(labels) else None
        yield Metric("rescaling_mean", mean, "1", n=len(labels), note="; ".join(notes))
        for name, part in (("median", factor), ("hard", hard), ("easy", easy)):
            yield Metric(f"rescaling_{name}", _median(part), "1", n=len(part), note="; ".join(notes))
        rank = metrics.spearman(factor, believed)
        known = math.isfinite(rank)
        notes += [] if known or not len(labels) else [FLAT]
        yield Metric(
            "rescaling_rank_correlation", rank if known else None, "1", n=len(labels), note="; ".join(notes)
        )


def rescaling(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, share: float) -> Tensor:
    """(n,) gradients by the true class's logit: that of distillation's loss over that of cross-entropy.

    The loss is (1 - share) CE(y, q) + share T² KL(p~ || q~) with q = softmax(z), q~ = softmax(z / T) of the student's
    logits z and p~ = softmax(v / T) of the teacher's; so the factor is
    (1 - share) + share T (q~_t - p~_t) / (q_t - 1). Tang et al. write the loss without T², and have share / T there.

    Args:
        student, teacher: (n, classes) logits or log-probabilities; a softmax sees no difference.
        labels: (n,) true classes.
    """
    soft, wanted = (_of((x / temperature).log_softmax(dim=1), labels).exp() for x in (student, teacher))
    return (1 - share) - share * temperature * (soft - wanted) / missing(student, labels)


def missing(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) 1 - q_t, from the logarithm of q_t: it keeps its digits where q_t is nearly 1."""
    return -_of(logits.log_softmax(dim=1), labels).expm1()


def unsure(student: Tensor, labels: Tensor) -> Tensor:
    """(n,) bool: has a label, and a student not so sure of it that its own gradient vanishes."""
    return (labels >= 0) & (missing(student, labels.clamp(min=0)) > SURE)


def ends(factor: Tensor, believed: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (of n) of the quarter of lowest and of that of highest ``believed``; one example each at least."""
    order, quarter = believed.argsort(stable=True), max(1, len(factor) // 4)
    return factor[order[:quarter]], factor[order[-quarter:]]


def _notes(same: bool, whole: int, used: int, lost: int) -> list[str]:
    notes = ["the teacher itself"] if same else []
    if lost:
        notes.append(f"{lost} of {whole + lost} examples left out: their answers {NUMBERS}")
    if used < whole:
        notes.append(f"{whole - used} of {whole} examples left out: the student is sure of them")
    return notes if used else [*notes, "none is left"]


def _median(x: Tensor) -> float | None:
    return float(x.quantile(0.5)) if len(x) else None


def _of(rows: Tensor, labels: Tensor) -> Tensor:
    return rows.gather(1, labels[:, None]).squeeze(1)
