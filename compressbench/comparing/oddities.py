"""Anything odd? What two models' outputs give away about one of them being broken.

Each check says nothing of what compression, another runtime or another training honestly does; its docstring says from
where on it speaks. What it asks of chance is ``CHANCE`` over all classes of one comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from compressbench.comparing.answers import NONE, answers
from compressbench.comparing.arrays import Bools, Floats, Ints, both, pieces, table
from compressbench.comparing.intervals import binomial_tail
from compressbench.comparing.probabilities import LOGITS, PROBABILITIES, Kind, kind_of, log_probabilities
from compressbench.errors import UserError, nearest
from compressbench.wording import counted

CHANCE = 1e-3
"""How often, at most, an honest pair may look like one with a class dead or swapped."""
ROWS = 100
"""Of a finding so many rows are kept."""
FEW = 20
"""Fewer examples say nothing about a column of outputs."""
HALF_LARGEST = 65504.0
"""The largest float16."""
UNUSABLE, WRONG, WORTH_A_LOOK = 3, 2, 1
"""Severities: outputs are no answers; something is surely not as it was meant; something may be."""


@dataclass(frozen=True)
class Finding:
    """Something odd.

    Attributes:
        kind: in a word or two, e.g. ``not finite``, ``dead class``.
        words: one plain sentence.
        value: the figure in it: a share in percent, a ratio, a number of classes.
        n: the examples looked at.
        severity: 3 outputs are no answers; 2 something is surely not as it was meant; 1 something may not be.
        rows: the first examples that show it, 100 at most; empty where it is about all.
        classes: those that it is about.
    """

    kind: str
    words: str
    value: float
    n: int
    severity: int
    rows: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()


def odd(
    reference: Floats,
    other: Floats,
    kinds: tuple[str, str] | None = None,
    names: Sequence[str] = (),
    whose: str = "the other model",
) -> tuple[Finding, ...]:
    """Everything that two tables of outputs show, the worst first.

    Args:
        reference, other: (n, classes) scores of the same examples; where the other has another number of classes, only
            what that says is looked for.
        kinds: what each is, ``logits`` or ``probabilities``; told by ``probabilities.kind_of`` where not given.
        names: of the classes; their numbers where there are none.
        whose: how sentences name the other model.

    Raises:
        UserError: not the same number of examples, or scores of which it can't be told what they are.
    """
    table(reference, "the reference's outputs"), table(other, f"the outputs of {whose}")
    first = kind_of(reference, kinds[0] if kinds else "")
    second = kind_of(other, kinds[1] if kinds else "")
    classes, others = reference.shape[1], other.shape[1]
    if classes == others or len(reference) != len(other):
        both(reference, other)
    found = list(not_finite(reference, other, whose))
    if classes != others:
        shifted = offset(answers(reference).labels, answers(other).labels, classes, others, whose)
        return worst_first([*found, *shifted])
    sound = finite_rows(reference) & finite_rows(other)
    if not sound.any():
        return worst_first(found)
    reference, other = _wide(reference[sound]), _wide(other[sound])
    more = list(constant(reference, other, second.name, names, whose))
    if not any(f.kind == "constant" for f in more):
        one, two = answers(reference).labels, answers(other).labels
        more += dead_classes(one, two, classes, names, whose)
        more += class_order(reference, other, names, whose)
        more += duplicated(reference, other, names, whose)
        more += scaled(reference, other, (first, second), whose)
        more += saturated(reference, other, (first, second), whose)
        more += softened_twice(reference, other, (first, second), whose)
        more += other_order(reference, other, (first, second), whose)
        more += repeated(reference, other, second, whose)
    back = np.flatnonzero(sound)
    found += [replace(f, rows=tuple(int(back[r]) for r in f.rows)) for f in more]
    return worst_first(found)


def _wide(scores: Floats) -> Floats:
    """Scores as float32 or float64, since sums and differences of narrower ones, and of whole numbers, overflow.

    What is minus infinity becomes the lowest number there is.
    """
    found = scores.astype(np.result_type(scores.dtype, np.float32), copy=False)
    endless = np.isneginf(found)
    return np.where(endless, found[~endless].min(), found) if endless.any() else found


def worst_first(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity; equals as they came."""
    return tuple(sorted(found, key=lambda f: -f.severity))


