"""Words exchanged for synonyms until a model says something else, by its probabilities alone (Jin et al., AAAI 2020).

A search is a generator: it yields the texts that it wants to be asked about and is sent what the model says of them. So
many searches can go on side by side, and all that they want to know at one time is one question to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressbench.tasks.text.words import is_stop, pieces, without

Said = NDArray[Any]
"""(texts, classes) log-probabilities, natural logarithm."""
Search = Generator[list[str], Said, "Found"]
Candidates = Callable[[str], Sequence[str]]
"""A word to those that can stand for it."""
Ask = Callable[[Sequence[int], Sequence[str]], Said]
"""Owners (which search each text is of) and texts to what the model says of them."""
DECIMALS = 6
"""Of probabilities that are compared: what texts are asked about together changes the last bits of a float."""


@dataclass(frozen=True)
class Bounds:
    """What a search may do.

    Attributes:
        share: of a text's words that may be exchanged, rounded down, but always one.
        candidates: tried for a word.
        queries: texts that the model may be asked about, the unchanged one too.
    """

    share: float
    candidates: int
    queries: int


@dataclass(frozen=True)
class Found:
    """What came of one search.

    Attributes:
        text: where it ended.
        right: whether the model was right before; what it had wrong isn't attacked.
        fallen: whether it says another class than the true one.
        queries: texts that it was asked about; 0 where it was wrong before.
        words: of the text.
        exchanged: (word, what stands for it), in the order in which they were exchanged.
    """

    text: str
    right: bool
    fallen: bool
    queries: int
    words: int
    exchanged: tuple[tuple[str, str], ...] = ()


def search(text: str, label: int, candidates: Candidates, bounds: Bounds) -> Search:
    """Attacks one text: words by how much leaving them out hurts, each by the candidate that hurts most, until it falls.

    Importance of a word (Jin et al., equation 2) is what the probability of the true class loses without it; where
    another class is named then, what that one gains is added. Words are visited once, the most important first. Of
    candidates at which the text falls the likeliest synonym is taken, of others the one that leaves the true class the
    least probability, if that is less than before. Stop words are neither left out nor exchanged.

    Args:
        label: the true class.
        candidates: of a word, likeliest first.
    """
    parts = pieces(text)
    places = range(1, len(parts), 2)
    said = yield [text]
    queries, whole = 1, _probabilities(said)[0]
    if int(_named(said)[0]) != label:
        return Found(text, False, True, 0, len(places))
    open_ = [place for place in places if not is_stop(parts[place])][: bounds.queries - queries]
    if not open_:
        return Found(text, True, False, queries, len(places))
    said = yield [without(parts, place) for place in open_]
    queries += len(open_)
    importance = _importance(whole, said, label)
    now = float(whole[label])
    exchanged: list[tuple[str, str]] = []
    most = max(1, int(bounds.share * len(places)))
    for at in sorted(range(len(open_)), key=lambda k: (-importance[k], k)):
        if len(exchanged) == most or queries == bounds.queries:
            break
        place = open_[at]
        tried = candidates(parts[place])[: min(bounds.candidates, bounds.queries - queries)]
        if not tried:
            continue
        before, after = "".join(parts[:place]), "".join(parts[place + 1 :])
        said = yield [before + word + after for word in tried]
        queries += len(tried)
        left, fallen = _probabilities(said)[:, label], _named(said) != label
        chosen = int(fallen.argmax()) if fallen.any() else int(left.argmin())
        if not fallen[chosen] and not left[chosen] < now:
            continue
        exchanged.append((parts[place], tried[chosen]))
        parts[place], now = tried[chosen], float(left[chosen])
        if fallen[chosen]:
            return Found("".join(parts), True, True, queries, len(places), tuple(exchanged))
    return Found("".join(parts), True, False, queries, len(places), tuple(exchanged))


def side_by_side(searches: Sequence[Search], ask: Ask) -> list[Found]:
    """Runs searches in lockstep; each finds what it would find alone.

    Args:
        ask: called with all that the searches want to know at one time.
    """
    found: dict[int, Found] = {}
    wanted = {owner: next(one) for owner, one in enumerate(searches)}
    while wanted:
        owners = [owner for owner, texts in wanted.items() for _ in texts]
        said = ask(owners, [text for texts in wanted.values() for text in texts])
        further: dict[int, list[str]] = {}
        start = 0
        for owner, texts in wanted.items():
            try:
                further[owner] = searches[owner].send(said[start : start + len(texts)])
            except StopIteration as end:
                found[owner] = end.value
            start += len(texts)
        wanted = further
    return [found[owner] for owner in range(len(searches))]


def _probabilities(said: Said) -> NDArray[np.float64]:
    return np.exp(np.asarray(said, np.float64)).round(DECIMALS)


def _named(said: Said) -> NDArray[np.int64]:
    """(n,) the likeliest class, -1 where a value is no number."""
    return np.where(np.isnan(said).any(axis=1), -1, said.argmax(axis=1))


def _importance(whole: NDArray[np.float64], said: Said, label: int) -> NDArray[np.float64]:
    """(n,) of the words that were left out, see ``search``; one whose answer is no number is worth nothing."""
    left, named = _probabilities(said), _named(said)
    lost = whole[label] - left[:, label]
    gained = left[np.arange(len(left)), named] - whole[named]
    return np.nan_to_num(np.where(named == label, lost, lost + gained))
