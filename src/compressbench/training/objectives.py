"""Objectives: factories that, given the bench, return the loss of a batch.

A later method (distillation, label smoothing, exits) is one more function here or in a user's file; what it refers
to is a parameter annotated ``Ref``, found as ``bench.references[name]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from compressbench.bench import Bench
from compressbench.outputs import Outputs


@dataclass(frozen=True)
class Batch:
    """What an objective sees: the model's outputs, the encoded inputs, labels and row numbers in the split.

    An objective with an attribute ``taps``, names of modules of the model, finds what these gave as ``outputs.taps``.
    """

    outputs: Outputs
    inputs: Tensor
    labels: Tensor
    rows: Tensor


Objective = Callable[[Batch], Tensor]


def task_loss(bench: Bench) -> Objective:
    """The task's own loss on the labels (cross-entropy for classification), mean over the batch."""

    def loss(batch: Batch) -> Tensor:
        return bench.task.loss(batch.outputs, batch.labels)

    return loss
