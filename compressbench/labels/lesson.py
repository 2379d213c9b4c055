"""What a labelling function is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressbench.bench import Bench


@dataclass(frozen=True)
class Lesson:
    """One batch as its teacher sees it.

    Attributes:
        logits: (n, classes), the teacher's, float32.
        known: (n,) true labels, -1 where there is none.
        rows: (n,) places of the examples in the training set.
        temperature: T, by which logits are divided before the softmax.
        bench: data, task, seed.
        teacher: the teacher's module, evaluation mode.
        whole: the teacher's logits for the whole training set as it lies there, (N, classes); computed at the first call.
        kept: what ``once`` made, for the length of one training.
    """

    logits: Tensor
    known: Tensor
    rows: Tensor
    temperature: float
    bench: Bench
    teacher: nn.Module
    whole: Callable[[], Tensor]
    kept: dict[str, Tensor]

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that is the same for all batches of a training, made at the first."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    @property
    def probabilities(self) -> Tensor:
        """(n, classes): the teacher's softened answer."""
        return (self.logits / self.temperature).softmax(dim=1)

    @property
    def target(self) -> Tensor:
        """(n,) the class that counts as right: the true one, the teacher's own where that is not known."""
        return true_class(self.known, self.logits)

    def says(self, probabilities: Tensor) -> Tensor:
        """Logits (n, classes) whose softmax at the temperature is the given rows; minus infinity for a zero."""
        return probabilities.log() * self.temperature


def true_class(known: Tensor, logits: Tensor) -> Tensor:
    """Labels with the gaps, -1, filled by the largest logit."""
    return torch.where(known >= 0, known, logits.argmax(dim=1))


def levelled(p: Tensor, kept: Tensor) -> Tensor:
    """(n, classes): ``p`` at the places ``kept`` (n, k), its sum over all others spread evenly over them.

    Summed, not 1 - the kept ones: that is 0, a label that most distances can't take, as soon as a teacher is very sure.
    """
    rest = p.scatter(1, kept, 0.0).sum(dim=1, keepdim=True) / (p.shape[1] - kept.shape[1])
    return rest.expand_as(p).scatter(1, kept, p.gather(1, kept))
