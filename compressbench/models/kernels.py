"""Kernels in closed form, each a function of inner products alone, so that its gradient by the points is autograd's.

A kernel takes the inner products of m rows with n others and their squared lengths, and gives (m, n) values; it is
symmetric and positive semidefinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from compressbench.specs.ranges import Count, Positive, within

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(m, n) inner products, (m, 1) and (1, n) squared lengths to (m, n) values."""

NEAR = 1e-7
"""Cosines so near to 1 or -1 are of one direction: the angle's own derivative is infinite there, its kernel's 0."""


def between(kernel: Kernel, rows: Tensor, others: Tensor) -> Tensor:
    """(m, n) values of a kernel between (m, d) and (n, d)."""
    left = rows.square().sum(1, keepdim=True)
    right = left.t() if rows is others else others.square().sum(1)[None]
    return kernel(rows @ others.t(), left, right)


def rbf(dots: Tensor, left: Tensor, right: Tensor, gamma: Positive = 0.5) -> Tensor:
    """exp(-gamma |x - y|^2)."""
    return torch.exp(-gamma * (left + right - 2 * dots).clamp(min=0))


def arc_cosine(dots: Tensor, left: Tensor, right: Tensor, depth: Count = 1) -> Tensor:
    """Of infinitely wide ReLU nets with weights of variance 2 / width and no biases (Cho & Saul 2009, degree 1).

    Args:
        depth: hidden layers; k(x, x) = |x|^2 whatever it is.
    """
    within("Count", depth, "depth")
    lengths = _lengths(left, right)
    for _ in range(depth):
        dots = lengths * _first(_cosine(dots, lengths))
    return dots


def ntk(dots: Tensor, left: Tensor, right: Tensor, depth: Count = 1) -> Tensor:
    """The neural tangent kernel of the same nets, all layers trained (Jacot, Gabriel, Hongler 2018), without biases.

    Args:
        depth: hidden layers; k(x, x) = (depth + 1) |x|^2.
    """
    within("Count", depth, "depth")
    lengths, tangent = _lengths(left, right), dots
    for _ in range(depth):
        cosine = _cosine(dots, lengths)
        dots = lengths * _first(cosine)
        tangent = dots + tangent * _zeroth(cosine)
    return tangent


def _lengths(left: Tensor, right: Tensor) -> Tensor:
    """Products of lengths; of a row of zeros not 0, whose root has no derivative."""
    return (left * right).clamp(min=torch.finfo(left.dtype).tiny).sqrt()


def _cosine(dots: Tensor, lengths: Tensor) -> Tensor:
    return (dots / lengths).clamp(-1, 1)


def _angle(cosine: Tensor) -> Tensor:
    """Angles; where the cosine is all but 1 or -1 exactly 0 or pi, without a gradient."""
    at_end = cosine.abs() > 1 - NEAR
    inner = torch.where(at_end, torch.zeros_like(cosine), cosine)
    ends = torch.where(cosine > 0, 0.0, math.pi).to(cosine.dtype)
    return torch.where(at_end, ends, torch.arccos(inner))


def _zeroth(cosine: Tensor) -> Tensor:
    """E[1(u > 0) 1(v > 0)] x 2: the share of half spaces that hold both."""
    return (math.pi - _angle(cosine)) / math.pi


def _first(cosine: Tensor) -> Tensor:
    """E[relu(u) relu(v)] x 2 of unit normal u, v with this correlation."""
    angle = _angle(cosine)
    return (torch.sin(angle) + (math.pi - angle) * cosine) / math.pi
