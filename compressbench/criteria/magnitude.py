"""Magnitude: the smallest absolute weights go (Han et al. 2015; Janowsky 1989)."""

from __future__ import annotations

from compressbench.criteria.given import Given, Scores


def magnitude(given: Given) -> Scores:
    """|w| of every prunable weight; what Zhou et al. 2019 call large final."""
    return {name: w.abs() for name, w in given.weights.items()}
