"""A small Transformer that translates: an encoder, and a decoder that writes token by token (Vaswani et al. 2017).

Normalised first, as Xiong et al. (2020). One vocabulary for both languages, so one embedding; the last layer has weights
of its own, so that pruning and quantization know it as the linear layer that it is.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from compressbench.models.encoder import EncoderLayer
from compressbench.models.fit import heads_divide, whole_sizes
from compressbench.models.transformer import Attention, Heads

Remembered = tuple[Tensor, tuple[tuple[Heads, Heads], ...]]
"""Where no source token is, bool (n, 1, 1, tokens); of each layer what the source gives, and the tokens so far."""


class DecoderLayer(nn.Module):
    """Attention to the tokens so far, then to the source, then two linear layers; each normalised first, a residual."""

    def __init__(self, dim: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.cross = Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Heads, absent: Tensor, later: Tensor) -> Tensor:
        """(n, tokens, dim) to the same shape, all places at once; ``absent`` and ``later`` aren't seen."""
        own = self.norm1(x)
        x = x + self.dropout(self.attention(own, later, self.attention.remembered(own)))
        return self._rest(x, source, absent)

    def step(self, x: Tensor, source: Heads, absent: Tensor, before: Heads) -> tuple[Tensor, Heads]:
        """The next place, (n, 1, dim), and what is remembered with it."""
        own, known = self.attention.onward(self.norm1(x), before)
        return self._rest(x + self.dropout(own), source, absent), known

    def _rest(self, x: Tensor, source: Heads, absent: Tensor) -> Tensor:
        x = x + self.dropout(self.cross(self.norm2(x), absent, source))
        return x + self.dropout(self.mlp(self.norm3(x)))


class Side(nn.Module):
    """Learnt positions, layers and the last norm: of the encoder or of the decoder."""

    def __init__(self, layers: list[Any], length: int, dim: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(length, dim)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)


class EncoderDecoder(nn.Module):
    """Tokens, an encoder's layers, a decoder's, one linear layer to the vocabulary.

    Linear weights are drawn as Glorot and Bengio (2010) do, embeddings and the last layer normal with variance 1 / width,
    biases 0, norms 1. (Drawn with deviation 0.02, as wide models are, a narrow one hardly learns where to look: after an
    epoch of Multi30k a BLEU of 5, so 18.)

    Args:
        vocabulary: how many ids there are, of both languages.
        length: tokens of a source and of a target at most.
        dim: width of a token, a multiple of ``heads``.
        depth: number of the encoder's layers.
        decoder_depth: number of the decoder's, null for as many.
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
        dim: int = 256,
        depth: int = 3,
        decoder_depth: int | None = None,
        heads: int = 4,
        mlp: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        deep = depth if decoder_depth is None else decoder_depth
        sizes = {"vocabulary": vocabulary, "length": length, "dim": dim, "depth": depth, "decoder_depth": deep,
                 "heads": heads, "mlp": mlp}  # fmt: skip
        whole_sizes("translator", sizes)
        heads_divide("translator", heads, dim)
        self.tokens = nn.Embedding(vocabulary, dim)
        self.dropout = nn.Dropout(dropout)
        self.encoder = Side([EncoderLayer(dim, heads, mlp, dropout) for _ in range(depth)], length, dim)
        self.decoder = Side([DecoderLayer(dim, heads, mlp, dropout) for _ in range(deep)], length, dim)
        self.fc = nn.Linear(dim, vocabulary)
        for part in self.modules():
            if isinstance(part, nn.Embedding) or part is self.fc:
                nn.init.normal_(part.weight, std=dim**-0.5)
            elif isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Ids (n, source tokens), where a token is, ids (n, target tokens) to logits (n, target tokens, vocabulary)."""
        source, absent = self.encoded(input_ids, attention_mask)
        return self.decoded(source, absent, decoder_input_ids)

    def decoded(self, source: Tensor, absent: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Logits (n, target tokens, vocabulary) of all places at once, of what ``encoded`` gives."""
        places = torch.arange(decoder_input_ids.shape[1], device=decoder_input_ids.device)
        later = places[None, :] > places[:, None]
        x = self.dropout(self.tokens(decoder_input_ids) + self.decoder.positions(places))
        for layer in self._decoding():
            x = layer(x, layer.cross.remembered(source), absent, later)
        return self.fc(self.decoder.norm(x))

    def _decoding(self) -> list[DecoderLayer]:
        return cast(list[DecoderLayer], list(self.decoder.layers))

    def encoded(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The source as the decoder sees it, (n, tokens, dim), and bool (n, 1, 1, tokens), True where no token is."""
        absent = (attention_mask == 0)[:, None, None, :]
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.dropout(self.tokens(input_ids) + self.encoder.positions(places))
        for layer in self.encoder.layers:
            x = layer(x, absent)
        return self.encoder.norm(x), absent

    def begin(self, input_ids: Tensor, attention_mask: Tensor) -> Remembered:
        """What is remembered before the first token: of each layer the source's keys and values."""
        source, absent = self.encoded(input_ids, attention_mask)
        found = []
        for layer in self._decoding():
            keys, values = layer.cross.remembered(source)
            key, value = layer.attention.remembered(source[:, :1])
            found.append(((keys, values), (key[:, :, :0], value[:, :, :0])))
        return absent, tuple(found)

    def step(self, tokens: Tensor, remembered: Remembered) -> tuple[Tensor, Remembered]:
        """The token before, ids (n,), to logits of the next one (n, vocabulary), and what is remembered with it."""
        absent, layers = remembered
        place = layers[0][1][0].shape[2]
        x = self.tokens(tokens)[:, None] + self.decoder.positions(tokens.new_tensor(place))
        found = []
        for layer, (source, before) in zip(self._decoding(), layers, strict=True):
            x, known = layer.step(x, source, absent, before)
            found.append((source, known))
        return self.fc(self.decoder.norm(x[:, 0])), (absent, tuple(found))
