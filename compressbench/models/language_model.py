"""A small decoder-only language model: the encoder's layers, each token seeing those before it (Radford et al. 2019)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from compressbench.models.encoder import EncoderLayer
from compressbench.models.fit import heads_divide, whole_sizes
from compressbench.models.transformer import Attention, Heads, narrowly


class LanguageModel(nn.Module):
    """Tokens, learnt positions, layers of masked attention, one linear layer to the vocabulary (not tied).

    Linear weights and embeddings are drawn normal with deviation 0.02, biases 0, norms 1.

    Args:
        vocabulary: how many ids there are.
        length: tokens of a text at most.
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
        length: int,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {
            "vocabulary": vocabulary,
            "length": length,
            "dim": dim,
            "depth": depth,
            "heads": heads,
            "mlp": mlp,
        }
        whole_sizes("language_model", sizes)
        heads_divide("language_model", heads, dim)
        self.tokens = nn.Embedding(vocabulary, dim)
        self.positions = nn.Embedding(length, dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, mlp, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, vocabulary)
        narrowly(self)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, tokens) ids, and where a token is, to logits (n, tokens, vocabulary): of each place the next token's."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.dropout(self.tokens(input_ids) + self.positions(places))
        later = places[None, :] > places[:, None]
        # a place always sees itself, so that no row of scores is hidden as a whole
        absent = (attention_mask == 0)[:, None, :] & (places[None, :] != places[:, None])
        unseen = (later | absent)[:, None]
        for layer in self.layers:
            x = layer(x, unseen)
        return self.fc(self.norm(x))

    @property
    def remembers(self) -> bool:
        """Whether ``begun`` and ``step`` go as ``forward`` does: no layer was left out or replaced by another module."""
        return all(
            isinstance(layer, EncoderLayer) and isinstance(layer.attention, Attention)
            for layer in self.layers
        )

    def begun(self, input_ids: Tensor) -> tuple[Tensor, tuple[Heads, ...]]:
        """Beginnings (n, tokens) without padding, to logits of the next token (n, vocabulary), and what is remembered:
        each layer's keys and values."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.dropout(self.tokens(input_ids) + self.positions(places))
        found = []
        for layer in self._layers():
            found.append(layer.attention.remembered(layer.norm1(x)))
            x = layer(x, places[None, :] > places[:, None])
        return self.fc(self.norm(x[:, -1])), tuple(found)

    def step(self, tokens: Tensor, remembered: tuple[Heads, ...]) -> tuple[Tensor, tuple[Heads, ...]]:
        """The token before, ids (n,), to logits of the next one (n, vocabulary), and what is remembered with it."""
        place = remembered[0][0].shape[2]
        x = self.tokens(tokens)[:, None] + self.positions(tokens.new_tensor(place))
        found = []
        for layer, before in zip(self._layers(), remembered, strict=True):
            x, known = layer.step(x, before)
            found.append(known)
        return self.fc(self.norm(x[:, 0])), tuple(found)

    def _layers(self) -> list[EncoderLayer]:
        return cast(list[EncoderLayer], list(self.layers))
