"""Hint: the teacher's feature map itself (FitNets, Romero et al. 2015)."""

from __future__ import annotations

from torch import Tensor

from compressbench.features.shapes import alike


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared difference, mean over examples and all their entries (the paper sums over entries).

    Raises:
        UserError: the shapes differ.
    """
    alike(student, teacher)
    return (student - teacher).square().mean() / 2
