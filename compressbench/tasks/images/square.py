"""Square attack: random search within an L-infinity ball, by the model's scores alone (Andriushchenko et al., ECCV 2020).

It asks for no gradient, so that a rounding net, whose gradient is a pretence, can't hide behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compressbench.metrics import named
from compressbench.tasks.images.attacks import Ball

Scores = Callable[[Tensor], Tensor]
"""Encoded images (n, c, h, w) to scores (n, classes)."""
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries, as published


@dataclass(frozen=True)
class Fallen:
    """What came of an attack.

    Attributes:
        images: (n, c, h, w) encoded, where the search ended.
        fallen: (n,) bool, the model names another class than the label.
        queries: (n,) int64, forwards of an image until it fell, at most the budget; 0 where it was wrong before.
    """

    images: Tensor
    fallen: Tensor
    queries: Tensor


def square_share(query: int, budget: int, first: float) -> float:
    """Which share of the image the square of a query covers: halved at the published marks, scaled to the budget."""
    done = query * 10_000 / budget
    return first / 2 ** sum(done > mark for mark in HALVED_AT)


def square(
    scores: Scores,
    inputs: Tensor,
    labels: Tensor,
    ball: Ball,
    budget: int,
    generator: torch.Generator,
    first: float = 0.8,
    clean: Tensor | None = None,
) -> Fallen:
    """Attacks all images at once, each with squares of its own; one that has fallen is left alone.

    The first query is stripes of ``eps`` as high as the image; each further one sets a square window to ``+eps`` or
    ``-eps`` by channel, kept where the margin of the true class over the next became smaller. What is drawn for an
    image depends on its place and on the query, not on the model.

    Args:
        inputs: encoded images (n, c, h, w), valid pixels.
        labels: (n,) true classes.
        budget: queries an image, 1 or more.
        generator: of the CPU.
        first: share of the image that the first squares cover.
        clean: (n, classes) scores of the inputs where they are known already; no query then.
    """
    n, c, h, w = inputs.shape
    device = inputs.device
    reach = ball.eps * ball.surface.scale
    margin, wrong = _margin(scores(inputs) if clean is None else clean, labels)
    queries = torch.zeros(n, dtype=torch.int64, device=device)
    best, fallen = inputs.clone(), wrong.clone()
    margin = torch.full_like(margin, math.inf)  # so that the first query is always kept
    rows, columns = torch.arange(h, device=device), torch.arange(w, device=device)
    for query in range(budget):
        signs = torch.randint(0, 2, (n, c, 1, w if query == 0 else 1), generator=generator).to(device) * 2 - 1
        share = square_share(query, budget, first)
        size = min(max(round(math.sqrt(share * h * w)), 1), h, w)
        top = torch.randint(0, h - size + 1, (n,), generator=generator).to(device)
        left = torch.randint(0, w - size + 1, (n,), generator=generator).to(device)
        active = (~fallen).nonzero().squeeze(1)
        if not len(active):
            break
        # Twice the radius: clipped to the ball, a pixel then ends at its edge from wherever it was.
        change = signs[active] * (1 if query == 0 else 2) * reach
        if query:
            at, over = top[active, None], left[active, None]
            inside = ((rows >= at) & (rows < at + size))[:, None, :, None]
            inside = inside & ((columns >= over) & (columns < over + size))[:, None, None, :]
            change = change * inside
        tried = ball.into(best[active] + change, inputs[active])
        found, wrong = _margin(scores(tried), labels[active])
        queries[active] += 1
        better = (found < margin[active]) | wrong
        best[active[better]] = tried[better]
        margin[active[better]] = found[better]
        fallen[active] = wrong
    return Fallen(best, fallen, queries)


def _margin(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) the label's score over the best other one, and whether another class is named (ties: the lower one)."""
    own = scores.gather(1, labels[:, None]).squeeze(1)
    others = scores.scatter(1, labels[:, None], -math.inf)
    return own - others.amax(dim=1), named(scores) != labels
