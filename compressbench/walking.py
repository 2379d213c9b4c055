"""Walks: examples batch by batch; where they are of unlike length the shortest first, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.data.examples import Examples
    from compressbench.tasks.task import Task


def lengths_of(task: Task, examples: Examples) -> Tensor | None:
    """(n,) int64, how long each example is, on its device; None where a task doesn't say (see ``tasks.task``)."""
    says = getattr(task, "lengths", None)
    return says(examples) if says is not None else None


def walk(
    task: Task, examples: Examples, size: int, limit: int | None = None
) -> Iterator[tuple[Tensor, Examples]]:
    """(places in ``examples``, int64; the examples there) of each batch of the first ``limit``, all of them once.

    In the own order where a task says no lengths, else the shortest first, and of equal ones in the own order.
    """
    import torch

    some = examples if limit is None or limit >= len(examples) else examples.head(limit)
    lengths = lengths_of(task, some)
    if lengths is None:
        start = 0
        for batch in some.batches(size):
            yield torch.arange(start, start + len(batch)), batch
            start += len(batch)
        return
    for rows in lengths.argsort(stable=True).split(size):
        yield rows.cpu(), some.take(rows)


def put_back(rows: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """(n, ...) what was found of each batch of a walk, in the examples' own order.

    Args:
        rows: the places of each batch, as ``walk`` gives them.
        parts: (batch, ...) of each.
    """
    import torch

    places, whole = torch.cat(list(rows)), torch.cat(list(parts))
    if bool((places[1:] > places[:-1]).all()):
        return whole
    return whole[places.argsort().to(whole.device)]
