"""What the Transformers of texts share: attention with projections of its own, as heads are cut from each; weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Heads = tuple[Tensor, Tensor]
"""Keys and values, each (n, heads, tokens, width of a head)."""
HIDDEN = -1e4
"""A score whose exponential is 0 in every float; minus infinity would make NaN of a row without tokens."""


class Attention(nn.Module):
    """Multi-head attention to the tokens themselves, or to what is remembered.

    Args:
        dim: width of a token, a multiple of ``heads``.
        heads: how many.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.width = dim // heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.width)).transpose(1, 2)

    def remembered(self, x: Tensor) -> Heads:
        """Keys and values of tokens (n, tokens, dim)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, unseen: Tensor | None = None, remembered: Heads | None = None) -> Tensor:
        """(n, tokens, dim) to the same shape.

        Args:
            unseen: bool, broadcast to (n, heads, tokens, tokens attended to): True where a score doesn't count.
            remembered: keys and values that are attended to; None for those of ``x``.
        """
        queries = self._split(self.query(x))
        keys, values = self.remembered(x) if remembered is None else remembered
        scores = queries @ keys.transpose(-2, -1) * self.width**-0.5
        if unseen is not None:
            scores = scores.masked_fill(unseen, HIDDEN)
        return self.proj((scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2))

    def onward(self, x: Tensor, before: Heads) -> tuple[Tensor, Heads]:
        """Of the next place, (n, 1, dim), attending to what is before it and to itself; and what is remembered then."""
        keys, values = self.remembered(x)
        known = torch.cat((before[0], keys), dim=2), torch.cat((before[1], values), dim=2)
        return self(x, remembered=known), known


def narrowly(net: nn.Module) -> None:
    """Draws linear weights and embeddings normal with deviation 0.02; biases are 0."""
    for part in net.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
