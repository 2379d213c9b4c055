"""Kernel ridge regression as a net: support points and coefficients, which probes see like any other weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.fit import image_shape
from compressbench.models.kernels import Kernel, between

MOST = 5000
"""Support points: a system of so many equations is solved in seconds, and its matrix has 200 MB."""


class KernelRidge(nn.Module):
    """f(x) = k(x, points) @ coefficients, pixels flattened and divided by the root of their number.

    Two linear layers hold it: ``points`` (n, pixels) and ``fc`` (classes, n). Its answers are regressed, not
    log-probabilities up to a constant: accuracy is what it is, likelihood and calibration say little.

    Args:
        shape: (channels, height, width) of an image.
        classes: number of answers.
        points: number of support points.
        kernel: see ``models.kernels``.

    Raises:
        UserError: a shape or a number that is no positive integer, or too many points.
    """

    def __init__(self, shape: Sequence[int], classes: int, points: int, kernel: Kernel) -> None:
        super().__init__()
        channels, height, width = image_shape(shape, classes, "kernel ridge regression")
        if type(points) is not int or not 1 <= points <= MOST:
            raise UserError(f"kernel ridge regression: {points!r} support points, must be 1 to {MOST:,}")
        self.points = nn.Linear(channels * height * width, points, bias=False)
        self.fc = nn.Linear(points, classes, bias=False)
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to answers (n, classes)."""
        rows = flat(x)
        lengths = self.points.weight.square().sum(1)[None]
        return self.fc(self.kernel(self.points(rows), rows.square().sum(1, keepdim=True), lengths))


def flat(x: Tensor) -> Tensor:
    """(n, ...) as the kernel sees it: (n, d), divided by the root of d, so that lengths don't depend on the size."""
    rows = x.flatten(1)
    return rows / math.sqrt(rows.shape[1])


def coefficients(kernel: Kernel, points: Tensor, targets: Tensor, regulariser: float) -> Tensor:
    """(n, classes): (K + r tr(K) / n I)^-1 targets.

    Args:
        points: (n, d).
        targets: (n, classes).
        regulariser: r, relative to the mean of K's diagonal.

    Raises:
        UserError: the matrix is singular.
    """
    gram = between(kernel, points, points)
    n = len(points)
    ridge = regulariser * gram.diagonal().sum() / n
    system = gram + ridge * torch.eye(n, dtype=gram.dtype, device=gram.device)
    found, failed = torch.linalg.solve_ex(system, targets)
    if int(failed):
        raise UserError(
            f"kernel ridge regression: two of the {n:,} support points are the same to this kernel, or one is nothing to "
            f"it, and a regulariser of {regulariser:g} is too small to tell them apart; 1e-6 does"
        )
    return found


def ridge_answers(
    kernel: Kernel, points: Tensor, targets: Tensor, regulariser: float, rows: Tensor
) -> Tensor:
    """(m, classes): what kernel ridge regression on the points says of (m, d) rows."""
    return between(kernel, rows, points) @ coefficients(kernel, points, targets, regulariser)


def fit_macs(points: int, size: int, classes: int) -> int:
    """MACs of ``coefficients``: n n d of the kernel's inner products, n^3 / 3 to factor, n n classes to solve.

    What a kernel does to each inner product isn't counted, like an activation.
    """
    return points**2 * size + points**3 // 3 + points**2 * classes


def answer_macs(rows: int, points: int, size: int, classes: int) -> int:
    """MACs of answers to m rows once the coefficients are known: m n d of the inner products, m n classes of the sum."""
    return rows * points * (size + classes)


def centred(labels: Tensor, classes: int) -> Tensor:
    """(n, classes) float64 targets of labels: 1 for the class, 0 for others, less 1 / classes: their mean is 0."""
    return nn.functional.one_hot(labels, classes).double() - 1 / classes
