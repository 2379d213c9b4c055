"""Comparison: every answer to "what was lost?" of two models' outputs on the same examples, arrays in and figures out.

What needs the models themselves (fragility, cost, where an error came from) is put beside it by whoever can ask them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compressbench.comparing import confidence, gallery, groups, words
from compressbench.comparing.answers import (
    MARGIN,
    NONE,
    Accuracies,
    Changes,
    accuracies,
    answers,
    changes,
    label_loyalty,
)
from compressbench.comparing.arrays import Floats, Ints, both, fitting
from compressbench.comparing.groups import Answered, Group
from compressbench.comparing.intervals import LEVEL, Estimate, share
from compressbench.comparing.oddities import Finding, odd, worst_first
from compressbench.comparing.probabilities import EPSILON, LOGITS, Kind, Summary, distances, kind_of, summary
from compressbench.comparing.shapes import Shapes, shapes
from compressbench.errors import UserError


@dataclass(frozen=True)
class Asked:
    """What both models were asked.

    Attributes:
        name: of the data, in words.
        ids: one text an example.
        labels: int64 (n,), -1 where unknown; None where there are none.
        classes: names of the outputs; empty where nobody gave any.
        groups: name of an attribute -> (int64 (n,) which group, -1 for none; names of the groups).
        texts: a row to what a person reads of it; None where examples are no texts.
    """

    name: str
    ids: Sequence[str]
    labels: Ints | None = None
    classes: tuple[str, ...] = ()
    groups: Mapping[str, tuple[Ints, tuple[str, ...]]] = field(default_factory=dict)
    texts: Callable[[int], str] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Said:
    """What a model said.

    Attributes:
        name: as it is shown.
        form: what it is and what ran it, in words.
        scores: (n, classes) logits or probabilities.
        kind: which of both; empty where that is to be told by the scores.
    """

    name: str
    form: str
    scores: Floats
    kind: str = ""


@dataclass(frozen=True)
class Calibrated:
    """How sure one model is of itself.

    Attributes:
        error, adaptive: expected calibration error in percent, by bins of equal width and of equal numbers.
        loss: mean negative log-likelihood of the label, nats.
        brier: mean squared distance to the label, summed over the classes.
        temperature: fitted on one half of the examples, tried on the other; None where it can't be.
    """

    error: float
    adaptive: float
    loss: float
    brier: float
    temperature: confidence.Temperature | None


@dataclass(frozen=True)
class Floor:
    """How far two models are from each other that nobody compressed, to hold loyalty against.

    Attributes:
        name: what was compared, in words.
        loyalty: label loyalty of that pair, in percent.
        probability_loyalty: likewise, natural logarithm.
    """

    name: str
    loyalty: Estimate
    probability_loyalty: Estimate


@dataclass(frozen=True)
class Comparison:
    """One model against the reference.

    Attributes:
        reference, other: their names; ``forms`` what they are.
        kinds: what the scores of each are, and by what this was told.
        n: examples; ``labelled`` of them have a label.
        loyalty: the same answer, in percent.
        changed: which answers changed, by kind.
        distances: of probabilities.
        accuracy: of both, the test and the verdict; None without labels.
        by_class: classes' changes; empty without labels, where ``by_answer`` says what became of each class's examples.
        by_group: attribute -> its groups' changes.
        flips: examples that changed, the worst first.
        calibrated: the reference and the other; None without labels.
        thresholds: what a user's threshold did before and does now.
        findings: oddities, the worst first.
        floors: pairs that nobody compressed.
        shapes: distributions for charts; None where nobody kept them.
    """

    reference: str
    other: str
    forms: tuple[str, str]
    kinds: tuple[Kind, Kind]
    data: str
    n: int
    labelled: int
    loyalty: Estimate
    changed: Changes
    distances: Summary
    epsilon: float
    accuracy: Accuracies | None
    by_class: tuple[Group, ...]
    by_answer: tuple[Answered, ...]
    by_group: Mapping[str, tuple[Group, ...]]
    flips: tuple[gallery.Flip, ...]
    calibrated: tuple[Calibrated, Calibrated] | None
    thresholds: tuple[confidence.Threshold, ...]
    findings: tuple[Finding, ...]
    floors: tuple[Floor, ...] = ()
    level: float = LEVEL
    shapes: Shapes | None = None

    @property
    def figures(self) -> dict[str, Estimate | float | None]:
        """By the names of ``gate.MEASURES``; None where it could not be had."""
        accuracy, calibrated = self.accuracy, self.calibrated
        lost = [_lost(g) for g in self.by_class if not g.rare]
        of_groups = [_lost(g) for each in self.by_group.values() for g in each if not g.rare]
        found = self.distances
        return {
            "accuracy": accuracy.after if accuracy else None,
            "accuracy_drop": accuracy.drop if accuracy else None,
            "worse_class": max(lost, key=lambda e: e.value) if lost else None,
            "worse_group": max(of_groups, key=lambda e: e.value) if of_groups else None,
            "loyalty": self.loyalty,
            "probability_loyalty": found.loyalty,
            "changed": share(int(self.changed.changed.sum()), self.n, self.level),
            "right_to_wrong": share(int(self.changed.right_to_wrong.sum()), self.labelled, self.level)
            if self.labelled
            else None,
            "kl": found.kl,
            "kl_99": found.kl_quantiles.get(99),
            "kl_99.9": found.kl_quantiles.get(99.9),
            "total_variation": found.total_variation,
            "top5_overlap": found.overlap,
            "rank_correlation": found.rank,
            "calibration_error": calibrated[1].error if calibrated else None,
            "findings": float(len(self.findings)),
        }

    def in_words(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The answers as (question, sentences), in the order in which they are asked."""
        whose = self.other
        same = [words.loyalty(self.loyalty, whose), words.changed(self.changed, whose)]
        same += [
            f"{words.capital(floor.name)}: the same answer on {words.figure(floor.loyalty, '%')} of {floor.loyalty.n:,} "
            f"({words.within(floor.loyalty, '%')})."
            for floor in self.floors
        ]
        same += [
            words.probabilities(self.distances, self.epsilon, whose),
            words.accuracy(self.accuracy, whose),
        ]
        pays = [words.groups(self.by_class)] if self.by_class else []
        pays += [words.answered(self.by_answer, whose)] if self.by_answer else []
        pays += [
            words.groups(each, f"{name} group", f"{name} groups") for name, each in self.by_group.items()
        ]
        sure = [words.threshold(t) for t in self.thresholds]
        if self.calibrated is not None:
            sure.append(words.temperature(self.calibrated[1].temperature, whose))
        return (
            ("The same answers?", tuple(same)),
            ("Who pays?", tuple(pays)),
            ("How sure?", tuple(sure)),
            ("Anything odd?", words.oddities(self.findings, self.n)),
        )


