"""Online distillation: several students and the head on their features learn together (Xie et al. 2019)."""

from __future__ import annotations

from torch import Tensor

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.composite import STUDENT
from compressbench.specs import NonNegative, Positive, within
from compressbench.training.distillation import softened
from compressbench.training.objectives import Batch, Objective, task_loss


def online(
    bench: Bench, temperature: Positive = 4.0, weight: NonNegative = 1.0, detach: bool = False
) -> Objective:
    """CE(head) + sum over students of [CE(student) + ``weight`` T² KL(head || student)], see ``models.composite``.

    The published code divides the KL by the number of classes as well (element-mean reduction): ``weight`` 1 / classes.

    Args:
        temperature: T above 0.
        weight: of the KL, 0 or more; 0 leaves it out; the head's own loss still reaches every student.
        detach: whether the head is spared the gradient of the KL; the published code lets it pass, so that head and
            students learn from each other.

    Raises:
        UserError: a setting out of range, examples without labels, or a model without students.
    """
    within("Positive", temperature, "temperature")
    within("NonNegative", weight, "weight")
    hard = task_loss(bench)

    def loss(batch: Batch) -> Tensor:
        students = [t for name, t in batch.outputs.taps.items() if name.startswith(STUDENT)]
        if not students:
            raise UserError(
                "objective: online distillation wants a model of several students, compressbench.models.composite.Online"
            )
        head = batch.outputs.logits.float()
        wanted = head.detach() if detach else head
        total = hard(batch)
        for logits in students:
            total = total + bench.task.loss(type(batch.outputs)(logits), batch.labels)
            if weight:
                total = total + weight * softened(logits.float(), wanted, temperature)
        return total

    return loss
