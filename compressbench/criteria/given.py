"""What a pruning criterion is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compressbench.bench import Bench
from compressbench.state import State


@dataclass(frozen=True)
class Given:
    """A criterion's input. It returns one score tensor per weight, of the same shape; the lowest go first.

    Attributes:
        weights: prunable weights by name, float32 on the CPU; what was pruned is zero.
        masks: bool, True where kept, for every entry of ``weights``.
        state: the whole state, for criteria that need the module (``models.build.module_of``).
        bench: data, task, seed, and the states that the criterion's own ``Ref`` parameters name.
    """

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    state: State
    bench: Bench

    def generator(self, name: str) -> torch.Generator:
        """Randomness for one tensor, from (seed, stage, tensor)."""
        return self.bench.generator("criterion", name)


Scores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Saliency:
    """Scores of a criterion that also says more: how to move what stays, or what the scores mean.

    Attributes:
        scores: as from any criterion.
        compensate: takes the masks that were chosen from the scores, by tensor name, and returns the new
            weights of the same tensors, zero where masked; called once.
        predicts_loss: whether the scores are what each removal alone adds to the mean training loss, in nats.
    """

    scores: Scores
    compensate: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    predicts_loss: bool = False