def finite_rows(scores: Floats) -> Bools:
    """(n,) bool: does a row hold numbers only? That log-probabilities are minus infinity is no lack of them."""
    highest = scores.max(axis=1)
    if bool((highest <= 0).all()):
        return np.asarray(highest > -np.inf)
    return np.asarray(np.isfinite(scores).all(axis=1))


def not_finite(reference: Floats, other: Floats, whose: str = "the other model") -> tuple[Finding, ...]:
    """Rows that hold NaN or infinity; it speaks of one such row, of either model.

    Where both have them in the same rows, which is said, severity is 2 instead of 3; so it is of the reference's own.
    """
    bad, own = ~finite_rows(other), ~finite_rows(reference)
    found = []
    for scores, rows, beside, name, rest in (
        (other, bad, own, whose, "the reference's"),
        (reference, own & ~bad, bad, "the reference", f"those of {whose}"),
    ):
        if not rows.any():
            continue
        n, at = len(scores), np.flatnonzero(rows)
        nan = int(np.isnan(scores[at]).any(axis=1).sum())
        kinds = [f"NaN in {nan:,}"] * (nan > 0) + [f"infinity in {len(at) - nan:,}"] * (nan < len(at))
        shared = int((rows & beside).sum())
        words = (
            f"{len(at):,} of {counted(n, 'output')} of {name} hold what is no number ({', '.join(kinds)}), first in "
            f"row {at[0]}; {rest} hold it in {shared:,} of these"
        )
        severe = UNUSABLE if scores is other and shared < len(at) else WRONG
        found.append(Finding("not finite", words, 100 * len(at) / n, n, severe, _first(at)))
    return tuple(found)


def constant(
    reference: Floats,
    other: Floats,
    kind: str = LOGITS,
    names: Sequence[str] = (),
    whose: str = "the other model",
) -> tuple[Finding, ...]:
    """Outputs that don't depend on the input, where the reference's do.

    Of all classes: it speaks where no column varies by more than a millionth of the largest value. Of some: of logits
    of 20 examples or more, columns that don't vary at all. Of one answer for everything: of 20 examples or more to
    which the reference gives three answers or more, none of them to more than nine in ten.

    Args:
        reference, other: (n, classes), finite.
        kind: what the other is.
        names, whose: see ``odd``.
    """
    n = len(other)
    spread, before = np.ptp(other, axis=0), np.ptp(reference, axis=0)
    if n > 1 and spread.max() <= 1e-6 * max(float(np.abs(other).max()), 1e-30) and before.max() > 0:
        return (
            Finding(
                "constant",
                f"{whose} gives each of {n:,} examples the same output",
                100.0,
                n,
                UNUSABLE,
            ),
        )
    found = []
    one, two = answers(reference).labels, answers(other).labels
    counts = np.bincount(one, minlength=reference.shape[1])
    if n >= FEW and (two == two[0]).all() and (counts > 0).sum() >= 3 and counts.max() <= 0.9 * n:
        found.append(
            Finding(
                "one answer",
                f"{whose} answers {_named([int(two[0])], names)} for each of {n:,} examples; the reference gives "
                f"{(counts > 0).sum()} different answers",
                100.0,
                n,
                UNUSABLE,
                classes=(int(two[0]),),
            )
        )
    dead = np.flatnonzero((spread == 0) & (before > 0))
    if kind == LOGITS and n >= FEW and len(dead) and not _log_probabilities(other):
        found.append(
            Finding(
                "constant class",
                f"the output of {whose} for {_named(dead, names)} is the same for each of {n:,} examples; "
                "the reference's varies",
                float(len(dead)),
                n,
                WRONG,
                classes=_first(dead),
            )
        )
    return tuple(found)


