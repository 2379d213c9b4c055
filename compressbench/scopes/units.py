"""What a scope chooses among: the units of each tensor, and how many weights may stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Units:
    """The units of one weight tensor: single weights, or what a grain makes of them.

    Attributes:
        scores: (units,) the lowest go first; not a number counts as lowest.
        alive: (units,) bool, whether anything of the unit is left.
        sizes: (units,) weights that are left in each unit, or None where every unit is one weight.
        shape: of the weight tensor.
    """

    scores: Tensor
    alive: Tensor
    sizes: Tensor | None
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Weights of the tensor, pruned or not."""
        return int(torch.Size(self.shape).numel())

    @property
    def kept(self) -> int:
        """Weights that are left."""
        return int(self.alive.sum() if self.sizes is None else self.sizes.sum())


Chosen = Mapping[str, Tensor]


def keep_count(kept: int, whole: int, fraction: float, of: str) -> int:
    """How many weights stay: ``fraction`` of what is left, or of the whole, goes; rounded to the nearest count.

    What is gone stays gone: the result is never more than ``kept``. Of ``more`` the fraction of the whole goes on top
    of it.
    """
    if of == "more":
        return max(0, kept - round(fraction * whole))
    base = kept if of == "left" else whole
    return min(kept, base - round(fraction * base))


def wanted(units: Sequence[Units], fraction: float, of: str) -> int:
    """Weights that stay of several tensors together."""
    return keep_count(sum(u.kept for u in units), sum(u.numel for u in units), fraction, of)


def best(units: Sequence[Units], count: int) -> list[Tensor]:
    """The units of the highest scores over all tensors together, as bool tensors (units,).

    Of single weights exactly ``count`` stay, however many scores are equal: equal ones stay in order of position.
    Of larger units as many stay as come nearest to ``count`` weights.
    """
    scores = [_ranked(u.scores) for u in units]
    if all(u.sizes is None for u in units):
        return _best_weights(scores, [u.alive for u in units], count)
    flat, alive = torch.cat(scores), torch.cat([u.alive for u in units])
    sizes = torch.cat([u.alive.long() if u.sizes is None else u.sizes.long() for u in units])
    order = torch.sort(flat[alive], descending=True, stable=True).indices
    places = alive.nonzero().squeeze(1)[order]
    sums = torch.cat([torch.zeros(1, dtype=torch.long), sizes[places].cumsum(0)])
    stay = torch.zeros_like(alive)
    stay[places[: int((sums - count).abs().argmin())]] = True
    return list(stay.split([len(u.scores) for u in units]))


def _ranked(scores: Tensor) -> Tensor:
    if not scores.is_floating_point():
        return scores.double()
    if not bool(torch.isnan(scores).any()):
        return scores
    return torch.nan_to_num(scores, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _best_weights(scores: list[Tensor], alive: list[Tensor], count: int) -> list[Tensor]:
    """A selection without sorting: the scores are copied once, and nothing else of their size is held."""
    if count <= 0:
        return [torch.zeros_like(a) for a in alive]
    pool = torch.cat([s if bool(a.all()) else s[a] for s, a in zip(scores, alive, strict=True)])
    if count >= len(pool):
        return [a.clone() for a in alive]
    values = pool.numpy()
    values.partition(len(values) - count)
    limit = pool[len(values) - count].clone()
    del pool, values
    stay = [(s > limit) & a for s, a in zip(scores, alive, strict=True)]
    missing = count - sum(int(x.sum()) for x in stay)
    for chosen, s, a in zip(stay, scores, alive, strict=True):
        if missing > 0:
            ties = ((s == limit) & a).nonzero().squeeze(1)[:missing]
            chosen[ties] = True
            missing -= len(ties)
    return stay
