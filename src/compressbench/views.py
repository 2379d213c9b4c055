"""View: a state as a probe sees it; module and predictions are made once, however many probes ask."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.exiting import POLICY
from compressbench.models.build import module_of
from compressbench.models.exits import Early, prepared_parts
from compressbench.outputs import forward

if TYPE_CHECKING:
    from compressbench.representation import ClassMeans
    from compressbench.state import State

BATCH = 64


class View:
    """One state on one bench.

    Attributes:
        state: the state itself.
        label: what the user calls it.
    """

    def __init__(self, state: State, bench: Bench, label: str = "") -> None:
        self.state = state
        self.bench = bench
        self.label = label

    @functools.cached_property
    def module(self) -> nn.Module:
        """The module as trained, evaluation mode, on the device; it answers by its last exit, whatever its policy."""
        return module_of(self.state, self.bench.device)

    @functools.cached_property
    def fast(self) -> nn.Module:
        """The same function prepared for many forwards (see ``compressbench.inference``); a state's exit policy holds."""
        from compressbench.inference import prepared

        if self.leaves_early:
            return Early(self.parts, self.state.policies)
        return prepared(self.module, self._sample())

    @functools.cached_property
    def parts(self) -> list[nn.Module]:
        """The parts of a net with exits, or of a cascade, each prepared for many forwards.

        Raises:
            UserError: it has no exits.
        """
        return prepared_parts(self.module, self._sample())

    def _sample(self) -> Tensor:
        return self.bench.task.encode(self.bench.feed("test").images[:8])

    @property
    def leaves_early(self) -> bool:
        """Whether what a forward costs depends on its input."""
        return POLICY in self.state.policies

    @functools.cached_property
    def log_probs(self) -> Tensor:
        """(n, classes) log-probabilities of the whole test split, on the CPU, in the split's order."""
        return self.log_probs_of("test")

    @functools.cached_property
    def unanswered(self) -> int:
        """How many test examples it gives an answer to that is no number (NaN)."""
        return int(self.log_probs.isnan().any(dim=1).sum())

    def log_probs_of(self, split: str, limit: int | None = None) -> Tensor:
        """Log-probabilities of a split's first ``limit`` examples."""
        task, fast, parts = self.bench.task, self.fast, []
        with torch.inference_mode():
            for images, _ in self.bench.feed(split).batches(BATCH, limit):
                parts.append(task.log_probs(forward(fast, task.encode(images))).cpu())
        return torch.cat(parts)

    @functools.cached_property
    def labels(self) -> Tensor:
        """(n,) true labels of the test split, on the CPU."""
        return self.bench.feed("test").labels.cpu()

    @functools.cached_property
    def class_means(self) -> ClassMeans:
        """The representation of the test split, averaged over each true class."""
        from compressbench.representation import class_means

        task = self.bench.task
        batches = ((task.encode(x), y) for x, y in self.bench.feed("test").batches(BATCH))
        return class_means(self.module, batches, len(task.classes))
