"""A translator that says all tokens at once (Gu et al. 2018, without fertility): its length first, then every place.

The decoder reads the source's own embeddings, spread evenly over as many places as the length says, and no token that it
has said itself; so it can't know which of several good translations it is in the middle of.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from compressbench.metrics import named
from compressbench.models.encoder_decoder import DecoderLayer, EncoderDecoder
from compressbench.outputs import Outputs

LENGTH = "length"
"""Name of the tap: logits of how many tokens a translation has, its end among them."""


class ParallelTranslator(nn.Module):
    """The layers of ``EncoderDecoder`` without the mask over later places, and a linear layer that tells the length.

    Args:
        vocabulary: how many ids there are, of both languages.
        length: tokens of a source and of a target at most.
        pad, end: ids that fill rows up and that texts end with.
        dim, depth, decoder_depth, heads, mlp, dropout: as of ``EncoderDecoder``.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        pad: int = 0,
        end: int = 3,
        dim: int = 256,
        depth: int = 3,
        decoder_depth: int | None = None,
        heads: int = 4,
        mlp: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pad, self.end = pad, end
        self.translator = EncoderDecoder(vocabulary, length, dim, depth, decoder_depth, heads, mlp, dropout)
        self.length = nn.Linear(dim, length)
        nn.init.normal_(self.length.weight, std=0.02)
        nn.init.zeros_(self.length.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Outputs:
        """Logits (n, target tokens, vocabulary) at the target's own length, of whose tokens nothing else is read.

        With the tap ``length``, (n, length): logits of the number of tokens.
        """
        source, absent = self.translator.encoded(input_ids, attention_mask)
        said = (decoder_input_ids != self.pad) & (decoder_input_ids != self.end)
        # the first is what targets begin with, which may be the id that pads
        lengths = 1 + said[:, 1:].sum(dim=1)
        logits = self._all(input_ids, attention_mask, source, absent, lengths, decoder_input_ids.shape[1])
        return Outputs(logits, {LENGTH: self._length(source, attention_mask)})

    def at_once(self, input_ids: Tensor, attention_mask: Tensor, limits: Tensor) -> Tensor:
        """int64 (n, tokens of the longest), the likeliest at each place of the likeliest length, -1 after the end.

        Args:
            limits: (n,) int64, how many tokens are said at most.
        """
        source, absent = self.translator.encoded(input_ids, attention_mask)
        lengths = named(self._length(source, attention_mask)).clamp(min=1).minimum(limits)
        wide = int(lengths.max())
        logits = self._all(input_ids, attention_mask, source, absent, lengths, wide)
        said = named(logits.flatten(0, 1)).view(len(lengths), wide)
        ended = said == self.end
        after = ended.cumsum(dim=1) - ended.long() > 0
        places = torch.arange(wide, device=said.device)
        return said.masked_fill(after | (places >= lengths[:, None]), -1)

    def _length(self, source: Tensor, attention_mask: Tensor) -> Tensor:
        there = attention_mask.to(source.dtype).unsqueeze(-1)
        return self.length((source * there).sum(dim=1) / there.sum(dim=1).clamp(min=1))

    def _all(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        source: Tensor,
        absent: Tensor,
        lengths: Tensor,
        wide: int,
    ) -> Tensor:
        """Logits of ``wide`` places, of which each row has as many as its length."""
        net = self.translator
        places = torch.arange(wide, device=input_ids.device)
        copied = spread(attention_mask.sum(dim=1), lengths, places)
        x = net.tokens(input_ids.gather(1, copied)) + net.decoder.positions(places)
        x = net.dropout(x)
        beyond = (places >= lengths[:, None])[:, None, None, :]
        for layer in cast(list[DecoderLayer], list(net.decoder.layers)):
            x = layer(x, layer.cross.remembered(source), absent, beyond)
        return net.fc(net.decoder.norm(x))


def spread(sources: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
    """int64 (n, places): which of a source's tokens each place of a target copies, floor(place x source / target).

    Args:
        sources, lengths: (n,) tokens of source and target.
        places: (places,) from 0; those beyond a target copy its source's last.
    """
    found = places[None, :] * sources[:, None] // lengths[:, None]
    return found.minimum((sources - 1).clamp(min=0)[:, None])
