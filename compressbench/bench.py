"""Bench: all that a stage or a probe may use beside the states it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compressbench.seeds import derive_seed

if TYPE_CHECKING:
    import torch

    from compressbench.data.dataset import Dataset
    from compressbench.data.examples import Examples
    from compressbench.state import State
    from compressbench.tasks.task import Task


class Progress(Protocol):
    """Where a stage or a probe says how far it is."""

    def step(self, done: int, total: int, **figures: float) -> None:
        """``done`` of ``total`` units; figures such as ``loss`` are shown as they are."""


class Silent:
    """Progress for tests and for output that is no terminal."""

    def step(self, done: int, total: int, **figures: float) -> None:
        return None


@dataclass
class Bench:
    """The surroundings of one stage or probe.

    Attributes:
        name: the stage's (or the probed state's) name in the recipe; with ``seed`` the source of all randomness.
        device: ``cpu`` or ``cuda``; results are content-addressed by its type.
        references: the states that the settings refer to, by their name in the plan.
        checkpoints: a folder for this stage's own checkpoints, or None where there is no store.
        feeds: split name -> examples on the device, filled on first use.
        say: takes a sentence for the user.
        target: the hardware target that probes of cost ask, or None.
        launch: how iterations of a training are launched: ``eager``, ``compiled``, or recorded as a CUDA ``graph``.
    """

    dataset: Dataset
    seed: int
    name: str = ""
    device: str = "cpu"
    references: Mapping[str, State] = field(default_factory=dict)
    progress: Progress = field(default_factory=Silent)
    checkpoints: Path | None = None
    checkpoint_seconds: float = 20.0
    say: Callable[[str], None] = print
    feeds: dict[str, Examples] = field(default_factory=dict)
    target: Any = None
    launch: str = "eager"

    def generator(self, *parts: Any) -> torch.Generator:
        """A CPU generator seeded by (seed, name, parts)."""
        import torch

        return torch.Generator().manual_seed(derive_seed(self.seed, self.name, *parts))

    @property
    def task(self) -> Task:
        """What is asked of a model: the data set's."""
        return self.dataset.task

    def feed(self, split: str) -> Examples:
        """The split's examples as tensors on the device."""
        if split not in self.feeds:
            import torch

            # Kept for all: what inference mode makes, no later training could take a gradient by.
            with torch.inference_mode(False):
                self.feeds[split] = self.dataset.split(split).to(self.device)
        return self.feeds[split]
