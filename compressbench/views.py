"""View: a state as a probe sees it; module and predictions are made once, however many probes ask."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.exit_criteria.policy import POLICY
from compressbench.inputs import Inputs
from compressbench.metrics import named
from compressbench.models.build import module_of
from compressbench.models.exits import ByPolicy, prepared_parts
from compressbench.outputs import forward
from compressbench.tasks.task import Pieces
from compressbench.walking import put_back, walk

if TYPE_CHECKING:
    from compressbench.data.examples import Examples
    from compressbench.models.representation import ClassMeans
    from compressbench.state import State
    from compressbench.tasks.task import Task

BATCH = 64
STREAMED = 16
"""Examples at a time where what is said of each is a row of a vocabulary for every token."""


@dataclass(frozen=True)
class Told:
    """What is kept of streamed log-probabilities, all (pieces,), in the order of the walk.

    Attributes:
        owners: int64, the example of each piece.
        labels: int64, what was to be said.
        likelihood: float64, log-probability of that.
        said: int64, the likeliest; -1 where a score is no number.
        sure: float64, its probability.
        width: how many things could be said.
    """

    owners: Tensor
    labels: Tensor
    likelihood: Tensor
    said: Tensor
    sure: Tensor
    width: int


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
        """The same function prepared for many forwards (see ``models.prepared``); a state's exit policy holds."""
        from compressbench.models.prepared import prepared

        if self.leaves_early:
            return ByPolicy(self.parts, self.state.policies)
        return prepared(self.module, *self._sample())

    def is_of_the_state_of(self, other: View) -> bool:
        """Whether both are views of one state: the same view, or states of one key."""
        return self is other or bool(self.state.key and self.state.key == other.state.key)

    @functools.cached_property
    def parts(self) -> list[nn.Module]:
        """The parts of a net with exits, or of a cascade, each prepared for many forwards.

        Raises:
            UserError: it has no exits.
        """
        return prepared_parts(self.module, *self._sample())

    def _sample(self) -> Inputs:
        return self.bench.task.encode(self.bench.feed("test").head(8))

    @property
    def leaves_early(self) -> bool:
        """Whether what a forward costs depends on its input."""
        return POLICY in self.state.policies

    @property
    def streams(self) -> bool:
        """Whether what is said of the test split is too much to be kept whole: the task says so (``streams``)."""
        return bool(getattr(self.bench.task, "streams", False))

    @functools.cached_property
    def _whole(self) -> Pieces:
        """All that it says of the test split, on the CPU.

        Raises:
            UserError: that is too much.
        """
        if self.streams:
            raise UserError(
                f"all log-probabilities of {self.bench.task.in_words()} are never kept, so this can't be measured of them"
            )
        return self._in_order(self.pieces())

    @functools.cached_property
    def told(self) -> Told:
        """What is kept of the log-probabilities of the test split, piece by piece."""
        parts, width = [], 0
        for found in self.pieces():
            scores, width = found.log_probs, found.log_probs.shape[1]
            own = scores.gather(1, found.labels[:, None])[:, 0].double()
            sure = scores.amax(dim=1).double().exp()
            parts.append((found.owners, found.labels, own, named(scores), sure))
        owners, labels, likelihood, said, certain = (torch.cat(c) for c in zip(*parts, strict=True))
        return Told(owners, labels, likelihood, said, certain, width)

    @property
    def log_probs(self) -> Tensor:
        """(pieces, classes) log-probabilities of the whole test split, on the CPU, in the split's order."""
        return self._whole.log_probs

    @property
    def said_of(self) -> Tensor:
        """(pieces,) the example that each piece is of."""
        return self._whole.owners

    @property
    def wanted(self) -> Tensor:
        """(pieces,) what was to be said, a row of ``log_probs`` each."""
        return self._whole.labels

    @functools.cached_property
    def unanswered(self) -> int:
        """How many test examples it gives an answer to that is no number (NaN)."""
        if self.streams:
            return len(self.told.owners[self.told.said < 0].unique())
        return len(self.said_of[self.log_probs.isnan().any(dim=1)].unique())

    def log_probs_of(self, split: str, limit: int | None = None) -> Tensor:
        """Log-probabilities of a split's first ``limit`` examples."""
        return self._in_order(self.pieces(split, limit)).log_probs

    @staticmethod
    def _in_order(parts: Iterator[Pieces]) -> Pieces:
        """All of them, in the order of their examples."""
        found = list(parts)
        whole = Pieces(*(torch.cat([getattr(p, f.name) for p in found]) for f in fields(Pieces)))
        if bool((whole.owners[1:] >= whole.owners[:-1]).all()):
            return whole
        places = whole.owners.argsort(stable=True)
        return Pieces(whole.log_probs[places], whole.owners[places], whole.labels[places])

    def pieces(self, split: str = "test", limit: int | None = None) -> Iterator[Pieces]:
        """Batch by batch, on the CPU, owners numbered through: what is too much as a whole is measured from this.

        The batches are those of ``walking.walk``, the same ones for every view of a bench.
        """
        task, fast = self.bench.task, self.fast
        for rows, batch in walk(
            self.bench.task, self.bench.feed(split), STREAMED if self.streams else BATCH, limit
        ):
            with torch.inference_mode():
                found = task.log_probs(forward(fast, *task.encode(batch)), batch.labels)
            yield Pieces(found.log_probs.cpu(), rows[found.owners.cpu()], found.labels.cpu())

    @functools.cached_property
    def answers(self) -> Tensor:
        """(n, ...) what it says of each test example, on the CPU: where that is one piece, the likeliest class."""
        task, fast = self.bench.task, self.fast
        if hasattr(task, "said"):
            return self.decoded(task.said)
        one_each = self.labels.ndim == 1 and not self.streams
        if one_each and self.labels.shape == self.wanted.shape and bool((self.labels == self.wanted).all()):
            return named(self.log_probs)
        return answers_of(fast, task, self.bench.feed("test"), STREAMED if self.streams else BATCH)

    def saying(self, answers: Tensor) -> View:
        """The same state, to which other answers to the test split are given, in the form of ``answers``."""
        other = View(self.state, self.bench, self.label)
        other.answers = answers
        return other

    def decoded(self, said: Callable[[nn.Module, Inputs], Tensor]) -> Tensor:
        """(n, places of the longest) what is decoded of each test example, -1 after its end."""
        rows, found = [], []
        with torch.inference_mode():
            for places, batch in walk(self.bench.task, self.bench.feed("test"), BATCH):
                rows.append(places)
                found.append(said(self.module, self.bench.task.encode(batch)).cpu())
        wide = max(part.shape[1] for part in found)
        return put_back(rows, [F.pad(part, (0, wide - part.shape[1]), value=-1) for part in found])

    @functools.cached_property
    def right(self) -> Tensor:
        """(n,) bool, the test examples whose answer is right."""
        return self.bench.task.right(self.answers, self.labels)

    @functools.cached_property
    def right_on_validation(self) -> Tensor:
        """(n,) bool, the validation examples, of one class each, whose answer is right; one that is no number is not."""
        said = named(self.log_probs_of("validation"))
        return self.bench.task.right(said, self.bench.feed("validation").labels.cpu()) & (said >= 0)

    @functools.cached_property
    def labels(self) -> Any:
        """True labels of the test split, on the CPU, a row an example."""
        return self.bench.feed("test").labels.cpu()

    @functools.cached_property
    def class_means(self) -> ClassMeans:
        """The representation of the test split, averaged over each true class."""
        from compressbench.models.representation import class_means

        task = self.bench.task
        batches = (
            (task.encode(b), b.labels) for _, b in walk(self.bench.task, self.bench.feed("test"), BATCH)
        )
        return class_means(self.module, batches, len(task.classes))


def answers_of(module: nn.Module, task: Task, examples: Examples, size: int = BATCH) -> Tensor:
    """(n, ...) what a net says of examples, in their order, on the CPU; ``size`` of them at a time."""
    rows, found = [], []
    with torch.inference_mode():
        for places, batch in walk(task, examples, size):
            rows.append(places)
            found.append(task.answers(forward(module, *task.encode(batch))).cpu())
    return put_back(rows, found)
