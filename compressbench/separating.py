"""What separators and projections drawn at random do: exact geometry of two sets of points, in arrays alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TOLERANCE = 1e-9


def widest(one: Floats, other: Floats) -> float:
    """The largest margin by which a hyperplane, of any offset, separates two sets of points; 0 where none does.

    It is half the distance of their convex hulls, the shortest vector of all ``a - b``, which Wolfe's algorithm finds
    (Mathematical Programming 11, 1976): exact in finitely many steps, but for rounding. What is returned is the margin
    that the direction found really has, which is no larger than the largest one.

    Args:
        one, other: (m, d) and (n, d), a point a row.
    """
    size = float(max(np.abs(one).max(initial=0), np.abs(other).max(initial=0))) or 1.0
    one, other = one / size, other / size
    corners = [one[0] - other[0]]
    weights = np.ones(1)
    for _ in range(20 * (len(one) + len(other) + one.shape[1])):
        nearest = weights @ np.asarray(corners)
        length = float(nearest @ nearest)
        near, far = one @ nearest, other @ nearest
        i, j = int(near.argmin()), int(far.argmax())
        if length <= TOLERANCE**2 or length - (near[i] - far[j]) <= TOLERANCE * length:
            break
        corner = one[i] - other[j]
        if any(np.array_equal(corner, known) for known in corners):
            break  # of rounding alone
        corners.append(corner)
        weights = np.append(weights, 0.0)
        corners, weights = _shortest(corners, weights)
    nearest = weights @ np.asarray(corners)
    length = float(np.linalg.norm(nearest))
    if length <= TOLERANCE:
        return 0.0
    gap = float((one @ nearest).min() - (other @ nearest).max()) / length
    return size * gap / 2 if gap > TOLERANCE else 0.0


def _shortest(corners: list[Any], weights: Floats) -> tuple[list[Any], Floats]:
    """Wolfe's minor cycle: the shortest vector of the corners' affine hull, corners dropped until it lies within them."""
    while True:
        points = np.asarray(corners)
        count = len(points)
        system = np.ones((count + 1, count + 1))
        system[0, 0] = 0.0
        system[1:, 1:] = points @ points.T
        wanted = np.zeros(count + 1)
        wanted[0] = 1.0
        found = np.linalg.lstsq(system, wanted, rcond=None)[0][1:]
        if (found > TOLERANCE).all():
            return corners, np.asarray(found, dtype=np.float64)
        falling = found <= TOLERANCE
        ratios = weights[falling] / np.maximum(weights[falling] - found[falling], 1e-300)
        weights = weights + min(1.0, float(ratios.min())) * (found - weights)
        kept = weights > TOLERANCE
        if kept.all():
            kept[int(weights.argmin())] = False
        corners = [c for c, k in zip(corners, kept, strict=True) if k]
        weights = weights[kept] / weights[kept].sum()


def least_error(values: Floats, second: NDArray[np.bool_]) -> Floats:
    """(d,) the least share of points on the wrong side of a threshold, for each column of ``values`` by itself.

    Either side may be either set's; points of one value are on one side together.

    Args:
        values: (n, d), a projection of the points a column.
        second: (n,) which points are of the second set.
    """
    n = len(values)
    order = values.argsort(axis=0, kind="stable")
    ranked, ours = np.take_along_axis(values, order, axis=0), second[order]
    below = np.concatenate([np.zeros((1, values.shape[1]), dtype=int), ours.cumsum(axis=0)])
    places = np.arange(n + 1)[:, None]
    wrong = below + (n - int(second.sum())) - (places - below)  # the second set above, the first below
    wrong = np.minimum(wrong, n - wrong)
    apart = np.ones((n + 1, values.shape[1]), dtype=bool)
    apart[1:-1] = ranked[1:] > ranked[:-1]
    return np.asarray(np.where(apart, wrong, n).min(axis=0) / n, dtype=float)


def fitted_direction(features: Floats, second: NDArray[np.bool_]) -> Floats:
    """(d,) the direction that least squares finds from features (n, d), with a penalty of a millionth of their size."""
    centred = features - features.mean(axis=0)
    wanted = second - second.mean()
    n, d = centred.shape
    size = 1e-6 * float((centred**2).sum()) / min(n, d) or 1.0
    if d <= n:
        return np.asarray(np.linalg.solve(centred.T @ centred + size * np.eye(d), centred.T @ wanted))
    return np.asarray(centred.T @ np.linalg.solve(centred @ centred.T + size * np.eye(n), wanted))


def relu_features(points: Floats, directions: Floats) -> Floats:
    """(n, k) of points (n, d) and directions (d, k): ``relu(x . w) / sqrt(k)``, whose inner products have a limit."""
    return np.asarray(np.maximum(points @ directions, 0) / math.sqrt(directions.shape[1]))


def relu_limit(points: Floats) -> Floats:
    """(n, n) points with the inner products that infinitely many random ReLU features have.

    ``E[relu(w.x) relu(w.y)] = |x| |y| (sin t + (pi - t) cos t) / (2 pi)``, w standard normal, t the angle of x and y:
    half of the arc-cosine kernel of degree 1 (Cho & Saul, NIPS 2009), which has another factor in front.
    """
    lengths = np.linalg.norm(points, axis=1)
    both = np.outer(lengths, lengths)
    cosine = np.clip(np.divide(points @ points.T, both, out=np.ones_like(both), where=both > 0), -1, 1)
    angle = np.arccos(cosine)
    kernel = both * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def by_chance(points: int, dimensions: int) -> float:
    """The probability that a hyperplane, of any offset, separates points labelled by coins (Cover 1965).

    ``2^(1-n) sum_{k=0..d} C(n-1, k)`` of n points in general position in d dimensions, exact: 1 for n <= d + 1, and 1/2
    for n = 2 (d + 1).
    """
    return sum(math.comb(points - 1, k) for k in range(min(dimensions, points - 1) + 1)) / 2 ** (points - 1)


def enough_dimensions(points: int, within: float) -> int:
    """The least k of the Johnson-Lindenstrauss lemma as Dasgupta & Gupta (2003) have it.

    ``4 ln n / (e^2 / 2 - e^3 / 3)``, rounded up: a projection to k dimensions keeps all *squared* distances of n points
    within 1 - e and 1 + e with a probability of at least 1/n; so one that does exists.
    """
    return math.ceil(4 * math.log(points) / (within**2 / 2 - within**3 / 3))


def expected_share(dimensions: int, low: float, high: float) -> float:
    """The probability that a Gaussian projection to k dimensions leaves a squared distance within low and high times it.

    k times the ratio has a chi-squared distribution of k degrees, whatever the points.
    """
    import torch

    ends = torch.tensor([low, high], dtype=torch.float64) * dimensions / 2
    inside = torch.special.gammainc(torch.full((2,), dimensions / 2, dtype=torch.float64), ends)
    return float(inside[1] - inside[0])


def squared_ratios(points: Floats, directions: Floats, dimensions: Sequence[int]) -> list[Floats]:
    """For each k, (pairs,) squared distances after ``x -> x P / sqrt(k)``, P the first k directions, over those before.

    Pairs at one place are left out.

    Args:
        points: (n, d).
        directions: (d, at least the largest k), standard normal.
        dimensions: rising.
    """
    rows, columns = np.triu_indices(len(points), 1)
    before = _squares(points)[rows, columns]
    apart = before > TOLERANCE * before.max(initial=0)
    moved = points @ directions
    found, sums, done = [], np.zeros(len(rows)), 0
    for k in dimensions:
        sums = sums + _squares(moved[:, done:k])[rows, columns]
        done = k
        found.append(np.asarray(sums[apart] / before[apart] / k))
    return found


def _squares(points: Floats) -> Floats:
    lengths = (points**2).sum(axis=1)
    return np.asarray(np.maximum(lengths[:, None] + lengths[None] - 2 * points @ points.T, 0))
