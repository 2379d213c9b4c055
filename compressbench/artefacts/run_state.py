"""``RUN::STATE``: a state of a finished run of compressbench."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.artefacts.artefact import Given, Input, Wanted
from compressbench.artefacts.module import OpenModule, frozen
from compressbench.errors import UserError
from compressbench.store import digest

if TYPE_CHECKING:
    from torch import nn

    from compressbench.artefacts.reading import Reading
    from compressbench.views import View

BETWEEN = "::"


@dataclass(frozen=True)
class RunState:
    """A state as it is measured in its own run: prepared for many forwards, its exit policy in force.

    Attributes:
        view: the state on its run's own data and task.
    """

    name: str
    view: View
    files: tuple[Path, ...]

    @property
    def form(self) -> str:
        """In words."""
        import torch

        return f"state of a run, torch {torch.__version__} on the CPU"

    @functools.cached_property
    def wants(self) -> Wanted:
        """By its task: names and types of inputs, classes; of pictures the size too, and how they are prepared."""
        from compressbench.artefacts.preparation import of_task

        task = self.view.bench.task
        known = of_task(task)
        inputs = tuple(
            Input(
                name,
                (None, *(x.shape[1:] if known is not None else [None] * (x.ndim - 1))),
                str(x.dtype).removeprefix("torch."),
            )
            for name, x in zip(task.inputs, task.blank(1), strict=True)
        )
        return Wanted(inputs, len(task.classes), known)

    @functools.cached_property
    def reading(self) -> Reading | None:
        """How its task reads texts; None of another task."""
        from compressbench.artefacts.reading import of_task

        return of_task(self.view.bench.task)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of its outputs, in order."""
        return tuple(self.view.bench.task.classes)

    @property
    def identity(self) -> str:
        """Of the state's own key."""
        return digest({"state": self.view.state.key})

    def open(self, threads: int = 1) -> OpenModule:
        """See ``Artefact``."""
        return OpenModule(self.view.fast, self.wants, self.name, threads)

    def differentiable(self) -> nn.Module | None:
        """The module; None where examples leave by exits, whose choice has no gradient."""
        return None if self.view.leaves_early else frozen(self.view.module)


def read(text: str, given: Given) -> RunState:
    """A state by its run's folder and its name.

    Raises:
        UserError: no such run or state, data or store that are gone, or code that isn't trusted.
    """
    from compressbench.runs.finished import opened, view_of

    folder, _, state = text.rpartition(BETWEEN)
    if not folder or not state:
        raise UserError(
            f"{text}: a state of a run is RUN{BETWEEN}STATE, e.g. outputs/one_shot/0{BETWEEN}dense"
        )
    ready = opened(Path(folder), given.trust)
    try:
        view, _ = view_of(ready, state)
    except UserError as error:
        raise UserError(f"{text}: {str(error).removeprefix('--state: ')}") from error
    return RunState(text, view, tuple(_files(ready.store.root, view.state.key)))


def _files(store: Path, key: str) -> list[Path]:
    """What the store holds of a state."""
    return sorted(
        p for folder in store.glob(f"**/{key}") if folder.is_dir() for p in folder.iterdir() if p.is_file()
    )
