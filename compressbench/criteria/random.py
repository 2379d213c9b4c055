"""Random: every weight that is left is equally likely to go; the control of every other criterion."""

from __future__ import annotations

import torch

from compressbench.criteria.given import Given, Scores


def random(given: Given) -> Scores:
    """Uniform scores in [0, 1), drawn from (seed, stage, tensor)."""
    return {name: torch.rand(w.shape, generator=given.generator(name)) for name, w in given.weights.items()}
