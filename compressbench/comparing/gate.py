"""``--gate "worse_class<=5,loyalty>=98"``: limits on what two models differ by, and whether they are kept."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from compressbench.comparing.answers import Accuracies, changes, label_loyalty
from compressbench.comparing.arrays import Ints
from compressbench.comparing.groups import Group
from compressbench.comparing.intervals import LEVEL, Estimate, share
from compressbench.comparing.probabilities import Summary
from compressbench.errors import UserError, nearest

EXACT = 1e-9
"""As near as this to a limit is at it: the noise of a mean."""
EXAMPLE = "loyalty>=98,accuracy_drop<=1"


@dataclass(frozen=True)
class Measure:
    """A figure that a limit can be set to.

    Attributes:
        better: 1 where more of it is better, which takes a floor (>=); -1 where less is, which takes a ceiling (<=).
        unit: of figure and limit.
        words: what it is.
    """

    better: int
    unit: str
    words: str


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure(1, "%", "accuracy of the other model"),
    "accuracy_drop": Measure(-1, "points", "accuracy lost"),
    "worse_class": Measure(
        -1, "points", "accuracy lost by the class, of those with enough examples, that loses most"
    ),
    "worse_group": Measure(
        -1, "points", "accuracy lost by the sub-group, of those with enough examples, that loses most"
    ),
    "loyalty": Measure(1, "%", "label loyalty"),
    "probability_loyalty": Measure(1, "%", "probability loyalty, natural logarithm"),
    "changed": Measure(-1, "%", "answers that changed"),
    "right_to_wrong": Measure(-1, "%", "answers that were right and are wrong"),
    "kl": Measure(-1, "nats", "mean KL from the reference"),
    "kl_99": Measure(-1, "nats", "KL of the worst example in a hundred"),
    "kl_99.9": Measure(-1, "nats", "KL of the worst example in a thousand"),
    "total_variation": Measure(-1, "", "mean total variation"),
    "top5_overlap": Measure(1, "%", "of the reference's five highest classes among the other's"),
    "rank_correlation": Measure(1, "", "mean rank correlation of scores"),
    "calibration_error": Measure(-1, "%", "expected calibration error of the other model"),
    "findings": Measure(-1, "", "oddities found"),
}
"""What this package's arithmetic gives; a caller may add to it."""


@dataclass(frozen=True)
class Condition:
    """One limit.

    Attributes:
        name: of the measure.
        sign: ``<=``, ``>=``, ``<`` or ``>``.
        limit: in the measure's unit.
    """

    name: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.limit:.12g}"

    def keeps(self, value: float) -> bool:
        """Whether a value keeps to it."""
        near = abs(value - self.limit) <= EXACT
        if self.sign in ("<=", ">="):
            return near or (value < self.limit) == (self.sign == "<=")
        return not near and (value < self.limit) == (self.sign == "<")


