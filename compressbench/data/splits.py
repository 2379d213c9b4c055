"""Which examples: stratified subsets, a long tail, a held-out part. Pure functions over labels."""

from __future__ import annotations

import numpy as np


def allocate(counts: np.ndarray, size: int, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Shares ``size`` out over classes in proportion to ``counts``, by largest remainder.

    Args:
        counts: (classes,) examples there are.
        size: examples wanted; ``least.sum() <= size <= most.sum()``.
        least, most: (classes,) bounds of each share.

    Returns:
        (classes,) integers that sum to ``size`` exactly; ties go to the lower label.
    """
    if not least.sum() <= size <= most.sum():
        raise ValueError(f"{size} is outside [{least.sum()}, {most.sum()}]")
    quota = counts * (size / counts.sum())
    share = np.clip(np.floor(quota + 1e-9).astype(np.int64), least, most)
    while (short := size - int(share.sum())) != 0:
        open_ = share < most if short > 0 else share > least
        owed = np.where(open_, (quota - share) * np.sign(short), -np.inf)
        share[int(owed.argmax())] += np.sign(short)
    return share


def seats(counts: np.ndarray, size: int) -> np.ndarray:
    """As ``allocate``, by Webster's method: a larger ``size`` never gives a class fewer, as the largest remainder may.

    Args:
        counts: (classes,) examples there are.
        size: examples wanted, at most ``counts.sum()``.

    Returns:
        (classes,) integers that sum to ``size``; ties go to the lower label.
    """
    classes = np.repeat(np.arange(len(counts)), counts)
    nth = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort(-counts[classes] / (2 * nth + 1), kind="stable")
    return np.bincount(classes[order[:size]], minlength=len(counts))


def pick(labels: np.ndarray, shares: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Draws ``shares[c]`` examples of every class c.

    With the same ``random`` a smaller draw is contained in a larger one.

    Returns:
        Sorted rows, int64.
    """
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(shares)))
    rows = [
        random.permutation(part)[:share]
        for part, share in zip(np.split(order, ends[:-1]), shares, strict=True)
    ]
    return np.sort(np.concatenate(rows))


def long_tail(counts: np.ndarray, ratio: float) -> np.ndarray:
    """Class sizes that fall exponentially with the label: n_i = n_0 * ratio ** (-i / (C - 1)).

    Cui et al. 2019 (Class-Balanced Loss), section 5.1. n_0 is the largest size for which no class needs
    more examples than it has.

    Args:
        counts: (classes,) examples there are.
        ratio: largest class over smallest, >= 1.

    Returns:
        (classes,) sizes, rounded down; a class may come out empty when ``ratio`` exceeds n_0.
    """
    classes = len(counts)
    profile = ratio ** -(np.arange(classes) / max(classes - 1, 1))
    with np.errstate(over="ignore"):  # infinite where a class bounds nothing
        largest = (counts / profile).min()
    return np.floor(largest * profile + 1e-9).astype(np.int64)
