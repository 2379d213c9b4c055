"""Distillation: objectives with a teacher, which is another state of the recipe.

Hinton, Vinyals, Dean 2015 (softened outputs); Sun et al., EMNLP 2019 (patient: hidden states too).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.inference import prepared
from compressbench.models.build import module_of
from compressbench.outputs import Outputs, forward, tapped
from compressbench.specs import Ref
from compressbench.training.objectives import Batch, Objective


@dataclass(frozen=True)
class Tapping:
    """A loss that also reads intermediate outputs of the model in training: those of the modules in ``taps``."""

    taps: tuple[str, ...]
    loss: Objective

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of a batch whose ``outputs.taps`` hold them."""
        return self.loss(batch)


def distill(bench: Bench, teacher: Ref, temperature: float = 4.0, share: float = 0.9) -> Objective:
    """A teacher's softened outputs, mixed with the labels: ``share`` T^2 KL(teacher || student) + (1 - share) task loss.

    The teacher sees the very inputs that the student sees, augmentation included, in evaluation mode.

    Args:
        teacher: a state with the same classes.
        temperature: T above 0; both logits are divided by it.
        share: of the teacher, in [0, 1]; the rest goes to the labels.

    Raises:
        UserError: a setting out of range.
    """
    _check(temperature, share)
    state = bench.references[teacher]
    sample = bench.task.encode(bench.feed("train").images[:8])
    guide = prepared(module_of(state, bench.device), sample)

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = forward(guide, batch.inputs)
        return _mixed(bench, batch, wanted, temperature, share)

    return loss


def patient(
    bench: Bench,
    teacher: Ref,
    points: Mapping[str, str],
    temperature: float = 4.0,
    share: float = 0.9,
    beta: float = 10.0,
) -> Objective:
    """``distill`` plus ``beta`` times how far normalised hidden states are from the teacher's (PKD, Sun et al. 2019).

    A module's hidden state is one vector an example: (n, c, h, w) averaged over places, of (n, tokens, c) the first
    token's. The distance is the mean over examples and points of ``|| h / |h| - t / |t| ||^2``.

    Args:
        points: modules of the student, each with the teacher's module that it is to follow.
        beta: 0 or more.

    Raises:
        UserError: a setting out of range, a module that is not there, or vectors of unlike lengths.
    """
    _check(temperature, share)
    if not points:
        raise UserError("points: at least one is wanted, {module of the student: module of the teacher}")
    if not beta >= 0:
        raise UserError(f"beta: {beta!r} is below 0")
    guide = module_of(bench.references[teacher], bench.device).to(memory_format=torch.channels_last)
    with tapped(guide, tuple(points.values())):
        pass  # a name that the teacher has not is said before any training

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad(), tapped(guide, tuple(points.values())) as compute:
            wanted = compute(batch.inputs)
        far = [
            _apart(batch.outputs.taps[own], wanted.taps[other], own, other) for own, other in points.items()
        ]
        return _mixed(bench, batch, wanted, temperature, share) + beta * torch.stack(far).mean()

    return Tapping(tuple(points), loss)


def softened(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of logits (n, classes) divided by T, in nats, mean over examples.

    Its gradient by a student's logit is T (q - p) / n; as T grows it nears that of half the squared distance of
    logits with zero mean, divided by the number of classes.
    """
    own = F.log_softmax(student / temperature, dim=1)
    wanted = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(own, wanted, reduction="batchmean", log_target=True) * temperature**2


def _mixed(bench: Bench, batch: Batch, wanted: Outputs, temperature: float, share: float) -> Tensor:
    own, other = batch.outputs.logits.float(), wanted.logits.float()
    if own.shape != other.shape:
        raise UserError(
            f"teacher: it has {other.shape[1]} outputs an example, the student {own.shape[1]}; "
            "the same classes are wanted"
        )
    loss = share * softened(own, other, temperature)
    return loss + (1 - share) * bench.task.loss(batch.outputs, batch.labels) if share < 1 else loss


def _apart(own: Tensor, other: Tensor, name: str, teachers: str) -> Tensor:
    one, two = _vector(own), _vector(other)
    if one.shape != two.shape:
        raise UserError(
            f"points: {name} has {one.shape[1]} channels, the teacher's {teachers} {two.shape[1]}; "
            "as many are wanted"
        )
    return (F.normalize(one, dim=1) - F.normalize(two, dim=1)).square().sum(dim=1).mean()


def _vector(hidden: Tensor) -> Tensor:
    hidden = hidden.float()
    return hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden[:, 0] if hidden.ndim == 3 else hidden


def _check(temperature: float, share: float) -> None:
    if not temperature > 0:
        raise UserError(f"temperature: {temperature!r} is not above 0")
    if not 0 <= share <= 1:
        raise UserError(f"share: {share!r} is not in [0, 1]")
