"""Random separators: the chance that random features, or one random direction, nearly separate two classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.views import View

WHO = "random_separators"


@dataclass(frozen=True)
class RandomSeparators:
    """ "With more random dimensions the chance that random separators already nearly separate the data tends to 1."

    What the sentence says depends on what a random separator is, so all readings are counted. A *draw* takes
    ``examples`` training examples of two classes, half of each, and D random ReLU features of the encoded inputs x:
    ``f_i = relu(w_i . x) / sqrt(D)``, w_i standard normal. A *cut* of numbers is a threshold, the best there is. Of a
    share of draws, by D (the group), with Wilson's 95 % interval:

    - ``separator_one``: one random direction in the D dimensions (standard normal, independent of the data), with its
      best cut, errs on at most ``error`` of the examples. More dimensions make it a random function drawn by the limit's
      kernel, and the chance a constant.
    - ``separator_best``: of the D features one, by itself with its best cut, errs on at most ``error``: the best of D
      random separators. Were they independent, it would be ``1 - (1 - p)^D``.
    - ``separator_near``: some combination of the D features errs on at most ``error``. Finding the one that errs least is
      NP-hard; counted are one that separates all, that of least squares, and the two above: a lower bound.
    - ``separator_all``: some combination separates all examples. Exact, by the distance of the convex hulls.
    - ``separator_margin``: ... and does so with a margin of at least ``1 - margin`` times the largest one that infinitely
      many features allow for the same examples (the kernel that D features approach). This is the reading under which
      the sentence is a theorem (Balcan, Blum, Vempala 2006: features drawn from the distribution keep a margin).

    Beside it ``separator_by_chance``: what ``separator_all`` would be of labels thrown by a coin, exact (Cover 1965).
    Draws take other examples each, and wider features contain the narrower ones of the same draw.

    It says nothing of a state: the data and the drawn features are all it looks at. It trains nothing that is kept.

    Attributes:
        dimensions: D, whole numbers.
        draws: how many.
        examples: of a draw, both classes together, even.
        classes: the two, by number or by name.
        error: share of the examples, in [0, 0.5).
        margin: share of the largest margin that may be missing, in (0, 1).
    """

    dimensions: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    draws: int = 100
    examples: int = 100
    classes: Sequence[Any] = (0, 1)
    error: float = 0.05
    margin: float = 0.5
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        whole(self.dimensions, WHO)
        if self.draws < 1:
            raise UserError(f"{WHO}: draws is {self.draws}, must be 1 or more")
        if self.examples < 2 or self.examples % 2:
            raise UserError(f"{WHO}: examples is {self.examples}, must be even, half of each class")
        if len(self.classes) != 2 or self.classes[0] == self.classes[1]:
            raise UserError(f"{WHO}: classes is {list(self.classes)}; two different ones are wanted")
        if not 0 <= self.error < 0.5:
            raise UserError(f"{WHO}: error is {self.error}, must be a share from 0 to below 0.5")
        if not 0 < self.margin < 1:
            raise UserError(f"{WHO}: margin is {self.margin}, must be a share above 0 and below 1")

    def check(self, dataset: Dataset) -> None:
        """Before anything is made.

        Raises:
            UserError: the data set hasn't these classes, or not so many training examples of them; labels are not one
                class an example.
        """
        from compressbench.data.examples import one_class

        labels = dataset.split("train").labels
        one_class(labels, WHO)
        for number in self._numbers(dataset.classes):
            have = int((labels == number).sum())
            if have < self.examples // 2:
                raise UserError(
                    f"{WHO}: examples is {self.examples}, half of each class, and {dataset.classes[number]} has "
                    f"{have} for training"
                )

    def suits(self, dataset: Dataset) -> bool:
        """Whether examples are numbers of one size."""
        return numeric(dataset.task)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the data set, whatever the subject."""
        import numpy as np

        from compressbench.separating import by_chance

        if not numeric(bench.task):
            yield Metric("separator_one", None, "%", note=NOT_NUMBERS)
            return
        names = ("one", "best", "near", "all", "margin")
        hits = np.zeros((len(self.dimensions), len(names)), dtype=int)
        for done, found in enumerate(self._outcomes(bench), 1):
            hits += found
            bench.progress.step(done, self.draws)
        a, b = (bench.dataset.classes[k] for k in self._numbers(bench.dataset.classes))
        told = f"{self.examples} training examples of {a} and {b} a draw"
        notes = {
            "one": f"errs on {100 * self.error:g} % at most; {told}",
            "margin": f"{100 * (1 - self.margin):g} % of the limit's margin or more; {told}",
        }
        notes |= dict.fromkeys(("best", "near"), notes["one"]) | {"all": told}
        for i, dimension in enumerate(self.dimensions):
            for j, name in enumerate(names):
                yield from of_draws(
                    f"separator_{name}", int(hits[i, j]), self.draws, str(dimension), notes[name]
                )
            chance = 100 * by_chance(self.examples, dimension)
            yield Metric("separator_by_chance", chance, "%", "theoretical", group=str(dimension))

    def _outcomes(self, bench: Bench) -> Iterator[Any]:
        """(dimensions, readings) bool of each draw."""
        import numpy as np
        import torch

        from compressbench import separating

        train = bench.feed("train").to("cpu")
        own = [torch.nonzero(train.labels == k).squeeze(1) for k in self._numbers(bench.dataset.classes)]
        half, most = self.examples // 2, max(self.dimensions)
        second = np.arange(self.examples) >= half
        for draw in range(self.draws):
            generator = bench.generator(draw)
            rows = torch.cat([rows[torch.randperm(len(rows), generator=generator)[:half]] for rows in own])
            points = bench.task.encode(train.take(rows))[0].flatten(1).double().numpy()
            random = torch.randn(points.shape[1], most, generator=generator, dtype=torch.float64).numpy()
            single = torch.randn(most, generator=generator, dtype=torch.float64).numpy()
            limit = separating.relu_limit(points)
            largest = separating.widest(limit[:half], limit[half:])
            found = []
            for d in self.dimensions:
                features = separating.relu_features(points, random[:, :d])
                margin = separating.widest(features[:half], features[half:])
                one = separating.least_error(features @ single[:d, None], second)[0]
                best = separating.least_error(features, second).min()
                least = 0.0 if margin > 0 else min(one, best, self._fitted_error(features, second))
                wide = margin > 0 and margin >= (1 - self.margin) * largest
                found.append([one <= self.error, best <= self.error, least <= self.error, margin > 0, wide])
            yield np.asarray(found)

    @staticmethod
    def _fitted_error(features: Any, second: Any) -> float:
        from compressbench import separating

        direction = separating.fitted_direction(features, second)
        return float(separating.least_error(features @ direction[:, None], second)[0])

    def _numbers(self, names: Sequence[str]) -> list[int]:
        return [_number(c, names) for c in self.classes]


