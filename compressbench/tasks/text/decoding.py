"""Decoding: what a model writes token by token, the likeliest next one each time, or by beam search.

A module that has ``begin`` and ``step`` (see ``Steps``) remembers what it computed of the tokens before; any other one,
and one whose ``remembers`` is False, is asked for the whole sentence so far again and again, with the same tokens.
Neither depends on what else is in the batch. Rows that have ended are taken out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.inputs import Inputs
from compressbench.outputs import forward

COMPACT = 0.75
"""Share of rows still written at which the others are taken out."""


class Steps(Protocol):
    """What decodes with a memory: tuples, one in another, of tensors with a row for each sentence."""

    def begin(self, input_ids: Tensor, attention_mask: Tensor, /) -> Any:
        """What is remembered before the first token, of the inputs but the decoder's."""

    def step(self, tokens: Tensor, remembered: Any, /) -> tuple[Tensor, Any]:
        """The token before (n,), to logits of the next one (n, vocabulary), and what is remembered with it."""


@dataclass(frozen=True)
class Again:
    """Decodes any module by a forward on all tokens so far.

    Attributes:
        module: its forward's last argument are the decoder's ids.
    """

    module: nn.Module

    def begin(self, *inputs: Tensor) -> Any:
        """The inputs themselves, and no token."""
        return inputs, inputs[0][:, :0]

    def step(self, tokens: Tensor, remembered: Any) -> tuple[Tensor, Any]:
        """See ``Steps``."""
        inputs, before = remembered
        so_far = torch.cat((before, tokens[:, None]), dim=1)
        return forward(self.module, *inputs, so_far).logits[:, -1], (inputs, so_far)


def steps_of(module: nn.Module) -> Steps:
    """The module itself where it can remember, else one that is asked again."""
    can = all(callable(getattr(module, name, None)) for name in ("begin", "step"))
    can = can and bool(getattr(module, "remembers", True))  # of some it depends on what is left of them
    return module if can else Again(module)  # type: ignore[return-value]


def of_rows(remembered: Any, rows: Tensor) -> Any:
    """What is remembered of some rows, by their places."""
    if isinstance(remembered, Tensor):
        return remembered[rows]
    return tuple(of_rows(part, rows) for part in remembered)


def greedy(steps: Steps, inputs: Inputs, begin: int, end: int, limits: Tensor) -> Tensor:
    """The likeliest next token each time: int64 (n, tokens of the longest), the end among them, -1 after it.

    Args:
        inputs: of the model, but the decoder's.
        begin, end: ids that every sentence begins and ends with; the first isn't among the tokens given.
        limits: (n,) int64, how many tokens are written at most.

    Where a logit is no number the sentence ends with -1.
    """
    wide = int(limits.max())
    out = limits.new_full((len(limits), wide), -1)
    rows = torch.arange(len(limits), device=limits.device)
    tokens = torch.full_like(rows, begin)
    remembered = steps.begin(*inputs)
    there = torch.ones_like(rows, dtype=torch.bool)
    for place in range(wide):
        logits, remembered = steps.step(tokens, remembered)
        tokens = logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1)
        out[rows[there], place] = tokens[there]
        there = there & (tokens != end) & (tokens >= 0) & (limits[rows] > place + 1)
        left = int(there.sum())
        if not left:
            break
        if left <= COMPACT * len(rows):
            kept = there.nonzero().squeeze(1)
            rows, tokens, there = rows[kept], tokens[kept], there[kept]
            remembered = of_rows(remembered, kept)
        tokens = tokens.clamp(min=0)
    return out


def penalty(length: int, alpha: float) -> float:
    """What the sum of log-probabilities is divided by: ((5 + length) / 6) ** alpha (Wu et al. 2016)."""
    return float(((5 + length) / 6) ** alpha)


def beam_search(
    steps: Steps, inputs: Inputs, begin: int, end: int, limits: Tensor, beam: int, alpha: float = 0.6
) -> Tensor:
    """The best sentence that beam search finds, form and arguments as of ``greedy``.

    Each sentence keeps its ``beam`` likeliest beginnings. One that ends, among the ``beam`` best, is set aside with its
    log-probability over ``penalty`` of its length, the end counted. A sentence is done when ``beam`` have ended or its
    limit is reached, where beginnings count as they are; the best of them is given. A beam of 1 is ``greedy``.

    Args:
        beam: beginnings kept of each sentence.
        alpha: strength of the penalty; 0 prefers short ones.
    """
    wide, n, device = int(limits.max()), len(limits), limits.device
    out = limits.new_full((n, wide), -1)
    best = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
    ended = torch.zeros(n, dtype=torch.int64, device=device)
    rows = torch.arange(n, device=device)  # of the sentences still written
    remembered = of_rows(steps.begin(*inputs), rows.repeat_interleave(beam))
    scores = torch.full((n, beam), -torch.inf, dtype=torch.float64, device=device)
    scores[:, 0] = 0.0  # all beginnings are the same one
    tokens = torch.full((n * beam,), begin, device=device)
    written = limits.new_full((n, beam, wide), -1)
    for place in range(wide):
        logits, remembered = steps.step(tokens, remembered)
        # by the logits themselves and in float64, so that no two tokens are rounded to the same score
        top, token = logits.topk(min(2 * beam, logits.shape[1]), dim=1)
        said = top.double() - logits.float().logsumexp(dim=1, keepdim=True).double()
        said = said.masked_fill(logits.isnan().any(dim=1, keepdim=True), -torch.inf)
        value, found = (
            (scores.view(-1, 1) + said).view(len(rows), -1).sort(dim=1, descending=True, stable=True)
        )
        value, found = value[:, : 2 * beam], found[:, : 2 * beam]
        origin = found.div(top.shape[1], rounding_mode="floor")
        token = token.view(len(rows), -1).gather(1, found)
        over = penalty(place + 1, alpha)
        last = limits[rows] == place + 1
        ends = token == end
        rank = torch.arange(found.shape[1], device=device) < beam
        # where the limit is reached the beam's best count as they are
        done = (ends | last[:, None]) & rank & (value > -torch.inf)
        final = (value / over).masked_fill(~done, -torch.inf)
        highest, which = final.max(dim=1)
        better = (highest > best[rows]).nonzero().squeeze(1)
        if len(better):
            chosen = which[better]
            text = written[better, origin[better, chosen]]
            text[:, place] = token[better, chosen]
            out[rows[better]], best[rows[better]] = text, highest[better]
        ended[rows] += (ends & rank & (value > -torch.inf)).sum(dim=1)
        # the beam goes on with its best that haven't ended
        going = value.masked_fill(ends, -torch.inf)
        scores, kept = going.topk(min(beam, going.shape[1]), dim=1)
        if scores.shape[1] < beam:
            short = beam - scores.shape[1]
            scores, kept = F.pad(scores, (0, short), value=-torch.inf), F.pad(kept, (0, short))
        origin, token = origin.gather(1, kept), token.gather(1, kept)
        there = (ended[rows] < beam) & ~last & (scores[:, 0] > -torch.inf)
        places = there.nonzero().squeeze(1)
        if not len(places):
            break
        rows, scores, token, origin = rows[places], scores[places], token[places], origin[places]
        written = written[places[:, None], origin]
        written[:, :, place] = token
        remembered = of_rows(remembered, (places[:, None] * beam + origin).flatten())
        tokens = token.flatten()
    return out
