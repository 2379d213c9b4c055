"""How hard a set of sentence pairs is to say word by word: alignments, complexity and faithfulness (Zhou et al. 2020).

A word of the source has a distribution over the words that it is aligned with. Its entropy is what a translator can't
know that says all words at once; its distance from the distribution in the real data is what a teacher made up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressbench.comparing.arrays import Floats, Ints

WORD = re.compile(r"\w+|[^\w\s]")
ROUNDS = 5
SMOOTHING = 0.1
"""Added to each count of a word's translation, where two sets are compared."""


@dataclass(frozen=True)
class Links:
    """Words that belong together, one row a link.

    Attributes:
        source, target: int64 (links,), ids of words.
    """

    source: Ints
    target: Ints


def numbered(texts: Sequence[str], known: dict[str, int]) -> list[Ints]:
    """Each text's words and punctuation marks as int64 ids; those that are new are added to ``known``."""
    return [
        np.array([known.setdefault(word, len(known)) for word in WORD.findall(text)], np.int64)
        for text in texts
    ]


def aligned(sources: Sequence[Ints], targets: Sequence[Ints], rounds: int = ROUNDS) -> Links:
    """Each target word's likeliest source word by IBM model 1; those that rather come from none are left out.

    Brown et al. (1993): every target word is drawn from one of its sentence's source words, or from an empty one, all
    equally likely; t(target word | source word) is found by expectation maximisation, from uniform. Of equals the first.

    Args:
        sources, targets: int64 ids of words, a sentence each, of one length.
        rounds: of expectation maximisation.
    """
    # a row for each target word with each word of its source, the empty one (0) first
    xs, ys, places, count = [], [], [], 0
    for source, target in zip(sources, targets, strict=True):
        with_empty = np.concatenate(([0], source + 1))
        xs.append(np.tile(with_empty, len(target)))
        ys.append(np.repeat(target, len(with_empty)))
        places.append(count + np.repeat(np.arange(len(target)), len(with_empty)))
        count += len(target)
    if not count:
        return Links(np.zeros(0, np.int64), np.zeros(0, np.int64))
    x, y, place = (np.concatenate(parts) for parts in (xs, ys, places))
    width = int(y.max()) + 1
    keys, pair = np.unique(x * width + y, return_inverse=True)
    owner = keys // width  # the source word of each pair of words
    likely = np.ones(len(keys))
    for _ in range(rounds):
        shares = likely[pair] / np.bincount(place, likely[pair])[place]
        expected = np.bincount(pair, shares, len(keys))
        likely = expected / np.bincount(owner, expected)[owner]
    begins = np.flatnonzero(np.diff(place, prepend=-1))
    best = np.maximum.reduceat(likely[pair], begins)
    first = np.minimum.reduceat(
        np.where(likely[pair] == best[place], np.arange(len(pair)), len(pair)), begins
    )
    found = first[x[first] > 0]
    return Links(x[found] - 1, y[found])


def complexity(links: Links) -> float:
    """C(d) in nats: the entropy of a source word's translations, mean over the words that have any.

    (1 / |V_x|) sum over x of H(y | x).
    """
    x, _, share = _shares(links)
    if not len(x):
        return float("nan")
    return float((share * -np.log(share)).sum() / len(np.unique(x)))


def faithfulness(real: Links, made: Links, smoothing: float = SMOOTHING) -> float:
    """F(d) in nats: how far a set's translations of a word are from the real ones; 0 for the real set, more is worse.

    (1 / |V_x|) sum over x and y of p_real(y | x) log(p_real(y | x) / p_made(y | x)), over the words of the real set.
    ``smoothing`` is added, in both, to the count of every translation that a word has in either; with 0 what the other
    set never says is infinitely far.
    """
    width = int(max((part.max() for part in (real.target, made.target) if len(part)), default=0)) + 1
    wanted = np.unique(real.source)
    if not len(wanted):
        return float("nan")
    both = np.concatenate([links.source * width + links.target for links in (real, made)])
    keys, place = np.unique(both, return_inverse=True)
    counts = [
        np.bincount(part, minlength=len(keys))
        for part in (place[: len(real.source)], place[len(real.source) :])
    ]
    keep = np.isin(keys // width, wanted)
    words, owner = np.unique(keys[keep] // width, return_inverse=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = (_normed(each[keep] + smoothing, owner) for each in counts)
        terms = np.where(p > 0, p * np.log(p / np.where(np.isnan(q), 0.0, q)), 0.0)
    return float(terms.sum() / len(words))


def _normed(counts: Floats, owner: Ints) -> Floats:
    return counts / np.bincount(owner, counts)[owner]


def _shares(links: Links) -> tuple[Ints, Ints, Floats]:
    """(source word, target word, p(target | source)) of each pair of words that there is."""
    if not len(links.source):
        return links.source, links.target, np.zeros(0)
    width = int(links.target.max()) + 1
    keys, counts = np.unique(links.source * width + links.target, return_counts=True)
    x = keys // width
    _, owner = np.unique(x, return_inverse=True)
    return x, keys % width, _normed(counts.astype(float), owner)
