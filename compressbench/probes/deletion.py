"""Deletion: how right a net still is where a random share of its units, channels or weights answers nothing any more."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.records import Metric
from compressbench.report.intervals import of_mean
from compressbench.report.numbers import counted
from compressbench.specs import Count, check_fields, within

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.views import View

UNITS, WEIGHTS = "units", "weights"
WHAT = (UNITS, WEIGHTS)
ACCURACY = "deletion_accuracy"


@dataclass(frozen=True)
class Deleted:
    """What can be deleted of a net.

    Attributes:
        sizes: how many there are in each layer.
        by: from a share and the number of a draw to the weights that change.
        note: in words, where.
    """

    sizes: tuple[int, ...]
    by: Callable[[float, int], Mapping[str, Tensor]]
    note: str


@dataclass(frozen=True)
class Deletion:
    """Accuracy after random deletions, without any training after them and without any rescaling.

    ``units`` are hidden neurons and channels, those that could be taken out of the net: of each layer (or of all layers
    whose outputs are summed) the same share goes. ``weights`` are those of convolutions and linear layers that are not
    zero, of each layer the same share; biases and norms stay. What goes depends on the run's seed and on the sizes of
    the layers alone, so that states of one architecture lose the same units, and a larger share loses the same and more.

    Attributes:
        what: what is deleted: ``units``, ``weights`` or both.
        shares: of the units or weights of each layer, in [0, 1], rounded to the nearest number of them.
        draws: of what goes; an interval of their mean needs at least 2.
        examples: test examples to ask, from the beginning; null for all.

    Raises:
        UserError: a setting out of range.
    """

    what: tuple[str, ...] = WHAT
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    draws: Count = 5
    examples: Count | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("what", "shares"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Iterable) or not list(given):
                raise UserError(f"deletion: {name} is {given!r}, must be a list of at least one")
            object.__setattr__(self, name, tuple(given))
            if len(set(map(str, given))) < len(tuple(given)):
                raise UserError(f"deletion: {name} is {list(given)}, must name each once")
        for what in self.what:
            if what not in WHAT:
                raise UserError(f"deletion: what: unknown {what!r}; {nearest(str(what), WHAT)}")
        for share in self.shares:
            within("Share", share, "deletion: shares")

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import by_token

        return by_token(dataset)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject alone, on the test split."""
        from compressbench.probes.answered import answered

        if why := self.unfit(bench.dataset):
            return [Metric(ACCURACY, None, "%", group=what, note=why) for what in self.what]
        return answered(self._measured(subject, bench), subject=subject)

    def _measured(self, subject: View, bench: Bench) -> Iterator[Metric]:
        from compressbench.models.build import module_of

        module = module_of(subject.state, bench.device)
        for what in self.what:
            made = (
                self._of_units(subject, module, bench) if what == UNITS else self._of_weights(module, bench)
            )
            if isinstance(made, str):
                yield Metric(ACCURACY, None, "%", group=what, note=made)
                continue
            for place, share in enumerate(self.shares):
                yield from self._figures(module, bench, what, share, made)
                bench.progress.step(place + 1, len(self.shares))

    def _of_units(self, subject: View, module: nn.Module, bench: Bench) -> Deleted | str:
        """What units there are to delete, or why there are none."""
        import torch

        from compressbench.models.build import module_of
        from compressbench.pruning.deleting import first, hidden_units, without_units

        sample = bench.task.drawn(2, torch.Generator().manual_seed(0))
        try:
            groups, left = hidden_units(module_of(subject.state), sample)
        except UserError as error:
            return f"no hidden units to delete: {error}".removesuffix("; prune single weights of such a net")
        own = {name: module.get_parameter(name).detach() for g in groups for name in g.read}

        def deleted(share: float, draw: int) -> Mapping[str, Tensor]:
            lost = [first(_order(bench.seed, UNITS, draw, k, g.units), share) for k, g in enumerate(groups)]
            return without_units(own, groups, lost)

        words = counted(len(groups), "layer or sum of layers", "layers or sums of layers")
        return Deleted(tuple(g.units for g in groups), deleted, "; ".join([words, *left]))

    def _of_weights(self, module: nn.Module, bench: Bench) -> Deleted | str:
        from compressbench.models.build import prunable
        from compressbench.pruning.deleting import without_weights

        own = {name: w.detach() for name, w in prunable(module).items()}
        left = {name: int(w.count_nonzero()) for name, w in own.items()}
        if not any(left.values()):
            return "no weights to delete: it has no convolution and no linear layer with a weight that isn't zero"

        def deleted(share: float, draw: int) -> Mapping[str, Tensor]:
            return {
                name: without_weights(w, _order(bench.seed, WEIGHTS, draw, k, left[name]), share)
                for k, (name, w) in enumerate(own.items())
            }

        return Deleted(tuple(left.values()), deleted, counted(len(own), "layer"))

    def _figures(
        self, module: nn.Module, bench: Bench, what: str, share: float, made: Deleted
    ) -> Iterator[Metric]:
        from compressbench import metrics

        found = []
        for draw in range(self.draws):
            with replaced(module, made.by(share, draw)):
                right = rights(module, bench, self.examples)
            found.append(metrics.percent(right))
        n, group = len(right), f"{what}, {100 * share:g} %"
        gone = sum(round(share * size) for size in made.sizes)
        note = f"{gone} of {sum(made.sizes)} {what} of {made.note}; mean of {counted(self.draws, 'draw')}"
        yield Metric(ACCURACY, statistics.fmean(found), "%", n=n, group=group, note=note)
        yield Metric("deleted", gone, "1", "computed", n=n, group=group)
        if self.draws > 1:
            low, high = within_bounds(found)
            yield Metric(f"{ACCURACY}_low", low, "%", n=n, group=group)
            yield Metric(f"{ACCURACY}_high", high, "%", n=n, group=group)


def _order(seed: int, what: str, draw: int, layer: int, count: int) -> Tensor:
    """The order in which a layer's parts go: the same for all states of a run whose layer has as many."""
    import torch

    from compressbench.seeds import derive_seed

    return torch.randperm(
        count, generator=torch.Generator().manual_seed(derive_seed(seed, "deletion", what, draw, layer))
    )


@contextlib.contextmanager
def replaced(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, a net computes with these tensors in place of its own of the same names."""
    import torch

    own = {name: module.get_parameter(name) for name in weights}
    before = {name: tensor.detach().clone() for name, tensor in own.items()}
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(before[name])


def rights(module: nn.Module, bench: Bench, limit: int | None) -> Tensor:
    """(n,) bool, which of the first ``limit`` test examples a net answers rightly, by its last exit; on the CPU."""
    from compressbench.views import answers_of

    examples = bench.feed("test").head(limit)
    return bench.task.right(answers_of(module, bench.task, examples), examples.labels.cpu())


def within_bounds(shares: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of two or more shares in per cent, cut at 0 and 100."""
    low, high = of_mean(shares)
    return max(0.0, low), min(100.0, high)
