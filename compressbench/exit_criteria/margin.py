"""Margin: sure where the second class is far behind the first."""

from __future__ import annotations

from compressbench.exit_criteria.said import Certainty, Said


def margin(said: Said) -> Certainty:
    """(n,) the largest probability less the second; a threshold in [0, 1]."""
    top = said.probabilities.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]
