"""A small Transformer encoder that classifies texts (Vaswani et al. 2017; normalised first, as Xiong et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressbench.models.fit import heads_divide, whole_sizes
from compressbench.models.transformer import Attention, Heads, narrowly


class EncoderLayer(nn.Module):
    """Attention, then two linear layers with GELU between, each normalised first and with a residual."""

    def __init__(self, dim: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, unseen: Tensor) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        return self._rest(x + self.dropout(self.attention(self.norm1(x), unseen)))

    def step(self, x: Tensor, before: Heads) -> tuple[Tensor, Heads]:
        """The next place, (n, 1, dim), where each sees those before it, and what is remembered with it."""
        own, known = self.attention.onward(self.norm1(x), before)
        return self._rest(x + self.dropout(own)), known

    def _rest(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.mlp(self.norm2(x)))


class TextEncoder(nn.Module):
    """Tokens, learnt positions, layers, the mean over tokens, one classifier.

    Linear weights and embeddings are drawn normal with deviation 0.02, biases 0, norms 1.

    Args:
        vocabulary: how many ids there are.
        classes: number of logits.
        length: tokens of a text at most.
        segments: how many texts an example has.
        dim: width of a token, a multiple of ``heads``.
        depth: number of layers.
        heads: attention heads of each.
        mlp: hidden width of a layer's linear layers.
        dropout: of what a layer adds, and of the embeddings.

    Raises:
        UserError: a number below 1, or a width that ``heads`` doesn't divide.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        length: int,
        segments: int = 1,
        dim: int = 256,
        depth: int = 4,
        heads: int = 4,
        mlp: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "classes": classes, "length": length, "dim": dim, "depth": depth,
                 "heads": heads, "mlp": mlp}  # fmt: skip
        whole_sizes("encoder", sizes)
        heads_divide("encoder", heads, dim)
        self.tokens = nn.Embedding(vocabulary, dim)
        self.positions = nn.Embedding(length, dim)
        self.segments = nn.Embedding(segments, dim) if segments > 1 else None
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, mlp, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, classes)
        narrowly(self)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """(n, tokens) ids, and where a token is, to logits (n, classes)."""
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        if self.segments is not None and token_type_ids is not None:
            x = x + self.segments(token_type_ids)
        x = self.dropout(x)
        unseen = (attention_mask == 0)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, unseen)
        there = attention_mask.to(x.dtype).unsqueeze(-1)
        mean = (self.norm(x) * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
        return self.fc(mean)
