"""Patience: sure where exits in a row name the same class (PABEE, Zhou et al., NeurIPS 2020)."""

from __future__ import annotations

import torch

from compressbench.exit_criteria.said import Said, Streak


def patience(said: Said) -> Streak:
    """(n,) how many exits before this one, without a break, named the class that this one names.

    The threshold is the patience P, a whole number of 1 or more: the first exit where a row can leave is number P + 1.
    """
    own = said.logits.argmax(dim=1)
    count = torch.zeros_like(own)
    unbroken = torch.ones_like(own, dtype=torch.bool)
    for logits in reversed(said.before):
        unbroken = unbroken & (logits.argmax(dim=1) == own)
        count += unbroken
    return count