def _number(wanted: Any, names: Sequence[str]) -> int:
    if isinstance(wanted, str) and wanted in names:
        return list(names).index(wanted)
    if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(names):
        return wanted
    raise UserError(f"{WHO}: classes: there is no class {wanted!r}; 0 to {len(names) - 1}, or its name")


def of_draws(name: str, hits: int, draws: int, group: str, note: str = "") -> Iterator[Metric]:
    """A share of draws, in percent, and the ends of Wilson's 95 % interval."""
    from compressbench.proportions import wilson

    low, high = wilson(hits, draws)
    for end, share, told in (("", hits / draws, note), ("_low", low, ""), ("_high", high, "")):
        yield Metric(f"{name}{end}", 100 * float(share), "%", n=draws, group=group, note=told)


NOT_NUMBERS = "its examples are no numbers of one size"


def numeric(task: Any) -> bool:
    """Whether a model's inputs are one tensor of numbers, all of one size."""
    from compressbench.tasks.task import one_size

    inputs = task.blank(1)
    return len(inputs) == 1 and inputs[0].is_floating_point() and not one_size(task)


def whole(dimensions: Any, who: str) -> None:
    """Refuses what is no rising list of whole numbers of 1 or more.

    Raises:
        UserError: see above.
    """
    if not dimensions:
        raise UserError(f"{who}: dimensions: at least one is needed")
    for one in dimensions:
        if isinstance(one, bool) or not isinstance(one, int) or one < 1:
            raise UserError(f"{who}: dimensions: {one!r} is no whole number of 1 or more")
    if sorted(set(dimensions)) != list(dimensions):
        raise UserError(f"{who}: dimensions: {list(dimensions)} don't rise; each once, the smallest first")
