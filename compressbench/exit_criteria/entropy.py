"""Entropy: sure where little uncertainty is left (BranchyNet 2016, DeeBERT 2020, FastBERT 2020)."""

from __future__ import annotations

import math

import torch

from compressbench.exit_criteria.said import Certainty, Said


def entropy(said: Said) -> Certainty:
    """(n,) 1 - H(p) / ln C; a threshold in [0, 1].

    FastBERT's ``Speed`` s, a largest normalised uncertainty H / ln C, is the threshold 1 - s here; DeeBERT's largest
    entropy S in nats is 1 - S / ln C.
    """
    p = said.probabilities
    return 1 + torch.xlogy(p, p).sum(dim=1) / math.log(p.shape[1])