def conditions(text: str, known: Mapping[str, Measure] = MEASURES) -> tuple[Condition, ...]:
    """The limits that a text names, split by commas, in its order.

    Args:
        text: e.g. ``worse_class<=5,loyalty>=98``; spaces are free, and so is a % after the number of what is in percent.
        known: name -> measure.

    Raises:
        UserError: no limit, one that isn't a name, a sign and a number, an unknown name, a floor to what should be low or
            a ceiling to what should be high, or a name twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise UserError(f"--gate: no limit in {text!r}; e.g. {EXAMPLE}")
    found = [_condition(part, known) for part in parts if part]
    names = [c.name for c in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--gate: {name} has {names.count(name)} limits; one is enough")
    return tuple(found)


def _condition(part: str, known: Mapping[str, Measure]) -> Condition:
    found = re.fullmatch(r"([^<>=!]*)([<>=!]*)([^<>=!]*)", part)
    name, sign, number = (piece.strip() for piece in found.groups()) if found else (part, "", "")
    if not found or not name or not sign:
        raise UserError(f"--gate: {part!r} is no name, sign and number, as in {EXAMPLE}")
    if name not in known:
        raise UserError(f"--gate: no figure {name!r}; {nearest(name, known)}")
    measure = known[name]
    right = ">=" if measure.better > 0 else "<="
    if sign not in ("<=", ">=", "<", ">"):
        raise UserError(f"--gate: {part!r}: {sign!r} is no sign for a limit; {name} takes {right}")
    if sign[0] != right[0]:
        more = "more" if measure.better > 0 else "less"
        raise UserError(
            f"--gate: {part!r}: {more} of {name} is better, so its limit is {name}{right}{number}"
        )
    limit = _number(number.removesuffix("%").strip() if measure.unit == "%" else number)
    if limit is None:
        raise UserError(f"--gate: {part!r}: {number!r} is no number")
    return Condition(name, sign, limit)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


@dataclass(frozen=True)
class Verdict:
    """Whether a limit is kept.

    Attributes:
        condition: the limit.
        kept: whether the figure, as measured on these examples, keeps to it; None where there is none.
        sure: whether its whole interval is on the same side; False where there is no interval.
        words: the figure against the limit.
    """

    condition: Condition
    kept: bool | None
    sure: bool
    words: str


def verdicts(
    limits: Iterable[Condition],
    figures: Mapping[str, Estimate | float | None],
    known: Mapping[str, Measure] = MEASURES,
) -> tuple[Verdict, ...]:
    """Each limit's verdict, in order.

    The figure itself decides, so that a gate's answer is the same for the same examples whatever their number; whether
    other examples might have answered otherwise is ``sure`` and is said.

    Args:
        limits: see ``conditions``.
        figures: name -> the figure in the measure's unit; None or missing where it wasn't measured.
        known: name -> measure.
    """
    return tuple(_verdict(limit, figures.get(limit.name), known[limit.name]) for limit in limits)


def _verdict(limit: Condition, figure: Estimate | float | None, measure: Measure) -> Verdict:
    found = figure if isinstance(figure, Estimate) or figure is None else _bare(figure)
    if found is None or math.isnan(found.value):
        return Verdict(limit, None, False, f"{limit}: {measure.words} is not known")
    kept = limit.keeps(found.value)
    ended = not (math.isnan(found.low) or math.isnan(found.high))
    sure = ended and limit.keeps(found.low) == limit.keeps(found.high) == kept
    unit = f" {measure.unit}" if measure.unit else ""
    text = f"{limit}: {measure.words} is {_apart(found.value, limit.limit)}{unit}"
    if not ended:
        return Verdict(limit, kept, False, text)
    open_ = "" if sure else ", which holds the limit"
    ends = f"{100 * found.level:g} % interval {found.low:.4g} to {found.high:.4g}{open_}"
    return Verdict(limit, kept, sure, f"{text} ({ends}, n = {found.n:,})")


def _bare(value: float) -> Estimate:
    return Estimate(float(value), math.nan, math.nan, 0)


def _apart(value: float, limit: float) -> str:
    """Four digits, or as many as tell the value from the limit."""
    if abs(value - limit) <= EXACT:
        return f"{limit:.12g}"
    return next(t for d in range(4, 18) if float(t := f"{value:.{d}g}") != limit)


def worst_loss(found: Iterable[Group]) -> Estimate | None:
    """Accuracy lost, in points, by the group that loses most; below 0 where even that one gained.

    Of groups that aren't rare: one example of three is 33 points. None of none. The interval is that group's alone;
    picked as the worst of many, a group has likely lost less than it seems.
    """
    tested = [group.change for group in found if not group.rare]
    if not tested:
        return None
    worst = min(tested, key=lambda change: change.value)
    return Estimate(-worst.value, -worst.high, -worst.low, worst.n, worst.level)


def figures(
    reference: Ints,
    other: Ints,
    found: Summary,
    accuracy: Accuracies | None = None,
    classes: Iterable[Group] = (),
    groups: Iterable[Group] = (),
    level: float = LEVEL,
) -> dict[str, Estimate | float | None]:
    """What ``MEASURES`` names, of one comparison, but for ``calibration_error`` and ``findings``; None where unknown.

    Args:
        reference, other: (n,) answers, -1 for none.
        found: see ``probabilities.summary``.
        accuracy: see ``answers.accuracies``; None without labels.
        classes, groups: see ``groups.by_group``.
        level: of the intervals made here.
    """
    moved = int(changes(reference, other).changed.sum())
    lost = share(accuracy.test.lost, accuracy.drop.n, level) if accuracy else None
    return {
        "accuracy": accuracy.after if accuracy else None,
        "accuracy_drop": accuracy.drop if accuracy else None,
        "worse_class": worst_loss(classes),
        "worse_group": worst_loss(groups),
        "loyalty": label_loyalty(reference, other, level),
        "probability_loyalty": found.loyalty,
        "changed": share(moved, len(reference), level),
        "right_to_wrong": lost,
        "kl": found.kl,
        "kl_99": found.kl_quantiles.get(99.0),
        "kl_99.9": found.kl_quantiles.get(99.9),
        "total_variation": found.total_variation,
        "top5_overlap": found.overlap,
        "rank_correlation": found.rank,
    }


def kept(found: Iterable[Verdict]) -> bool | None:
    """Whether all limits are: False where one isn't, None where none is broken and of one it isn't known."""
    answers = [verdict.kept for verdict in found]
    return False if False in answers else None if None in answers else True
