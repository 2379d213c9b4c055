"""Shuffled: the teacher's probabilities of the wrong classes change places (control of Tang et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from compressbench.labels.lesson import Lesson
from compressbench.seeds import derive_seed


def shuffled(lesson: Lesson) -> Tensor:
    """p_t stays with the true class; the other probabilities are permuted, every example by a permutation of its own.

    An example has the same permutation in every epoch, drawn from seed, stage and its place in the training set.
    """
    p, target = lesson.probabilities, lesson.target.unsqueeze(1)
    n, classes = p.shape
    noise = _noise(lesson, classes).scatter(1, target, 2.0)  # above all noise: the true class sorts last
    there = noise.argsort(dim=1)[:, : classes - 1]
    places = torch.arange(classes, device=p.device).expand(n, -1)
    here = places[places != target].view(n, classes - 1)
    return lesson.says(p.scatter(1, there, p.gather(1, here)))


def _noise(lesson: Lesson, classes: int) -> Tensor:
    """(n, classes) numbers in [0, 1), a function of seed, stage name and row."""
    bench = lesson.bench
    table = lesson.once(
        f"labels.shuffled {classes}",
        lambda: torch.rand(
            len(bench.feed("train")),
            classes,
            generator=torch.Generator().manual_seed(derive_seed(bench.seed, bench.name, "shuffled")),
        ).to(bench.device),
    )
    return table[lesson.rows]
