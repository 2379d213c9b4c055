"""Projected pairs: do distances between examples survive a random projection to few dimensions?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.probes.random_separators import NOT_NUMBERS, numeric, of_draws, whole
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.views import View

WHO = "projected_pairs"


@dataclass(frozen=True)
class ProjectedPairs:
    """Pairwise distances of training examples under Gaussian projections ``x -> x P / sqrt(k)``, by k (the group).

    - ``pairs_kept``: share of pairs, over all draws, whose distance is within 1 - ``within`` and 1 + ``within`` times
      what it was; ``pairs_expected``: what it is on average, exact (chi-squared with k degrees, whatever the data).
    - ``squares_kept``: the same of *squared* distances, which the Johnson-Lindenstrauss lemma speaks of.
    - ``all_pairs_kept``: share of draws that keep every pair's squared distance so, with Wilson's 95 % interval.
    - ``enough_dimensions``: the lemma's k, ``4 ln n / (e^2/2 - e^3/3)`` with e = ``within`` for squared distances;
      ``enough_dimensions_pairs``: with the e for which it says the same of distances, ``1 - (1 - within)^2``. Both are
      of n alone and may lie above the data's own dimensions.

    It says nothing of a state: the data and the drawn projections are all it looks at. Inputs are as models get them,
    flattened. Draws take the same examples, and wider projections contain the narrower ones of the same draw.

    Attributes:
        dimensions: k, whole numbers, none above the inputs' own dimensions.
        draws: how many.
        examples: so many training examples, drawn once.
        within: in (0, 1).
    """

    dimensions: Sequence[int] = (2, 4, 8, 16, 32, 64)
    draws: int = 20
    examples: int = 200
    within: float = 0.2
    VERSION: ClassVar[int] = 2

    def __post_init__(self) -> None:
        whole(self.dimensions, WHO)
        if self.draws < 1:
            raise UserError(f"{WHO}: draws is {self.draws}, must be 1 or more")
        if self.examples < 2:
            raise UserError(f"{WHO}: examples is {self.examples}, must be 2 or more")
        if not 0 < self.within < 1:
            raise UserError(f"{WHO}: within is {self.within}, must be a share above 0 and below 1")

    def check(self, dataset: Dataset) -> None:
        """Before anything is made.

        Raises:
            UserError: a k above the inputs' own dimensions; fewer training examples than asked for.
        """
        if not numeric(dataset.task):
            return
        most, have = dataset.task.blank(1)[0].numel(), len(dataset.split("train"))
        for k in self.dimensions:
            if k > most:
                raise UserError(
                    f"{WHO}: dimensions: {k} is above the {most} dimensions of {dataset.name}'s examples; a projection "
                    "has no more"
                )
        if self.examples > have:
            raise UserError(f"{WHO}: examples is {self.examples}, and {dataset.name} has {have} for training")

    def suits(self, dataset: Dataset) -> bool:
        """Whether examples are numbers of one size."""
        return numeric(dataset.task)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the data set, whatever the subject."""
        import numpy as np
        import torch

        from compressbench import separating

        if not numeric(bench.task):
            yield Metric("pairs_kept", None, "%", note=NOT_NUMBERS)
            return
        self.check(bench.dataset)
        train = bench.feed("train").to("cpu")
        chosen = torch.randperm(len(train), generator=bench.generator("examples"))[: self.examples]
        points = bench.task.encode(train.take(chosen))[0].flatten(1).double().numpy()
        low, high = 1 - self.within, 1 + self.within
        kept = np.zeros((2, len(self.dimensions)))
        whole_draws = np.zeros(len(self.dimensions), dtype=int)
        pairs = 0
        for draw in range(self.draws):
            generator = bench.generator(draw)
            shape = points.shape[1], max(self.dimensions)
            random = torch.randn(*shape, generator=generator, dtype=torch.float64).numpy()
            for i, ratios in enumerate(separating.squared_ratios(points, random, self.dimensions)):
                pairs = len(ratios)
                if not pairs:
                    yield Metric("pairs_kept", None, "%", note="all the examples are alike")
                    return
                squares = (ratios >= low) & (ratios <= high)
                kept[:, i] += ((ratios >= low**2) & (ratios <= high**2)).mean(), squares.mean()
                whole_draws[i] += bool(squares.all())
            bench.progress.step(draw + 1, self.draws)
        note = (
            f"{pairs} pairs of {self.examples} training examples in {self.draws} draws; n: draws, for pairs of one share "
            "their points and their projection"
        )
        for i, k in enumerate(self.dimensions):
            at = str(k)
            expected = separating.expected_share(k, low**2, high**2)
            yield Metric("pairs_kept", 100 * kept[0, i] / self.draws, "%", n=self.draws, note=note, group=at)
            yield Metric("pairs_expected", 100 * expected, "%", "theoretical", group=at)
            yield Metric("squares_kept", 100 * kept[1, i] / self.draws, "%", n=self.draws, group=at)
            yield from of_draws("all_pairs_kept", int(whole_draws[i]), self.draws, at)
        for name, within in (("", self.within), ("_pairs", 1 - low**2)):
            count = separating.enough_dimensions(self.examples, within)
            beyond = f", above the data's {points.shape[1]}" if count > points.shape[1] else ""
            told = f"n = {self.examples}, squared distances within {100 * within:.3g} %{beyond}"
            yield Metric(f"enough_dimensions{name}", count, "1", "theoretical", note=told)
