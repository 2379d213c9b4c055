"""Examples: named columns, labels, row ids and groupings, on the host as arrays or on a device as tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.errors import UserError
from compressbench.ragged import Ragged

if TYPE_CHECKING:
    import torch

LABELS = "labels"
PREFIX = "group."  # a grouping's name among a state's tensors


Column = Any
"""An array or a tensor of one row an example, or ``Ragged``."""


@dataclass(frozen=True)
class Examples:
    """What a data set, a stage or a batch holds; how it becomes a model's inputs is the task's to say.

    Attributes:
        columns: name -> one row an example.
        labels: int64 (n,), -1 where not known; other tasks may have other labels, one row an example, as int64 (n,
            places) of sequences, -1 where nothing is to be said.
        rows: int64 (n,): position in the source's own order, so that a record can point at an example.
        groupings: name -> int64 (n,): the example's place among the names that ``Dataset.groups`` gives, -1 where not
            known. Classes are a grouping too, by ``labels``.
    """

    columns: Mapping[str, Column]
    labels: Any
    rows: Any
    groupings: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(labels: Any, groupings: Mapping[str, Any] | None = None, **columns: Column) -> Examples:
        """Examples numbered in the order given; whole numbers as labels become int64."""
        known = np.asarray(labels)
        known = known.astype(np.int64) if known.dtype.kind in "iub" else known
        return Examples(columns, known, np.arange(len(known)), groupings or {})

    @staticmethod
    def made(
        tensors: Mapping[str, torch.Tensor], device: str = "cpu", classes: int | None = None
    ) -> Examples:
        """Examples that a stage made, from a state's group ``data`` (see ``tensors``), on a device.

        Args:
            classes: how many there are, where labels are to be looked at.

        Raises:
            UserError: these are no examples, as in a store that somebody made by hand.
        """
        import torch

        if LABELS not in tensors or tensors[LABELS].ndim < 1:
            raise UserError(f"the state's data set holds no {LABELS}")
        labels = tensors[LABELS].to(device)
        whole = labels.ndim == 1 and not labels.is_floating_point()
        if classes is not None and whole and bool(((labels < -1) | (labels >= classes)).any()):
            told = f"{int(labels.min())} to {int(labels.max())}"
            raise UserError(f"the state's data set: labels {told}, and there are {classes} classes")
        columns: dict[str, Column] = {}
        for name, tensor in tensors.items():
            column, _, part = name.partition("/")
            if name == LABELS or name.startswith(PREFIX) or part == "starts":
                continue
            there = tensor.to(device)
            if part and f"{column}/starts" not in tensors:
                raise UserError(f"the state's data set holds {name!r} without {column}/starts")
            columns[column] = Ragged(there, tensors[f"{column}/starts"].to(device)) if part else there
        groupings = {n.removeprefix(PREFIX): t.to(device) for n, t in tensors.items() if n.startswith(PREFIX)}
        for name, found in (*columns.items(), *groupings.items()):
            wrong = found.fault() if isinstance(found, Ragged) else "" if found.ndim else "no rows"
            if wrong or len(found) != len(labels):
                raise UserError(
                    f"the state's data set: {name}: {wrong or f'{len(found)} rows for {len(labels)} examples'}"
                )
        return Examples(columns, labels, torch.arange(len(labels), device=device), groupings)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All but the row ids by name, for a state's group ``data``; a ragged column is two tensors."""
        import torch

        found: dict[str, Any] = {}
        for name, column in self.columns.items():
            parts = {name: column}
            if isinstance(column, Ragged):
                parts = {f"{name}/values": column.values, f"{name}/starts": column.starts}
            found |= parts
        found[LABELS] = self.labels
        found |= {f"{PREFIX}{name}": codes for name, codes in self.groupings.items()}
        return {name: torch.as_tensor(value).cpu().contiguous() for name, value in found.items()}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, column: str) -> Column:
        """A column by name."""
        return self.columns[column]

    def _each(self, change: Callable[[Any], Any]) -> Examples:
        return Examples(
            {name: change(column) for name, column in self.columns.items()},
            change(self.labels),
            change(self.rows),
            {name: change(codes) for name, codes in self.groupings.items()},
        )

    def take(self, rows: Any) -> Examples:
        """The given rows (an index array or a slice), in the given order."""
        return self._each(lambda part: part[rows])

    def head(self, count: int | None) -> Examples:
        """The first ``count``, or all."""
        return self.take(slice(0, count))

    def split(self, parts: int) -> Iterator[Examples]:
        """Consecutive parts, as equal as can be; the first ones are longer by one where they must."""
        size, longer = divmod(len(self), parts)
        start = 0
        for place in range(parts):
            stop = start + size + (place < longer)
            yield self.take(slice(start, stop))
            start = stop

    def batches(self, size: int, limit: int | None = None) -> Iterator[Examples]:
        """Consecutive batches in the own order, at most ``limit`` examples in all."""
        end = len(self) if limit is None else min(limit, len(self))
        for start in range(0, end, size):
            yield self.take(slice(start, min(start + size, end)))

    def to(self, device: str) -> Examples:
        """As tensors on a device."""
        import torch

        def there(part: Any) -> Any:
            if isinstance(part, Ragged):
                return Ragged(there(part.values), there(part.starts))
            return torch.as_tensor(part).to(device)

        return self._each(there)

    def with_column(self, name: str, column: Column) -> Examples:
        """A copy with one column replaced."""
        return replace(self, columns={**self.columns, name: column})

    @functools.cached_property
    def labelled(self) -> bool:
        """Whether every example has a label."""
        return bool(known(self.labels).all())


def known(labels: Any) -> Any:
    """(n,) bool, which examples have a label: any at all of a sequence (int64), all of them of other rows of several."""
    there = labels >= 0
    if there.ndim == 1:
        return there
    flat = there.reshape(len(there), -1)
    return flat.any(1) if are_sequences(labels) else flat.all(1)


def are_sequences(labels: Any) -> bool:
    """Whether a row holds the labels of a sequence: int64 (n, places), -1 where nothing is to be said."""
    return labels.ndim == 2 and str(labels.dtype).endswith("int64")


def one_class(labels: Any, who: str) -> None:
    """Refuses labels that are not one class an example.

    Raises:
        UserError: a row holds several, or labels are no whole numbers.
    """
    if labels.ndim != 1 or str(labels.dtype).rpartition(".")[2].startswith("float"):
        form = "several labels an example" if labels.ndim > 1 else "labels that are no whole numbers"
        raise UserError(f"{who} is of one class an example, and the task has {form}")


def order(count: int, seed: int) -> torch.Tensor:
    """A permutation of ``range(count)``, int64 on the CPU, the same on every device."""
    import torch

    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
