"""MUNGE (Bucila, Caruana, Niculescu-Mizil, KDD 2006): synthetic unlabelled examples near the real ones."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 1024


def munge(
    examples: Tensor,
    copies: int,
    p: float,
    s: float,
    generator: torch.Generator,
    nominal: Tensor | None = None,
) -> Tensor:
    """Copies of a table in which each example has exchanged attributes with its nearest neighbour.

    For each copy, example e and attribute a, with probability ``p``: a nominal attribute is swapped with that of the
    nearest neighbour e'; a continuous one is drawn anew, e_a from N(e'_a, |e_a - e'_a| / s) and e'_a from
    N(e_a, |e_a - e'_a| / s). Both rows change, one example after the other, as published; who is nearest is read from
    the given table.

    Args:
        examples: (n, attributes), floating point, n at least 2.
        copies: k; 0 gives no row.
        p: in [0, 1]; 0 gives the table itself k times.
        s: above 0; as it grows, exchanged values become the neighbour's own.
        generator: of the CPU.
        nominal: (attributes,) bool, True where values are only swapped; None for nowhere. Distance is Euclidean over
            the continuous attributes plus the number of nominal ones that differ (Hamming).

    Returns:
        (copies * n, attributes).
    """
    n, width = examples.shape
    if n < 2 or copies == 0:
        return examples.new_zeros(0, width) if copies == 0 else examples.repeat(copies, 1)
    swapped = torch.zeros(width, dtype=torch.bool) if nominal is None else nominal
    nearest = neighbours(examples, swapped).tolist()
    out = []
    for _ in range(copies):
        table = examples.clone()
        for own, other in enumerate(nearest):
            chosen = torch.rand(width, generator=generator) < p
            noise = torch.randn(2, width, generator=generator, dtype=table.dtype)
            spread = (table[own] - table[other]).abs() / s
            pair = torch.stack((table[other], table[own]))
            drawn = torch.where(swapped, pair, pair + noise * spread)
            table[own] = torch.where(chosen, drawn[0], table[own])
            table[other] = torch.where(chosen, drawn[1], table[other])
        out.append(table)
    return torch.cat(out)


def neighbours(examples: Tensor, nominal: Tensor) -> Tensor:
    """(n,) the row nearest to each other than itself; the first of equals."""
    n = len(examples)
    # Double: far from zero, float32 can't tell near rows apart (cdist subtracts squares).
    continuous, rest = examples[:, ~nominal].double(), examples[:, nominal]
    found = []
    for start in range(0, n, ROWS):
        stop = min(start + ROWS, n)
        far = torch.cdist(continuous[start:stop], continuous)
        for column in range(rest.shape[1]):
            far += rest[start:stop, column, None] != rest[None, :, column]
        far[torch.arange(stop - start), torch.arange(start, stop)] = torch.inf
        found.append(far.argmin(dim=1))
    return torch.cat(found)
