"""KD-sim: relations of the classes read from the teacher's last layer (Tang et al. 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.errors import UserError
from compressbench.labels.lesson import Lesson
from compressbench.models.representation import last_layer
from compressbench.specs import Positive, within


def kd_sim(lesson: Lesson, sharpness: Positive = 0.3) -> Tensor:
    """softmax over classes i of cos(w_t, w_i) / ``sharpness``, w the rows of the teacher's last layer, t the true class.

    The same for all examples of a class; the temperature doesn't soften it further.

    Raises:
        UserError: sharpness is not above 0, or no layer of the teacher gives its logits (an ensemble has several).
    """
    within("Positive", sharpness, "labels.sharpness")
    classes = lesson.logits.shape[1]

    def table() -> Tensor:
        bench = lesson.bench
        sample = bench.task.encode(bench.feed("train").head(8))
        with torch.no_grad():
            layer = last_layer(lesson.teacher, sample, classes)
        if not layer:
            raise UserError(
                f"labels: kd_sim reads the teacher's last layer, and no single layer of {type(lesson.teacher).__name__} "
                "gives its logits; class_mean reads its answers instead"
            )
        weight = lesson.teacher.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        rows = F.normalize(weight.detach().float().flatten(1), dim=1)
        return ((rows @ rows.T) / sharpness).softmax(dim=1)

    return lesson.says(lesson.once(f"labels.kd_sim {sharpness}", table)[lesson.target])