def compared(
    asked: Asked,
    reference: Said,
    other: Said,
    margin: float = MARGIN,
    floors: Sequence[Floor] = (),
    beside: Sequence[Finding] = (),
    seed: int = 0,
    epsilon: float = EPSILON,
) -> Comparison:
    """Everything that two tables of scores tell.

    Args:
        margin: points of accuracy that may be lost.
        floors: pairs that nobody compressed.
        beside: oddities that the scores alone don't show.
        seed: of the halves that a temperature is fitted and tried on.

    Raises:
        UserError: other numbers of examples or classes, labels out of range, or scores of which it can't be told what
            they are.
    """
    _check(asked, reference, other)
    kinds = kind_of(reference.scores, reference.kind), kind_of(other.scores, other.kind)
    one, two = answers(reference.scores).labels, answers(other.scores).labels
    labels = asked.labels if asked.labels is not None and (asked.labels != NONE).any() else None
    known = labels != NONE if labels is not None else np.zeros(len(asked), bool)
    names = asked.classes or tuple(map(str, range(reference.scores.shape[1])))
    found = changes(one, two, labels)
    beliefs = [
        confidence.beliefs(said.scores, kind.name, labels, epsilon)
        for said, kind in zip((reference, other), kinds, strict=True)
    ]
    apart = distances(reference.scores, other.scores, (kinds[0].name, kinds[1].name), epsilon=epsilon)
    right = [(answered == labels) & known for answered in (one, two)] if labels is not None else []
    return Comparison(
        reference=reference.name,
        other=other.name,
        forms=(reference.form, other.form),
        kinds=kinds,
        data=asked.name,
        n=len(asked),
        labelled=int(known.sum()),
        loyalty=label_loyalty(one, two),
        changed=found,
        distances=summary(apart),
        epsilon=epsilon,
        accuracy=accuracies(one, two, labels, margin) if labels is not None else None,
        by_class=groups.by_group(labels, names, *right) if labels is not None else (),
        by_answer=() if labels is not None else groups.by_answer(one, two, names),
        by_group={
            name: groups.by_group(np.where(known, codes, NONE), named, *right)
            for name, (codes, named) in asked.groups.items()
        }
        if labels is not None
        else {},
        flips=gallery.flips(
            found, (one, beliefs[0].confidence), (two, beliefs[1].confidence), labels, asked.ids
        ),
        calibrated=(
            _calibrated(beliefs[0], reference.scores, kinds[0], labels, seed),
            _calibrated(beliefs[1], other.scores, kinds[1], labels, seed),
        )
        if labels is not None
        else None,
        thresholds=confidence.thresholds(beliefs[0], beliefs[1], labelled=labels is not None),
        findings=worst_first(
            [*beside, *odd(reference.scores, other.scores, _names(kinds), names, other.name)]
        ),
        floors=tuple(floors),
        shapes=shapes(apart.kl, beliefs[0], beliefs[1], labelled=labels is not None),
    )


