"""Pictures that probes spoil, made once for all states, and what a view says of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from compressbench.outputs import forward
from compressbench.tasks.images.classification import IMAGES
from compressbench.tasks.images.corruptions import corrupted
from compressbench.views import BATCH

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.examples import Examples
    from compressbench.views import View

PICTURES = 2**30
"""Bytes of corrupted pictures that are kept for a test split; those beyond are made again for each state."""


@dataclass
class Kept:
    """Tensors that are made once, as long as they fit: what comes first stays, so that going round helps.

    Attributes:
        most: bytes.
    """

    most: int
    held: int = 0
    known: dict[Hashable, Tensor] = field(default_factory=dict)

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, made if it isn't known."""
        if key in self.known:
            return self.known[key]
        found = make()
        if self.held + found.nbytes <= self.most:
            self.known[key] = found
            self.held += found.nbytes
        return found


_kept = WeakIdKeyDictionary()


def pictures(bench: Bench, kind: str, severity: int, examples: int | None) -> Tensor:
    """uint8 (n, c, h, w) on the CPU: the first test images, corrupted; the same for all states and seeds."""
    clean = bench.feed("test")[IMAGES]
    kept = _kept.setdefault(clean, Kept(PICTURES))
    return kept.get(
        (kind, severity, examples), lambda: corrupted(clean[slice(0, examples)].cpu(), kind, severity)
    )


def log_probs(view: View, examples: Examples, images: Tensor) -> Tensor:
    """(n, classes) what a view says of other pictures (n, c, h, w), uint8, in the examples' places; on the CPU."""
    task, fast = view.bench.task, view.fast
    found = []
    with torch.inference_mode():
        for batch, part in zip(examples.batches(BATCH), images.split(BATCH), strict=True):
            spoilt = batch.with_column(IMAGES, part.to(view.bench.device))
            found.append(task.log_probs(forward(fast, *task.encode(spoilt)), batch.labels).log_probs.cpu())
    return torch.cat(found)
