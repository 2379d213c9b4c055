"""Small final: the largest weights go; a control of magnitude (Zhou et al. 2019)."""

from __future__ import annotations

from compressbench.criteria.given import Given, Scores


def small_final(given: Given) -> Scores:
    """-|w| of every prunable weight."""
    return {name: -w.abs() for name, w in given.weights.items()}
