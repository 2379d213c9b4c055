"""Which other preparation might fit a model better: the usual ones, in how many things they differ, and a search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compressbench.artefacts.artefact import Wanted
from compressbench.artefacts.preparation import CAFFE, IMAGENET, Preparation, variants
from compressbench.comparing.arrays import Floats
from compressbench.comparing.material import Material
from compressbench.errors import UserError

CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""CIFAR-10's mean and standard deviation, as most of its nets are trained with."""
SOME = 160
"""Examples on which the best are looked at."""
FINALISTS = 4

Affine = tuple[Floats, Floats]
"""(gain, offset), one for each colour: what a pixel in [0, 1] becomes is gain x pixel + offset."""


@dataclass(frozen=True)
class Search:
    """Looks for the most promising preparation.

    Attributes:
        ask: (preparation, how many of the first examples) to outputs.
        score: of outputs; higher is better.
        hopeless: whether the given one is no better than chance, so that two things may be wrong at once.
        enough: a score with which nothing else is tried.
        few: examples on which all are looked at.
        slack: how much worse than the given one, on these, may yet be looked at on more.
    """

    ask: Callable[[Preparation, int], Floats]
    score: Callable[[Floats], float]
    hopeless: bool
    enough: float
    few: int
    slack: float

    def found(self, given: Preparation, known: Sequence[Preparation]) -> tuple[Preparation, int]:
        """The most promising preparation, the given one where none is more so, and how many others were tried."""
        best, tried = given, {given}
        for turn in range(2):
            fresh = [v for v in dict.fromkeys(known) if v not in tried and changes(v, best) == 1]
            if turn == 1 and best == given:
                fresh = [v for v in dict.fromkeys(known) if v not in tried] if self.hopeless else []
            tried |= set(fresh)
            best = self._best(best, fresh)
            if self._scored(best, SOME) >= self.enough:
                break
        return best, len(tried) - 1

    def _best(self, now: Preparation, others: Sequence[Preparation]) -> Preparation:
        least = self._scored(now, self.few) - self.slack
        scored = {v: self._scored(v, self.few) for v in others}
        ranked = sorted((v for v in others if scored[v] >= least), key=lambda v: -scored[v])[:FINALISTS]
        top = max(ranked, key=lambda v: self._scored(v, SOME), default=now)
        return top if self._scored(top, SOME) > self._scored(now, SOME) else now

    def _scored(self, preparation: Preparation, count: int) -> float:
        try:
            return self.score(self.ask(preparation, count))
        except UserError:  # it can't be fed so: another size, another number of channels
            return -math.inf


def usual(given: Preparation, wants: Wanted, part: Material) -> Iterator[Preparation]:
    """The usual ones that an input could be fed, the given one first.

    Of those with another order of colours also the one in which each colour keeps its mean.
    """
    assert part.pictures is not None
    height, width, depth = part.pictures(np.arange(1))[0].shape
    wanted = wants.picture
    channels = given.channels or (wanted[0] if wanted is not None else None) or depth
    for found in variants(given, wants, 3 if channels == 3 else 1, given.size or (height, width)):
        yield found
        if found.order != given.order and len(set(found.mean)) > 1:
            yield replace(found, mean=found.mean[::-1], std=found.std[::-1])


def as_theirs(given: Preparation, theirs: Preparation | None) -> Iterator[Preparation]:
    """Another model's preparation in this input's layout and type: whole, and in one thing only."""
    if theirs is None:
        return
    scaled = replace(given, span=theirs.span, mean=theirs.mean, std=theirs.std, order=theirs.order)
    for one in (given, scaled):
        sized = replace(
            one,
            resize=theirs.resize,
            crop=theirs.crop,
            interpolation=theirs.interpolation,
            floor=theirs.floor,
        )
        yield from (found for found in (one, sized) if found != given)


def undone(given: Preparation) -> dict[Preparation, str]:
    """A usual normalisation inside a model undone and another done, before or after what is done now; each in words."""
    found: dict[Preparation, str] = {}
    if given.channels == 1:
        return found
    none, own = replace(given, span=(0.0, 1.0), mean=(0.0,), std=(1.0,)), affine(given)
    known = {
        "no normalisation": affine(none),
        "the given one": own,
        "ImageNet's mean and std": affine(replace(none, mean=IMAGENET[0], std=IMAGENET[1])),
        "CIFAR-10's mean and std": affine(replace(none, mean=CIFAR[0], std=CIFAR[1])),
        "Caffe's mean, of pixels 0-255": affine(
            replace(none, span=(0.0, 255.0), mean=CAFFE[0], std=CAFFE[1])
        ),
        "a range of -1..1": affine(replace(none, span=(-1.0, 1.0))),
    }
    for inside, meant in itertools.permutations(known, 2):
        mended = _after(_inverse(known[inside]), known[meant])
        for gain, offset in (_after(mended, own), _after(own, mended)):
            mean, std = (tuple(round(float(v), 6) for v in values) for values in (-offset / gain, 1 / gain))
            words = f"as if it used {inside} inside, where {meant} was meant"
            found.setdefault(replace(none, mean=mean, std=std), words)
    return found


def affine(preparation: Preparation) -> Affine:
    """What it does to the numbers of three colours."""
    low, high = preparation.span
    mean, std = (np.broadcast_to(np.array(v, np.float64), (3,)) for v in (preparation.mean, preparation.std))
    return (high - low) / std, (low - mean) / std


def _inverse(one: Affine) -> Affine:
    gain, offset = one
    return 1 / gain, -offset / gain


def _after(second: Affine, first: Affine) -> Affine:
    """One such map of what another one gives."""
    return second[0] * first[0], second[0] * first[1] + second[1]


def what(preparation: Preparation) -> tuple[Any, ...]:
    """What a preparation does to a picture, without the form that an input asks for."""
    return (
        preparation.span,
        preparation.mean,
        preparation.std,
        preparation.order,
        preparation.resize,
        preparation.crop,
    )


def changes(one: Preparation, two: Preparation) -> int:
    """In how many things two differ: range and mean (of a place, or of a colour), order, layout, size."""
    turned = one.order != two.order
    scales = [(two.span, two.mean, two.std)]
    scales += [(two.span, two.mean[::-1], two.std[::-1])] if turned else []
    return (
        ((one.span, one.mean, one.std) not in scales)
        + turned
        + (one.layout != two.layout)
        + ((one.resize, one.crop) != (two.resize, two.crop))
    )


def difference(given: Preparation, other: Preparation) -> str:
    """``BGR instead of RGB and pixels 0-255 instead of pixels 0-1``: what another preparation does differently."""
    if other.order != given.order and len(set(other.mean)) > 1 and changes(given, other) == 1:
        own = (other.mean, other.std) == (given.mean, given.std)
        return f"{other.order} instead of {given.order}, " + (
            "means as they are" if own else "means with their colours"
        )
    pairs = [
        (
            ", ".join(p.size_in_words()) or "pictures in their own size",
            p.range_in_words(),
            p.order,
            p.layout,
        )
        for p in (other, given)
    ]
    return " and ".join(f"{new} instead of {old}" for new, old in zip(*pairs, strict=True) if new != old)
