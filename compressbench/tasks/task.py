"""Task: what is asked of a model on examples. Nothing outside a task knows what an example looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from compressbench.data.examples import Examples
    from compressbench.inputs import Inputs
    from compressbench.outputs import Outputs
    from compressbench.views import View


ASKED = (
    "classes", "metric", "inputs", "encode", "varies", "variation", "blank", "drawn", "placed", "loss", "answers",
    "right", "log_probs", "surface", "facts", "feeding", "in_words", "identity",
)  # fmt: skip
"""What a task must have."""
MAY = (
    "prepared", "remarks", "lengths", "streams", "overall", "said", "axes", "noun", "texts", "beside", "decoding",
)  # fmt: skip
"""What a task may have beside it, see ``Prepares``, ``Remarks``, ``Lengthy``, ``Streaming``, ``Says``,
``axes_of``, ``read_of``; ``beside()`` gives contents of files, by name, that belong to an exported one; ``decoding()``,
with ``said``, lines of Python that make texts ``said`` of ``inputs`` and of ``logits_of(inputs)``, an exported file's."""

Axes = Mapping[str, tuple[str, ...]]
EXAMPLES = ("n",)


@dataclass(frozen=True)
class Pieces:
    """What was said of some examples, piece by piece: an example of one label is one piece, a sentence one a token.

    Attributes:
        log_probs: (pieces, classes) float32, natural logarithm.
        owners: (pieces,) int64, the example of the batch that a piece belongs to.
        labels: (pieces,) int64, what was to be said.
    """

    log_probs: Tensor
    owners: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Surface:
    """What an attack may change: the first input, within bounds; ``scale`` turns its own units into encoded ones."""

    low: Tensor
    high: Tensor
    scale: Tensor


@dataclass(frozen=True)
class NoSurface:
    """Why nothing may be changed by an attack.

    Attributes:
        why: one sentence.
    """

    why: str


def axes_of(task: Any) -> Axes:
    """Names of the dimensions that differ from batch to batch, by the input's name: what a task says in ``axes``.

    Of a task that says nothing it is the first, the examples', alone. The name ``logits`` is the output's; "" is a
    dimension that doesn't differ.
    """
    found: Axes = dict.fromkeys(task.inputs, EXAMPLES)
    return {**found, **getattr(task, "axes", {})}


def read_of(task: Any, examples: Examples) -> list[str]:
    """What a person reads of each example, columns a line each; empty of a task whose examples are no texts.

    A task says it in ``texts(examples)``: texts by the column's name.
    """
    columns = list(task.texts(examples).values()) if hasattr(task, "texts") else []
    return ["\n".join(parts) for parts in zip(*columns, strict=True)] if columns else [""] * len(examples)


def one_size(task: Any) -> str:
    """Why inputs don't all have one size but for their number, in words; empty where they do."""
    free = sorted({name for names in axes_of(task).values() for name in names[1:]})
    return f"batches differ in their {' and '.join(free)}" if free else ""


@dataclass(frozen=True)
class Placed:
    """A module laid out in memory as it trains fastest, and how its inputs are to lie.

    Attributes:
        module: the module itself, in another layout.
        inputs: lays inputs out alike.
    """

    module: nn.Module
    inputs: Callable[[Inputs], Inputs]


class Prepares(Protocol):
    """What a task may have: what is made of an example once, before anything is encoded, as tokens are of a text."""

    def prepared(self, examples: Examples) -> Examples:
        """The same examples with more columns, arrays on the host."""


class Remarks(Protocol):
    """What a task may have that has something to say of the data once they are read; no run is another by it."""

    def remarks(self, splits: Mapping[str, Examples]) -> tuple[str, ...]:
        """Sentences for the user, without a full stop: what was cut, say. Said at a run's start and by ``data``."""


class Lengthy(Protocol):
    """What a task may have whose examples are of unlike length.

    Training then makes batches of like ones, evaluation goes through a split from the shortest on and puts what it finds
    back in order, and ``encode`` may pad to the longest of the examples it is given. Each batch being of its own shape,
    no iteration is recorded as a CUDA graph, and trainings don't go in lanes.
    """

    def lengths(self, examples: Examples) -> Tensor:
        """(n,) int64, how long each example is, on the examples' device."""


class Says(Protocol):
    """What a task may have whose answers aren't read off one forward, as a translation is decoded token by token."""

    def said(self, module: nn.Module, inputs: Inputs) -> Tensor:
        """(n, places) int64, what a module in evaluation mode says, -1 after the end and where that is no number."""


class Streaming(Protocol):
    """What a task may have that says a row of a vocabulary for every token.

    Attributes:
        streams: True: the log-probabilities of a split are never kept whole; probes go through them batch by batch.
    """

    @property
    def streams(self) -> bool: ...

    def overall(self, view: View) -> float:
        """The main metric on the test split, where that is no share of right examples; its unit is the declared one."""


class Task(Protocol):
    """What is asked of a model.

    Attributes:
        classes: what the last dimension of the logits stands for, in order.
        metric: the main metric, as it is named in records.
        inputs: names of the inputs, in the order of ``forward``; an exported file's inputs are called so.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def metric(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...

    def encode(self, examples: Examples, variation: Inputs | None = None) -> Inputs:
        """A model's inputs; varied as ``variation`` says (see there), else as the examples are.

        A GPU records this once and repeats it: what differs from batch to batch comes in by the arguments alone.
        """

    def varies(self) -> bool:
        """Whether training varies the examples at all."""

    def variation(self, n: int, generator: torch.Generator) -> Inputs:
        """The random numbers by which training varies ``n`` examples: tensors on the CPU, a row an example."""

    def blank(self, n: int) -> Inputs:
        """Inputs of ``n`` examples with nothing on them, on the CPU, of the usual size."""

    def drawn(self, n: int, generator: torch.Generator) -> Inputs:
        """Random inputs of the usual size, on the CPU, to tell two modules apart by."""

    def placed(self, module: nn.Module) -> Placed:
        """A module in the memory layout in which it trains."""

    def loss(self, outputs: Outputs, labels: Any) -> Tensor:
        """Mean over the batch, nats where it is a likelihood."""

    def answers(self, outputs: Outputs) -> Tensor:
        """(n, ...) what the model says; nothing that could be right where it says what is no number."""

    def right(self, answers: Tensor, labels: Any) -> Tensor:
        """(n,) bool."""

    def log_probs(self, outputs: Outputs, labels: Any) -> Pieces:
        """What was said of a batch."""

    def surface(self, device: str = "cpu") -> Surface | NoSurface:
        """What an attack may change, or why nothing."""

    def facts(self) -> Mapping[str, Any]:
        """What a model's spec may ask for: ``@classes`` and others."""

    def feeding(self) -> tuple[str, list[str]]:
        """How an exported file is fed: a sentence, and lines of Python that make ``inputs``, {name: array}."""

    def in_words(self) -> str:
        """What an example is, in a few words: its size."""

    def identity(self) -> tuple[Any, ...]:
        """Plain values that say all of the task that a fingerprint must hold."""
