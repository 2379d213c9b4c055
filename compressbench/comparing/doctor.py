"""The doctor: does a model fit its data better if pictures are prepared, or classes numbered, in another usual way?

Of the reference that is asked with the labels; of the other model with the reference's outputs, so that it needs none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressbench.artefacts.artefact import Artefact, in_batches
from compressbench.artefacts.predictions import Predictions
from compressbench.artefacts.preparation import Preparation
from compressbench.bench import Progress
from compressbench.comparing.answers import NONE, answers
from compressbench.comparing.arrays import Bools, Floats, Ints
from compressbench.comparing.asking import BATCH, SILENT, batches
from compressbench.comparing.classes import IMAGENET as BY_IMAGENET
from compressbench.comparing.classes import places, plain
from compressbench.comparing.intervals import Estimate, binomial_tail, paired_difference, share
from compressbench.comparing.material import Material, labels_of, limited
from compressbench.comparing.oddities import WRONG, Finding
from compressbench.comparing.searching import Search, as_theirs, difference, undone, usual, what
from compressbench.errors import UserError

ROWS = 500
"""Examples on which it is decided."""
FEW = 48
"""Examples on which all are looked at."""
FEWER = 16
"""The same where outputs are compared, of which each one tells more than an answer does."""
GOOD = 97.0
"""Percent right, or as the reference, from where on nothing else is tried."""
ALPHA = 0.01
"""How often, at most, chance alone makes one of all that were tried clearly better."""
LEAST = 2.0
"""Points that one must be better by to be worth a sentence."""
MENDED = 0.1
"""The share of what is wrong that must be right then, since a net that is bad gains a little by many a change."""
ABOVE_CHANCE = 5.0
"""Standard errors by which one must be better than answers of the same shares given at random."""
LEFT = 0.25
"""Of the distance to the reference's outputs, or of other answers than its, what may be left at most."""
HELD = 256 * 2**20
"""Bytes of pictures that are held instead of being read for each variant again."""


@dataclass(frozen=True)
class Numbering:
    """Which output stands for each class of the labels.

    Attributes:
        words: how they are numbered, to follow "classes".
        table: int64 (classes,), -1 where a class has no output; None where they are as they are given.
    """

    words: str = "as given"
    table: Ints | None = None

    def of(self, labels: Ints) -> Ints:
        """Labels in the outputs' numbering; -1 stays."""
        return labels if self.table is None else np.append(self.table, NONE)[labels]


AS_GIVEN = Numbering()


@dataclass(frozen=True)
class Fit:
    """How well a model does with one preparation and one numbering.

    Attributes:
        preparation: None where inputs are no pictures.
        right: percent of examples that are right, or as the reference's, with Wilson's interval.
    """

    preparation: Preparation | None
    numbering: Numbering
    right: Estimate


@dataclass(frozen=True)
class Doctored:
    """What the doctor says.

    Attributes:
        given: as it was asked.
        best: what fits clearly better; the given one itself where nothing does.
        gain: points between the two, with Newcombe's interval, as wide as the number of those tried asks for.
        tried: preparations and numberings, the given ones too.
        words: one sentence.
    """

    given: Fit
    best: Fit
    gain: Estimate
    tried: int
    words: str

    @property
    def better(self) -> bool:
        """Whether something fits clearly better."""
        return self.best is not self.given

    @property
    def preparation(self) -> Preparation | None:
        """What ``--preprocess auto`` takes."""
        return self.best.preparation


