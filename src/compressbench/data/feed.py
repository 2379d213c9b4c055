"""Feed: one split as uint8 tensors on the device, batches without a loader."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from compressbench.data.dataset import Dataset


@dataclass(frozen=True)
class Feed:
    """Images uint8 (n, c, h, w) and labels int64 (n,) on one device; a label of -1 is not known."""

    images: Tensor
    labels: Tensor

    @staticmethod
    def of(dataset: Dataset, split: str, device: str) -> Feed:
        """The named split of a dataset, copied to the device once."""
        part = dataset.split(split)
        return Feed(torch.from_numpy(part.images).to(device), torch.from_numpy(part.labels).to(device))

    @staticmethod
    def made(tensors: Mapping[str, Tensor], device: str) -> Feed:
        """A data set that a stage made, ``images`` and ``labels`` as in a state's group ``data``."""
        return Feed(tensors["images"].to(device), tensors["labels"].to(device))

    @functools.cached_property
    def labelled(self) -> bool:
        """Whether every example has a label."""
        return bool((self.labels >= 0).all())

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Consecutive batches in the split's own order, at most ``limit`` examples in all."""
        end = len(self) if limit is None else min(limit, len(self))
        for start in range(0, end, size):
            stop = min(start + size, end)
            yield self.images[start:stop], self.labels[start:stop]


def order(count: int, seed: int) -> Tensor:
    """A permutation of ``range(count)``, int64 on the CPU, the same on every device."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
