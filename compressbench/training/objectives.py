"""Objectives: factories that, given the bench, return the loss of a batch.

A later method (distillation, label smoothing, exits) is one more function here or in a user's file; what it refers
to is a parameter annotated ``Ref``, found as ``bench.references[name]``.

What a factory returns may have attributes beside being called. ``taps``: names of modules of the model in training,
whose outputs each batch then carries. ``begin(module)``: called once before the training with the model in evaluation
mode; returns parameters of the objective's own by name, which are trained, checkpointed and left behind at the end.
``macs(examples, plain)``: what it computes beside the model, a teacher's forwards, for the record of the training's cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from compressbench.bench import Bench
from compressbench.data.examples import are_sequences, known, one_class
from compressbench.errors import UserError
from compressbench.inputs import Inputs
from compressbench.outputs import Outputs
from compressbench.specs import Share


@dataclass(frozen=True)
class Batch:
    """What an objective sees.

    Attributes:
        outputs: the model's logits, and what the modules named in the objective's ``taps`` gave.
        inputs: encoded, as the model saw them: a tuple of what its forward takes.
        labels: (n,), -1 for an example without one.
        rows: (n,) places in the training set.
        plain: whether the inputs are the set's own examples, nothing augmented.
    """

    outputs: Outputs
    inputs: Inputs
    labels: Tensor
    rows: Tensor
    plain: bool = False


Objective = Callable[[Batch], Tensor]


def task_loss(bench: Bench) -> Objective:
    """The task's own loss on the labels (cross-entropy for classification), mean over the batch.

    Raises:
        UserError: the training set has examples without a label.
    """
    _all_labelled(bench)

    def loss(batch: Batch) -> Tensor:
        return bench.task.loss(batch.outputs, batch.labels)

    return loss


def smoothed(bench: Bench, smoothing: Share = 0.1) -> Objective:
    """Label smoothing: cross-entropy, (1 - s) on the label and s spread over all classes (Szegedy et al. 2016).

    What is left of distillation when nothing is known of the teacher (Tang et al. 2020). Of sequences it is over all of
    their tokens.

    Raises:
        UserError: smoothing is not in [0, 1), or examples have no label.
    """
    if isinstance(smoothing, bool) or not 0 <= smoothing < 1:
        raise UserError(f"smoothing: {smoothing!r} is not in [0, 1)")
    _all_labelled(bench)
    if are_sequences(bench.feed("train").labels):
        return _smoothed_tokens(bench, smoothing)
    one_class(bench.feed("train").labels, "smoothing")

    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(batch.outputs.logits.float(), batch.labels, label_smoothing=smoothing)

    return loss


def _smoothed_tokens(bench: Bench, smoothing: float) -> Objective:
    def loss(batch: Batch) -> Tensor:
        found = bench.task.log_probs(batch.outputs, batch.labels)
        own = found.log_probs.gather(1, found.labels[:, None]).mean()
        return -(1 - smoothing) * own - smoothing * found.log_probs.mean()

    return loss


def labelled_loss(bench: Bench, batch: Batch) -> Tensor:
    """The task's loss over the examples that have a label, 0 where none has."""
    if bench.feed("train").labelled:
        return bench.task.loss(batch.outputs, batch.labels)
    there = known(batch.labels)
    if not bool(there.any()):
        return batch.outputs.logits.sum() * 0
    return bench.task.loss(Outputs(batch.outputs.logits[there]), batch.labels[there])


def _all_labelled(bench: Bench) -> None:
    feed = bench.feed("train")
    if not feed.labelled:
        missing = int((~known(feed.labels)).sum())
        raise UserError(
            f"objective: {missing} of the {len(feed)} examples have no label; a teacher can give them one: "
            "train with a distilling objective"
        )