def doctored(
    artefact: Artefact | Predictions,
    material: Material,
    given: Preparation | None = None,
    names: Sequence[str] = (),
    known: Floats | None = None,
    threads: int = 1,
    batch: int = BATCH,
    rows: int = ROWS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Doctored:
    """Whether a model fits the labels clearly better if it is fed, or its outputs are read, in another usual way.

    The usual preparations are those of ``preparation.variants``; numberings are shifted by one (1,001 classes), by the
    folders' numbers or without regard to capitals, by the outputs' names, and ImageNet's. Where ``GOOD`` of the given are
    right no other preparation is tried. Else all that differ in one thing are looked at on ``FEW`` examples, the best on
    more, and from the best of these on once more; where none is better than nothing all that differ in two. It is
    decided on all ``rows``: clearly better is one whose paired interval lies above 0, at the level that
    ``ALPHA`` leaves when as many were tried, by ``LEAST`` points, ``MENDED`` of what is wrong, and above chance.

    Args:
        given: as it is to be prepared, layout and all (``asking.prepared``); None where inputs are no pictures, or of a
            file of predictions, of which only the numbering can be doctored.
        names: of the outputs, in order, where they have any.
        known: (n, classes) what it said of the whole material as given, where that is known already.
        rows: drawn by ``seed``, of each class its share.

    Raises:
        UserError: no labels, or as given the model can't be asked.
    """
    labels_of(material, "--preprocess")
    sample = _sample(material, rows, seed, known, artefact)
    labels = labels_of(sample.part, "--preprocess")
    ask = _Asked(artefact, sample.part, threads, batch, progress)
    first = ask(given, sample.part.n) if sample.known is None else ask.told(given, sample.known)
    outputs = first.shape[1]
    numberings = [AS_GIVEN, *other_numberings(material, outputs, names)]

    def right(scores: Floats, numbering: Numbering) -> Bools:
        mine = numbering.of(labels[: len(scores)])
        return (answers(scores).labels == mine) & (mine != NONE)

    def score(scores: Floats) -> float:
        return max(float(right(scores, k).mean()) for k in numberings)

    tried = len(numberings)
    base = _clearly_best([(k, right(first, k), _chance(first, k.of(labels))) for k in numberings], tried)
    hits = right(first, base)
    best, found = (given, base), hits
    model = None if isinstance(artefact, Predictions) or sample.part.pictures is None else artefact
    if given is not None and model is not None and 100 * score(first) < GOOD:
        hopeless = _hopeless(score(first), outputs)
        search = Search(ask, score, hopeless, enough=GOOD / 100, few=FEW, slack=1.5 / FEW)
        promising, count = search.found(given, list(usual(given, model.wants, sample.part)))
        tried = (count + 1) * len(numberings)
        if promising != given:
            scores = ask(promising, sample.part.n)
            own = max(numberings, key=lambda k: int(right(scores, k).sum()))
            new = right(scores, own)
            own = base if right(scores, base).sum() == new.sum() else own
            mended = (new.sum() - hits.sum()) >= MENDED * (~hits).sum()
            if mended and _clearly(hits, new, tried) and _above(new, _chance(scores, own.of(labels))):
                best, found = (promising, own), new
    return _said(
        Fit(given, AS_GIVEN, _percent(right(first, AS_GIVEN))), best, (right(first, AS_GIVEN), found), tried
    )


def doctored_other(
    artefact: Artefact,
    material: Material,
    given: Preparation | None,
    reference: Floats,
    known: Floats | None = None,
    theirs: Preparation | None = None,
    threads: int = 1,
    batch: int = BATCH,
    rows: int = ROWS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Doctored:
    """Whether another model answers clearly more like the reference if its pictures are prepared in another way.

    As ``doctored``, and finer: outputs are compared, not only answers, so that a copy of the reference that is fed what
    is nearly right is found too. Beside the usual ones the reference's is tried, and those that undo a normalisation
    inside the model and do another. Clearly better is what agrees clearly more often, as in ``doctored``, and leaves
    ``LEFT`` of the other answers at most: a pruned net that answers differently gains by more contrast, and gains less.
    Or what comes nearer to the reference's outputs: at most ``LEFT`` of the distance (1 - the correlation of an example's
    outputs) is left, of the median example, and of more examples than chance makes (a sign test, at the same level).

    Args:
        given: as it is prepared now.
        reference: (n, classes) what the reference said of the whole material, rightly prepared.
        known: (n, classes) what this one said.
        theirs: how the reference's pictures were prepared.

    Raises:
        UserError: another number of classes than the reference's, or it can't be asked.
    """
    sample = _sample(replace(material, labels=answers(reference).labels), rows, seed, known, artefact)
    wanted = reference[sample.rows].astype(np.float64)
    ask = _Asked(artefact, sample.part, threads, batch, progress)
    first = ask(given, sample.part.n) if sample.known is None else ask.told(given, sample.known)
    if first.shape[1] != wanted.shape[1]:
        raise UserError(
            f"{artefact.name}: has {first.shape[1]:,} classes, and the reference {wanted.shape[1]:,}"
        )
    truth = answers(wanted).labels

    def right(scores: Floats) -> Bools:
        mine = answers(scores).labels
        return (mine == truth[: len(mine)]) & (mine != NONE)

    def score(scores: Floats) -> float:
        return -float(apart(wanted[: len(scores)], scores).mean())

    hits, gaps = right(first), apart(wanted, first)
    best, found, tried = given, hits, 1
    inside: dict[Preparation, str] = {}
    alike = 100 * hits.mean() >= GOOD and np.median(gaps) < 1e-3
    if given is not None and not alike and sample.part.pictures is not None:
        plain_ones = [*as_theirs(given, theirs), *usual(given, artefact.wants, sample.part)]
        inside = {one: words for one, words in undone(given).items() if one not in plain_ones}
        search = Search(ask, score, float(np.median(gaps)) > 0.5, enough=-1e-4, few=FEWER, slack=0.0)
        promising, count = search.found(given, [*plain_ones, *inside])
        tried = count + 1
        if promising != given:
            scores = ask(promising, sample.part.n)
            new = right(scores)
            agree = (~new).sum() <= LEFT * (~hits).sum() and _clearly(hits, new, tried)
            nearer = _nearer(gaps, apart(wanted, scores), tried) and new.sum() >= hits.sum()
            if nearer or (agree and _above(new, _chance(scores, truth))):
                best, found = promising, new
    return _said(Fit(given, AS_GIVEN, _percent(hits)), (best, AS_GIVEN), (hits, found), tried, inside)


def differing(
    other: Doctored, theirs: Preparation | None, whose: str = "the other model"
) -> tuple[Finding, ...]:
    """The finding that another model wants its pictures prepared in another way than it got them; empty where it doesn't.

    Args:
        other: by ``doctored_other``.
        theirs: how the reference's were prepared, when it gave its outputs.
    """
    best, given = other.best.preparation, other.given.preparation
    if not other.better or best is None or given is None:
        return ()
    words = f"{whose} wants its pictures prepared in another way: {other.words}"
    if theirs is not None and what(best) == what(theirs):
        words = f"{whose} is fed in another way than the reference, and would answer as it does fed alike: {other.words}"
    return (Finding("preprocessing", words, other.gain.value, other.gain.n, WRONG),)


def renumbered(material: Material, numbering: Numbering) -> Material:
    """The material with labels in a model's own numbering; classes lose names that are not theirs any more."""
    if numbering.table is None or material.labels is None:
        return material
    names = material.classes
    if names is not None:
        table = numbering.table
        called = {int(p): name for p, name in zip(table, names, strict=False) if p != NONE}
        names = tuple(called.get(k, f"class {k}") for k in range(int(table.max()) + 1))
    whole = None if material.whole is None else renumbered(material.whole, numbering)
    return replace(material, labels=numbering.of(material.labels), classes=names, whole=whole)


def other_numberings(material: Material, outputs: int, names: Sequence[str] = ()) -> Iterator[Numbering]:
    """Usual ways in which outputs may stand for the material's classes, the given one left out.

    Args:
        outputs: how many.
        names: theirs, in order.
    """
    labels, classes = labels_of(material, "--classes"), material.classes
    count = max(int(labels.max()) + 1, len(classes or ()))
    own = np.arange(count)
    found = [
        Numbering("one further on, as with a background class in front", (own + 1) % max(outputs, 2)),
        Numbering("one further back", np.where(own > 0, own - 1, outputs - 1 if count <= outputs else NONE)),
    ]
    if classes is not None and all(c.isascii() and c.isdigit() for c in classes):
        found.append(Numbering("by the numbers that their names are", np.array([int(c) for c in classes])))
    if classes is not None:
        order = sorted(range(count), key=lambda k: classes[k].casefold())
        found.append(Numbering("by their names without regard to capitals", np.argsort(order)))
        place = {plain(name): k for k, name in enumerate(names)}
        if names and all(plain(c) in place for c in classes):
            found.append(Numbering("by the outputs' names", np.array([place[plain(c)] for c in classes])))
        if outputs in (1000, 1001) and len(classes) <= 1000:
            found += _by_imagenet(classes, outputs)
    seen = {tuple(own.tolist())}
    for numbering in found:
        table = numbering.table
        assert table is not None
        fits = table.max() < outputs and tuple(table.tolist()) not in seen
        seen.add(tuple(table.tolist()))
        if fits:
            yield numbering


def _by_imagenet(classes: Sequence[str], outputs: int) -> list[Numbering]:
    try:
        table, _ = places(classes, BY_IMAGENET, outputs)
    except UserError:  # they are none of ImageNet's
        return []
    return [Numbering("by ImageNet's ids and names (--classes imagenet)", np.array(table))]


@dataclass(frozen=True)
class _Sample:
    """Examples to decide on, in an order drawn, so that the first of them are a sample too."""

    part: Material
    rows: Ints
    known: Floats | None


def _sample(material: Material, rows: int, seed: int, known: Floats | None, artefact: Any) -> _Sample:
    labels = labels_of(material, "--preprocess")
    numbers = replace(material, ids=np.arange(material.n).astype(str))
    some = numbers.taken(np.flatnonzero(labels != NONE))
    if not some.n:
        raise UserError(f"--preprocess: {material.name} has no example with a label")
    chosen = limited(some, rows, seed).ids.astype(np.int64)
    chosen = chosen[np.random.RandomState(seed).permutation(len(chosen))]
    told = artefact.answers.values if isinstance(artefact, Predictions) and known is None else known
    return _Sample(material.taken(chosen), chosen, None if told is None else told[chosen])


class _Asked:
    """Asks a model of the first rows of a sample under a preparation; of the same rows once only."""

    def __init__(self, artefact: Any, part: Material, threads: int, batch: int, progress: Progress) -> None:
        self._artefact, self._batch, self._progress = artefact, batch, progress
        self._part, self._threads = _held(part), threads
        self._opened: Any = None
        self._said: dict[Preparation | None, NDArray[Any]] = {}
        self._done = 0

    def told(self, preparation: Preparation | None, scores: Floats) -> Floats:
        """What is known already of all rows."""
        self._said[preparation] = scores
        return scores

    def __call__(self, preparation: Preparation | None, count: int) -> Floats:
        """(count, classes).

        Raises:
            UserError: it can't be asked so.
        """
        before = self._said.get(preparation)
        have = 0 if before is None else len(before)
        if have < count:
            self._opened = self._opened or self._artefact.open(self._threads)
            rows = np.arange(have, min(count, self._part.n))
            fed = batches(self._artefact, self._part, preparation, self._batch, rows)
            found = list(in_batches(self._artefact, self._opened, fed, self._batch))
            before = np.concatenate([*([] if before is None else [before]), *found])
            self._said[preparation] = before
            self._done += len(rows)
            self._progress.step(self._done, max(self._done, self._part.n + 8 * FEW))
        assert before is not None
        return before[:count]


@dataclass(frozen=True)
class _Held:
    """Pictures in memory as a source."""

    pictures: list[NDArray[np.uint8]]
    inputs: tuple[Any, ...] = ()

    def read(self, rows: Ints) -> list[NDArray[np.uint8]]:
        """See ``sources.Source``."""
        return [self.pictures[row] for row in rows]

    def digest(self, rows: Ints) -> str:
        """Nothing is kept of it."""
        raise AssertionError


def _held(part: Material) -> Material:
    """The same with its pictures in memory, where they aren't too large for it."""
    if part.pictures is None:
        return part
    first = part.pictures(np.arange(min(8, part.n)))
    if np.mean([p.nbytes for p in first]) * part.n > HELD:
        return part
    return replace(part, source=_Held(part.pictures(np.arange(part.n))), rows=np.arange(part.n))


def apart(first: Floats, second: Floats) -> Floats:
    """(n,) 1 - the correlation of each row of two tables, 0 to 2; 2 where one holds what is no number.

    Log-probabilities and logits are alike in it; of probabilities the logarithm should be given.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        x, y = (_log(a.astype(np.float64)) for a in (first, second))
        x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
        norm = np.sqrt((x * x).sum(1) * (y * y).sum(1))
        found = 1 - (x * y).sum(1) / np.where(norm > 0, norm, np.nan)
    return np.where(np.isfinite(found), np.maximum(found, 0), 2.0)


def _log(scores: Floats) -> Floats:
    """The logarithm of rows that are probabilities; others as they are."""
    if scores.size and scores.min() >= 0 and np.abs(scores.sum(1) - 1).max() < 5e-3:
        return np.asarray(np.log(np.maximum(scores, 1e-7)))
    return scores


def _nearer(before: Floats, after: Floats, tried: int) -> bool:
    """Whether but ``LEFT`` of the distance is gone, of the median example and of more than chance makes."""
    fallen = int((after <= LEFT * before).sum())
    surely = binomial_tail(len(before) - fallen, len(before)) < ALPHA / tried
    return bool(np.median(after) <= LEFT * np.median(before) and surely and np.median(before) > 1e-6)


def _percent(hits: Bools) -> Estimate:
    return share(int(hits.sum()), len(hits))


def _gain(before: Bools, after: Bools, tried: int) -> Estimate:
    """Points, at the level that is left when so many were tried."""
    level = 1 - ALPHA / max(1, tried)
    both, neither = int((after & before).sum()), int((~after & ~before).sum())
    won, lost = int((after & ~before).sum()), int((~after & before).sum())
    value, low, high = (100 * float(x) for x in paired_difference(both, won, lost, neither, level))
    return Estimate(value, low, high, len(before), level)


def _clearly(before: Bools, after: Bools, tried: int) -> bool:
    gain = _gain(before, after, tried)
    return gain.low > 0 and gain.value >= LEAST


def _chance(scores: Floats, labels: Ints) -> float:
    """How often answers of these shares, given at random, would be right."""
    width = scores.shape[1]
    mine = answers(scores).labels
    p, q = (np.bincount(v[(v >= 0) & (v < width)], minlength=width) / len(v) for v in (mine, labels))
    return float(p @ q)


def _above(hits: Bools, chance: float) -> bool:
    n = len(hits)
    return bool(hits.sum() > n * chance + ABOVE_CHANCE * math.sqrt(n * chance * (1 - chance) + 1e-9))


def _hopeless(right: float, outputs: int) -> bool:
    """Whether a share is near to what chance gives."""
    return right < max(2 / outputs, 0.1) if outputs > 2 else right < 0.6


def _clearly_best(candidates: Sequence[tuple[Numbering, Bools, float]], tried: int) -> Numbering:
    """The one with most right among those clearly better than the first; the first where none is."""
    own = candidates[0][1]
    good = [(k, h) for k, h, chance in candidates[1:] if _clearly(own, h, tried) and _above(h, chance)]
    return max(good, key=lambda c: int(c[1].sum()), default=(candidates[0][0], own))[0]


def _said(
    given: Fit,
    best: tuple[Preparation | None, Numbering],
    hits: tuple[Bools, Bools],
    tried: int,
    inside: Mapping[Preparation, str] | None = None,
) -> Doctored:
    """With its sentence; of another model where ``inside`` says what preparations undo."""
    preparation, numbering = best
    nearer_too = inside is not None
    kind = "answered as by the reference" if nearer_too else "right"
    n, gain = len(hits[0]), _gain(*hits, tried)
    before = f"{given.right.value:.1f} %"
    if preparation == given.preparation and numbering is given.numbering:
        others = f"none of {tried - 1:,} others is clearly better" if tried > 1 else "no other was tried"
        return Doctored(
            given, given, gain, tried, f"as given {before} of {n:,} examples are {kind}, and {others}"
        )
    fit = Fit(preparation, numbering, _percent(hits[1]))
    ways = []
    if preparation is not None and given.preparation is not None and preparation != given.preparation:
        told = difference(given.preparation, preparation)
        ways.append((inside or {}).get(preparation) or f"with {told}")
    if numbering is not given.numbering:
        ways.append(f"with classes numbered {numbering.words}")
    words = f"{' and '.join(ways)}: {fit.right.value:.1f} % of {n:,} examples are {kind}, as given {before}"
    if nearer_too and gain.value < LEAST:
        words += "; the outputs are less than a quarter as far from the reference's"
    return Doctored(given, fit, gain, tried, words)
