"""Training exits: all together, or the early ones by themselves, on the labels or on what the last exit says."""

from __future__ import annotations

from torch import Tensor

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.exits import EXIT
from compressbench.outputs import Outputs
from compressbench.specs import NonNegative, Positive, Share, within
from compressbench.training.distillation import softened
from compressbench.training.objectives import Batch, Objective, labelled_loss, task_loss


def joint(bench: Bench, power: NonNegative = 0.0, last: bool = True) -> Objective:
    """sum_j j^power CE_j / sum_j j^power over the exits j = 1, 2 …, the last one too (deep supervision).

    ``power`` 0 weighs all alike (MSDNet, Huang et al. 2018), 1 by their depth (PABEE, Zhou et al. 2020). Without the last
    it is the second stage of DeeBERT (Xin et al. 2020): on a frozen trunk the early exits learn by themselves.

    Raises:
        UserError: power out of range, examples without labels, or a model without exits.
    """
    within("NonNegative", power, "power")
    task_loss(bench)  # for its check that every example has a label; the loss itself isn't used

    def loss(batch: Batch) -> Tensor:
        said = [*early_of(batch.outputs), *([batch.outputs.logits] if last else [])]
        weights = [(place + 1) ** power for place in range(len(said))]
        parts = [
            w * bench.task.loss(Outputs(logits), batch.labels)
            for w, logits in zip(weights, said, strict=True)
        ]
        return sum(parts[1:], parts[0]) / sum(weights)

    return loss


def self_distilled(
    bench: Bench, temperature: Positive = 1.0, share: Share = 1.0, last: bool = False
) -> Objective:
    """Mean over the early exits of ``share`` T² KL(last / T || exit / T) + (1 - ``share``) CE; at share 1 without labels.

    FastBERT's self-distillation (Liu et al. 2020) at T = 1 on a frozen trunk. No gradient goes from the KL into the last
    exit.

    Args:
        temperature: T above 0.
        share: of the last exit's answer, in [0, 1]; the rest goes to the labels.
        last: whether the last exit's own loss on the labels is added, for a trunk that learns on.

    Raises:
        UserError: a setting out of range, or a model without exits.
    """
    within("Positive", temperature, "temperature")
    within("Share", share, "share")

    def loss(batch: Batch) -> Tensor:
        early = early_of(batch.outputs)
        wanted = batch.outputs.logits.detach().float()
        total = batch.outputs.logits.sum() * 0
        for logits in early:
            if share > 0:
                total = total + share * softened(logits.float(), wanted, temperature)
            if share < 1:
                told = Batch(Outputs(logits), batch.inputs, batch.labels, batch.rows, batch.plain)
                total = total + (1 - share) * labelled_loss(bench, told)
        total = total / len(early)
        return total + labelled_loss(bench, batch) if last else total

    return loss


def early_of(outputs: Outputs) -> list[Tensor]:
    """The early exits' logits, the first one first.

    Raises:
        UserError: the model has none.
    """
    found = [outputs.taps[name] for name in sorted(outputs.taps, key=_place) if _place(name) >= 0]
    if not found:
        raise UserError("objective: the net has no exits to train; put an exits/attach stage before this one")
    return found


def _place(name: str) -> int:
    rest = name.removeprefix(EXIT)
    return int(rest) if name.startswith(EXIT) and rest.isdecimal() else -1
