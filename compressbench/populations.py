"""Populations: many states of one series as a probe sees them, by what they answer and by nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.records import Metric
    from compressbench.views import View


@dataclass(frozen=True)
class Member:
    """One state of a population.

    Attributes:
        state: its name in the plan.
        seed: of its lineage.
        labels: gives (n,) int64, the class that it names for each test example; -1 where its answer is no number.
        log_probs: gives (n, classes) float16, as far as these are kept.

    ``log_probs`` raises ``UserError`` where there are more classes than ``log_probs_up_to``.
    """

    state: str
    seed: int
    labels: Callable[[], Tensor]
    log_probs: Callable[[], Tensor]


class Population:
    """States of one series at several seeds, on the test split.

    Attributes:
        members: in the order of their seeds, the run's own first.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)

    def __len__(self) -> int:
        return len(self.members)

    @functools.cached_property
    def labels(self) -> Tensor:
        """(members, n) int64: the class that each member names for each test example; -1 for none."""
        import torch

        return torch.stack([m.labels() for m in self.members])

    @staticmethod
    def of(views: Sequence[View]) -> Population:
        """A population of states at hand, with nothing kept; their seeds are 0, 1, 2 …"""

        def member(seed: int, view: View) -> Member:
            return Member(view.label, seed, lambda: view.answers, lambda: view.log_probs.half())

        return Population([member(seed, view) for seed, view in enumerate(views)])


class PopulationProbe(Protocol):
    """A probe that measures populations: it works on predictions that are kept, and never trains nor runs a net."""

    def measure_many(
        self, subjects: Population, references: Population, bench: Bench
    ) -> Iterable[Metric]: ...