def floor(name: str, one: Said, other: Said, epsilon: float = EPSILON) -> Floor:
    """How far two models are from each other that nobody compressed."""
    both(one.scores, other.scores)
    kinds = _names((kind_of(one.scores, one.kind), kind_of(other.scores, other.kind)))
    found = summary(distances(one.scores, other.scores, kinds, epsilon=epsilon))
    loyalty = label_loyalty(answers(one.scores).labels, answers(other.scores).labels)
    return Floor(name, loyalty, found.loyalty)


def _lost(group: Group) -> Estimate:
    """Points of accuracy that a group lost."""
    change = group.change
    return Estimate(-change.value, -change.high, -change.low, change.n, change.level)


def _names(kinds: tuple[Kind, Kind]) -> tuple[str, str]:
    return kinds[0].name, kinds[1].name


def _check(asked: Asked, reference: Said, other: Said) -> None:
    for said in (reference, other):
        if len(said.scores) != len(asked):
            raise UserError(
                f"{said.name}: answers to {len(said.scores):,} examples, and there are {len(asked):,}"
            )
        if said.scores.ndim == 2 and not np.isfinite(said.scores).any():
            raise UserError(f"{said.name}: not one of its answers is a number")
    wide, narrow = reference.scores.shape[1], other.scores.shape[1]
    if wide != narrow:
        odd_about_it = odd(reference.scores, other.scores, whose=other.name)
        shifted = f"; {odd_about_it[0].words}" if odd_about_it else ""
        raise UserError(
            f"{other.name}: answers {narrow} classes, the reference {reference.name} {wide}{shifted}; --classes maps "
            "outputs to classes"
        )
    if asked.labels is not None:
        fitting(asked.labels, len(asked), wide)


def _calibrated(found: confidence.Beliefs, scores: Floats, kind: Kind, labels: Ints, seed: int) -> Calibrated:
    known = found.known
    return Calibrated(
        error=confidence.calibration_error(found.confidence[known], found.right[known]),
        adaptive=confidence.adaptive_calibration_error(found.confidence[known], found.right[known]),
        loss=float(np.mean(found.loss[known])),
        brier=float(np.mean(found.brier[known])),
        temperature=confidence.fitted_temperature(scores, labels, seed) if kind.name == LOGITS else None,
    )
