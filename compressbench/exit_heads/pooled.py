"""Pooled: the mean over places, then one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compressbench.errors import UserError


class Pooled(nn.Module):
    """(n, c, h, w), (n, tokens, c) or (n, c) to logits (n, classes)."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        if len(shape) not in (1, 2, 3):
            raise UserError(
                f"head: pooled takes maps, tokens or vectors; the value at this exit is {tuple(shape)}"
            )
        self.maps, self.tokens = len(shape) == 3, len(shape) == 2
        self.fc = nn.Linear(shape[0] if self.maps else shape[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        if self.maps:
            x = x.mean(dim=(2, 3))
        elif self.tokens:
            x = x.mean(dim=1)
        return self.fc(x)


def pooled(shape: Sequence[int], classes: int) -> nn.Module:
    """Mean over height and width (or over tokens), then a linear layer.

    Args:
        shape: of the value at the exit, without the batch.
        classes: number of logits.

    Raises:
        UserError: the value is neither maps nor tokens nor vectors.
    """
    return Pooled(shape, classes)
