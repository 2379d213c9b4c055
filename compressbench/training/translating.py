"""Translators that say all at once are taught: the loss of their length, and what a teacher says of the training set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from compressbench.bench import Bench
from compressbench.data.transfer import carrying, source
from compressbench.errors import UserError
from compressbench.inputs import on
from compressbench.models.build import module_of
from compressbench.models.nat import LENGTH
from compressbench.tasks.text.packing import TARGET, packed
from compressbench.training.objectives import Batch, Objective, task_loss
from compressbench.walking import put_back, walk

if TYPE_CHECKING:
    from compressbench.stages.transfer import Translated
    from compressbench.state import State

AT_ONCE = 128
"""Sentences that a teacher translates."""


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


def translated(state: State, bench: Bench, settings: Translated) -> State:
    """Applies a ``stages.transfer.Translated``: the same sources, each with what the teacher says.

    Raises:
        UserError: the task translates nothing.
    """
    task: Any = bench.task
    if not all(hasattr(task, name) for name in ("said", "spelled", "prepared")):
        raise UserError(f"data/translated: the task of {bench.dataset.name} translates nothing")
    examples = source(bench, settings.data)
    module = module_of(bench.references[settings.teacher], bench.device)
    rows, found, done = [], [], 0
    for places, batch in walk(task, examples, AT_ONCE):
        inputs = on(task.encode(batch), bench.device)
        found.append(task.said(module, inputs, settings.beam).cpu())
        rows.append(places)
        done += len(places)
        bench.progress.step(done, len(examples))
    wide = max(part.shape[1] for part in found)
    said = put_back(rows, [F.pad(part, (0, wide - part.shape[1]), value=-1) for part in found])
    made = task.prepared(examples.with_column(TARGET, packed(task.spelled(said))))
    return carrying(state, made)
