"""Rows of unlike length, as a column of examples may have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Ragged:
    """Rows of unlike length, end to end.

    Attributes:
        values: (total, ...), an array or a tensor.
        starts: int64, (n + 1,): row i is ``values[starts[i]:starts[i + 1]]``.
    """

    values: Any
    starts: Any

    @staticmethod
    def of(rows: Any) -> Ragged:
        """Rows (sequences of numbers or arrays) put end to end."""
        parts = [np.asarray(row) for row in rows]
        ends = np.cumsum([0, *map(len, parts)])
        # an empty list is one of floats to numpy, and would make floats of all the others
        filled = [part for part in parts if len(part)] or [np.zeros(0, np.int64)]
        return Ragged(np.concatenate(filled), ends.astype(np.int64))

    def fault(self) -> str:
        """What keeps these from being rows, in words; empty where nothing does."""
        starts = self.starts
        if starts.ndim != 1 or len(starts) < 1 or not str(starts.dtype).endswith("int64"):
            return f"starts are {starts.dtype} {tuple(starts.shape)}, not int64 (n + 1,)"
        rising = bool((starts[1:] >= starts[:-1]).all())
        if self.values.ndim < 1 or int(starts[0]) != 0 or int(starts[-1]) != len(self.values) or not rising:
            return "starts don't rise from 0 to the number of values"
        return ""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: Any) -> Ragged:
        """The rows of a slice or of an index, in its order."""
        numbers = np.asarray(rows) if isinstance(rows, list) else rows
        if isinstance(self.starts, np.ndarray):
            chosen = np.arange(len(self))[numbers]
            begin, lengths = self.starts[chosen], np.diff(self.starts)[chosen]
            starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
            places = np.repeat(begin - starts[:-1], lengths) + np.arange(int(starts[-1]))
            return Ragged(self.values[places], starts)
        import torch

        there = torch.arange(len(self), device=self.starts.device)[numbers]
        first, sizes = self.starts[there], self.starts.diff()[there]
        ends = torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))
        moved = torch.repeat_interleave(first - ends[:-1], sizes)
        return Ragged(self.values[moved + torch.arange(len(moved), device=moved.device)], ends)

    def padded(self, fill: float, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Tensors (n, width, ...) filled up at the end, or cut there, and bool (n, width): True where a value is."""
        import torch

        values, starts = torch.as_tensor(self.values), torch.as_tensor(self.starts)
        lengths = starts.diff()
        wide = int(lengths.max()) if width is None and len(self) else width or 0
        there = torch.arange(wide, device=values.device) < lengths[:, None]
        out = values.new_full((len(self), wide, *values.shape[1:]), fill)
        places = starts[:-1, None] + torch.arange(wide, device=values.device)
        out[there] = values[places[there]]
        return out, there
