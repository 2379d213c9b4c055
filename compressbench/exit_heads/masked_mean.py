"""Masked mean: of texts, the mean over what is no padding, then one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compressbench.exit_heads.first_token import width_of


class MaskedMean(nn.Module):
    """(n, tokens, c) and a mask (n, tokens), not 0 where a token is, to logits (n, classes)."""

    TAKES = (1,)

    def __init__(self, width: int, classes: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The logits; of a row without tokens those of a mean of 0."""
        x = self.norm(x)
        there = (mask != 0).to(x.dtype).unsqueeze(-1)
        return self.fc((x * there).sum(dim=1) / there.sum(dim=1).clamp(min=1))


def masked_mean(shape: Sequence[int], classes: int, norm: bool = True) -> nn.Module:
    """Layer norm, the mean over the tokens that are there (by the net's second input, the mask), a linear layer.

    Args:
        shape: (tokens, width) of the value at the exit.
        classes: number of logits.
        norm: whether tokens are normalised first, as after the last layer of a net whose layers normalise first; false
            for those that normalise last, as BERT.

    Raises:
        UserError: the value is no tokens.
    """
    return MaskedMean(width_of(shape, "masked_mean"), classes, norm)