def dead_classes(
    reference: Ints, other: Ints, classes: int, names: Sequence[str] = (), whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Classes that the reference answers and the other never does.

    It speaks of a class that the reference answers k times where (1 - r)^k is below ``CHANCE`` / classes: r is half the
    share of all other classes' examples on which the two agree, so that a class may be kept half as well as the rest.
    Examples of one class may change together, though: it is silent where more than a tenth of the other classes, of
    those that the reference answers five times or more, are kept less than half.

    Args:
        reference, other: (n,) answers, -1 for none.
        classes: how many there are.
        names, whose: see ``odd``.
    """
    n = len(reference)
    before = np.bincount(reference[reference != NONE], minlength=classes)
    after = np.bincount(other[other != NONE], minlength=classes)
    kept = np.bincount(reference[(reference == other) & (reference != NONE)], minlength=classes)
    rest = before.sum() - before
    rate = (kept.sum() - kept) / np.maximum(rest, 1) / 2
    dead = np.flatnonzero((after == 0) & (before > 0) & ((1 - rate) ** before <= CHANCE / classes))
    told = (before >= 5) & (after > 0)
    if not len(dead) or (2 * kept < before)[told].sum() > 0.1 * told.sum():
        return ()
    times = int(before[dead].sum())
    rows = np.flatnonzero(np.isin(reference, dead))
    return (
        Finding(
            "dead class",
            f"{whose} never answers {_named(dead, names)}, which the reference answers for {times:,} of {n:,} examples",
            float(len(dead)),
            n,
            WRONG,
            _first(rows),
            _first(dead),
        ),
    )


def class_order(
    reference: Floats, other: Floats, names: Sequence[str] = (), whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Classes of the other that stand in another place: all offset by some places, two swapped, or several in turn.

    A class is taken to have moved where the other most often answers another one j for the reference's i, twice as
    often as i or more, and by chance no oftener than sqrt(``CHANCE``) / classes; and it speaks where such moves make a
    circle (i to j and j to i, or longer), since confusion of what is alike goes one way; and where each column of the
    circle correlates better, by 0.05 or more, with its new place than with its old one.

    Args:
        reference, other: (n, classes), finite.
        names, whose: see ``odd``.
    """
    both(reference, other)
    n, classes = reference.shape
    one, two = answers(reference).labels, answers(other).labels
    if shifted := offset(one, two, classes, classes, whose):
        return shifted
    counts = np.bincount(one * classes + two, minlength=classes * classes).reshape(classes, classes)
    to, own = counts.argmax(axis=1), counts.diagonal()
    most = counts[np.arange(classes), to]
    moved = (to != np.arange(classes)) & (most >= 2 * own) & (most > 0)
    bound = math.sqrt(CHANCE) / classes
    place = np.arange(classes)
    for c in np.flatnonzero(moved):
        if binomial_tail(int(own[c]), int(own[c] + most[c])) <= bound:
            place[c] = to[c]
    found = []
    for circle in _circles(place):
        new = np.array([_correlation(reference[:, c], other[:, place[c]]) for c in circle])
        old = np.array([_correlation(reference[:, c], other[:, c]) for c in circle])
        if not (new > old + 0.05).all():
            continue
        rows = np.flatnonzero(np.isin(one, circle))
        many = len(circle) > 2
        found.append(
            Finding(
                "permuted classes" if many else "swapped classes",
                f"the outputs of {whose} for {_named(circle, names)} are in one another's places: where the reference "
                f"answers one of these, {whose} gives the {'next' if many else 'other'} one "
                f"{sum(most[c] for c in circle):,} times and the same {sum(own[c] for c in circle):,} times",
                float(len(circle)),
                n,
                WRONG,
                _first(rows),
                tuple(circle),
            )
        )
    return tuple(found)


def _circles(place: Ints) -> list[list[int]]:
    """Circles of two or more in a map of numbers to numbers."""
    found, seen = [], np.zeros(len(place), bool)
    for start in np.flatnonzero(place != np.arange(len(place))):
        path, at = [], int(start)
        while not seen[at]:
            seen[at] = True
            path.append(at)
            at = int(place[at])
        if at in path and len(path) - path.index(at) > 1:
            found.append(path[path.index(at) :])
    return found


def offset(
    reference: Ints, other: Ints, classes: int, others: int, whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Answers that are all the reference's, some places further on: a class too many in front, or a last layer shifted.

    With as many classes places are counted round. It speaks where, some number of places on, the two agree at least
    twice as often as in the same place, and five standard errors more often than by chance; and where this is the
    commonest answer for most, and three or more, of the classes that the reference answers three times or more.

    Args:
        reference, other: (n,) answers, -1 for none.
        classes, others: how many the reference and the other have.
        whose: see ``odd``.

    Raises:
        UserError: not the same number of answers.
    """
    if len(reference) != len(other):
        raise UserError(f"the reference answers {len(reference):,} examples and {whose} {len(other):,}")
    some = (reference != NONE) & (other != NONE)
    one, two = reference[some], other[some]
    n, wide = len(one), max(classes, others)
    if not n:
        return ()
    steps = (two - one) % wide
    counts = np.bincount(steps, minlength=wide)
    step = int(counts[1:].argmax()) + 1
    p, q = np.bincount(one, minlength=wide) / n, np.bincount(two, minlength=wide) / n
    chance = float(p @ np.roll(q, -step))
    agree, least = int(counts[step]), chance * n + 5 * math.sqrt(n * chance * (1 - chance) + 1e-9)
    own = np.bincount(one, minlength=wide)
    further = np.bincount(one[steps == step], minlength=wide)
    told = own >= 3
    most = told & (2 * further > own)
    if agree < 2 * counts[0] or agree <= least or most.sum() < max(3, 0.5 * told.sum()):
        return ()
    back = step - wide if step > wide / 2 else step
    words = (
        f"the answers of {whose} are the reference's {counted(abs(back), 'class', 'classes')} "
        f"{'further on' if back > 0 else 'further back'}: so they agree on {100 * agree / n:.1f} % of {n:,} examples, "
        f"and as they are on {100 * counts[0] / n:.1f} %"
    )
    if classes != others:
        words += f" ({whose} has {others:,} classes, the reference {classes:,})"
    return (
        Finding("class offset", words, float(back), n, WRONG, _first(np.flatnonzero(some)[steps == step])),
    )


def duplicated(
    reference: Floats, other: Floats, names: Sequence[str] = (), whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Classes whose outputs are equal for every example, where the reference's are not.

    It speaks of 20 examples or more, and where the columns vary among ten or more of them; up to a hundred-thousandth
    of the largest value, as sums in another order make it. (Probabilities that are rounded to 0 don't vary.)

    Args:
        reference, other: (n, classes), finite.
        names, whose: see ``odd``.
    """
    n = len(other)
    if n < FEW:
        return ()
    size = float(np.abs(other).max())
    near = 1e-5 * size
    drawn = np.random.default_rng(0).normal(size=(3, n)).astype(other.dtype) / math.sqrt(n)
    keys = drawn @ other  # equal columns have equal sums, and few others have three
    order = keys[0].argsort(kind="stable")
    found: list[list[int]] = []
    for here, after in pairwise(order):
        if np.abs(keys[:, after] - keys[:, here]).max() > 10 * near:
            continue
        one, two = other[:, here], other[:, after]
        varies = int((np.abs(one - np.median(one)) > 10 * near).sum()) >= 10
        apart = float(np.abs(reference[:, here] - reference[:, after]).max())
        distinct = apart > 1e-3 * float(np.abs(reference).max())
        if varies and distinct and float(np.abs(one - two).max()) <= near:
            if found and found[-1][-1] == here:
                found[-1].append(int(after))
            else:
                found.append([int(here), int(after)])
    return tuple(
        Finding(
            "duplicated classes",
            f"the outputs of {whose} for {_named(sorted(group), names)} are the same for each of {n:,} examples; "
            "the reference's differ",
            float(len(group)),
            n,
            WRONG,
            classes=tuple(sorted(group)),
        )
        for group in found
    )


def saturated(
    reference: Floats, other: Floats, kinds: tuple[Kind, Kind], whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Outputs that have run into an end of their range.

    Of logits it speaks where one is the largest float16; or where the largest or smallest value of all is reached in a
    twentieth of the examples and ten or more, four times as often as any of the five values next to it is an example's
    extreme, and in four times as many as with the reference. (An int8 output takes all its values often, and is cut at
    what calibration saw, which does no harm to a few.) Of both kinds it speaks where, in at least half of the examples,
    the highest probability is 1 as float32 has it (or is rounded to it, where probabilities are), in a fifth of that
    with the reference, and where the reference lacks more than 1e-4 to 1 in most of these.

    Args:
        reference, other: (n, classes), finite.
        kinds: what each of them is (see ``probabilities.kind_of``).
        whose: see ``odd``.
    """
    n = len(other)
    found = list(_cut(reference, other, whose)) if kinds[1].name == LOGITS else []
    step = max(kind.step for kind in kinds)
    short = max(step / 2 if step > 1e-6 else 0.0, 2.0**-25)
    lacking, before = _lacking(other, kinds[1].name), _lacking(reference, kinds[0].name)
    full, earlier = lacking <= short, before <= short
    fuller = full.mean() >= 0.5 and earlier.mean() <= full.mean() / 5
    if not found and n >= FEW and fuller and np.median(before[full]) > max(1e-4, 2 * short):
        words = (
            f"in {int(full.sum()):,} of {n:,} examples the highest probability of {whose} is 1, "
            f"and in {int(earlier.sum()):,} that of the reference"
        )
        share = 100 * float(full.mean())
        found.append(Finding("saturated", words, share, n, WRONG, _first(np.flatnonzero(full))))
    return tuple(found)


def _cut(reference: Floats, other: Floats, whose: str) -> Iterator[Finding]:
    """Logits that are the largest float16, or cut off at one value."""
    n, highest, lowest = len(other), other.max(axis=1), other.min(axis=1)
    ends = []
    if max(highest.max(), -lowest.min()) == HALF_LARGEST and np.abs(reference).max() < HALF_LARGEST:
        ends.append((np.maximum(highest, -lowest) == HALF_LARGEST, "±65,504, the largest float16"))
    elif not _log_probabilities(other):  # which end at 0, and below where somebody clipped them
        for ours, theirs, sign, end in (
            (highest, reference.max(axis=1), 1, "largest"),
            (-lowest, -reference.min(axis=1), -1, "smallest"),
        ):
            if _spike(ours) >= max(10, 0.05 * n, 4 * _spike(theirs)):
                value = sign * float(ours.max()) + 0.0
                ends.append(
                    (ours == ours.max(), f"{value:.5g}, the {end} that it ever gives: it has run into an end")
                )
    for rows, what in ends:
        words = f"in {int(rows.sum()):,} of {n:,} examples an output of {whose} is {what}"
        yield Finding("saturated", words, 100 * float(rows.mean()), n, WRONG, _first(np.flatnonzero(rows)))


def _spike(values: Floats) -> int:
    """How many of (n,) values are the largest, 0 where that isn't four times as many as any of the five next ones."""
    distinct, counts = np.unique(values, return_counts=True)
    return int(counts[-1]) if len(distinct) == 1 or counts[-1] >= 4 * counts[-6:-1].max() else 0


def _lacking(scores: Floats, kind: str) -> Floats:
    """(n,) what the highest probability lacks to 1."""
    found = np.empty(len(scores))
    for rows in pieces(*scores.shape):
        found[rows] = 1 - np.exp(log_probabilities(scores[rows], kind)).max(axis=1)
    return found


def _log_probabilities(scores: Floats) -> bool:
    """Whether logits are logarithms of probabilities: none above 0, and rows of their exponentials sum to 1."""
    return bool(scores.max() <= 0 and np.abs(np.exp(scores).sum(axis=1) - 1).max() < 1e-2)


def scaled(
    reference: Floats, other: Floats, kinds: tuple[Kind, Kind], whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Logits of the other that are the reference's times a number: another temperature, or a scale that was forgotten.

    Rows have their mean taken off; the ratio is that of what is left, root mean square. It speaks from 3 times on
    (or 1/3), where the two are of one net: where they correlate by 0.95 or more, and by 0.9 or more among the examples
    of one answer. (Another net finds the same classes, but not the same examples of a class the likeliest; one that was
    hardly trained, or hard pruned, may honestly be fifteen times less sure.) Of probabilities the logarithms are taken,
    of those of which both are above 1e-6 and two steps of rounding, where rows that have them times classes less one
    make 300 or more.

    Args:
        reference, other: (n, classes), finite.
        kinds: what each of them is.
        whose: see ``odd``.
    """
    clip = PROBABILITIES in (kinds[0].name, kinds[1].name)
    least = math.log(max(1e-6, 2 * max(k.step for k in kinds)))
    classes, order = reference.shape[1], answers(reference).labels.argsort(kind="stable")
    answered = answers(reference).labels[order]
    sums, used = np.zeros(3), 0
    of_answer = np.zeros((3, classes, classes))
    for rows in pieces(*other.shape):
        x, y = (
            log_probabilities(s[order[rows]], k.name) if clip else s[order[rows]].astype(float)
            for s, k in ((reference, kinds[0]), (other, kinds[1]))
        )
        seen = (x > least) & (y > least) if clip else np.ones(x.shape, bool)
        count = np.maximum(seen.sum(axis=1, keepdims=True), 1)
        x, y = (np.where(seen, v - (v * seen).sum(axis=1, keepdims=True) / count, 0) for v in (x, y))
        used += int((seen.sum(axis=1) > 1).sum())
        sums += _products(x, y)
        there, starts = np.unique(answered[rows], return_index=True)
        for total, v in zip(of_answer, (x, y, seen), strict=True):
            total[there] += np.add.reduceat(v, starts, axis=0, dtype=float)
    roots = np.sqrt(np.maximum(of_answer[2], 1))
    inside = sums - _products(of_answer[0] / roots, of_answer[1] / roots)
    few = used * (classes - 1) < 300 if clip else used < FEW
    if few or not (sums[:2] > 0).all() or not (inside[:2] > 1e-9 * sums[:2]).all():
        return ()
    ratio, (alike, within) = (
        math.sqrt(sums[1] / sums[0]),
        (s[2] / math.sqrt(s[0] * s[1]) for s in (sums, inside)),
    )
    times = max(ratio, 1 / ratio)
    if times < 3 or alike < 0.95 or within < 0.9:
        return ()
    size = f"{ratio:.3g} times as large as" if ratio > 1 else f"{1 / ratio:.3g} times smaller than"
    effect = "more sure of itself" if ratio > 1 else "less sure of itself"
    return (
        Finding(
            "other temperature",
            f"the logits of {whose} are {size} the reference's (correlation {alike:.3f}): its answers may be the same, "
            f"and it is {effect}",
            ratio,
            used,
            WRONG,
        ),
    )


def softened_twice(
    reference: Floats, other: Floats, kinds: tuple[Kind, Kind], whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Probabilities of which the softmax was taken once more.

    They lie within a factor e of each other in each example, and nearly so (0.9 of it, as a logarithm) in one or more;
    it speaks of 20 examples or more where the two agree on half of them, and where in most the reference's don't lie so
    near.

    Args:
        reference, other: (n, classes), finite.
        kinds: what each of them is.
        whose: see ``odd``.
    """
    n = len(other)
    if n < FEW or (answers(reference).labels == answers(other).labels).mean() < 0.5:
        return ()
    spread, before = (
        np.concatenate([np.ptp(log_probabilities(s[rows], k.name), axis=1) for rows in pieces(*s.shape)])
        for s, k in ((other, kinds[1]), (reference, kinds[0]))
    )
    if spread.max() > 1 + 1e-3 or spread.max() < 0.9 or np.median(before) < 2:
        return ()
    words = (
        f"no probability of {whose} is more than {math.exp(spread.max()):.2f} times as large as another one of the same "
        f"example, and those of the reference are {math.exp(min(np.median(before), 20)):,.0f} times in the median one: "
        "was the softmax taken twice?"
    )
    return (Finding("softmax twice", words, float(math.exp(spread.max())), n, WRONG),)


def other_order(
    reference: Floats, other: Floats, kinds: tuple[Kind, Kind], whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Answers to the same examples in another order.

    It speaks of 100 examples or more to which the reference gives three answers or more, where the two agree no oftener
    than by chance (five standard errors), and where each class's log-probabilities, sorted, are the reference's: they
    differ by a tenth of their spread at most, on average. (What is broken answers in other shares, or is less sure.)

    Args:
        reference, other: (n, classes), finite.
        kinds: what each of them is.
        whose: see ``odd``.
    """
    n, classes = reference.shape
    one, two = answers(reference).labels, answers(other).labels
    p, q = (np.bincount(v[v != NONE], minlength=classes) / n for v in (one, two))
    chance, agree = float(p @ q), float((one == two).mean())
    if n < 100 or (p > 0).sum() < 3 or p.max() > 0.9:
        return ()
    if agree > chance + 5 * math.sqrt(chance * (1 - chance) / n):
        return ()
    for column in range(classes):
        x, y = (
            np.sort(log_probabilities(s, k.name)[:, column] if classes <= 1000 else s[:, column])
            for s, k in ((reference, kinds[0]), (other, kinds[1]))
        )
        if np.abs(x - y).mean() > 0.1 * max(float(x.std()), 1e-9):
            return ()
    steps = [k for k in range(-10, 11) if k and (np.roll(two, -k) == one).mean() > max(0.5, 2 * agree)]
    how = f", {abs(steps[0])} {'later' if steps[0] > 0 else 'earlier'}," if steps else ""
    words = (
        f"{whose} answers as often what the reference does, as sure of itself, and to other examples: the two agree on "
        f"{100 * agree:.1f} %, which is chance ({100 * chance:.1f} %); its rows are in another order{how} than the data's"
    )
    return (Finding("other order", words, 100 * agree, n, UNUSABLE),)


def repeated(
    reference: Floats, other: Floats, kind: Kind, whose: str = "the other model"
) -> tuple[Finding, ...]:
    """One and the same output for many examples in a row, as what was filled up has it.

    It speaks of 20 rows or more, in which the reference gives other outputs, and the highest probability is below 0.99
    (what is surer is often rounded to the same).

    Args:
        reference, other: (n, classes), finite.
        kind: what the other is.
        whose: see ``odd``.
    """
    same = (other[1:] == other[:-1]).all(axis=1) & ~(reference[1:] == reference[:-1]).all(axis=1)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]])))
    runs = ends.reshape(-1, 2)
    if not len(runs):
        return ()
    begin, end = runs[int((runs[:, 1] - runs[:, 0]).argmax())]
    count = int(end - begin) + 1
    if count < FEW or _lacking(other[begin : begin + 1], kind.name)[0] <= 0.01:
        return ()
    rows = np.arange(begin, end + 1)
    words = (
        f"{whose} gives one and the same output for {count:,} examples in a row, from row {begin} on, where the "
        "reference's differ: was it filled up?"
    )
    return (Finding("repeated outputs", words, 100 * count / len(other), len(other), UNUSABLE, _first(rows)),)


def _products(x: Floats, y: Floats) -> Floats:
    """Sums over all numbers of x², y² and x y."""
    return np.array([np.einsum("ij,ij->", a, b) for a, b in ((x, x), (y, y), (x, y))])


TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 3e-2, "bfloat16": 2e-1, "int8": 2e-1}
"""Precision -> by how much of the outputs' spread sums in another order may change one of them."""
VARIED = {
    "batch": "with the number of examples in a batch",
    "neighbours": "with the other examples in a batch",
    "calls": "from call to call",
}
"""What was varied -> how it is said."""


def varying(
    once: Floats, again: Floats, precision: str = "float32", by: str = "batch", whose: str = "the other model"
) -> tuple[Finding, ...]:
    """Outputs of the same examples computed twice, that should be the same and aren't.

    It speaks where an output changes by more than ``TOLERANCES`` of the outputs' spread (the standard deviation of all,
    each row's mean taken off); that many rows' answers change too makes it worse, since an answer that hangs on
    rounding may.

    Args:
        once, again: (n, classes) of one model.
        precision: that it computes in, one of ``TOLERANCES``.
        by: what was varied, one of ``VARIED``.
        whose: see ``odd``.

    Raises:
        UserError: no such precision or variation, or not the same examples and classes.
    """
    for what, given, known in (("precision", precision, TOLERANCES), ("variation", by, VARIED)):
        if given not in known:
            raise UserError(f"no {what} {given!r}; {nearest(given, known)}")
    both(once, again)
    n = len(once)
    sound = np.isfinite(once).all(axis=1) & np.isfinite(again).all(axis=1)
    lost = int((np.isfinite(once).all(axis=1) != np.isfinite(again).all(axis=1)).sum())
    one, two = once[sound].astype(float), again[sound].astype(float)
    spread = float((one - one.mean(axis=1, keepdims=True)).std()) if len(one) else 0.0
    gap = np.abs(one - two).max(axis=1) / (spread or 1.0)
    far = gap > TOLERANCES[precision]
    if not far.any() and not lost:
        return ()
    first, second = answers(once).labels, answers(again).labels
    changed = int((first != second).sum())
    rows = np.union1d(np.flatnonzero(sound)[far], np.flatnonzero(first != second))
    by_most = f", by up to {100 * gap.max():.2g} % of their spread" if far.any() else ""
    return (
        Finding(
            f"varies by {by}",
            f"outputs of {whose} change {VARIED[by]}: those of {int(far.sum()) + lost:,} of {n:,} examples do{by_most}, "
            f"and {counted(changed, 'answer')} with them",
            100 * (int(far.sum()) + lost) / n,
            n,
            UNUSABLE if changed >= 0.01 * n and changed > 1 else WRONG if changed or lost else WORTH_A_LOOK,
            _first(rows),
        ),
    )


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(dtype=float), y - y.mean(dtype=float)
    size = float(x @ x) * float(y @ y)
    return float(x @ y) / math.sqrt(size) if size > 0 else 0.0


def _first(numbers: Ints) -> tuple[int, ...]:
    return tuple(int(r) for r in numbers[:ROWS])


def _named(classes: Iterable[int], names: Sequence[str], most: int = 5) -> str:
    """``class 3``; ``cat and dog``; ``classes 1, 2, 3, 4, 5 and 7 more``."""
    known = [int(c) for c in classes]
    said = [names[c] if names else str(c) for c in known[:most]]
    rest = len(known) - len(said)
    tail = f"{rest} more" if rest else said.pop() if len(said) > 1 else ""
    listed = ", ".join(said) + (f" and {tail}" if tail else "")
    return listed if names else f"{'class' if len(known) == 1 else 'classes'} {listed}"
