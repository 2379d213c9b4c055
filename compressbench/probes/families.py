"""Families of groups of test examples: the classes, and each attribute of the data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressbench.errors import UserError, nearest

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset

CLASSES = "classes"


@dataclass(frozen=True)
class Family:
    """Groups of which an example is in one at most.

    Attributes:
        name: ``classes``, or an attribute.
        groups: their names in records, ``ATTRIBUTE=VALUE`` of an attribute.
        ids: (n,) int64 numpy, which group a test example is of, -1 for none.
    """

    name: str
    groups: tuple[str, ...]
    ids: Any

    @property
    def place(self) -> str:
        """The group that figures over the whole family go by: none for classes, else the attribute."""
        return "" if self.name == CLASSES else self.name


def families(bench: Bench, by: Sequence[str] | None, who: str) -> Iterator[Family]:
    """Those that ``by`` names; of None classes and every attribute of the data set.

    Args:
        who: names the probe in errors.

    Raises:
        UserError: labels are not one class an example, or there is no such attribute.
    """
    from compressbench.data.examples import one_class

    examples = bench.feed("test").to("cpu")
    one_class(examples.labels, who)
    names = [CLASSES, *bench.dataset.groups] if by is None else by
    known(bench.dataset, names, who)
    for name in names:
        if name == CLASSES:
            yield Family(name, tuple(bench.task.classes), examples.labels.numpy())
        else:
            groups = tuple(f"{name}={value}" for value in bench.dataset.groups[name])
            yield Family(name, groups, examples.groupings[name].numpy())


def known(dataset: Dataset, names: Iterable[str], who: str) -> None:
    """Nothing, where each is ``classes`` or an attribute of the data set.

    Raises:
        UserError: one is neither.
    """
    there = [CLASSES, *dataset.groups]
    for name in names:
        if name not in there:
            raise UserError(f"{who}: by: {dataset.name} has no attribute {name!r}; {nearest(name, there)}")


def checked(by: Any, who: str) -> None:
    """Nothing, where a probe's ``by`` is None or names.

    Raises:
        UserError: it is something else, or names nothing.
    """
    if by is not None and not len(by):
        raise UserError(f"{who}: by: {by!r} names nothing; null is for classes and all attributes")
    if by is not None and (isinstance(by, str) or not all(isinstance(name, str) for name in by)):
        raise UserError(f"{who}: by: {by!r} is no list of attributes, as [classes, coarse]")
