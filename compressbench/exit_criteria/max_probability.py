"""Max probability: sure where one class has most of the probability (MSDNet, Huang et al., ICLR 2018)."""

from __future__ import annotations

from compressbench.exit_criteria.said import Certainty, Said


def max_probability(said: Said) -> Certainty:
    """(n,) the largest probability; a threshold in [0, 1]."""
    return said.probabilities.amax(dim=1)
