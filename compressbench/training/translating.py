"""Objectives of translators that say their length first."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.nat import LENGTH
from compressbench.training.objectives import Batch, Objective, task_loss


def with_length(bench: Bench, weight: float = 0.1) -> Objective:
    """The task's loss over the tokens, and the cross-entropy of their number, times ``weight``.

    Raises:
        UserError: the weight is below 0, the training set has examples without a label, or the model tells no length.
    """
    if isinstance(weight, bool) or weight < 0:
        raise UserError(f"weight: {weight!r} is below 0")
    plain = task_loss(bench)

    def loss(batch: Batch) -> Tensor:
        told = batch.outputs.taps.get(LENGTH)
        if told is None:
            raise UserError(
                "objective: the model tells no length, as model=nat does; train/adamw is for others"
            )
        return plain(batch) + weight * F.cross_entropy(told, (batch.labels >= 0).sum(dim=1))

    return loss
