"""Optimal Brain Surgeon: the inverse Fisher of whole layers, for small nets (Hassibi & Stork 1993)."""

from __future__ import annotations

from compressbench.criteria.given import Given, Saliency
from compressbench.criteria.woodfisher import woodfisher


def obs(given: Given, damping: float = 1e-5, examples: int = 1024, split: str = "train") -> Saliency:
    """WoodFisher with one block a layer: no curvature is left out but that between layers.

    Args:
        damping, examples, split: as of ``woodfisher``.

    Raises:
        UserError: see ``woodfisher``; a layer of more than some 30,000 weights is too large.
    """
    return woodfisher(given, None, damping, examples, split)
