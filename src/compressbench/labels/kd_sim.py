"""KD-sim: relations of the classes read from the teacher's last layer (Tang et al. 2020)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compressbench.errors import UserError
from compressbench.labels.lesson import Lesson
from compressbench.models.classifier import classifier
from compressbench.specs import Positive, within


def kd_sim(lesson: Lesson, sharpness: Positive = 0.3) -> Tensor:
    """softmax over classes i of cos(w_t, w_i) / ``sharpness``, w the rows of the teacher's last layer, t the true class.

    The same for all examples of a class; the temperature doesn't soften it further.

    Raises:
        UserError: sharpness is not above 0, or the teacher has no last layer with a row for every class.
    """
    within("Positive", sharpness, "labels.sharpness")
    classes = lesson.logits.shape[1]

    def table() -> Tensor:
        found = classifier(lesson.teacher, classes)
        if found is None:
            raise UserError(
                f"labels: kd_sim reads the teacher's last layer, and {type(lesson.teacher).__name__} has none with "
                f"{classes} outputs; class_mean reads its answers instead"
            )
        rows = F.normalize(found[1].detach().float().flatten(1), dim=1)
        return ((rows @ rows.T) / sharpness).softmax(dim=1)

    return lesson.says(lesson.once(f"labels.kd_sim {sharpness}", table)[lesson.target])
