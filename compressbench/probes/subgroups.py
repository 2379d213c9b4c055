"""Subgroups: whose errors grow when a net is compressed (Hooker, Moorosi, Clark, Bengio, Denton 2020)?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from compressbench.comparing.arrays import Floats, Ints
from compressbench.comparing.rates import (
    DENSE_ZERO,
    Change,
    Rates,
    confusion,
    mean_change,
    paired_change,
    rates,
)
from compressbench.errors import UserError, nearest
from compressbench.probes.families import CLASSES, known
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.data.examples import Examples
    from compressbench.populations import Population
    from compressbench.views import View

CROSSED = " & "
MOST = 1000
"""Sub-groups at most of one grouping."""
NAMES = ("group_error", "group_fpr", "group_fnr")


@dataclass(frozen=True)
class _Group:
    """One sub-group: its name, (n,) bool which test examples are of it, and its share in training in percent."""

    name: str
    own: np.ndarray
    share: float | None


@dataclass(frozen=True)
class Subgroups:
    """Error, false positive and false negative rate of each sub-group, and how they change against the reference.

    Of two classes one is positive, as published; of more, rates are the mean over classes, each against the rest. The
    normalised change is ``(compressed - dense) / dense``: of a state with Wald's interval of a paired ratio (of two
    classes; of more that of the error alone), of a population with Fieller's over its nets.

    Attributes:
        by: an attribute, or several, or their crossings (``Male & Young``); ``classes`` may be among them. None: each
            attribute of the data set that has at most 1,000 values, or the classes where there is none.
        positive: name or number of the class that is positive, where there are two; None: the last.
        pairs: whether nets of one seed in two populations are taken as made of each other, so that what both have in
            common isn't counted as chance.
    """

    VERSION: ClassVar[int] = 1
    by: str | Sequence[str] | None = None
    positive: str | int | None = None
    pairs: bool = True

    def __post_init__(self) -> None:
        if self.by is not None and not self.by:
            raise UserError(f"subgroups: by: {self.by!r} names nothing; null is for all attributes")

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: a data set without such attributes or such a positive class is refused.

        Raises:
            UserError: see above; or a crossing makes too many groups.
        """
        self._positive(dataset.classes)
        for by in self._wanted(dataset):
            _crossed(dataset, by)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the whole test split; a sub-group without examples has no figures."""
        from compressbench.probes.answered import answered

        own, dense = (v.answers.cpu().numpy()[None] for v in (subject, reference))
        same = subject is reference or subject.label == reference.label != ""
        found = self._measured(own, None if same else dense, bench, paired=True)
        yield from answered(found, subject=subject, reference=reference)

    def measure_many(self, subjects: Population, references: Population, bench: Bench) -> Iterable[Metric]:
        """Means over the nets; ``n`` of a rate and its change is the number of nets."""
        own, dense = (p.labels.cpu().numpy() for p in (subjects, references))
        same = [m.state for m in subjects.members] == [m.state for m in references.members]
        paired = self.pairs and [m.seed for m in subjects.members] == [m.seed for m in references.members]
        yield from self._measured(own, None if same else dense, bench, paired, many=True)

    def _measured(
        self, own: Ints, dense: Ints | None, bench: Bench, paired: bool, many: bool = False
    ) -> Iterator[Metric]:
        from compressbench.data.examples import one_class

        examples = bench.dataset.split("test")
        one_class(examples.labels, "subgroups")
        labels, classes = np.asarray(examples.labels), bench.task.classes
        positive = self._positive(classes)
        for found in self._groupings(bench):
            ids = np.full(len(labels), -1)
            for k, group in enumerate(found):
                ids[group.own] = k
            mine, before = (
                None
                if answers is None
                else rates(
                    np.stack([confusion(labels, row, ids, len(found), len(classes)) for row in answers]),
                    positive,
                )
                for answers in (own, dense)
            )
            for k, group in enumerate(found):
                yield from _share_of(group)
                n = int(group.own.sum())
                if not n:
                    yield Metric("group_error", None, "%", group=group.name, note="no test example of it")
                    continue
                assert mine is not None
                for name, rate in zip(NAMES, _of(mine, k), strict=True):
                    yield from _rate(name, rate, group.name, n, many)
                if before is None or dense is None:
                    continue
                if many:
                    both = zip(_of(before, k), _of(mine, k), strict=True)
                    changes = [_mean_change(a, b, paired) for a, b in both]
                else:
                    means = [
                        (float(a[0]), float(b[0])) for a, b in zip(_of(before, k), _of(mine, k), strict=True)
                    ]
                    rows = (labels[group.own], own[0][group.own], dense[0][group.own])
                    changes = _changes(*rows, positive, means[1:])
                for name, change in zip(NAMES, changes, strict=True):
                    yield from _changed(f"{name}_change", change, group.name, len(own) if many else n)

    def _positive(self, classes: Sequence[str]) -> int | None:
        if len(classes) != 2:
            if self.positive is not None:
                raise UserError(
                    f"subgroups: positive={self.positive!r}, but there are {len(classes)} classes; of more than two none "
                    "is positive, each is held against the rest"
                )
            return None
        if self.positive is None:
            return 1
        known = {name: k for k, name in enumerate(classes)}
        place = known.get(str(self.positive), self.positive)
        if type(place) is not int or not 0 <= place < 2:
            raise UserError(
                f"subgroups: positive={self.positive!r} is no class; {nearest(str(self.positive), classes)}"
            )
        return place

    def _groupings(self, bench: Bench) -> Iterator[list[_Group]]:
        for by in self._wanted(bench.dataset):
            yield _groups(bench.dataset, by)

    def _wanted(self, dataset: Dataset) -> list[str]:
        if self.by is None:
            return [a for a, values in dataset.groups.items() if len(values) <= MOST] or [CLASSES]
        return [self.by] if isinstance(self.by, str) else [str(by) for by in self.by]


def _crossed(dataset: Dataset, by: str) -> dict[str, list[str]]:
    """The attributes that are crossed, and the names of the values of each.

    Raises:
        UserError: the data set has no such attribute, or the crossing makes too many groups.
    """
    attributes = [part.strip() for part in by.split(CROSSED.strip())]
    known(dataset, attributes, "subgroups")
    found = {attribute: _names(dataset, attribute) for attribute in attributes}
    many = math.prod(len(names) for names in found.values())
    if many > MOST:
        raise UserError(f"subgroups: by: {by} makes {many:,} groups; {MOST:,} are the most")
    return found


def _groups(dataset: Dataset, by: str) -> list[_Group]:
    """The sub-groups by one attribute, or by a crossing of several, each with its share in training."""
    parts = [dataset.splits[part] for part in ("test", "train") if part in dataset.splits]
    names = _crossed(dataset, by)
    codes = [[_codes(part, attribute) for attribute in names] for part in parts]
    known_share = len(codes) > 1 and all((own >= 0).all() for own in codes[1])
    found = []
    for places in itertools.product(*(range(len(n)) for n in names.values())):
        own, *taught = (
            np.logical_and.reduce([of == k for of, k in zip(part, places, strict=True)]) for part in codes
        )
        name = CROSSED.join(n[k] for n, k in zip(names.values(), places, strict=True))
        found.append(_Group(name, own, 100 * float(taught[0].mean()) if known_share else None))
    return found


def _names(dataset: Dataset, attribute: str) -> list[str]:
    if attribute == CLASSES:
        return list(dataset.classes)
    return [f"{attribute}={value}" for value in dataset.groups[attribute]]


def _codes(examples: Examples, attribute: str) -> Ints:
    return np.asarray(examples.labels if attribute == CLASSES else examples.groupings[attribute])


def _share_of(group: _Group) -> Iterator[Metric]:
    note = "" if group.share is not None else "not known of the training examples"
    yield Metric("group_training_share", group.share, "%", group=group.name, note=note)


def _of(found: Rates, place: int) -> tuple[Floats, Floats, Floats]:
    """(nets,) each: error, FPR, FNR of one group."""
    return found.error[:, place], found.fpr[:, place], found.fnr[:, place]


def _rate(name: str, values: Floats, group: str, n: int, many: bool) -> Iterator[Metric]:
    if np.isnan(values).any():
        missing = "outside of the positive class" if name == "group_fpr" else "of the positive class"
        yield Metric(name, None, "%", group=group, note=f"undefined: no test example {missing}")
        return
    yield Metric(name, float(values.mean()), "%", n=len(values) if many else n, group=group)
    if many and len(values) > 1:
        yield Metric(f"{name}_sd", float(values.std(ddof=1)), "points", n=len(values), group=group)


def _changed(name: str, change: Change, group: str, n: int) -> Iterator[Metric]:
    value = None if math.isnan(change.value) else change.value
    yield Metric(name, value, "%", n=n if value is not None else 0, group=group, note=change.why)
    if not math.isnan(change.low):
        yield Metric(f"{name}_low", change.low, "%", n=n, group=group)
        yield Metric(f"{name}_high", change.high, "%", n=n, group=group)


UNDEFINED = Change(math.nan, why="undefined: the rate is")


def _mean_change(reference: Floats, other: Floats, paired: bool) -> Change:
    if np.isnan(reference).any() or np.isnan(other).any():
        return UNDEFINED
    return mean_change(reference, other, paired)


def _changes(
    labels: Ints, own: Ints, dense: Ints, positive: int | None, means: Sequence[tuple[float, float]]
) -> list[Change]:
    """Of error, FPR and FNR between two nets on one group's examples; ``means`` are the last two over classes."""
    error = _paired(own != labels, dense != labels)
    if positive is None:
        return [error, *(_plain(before, after) for before, after in means)]
    out, inside = labels != positive, labels == positive
    return [
        error,
        _paired(own[out] == positive, dense[out] == positive) if out.any() else UNDEFINED,
        _paired(own[inside] != positive, dense[inside] != positive) if inside.any() else UNDEFINED,
    ]


def _paired(own: np.ndarray, dense: np.ndarray) -> Change:
    return paired_change(int((own & dense).sum()), int(dense.sum()), int(own.sum()))


def _plain(before: float, after: float) -> Change:
    """Without an interval: a mean over classes has none of a simple form."""
    if math.isnan(before) or math.isnan(after):
        return UNDEFINED
    if not before:
        return Change(math.nan, why=DENSE_ZERO)
    return Change(float(100 * (after - before) / before), why="no interval: a mean over classes")
