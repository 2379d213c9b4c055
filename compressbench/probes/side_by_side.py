"""Two views of a task whose log-probabilities are streamed: how far apart they are token by token, in one walk."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.views import View


@dataclass(frozen=True)
class Apart:
    """How far apart two states are; all (pieces,), so that no vocabulary is kept.

    Attributes:
        owners: int64, the example of each piece.
        same: bool, both name one token; what is no number agrees with nothing.
        js: float64, square roots of the Jensen-Shannon divergence, natural logarithm.
        kl: float64, KL(reference || subject) in nats; not-a-number where either's numbers lack.
    """

    owners: Tensor
    same: Tensor
    js: Tensor
    kl: Tensor


_found: weakref.WeakKeyDictionary[View, weakref.WeakKeyDictionary[View, Apart]]
_found = weakref.WeakKeyDictionary()


def apart(subject: View, reference: View) -> Apart:
    """Both on the whole test split, batch by batch; found once for all probes.

    Raises:
        UserError: they say how likely different things are, as by different vocabularies.
    """
    known = _found.setdefault(subject, weakref.WeakKeyDictionary())
    if reference not in known:
        known[reference] = _walked(subject, reference)
    return known[reference]


def different(subject: View, reference: View) -> str:
    """Why two states can't be compared token by token, in words; empty where they can."""
    if subject is reference or subject.told.width == reference.told.width:
        return ""
    return (
        f"vocabularies differ ({subject.told.width:,} logits a token, the reference {reference.told.width:,}): only bits "
        "per byte can be compared"
    )


def _walked(subject: View, reference: View) -> Apart:
    import torch

    if why := different(subject, reference):
        raise UserError(why)
    own = subject.pieces()
    found: list[tuple[Tensor, ...]] = []
    if subject is reference:
        found = [(p.owners, *_between(p.log_probs, p.log_probs)) for p in own]
    else:
        for one, other in zip(own, reference.pieces(), strict=True):
            if not torch.equal(one.owners, other.owners) or not torch.equal(one.labels, other.labels):
                raise UserError(f"{subject.label} and {reference.label} were asked different things")
            found.append((one.owners, *_between(one.log_probs, other.log_probs)))
    owners, same, js, kl = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Apart(owners, same, js, kl)


def _between(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(same, js, kl) of each row, some rows at a time.

    As ``metrics.js_distance`` and ``comparing.probabilities.relative_entropy`` have them, to rounding, with three
    exponentials and logarithms a number instead of ten.
    """
    import torch

    from compressbench.comparing.arrays import pieces
    from compressbench.comparing.probabilities import EPSILON
    from compressbench.metrics import named

    first, second = named(own), named(other)
    js, kl, least = [], [], math.log(EPSILON)
    for rows in pieces(*own.shape):
        (log_p, p), (log_q, q) = _normed(other[rows]), _normed(own[rows])
        middle = ((p + q) / 2).clamp_(min=1e-300).log_()
        divergence = ((p * (log_p - middle)).sum(dim=1) + (q * (log_q - middle)).sum(dim=1)) / 2
        divergence = divergence.masked_fill((p == q).all(dim=1), 0.0)  # rounding is no distance
        lost = divergence.isnan()
        js.append(divergence.masked_fill(lost, math.log(2)).clamp(0, math.log(2)).sqrt())
        far = log_p.clamp_(min=least).sub_(log_q.clamp_(min=least)).mul_(p.clamp_(min=EPSILON)).sum(dim=1)
        kl.append(far.clamp(min=0))
    empty = [torch.zeros(0, dtype=torch.float64)]
    return (first == second) & (first >= 0), torch.cat(js or empty), torch.cat(kl or empty)


def _normed(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of log-probabilities and of probabilities in float64, made to sum to 1; finite where they are numbers."""
    logs = scores.double().clamp(min=-700.0)
    whole = logs.exp()
    total = whole.sum(dim=1, keepdim=True)
    return logs - total.log(), whole / total
