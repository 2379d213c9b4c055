"""What was found, one plain sentence an answer, with its number, its n and its interval.

Figures have as many decimals as their interval carries: two digits of half its width. What isn't sure is said to be so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressbench.comparing.answers import CANT_TELL, NO_WORSE, Accuracies, Changes
from compressbench.comparing.confidence import Temperature, Threshold
from compressbench.comparing.groups import Answered, Group, who_pays
from compressbench.comparing.intervals import Estimate, share
from compressbench.comparing.oddities import Finding
from compressbench.comparing.probabilities import Summary
from compressbench.wording import counted

MOST = 5
"""So many of a list are named."""


def loyalty(found: Estimate, whose: str = "the other model") -> str:
    """How often the two give the same answer."""
    if not found.n:
        return f"No example: whether {whose} answers as the reference does can't be told."
    return (
        f"{capital(whose)} answers as the reference does on {figure(found, '%')} of {counted(found.n, 'example')} "
        f"({within(found, '%')})."
    )


def changed(found: Changes, whose: str = "the other model") -> str:
    """How many answers changed, and which way."""
    n, moved = len(found.silent), int(found.changed.sum())
    silent = int(found.silent.sum())
    beside = f" To {counted(silent, 'example')} neither answers anything." if silent else ""
    if not moved:
        most = share(0, n).high
        return f"Not one of {counted(n, 'answer')} changed, so {most:.2g} % at most do (95 %).{beside}"
    kinds = [
        (int(mask.sum()), words)
        for mask, words in (
            (found.right_to_wrong, "from right to wrong"),
            (found.wrong_to_right, "from wrong to right"),
            (found.wrong_to_another, "from wrong to another wrong"),
            (found.unlabelled, "without a label to tell whether for the worse"),
        )
    ]
    told = ", ".join(f"{count:,} {words}" for count, words in kinds if count)
    return f"{capital(whose)} changed {moved:,} of {counted(n, 'answer')}: {told}.{beside}"


def accuracy(found: Accuracies | None, whose: str = "the other model") -> str:
    """Both accuracies, the drop with its interval, the test, and the verdict at the margin."""
    if found is None:
        return "No example has a label: accuracy can't be told."
    n, drop, margin = found.drop.n, found.drop, counted(found.margin, "point")
    decimals = decimals_of(drop)
    way = "fell" if drop.value > 0 else "rose" if drop.value < 0 else "stayed"
    moved = (
        f"{way} from {found.before.value:z.{decimals}f} to {found.after.value:z.{decimals}f} %, "
        f"by {abs(drop.value):.{decimals}f} points"
        if drop.value
        else f"is {found.after.value:z.{decimals}f} % as before"
    )
    test = f"n = {n:,}, McNemar's exact {p_value(found.test.p)}"
    ends = f"95 % interval of the drop {drop.low:z.{decimals}f} to {drop.high:z.{decimals}f}"
    text = f"The accuracy of {whose} {moved} ({ends.replace('95', f'{100 * drop.level:g}', 1)}; {test})"
    lower = ", though surely lower" if found.lower else ""
    if found.verdict == NO_WORSE:
        return f"{text}: no worse, at a margin of {margin}{lower}."
    if found.verdict != CANT_TELL:
        return f"{text}: worse, by more than the margin of {margin}."
    if found.needed is None or math.isinf(found.needed):
        more = "the drop is as large as the margin, and no number of examples would tell"
    else:
        more = f"about {rounded(found.needed)} examples would tell, if it stays as it is"
    return f"{text}: can't tell whether the drop is below {margin}{lower}; {more}."


def probabilities(found: Summary, epsilon: float, whose: str = "the other model") -> str:
    """Probability loyalty and KL with its tail."""
    if not found.kl.n:
        return f"Not one example has numbers in both: how far {whose} is from the reference can't be told."
    tail = [
        f"{value:.3g} or more in one of {each}"
        for q, each in ((99.0, "100"), (99.9, "1,000"))
        if (value := found.kl_quantiles.get(q)) is not None
    ]
    more = f"; {', '.join(tail)}" if tail else ""
    left = f"; {counted(found.left_out, 'example')} without numbers left out" if found.left_out else ""
    few = ""
    if found.kl_of_the_most > 50:
        few = f" One example in a hundred makes {found.kl_of_the_most:.0f} % of it: the mean hangs on few."
    return (
        f"Probability loyalty of {whose} is {figure(found.loyalty, '%')} ({within(found.loyalty, '%')}), and KL from "
        f"the reference {found.kl.value:.3g} nats on average ({within(found.kl, '')}, n = {found.kl.n:,}, "
        f"probabilities below {epsilon:g} count as that{more}{left}).{few}"
    )


def groups(found: Sequence[Group], kind: str = "class", kinds: str = "classes") -> str:
    """Which groups pay, how many were tested, and what would have shown."""
    tested = [g for g in found if not g.rare]
    rare = [g for g in found if g.rare]
    few = ""
    if rare:
        listed = listing([f"{g.name} (n = {g.n})" for g in sorted(rare, key=lambda g: -g.n)])
        few = f" Too few examples to tell: {listed}."
    if not tested:
        return f"Of no {kind} are there enough examples to tell.{few}"
    paying = [g for g in who_pays(found) if g.pays]
    of = f"{counted(len(tested), kind, kinds)} tested, Holm's correction"
    if not paying:
        least, most = min(g.detectable for g in tested), max(g.detectable for g in tested)
        low, high = (f"{end:.0f}" if end >= 10 else f"{end:.2g}" for end in (least, most))
        ends = low if low == high else f"{low} to {high}"
        return (
            f"No {kind} surely lost accuracy ({of}); a loss of {ends} points, by size of the {kind}, "
            f"would have shown.{few}"
        )
    listed = listing(
        [
            f"{g.name} {signed(g.change)} points ({within(g.change, '')}, n = {g.n:,}, {p_value(g.p_holm)})"
            for g in paying
        ]
    )
    return f"{counted(len(paying), kind, kinds).capitalize()} surely lost accuracy ({of}): {listed}.{few}"


def answered(found: Sequence[Answered], whose: str = "the other model") -> str:
    """Which classes are answered more or less often, where there are no labels."""
    tested = [a for a in found if not a.rare]
    moved = sorted((a for a in tested if a.p_holm <= 0.05), key=lambda a: a.after / max(1, a.before))
    of = f"{counted(len(tested), 'class', 'classes')} tested, Holm's correction"
    if not tested:
        return "No class is answered often enough to tell whether it is answered more or less often."
    if not moved:
        return f"No class is surely answered more or less often by {whose} ({of})."
    told = [f"{a.name} {a.before:,} to {a.after:,} times ({p_value(a.p_holm)})" for a in moved]
    count = counted(len(moved), "class", "classes")
    return f"{capital(whose)} surely answers {count} more or less often ({of}): {listing(told)}."


def threshold(found: Threshold) -> str:
    """What a threshold does before and after."""
    before, after = found.before, found.after
    change = found.coverage_change
    if not change.n:
        return f"At a threshold of {found.threshold:g}: no example, so nothing can be told."
    text = (
        f"At a threshold of {found.threshold:g} coverage goes from {figure(before.coverage, '%')} to "
        f"{figure(after.coverage, '%')} of {counted(change.n, 'example')} "
        f"(change {signed(change)} points, {within(change, '')})"
    )
    if before.error is None or after.error is None:
        return f"{text}; without labels the error can't be told."
    error = [
        f"{figure(e, '%')} ({within(e, '%')})" if e.n else "unknown, since nothing is answered"
        for e in (before.error, after.error)
    ]
    return f"{text}, and the error of what is answered from {error[0]} to {error[1]}."


def temperature(found: Temperature | None, whose: str = "the other model") -> str:
    """By what logits must be divided."""
    if found is None:
        return f"Too few labelled examples: a temperature of {whose} can't be fitted."
    end = " (as far as was looked)" if found.at_bound else ""
    sure = "too sure" if found.value > 1 else "not sure enough"
    if not found.loss_after < found.loss_before:
        return (
            f"{capital(whose)}: the best temperature on {found.fitted_on:,} examples, {found.value:.3g}{end}, helps no "
            f"others: on {found.n:,} the loss is {found.loss_before:.3g} nats without and {found.loss_after:.3g} with it."
        )
    return (
        f"{capital(whose)} is best calibrated at a temperature of {found.value:.3g}{end}, so it is {sure}: on "
        f"{counted(found.n, 'other example')} it brings the calibration error from {found.error_before:.2g} to "
        f"{found.error_after:.2g} % and the loss from {found.loss_before:.3g} to {found.loss_after:.3g} nats "
        f"(fitted on {found.fitted_on:,})."
    )


def oddities(found: Sequence[Finding], n: int) -> tuple[str, ...]:
    """One sentence a finding, or that there is none."""
    if not found:
        return (f"Nothing odd in the outputs for {counted(n, 'example')}.",)
    return tuple(f"{capital(f.words)}." for f in found)


def figure(found: Estimate, unit: str) -> str:
    """``98.20 %``: as many decimals as the interval carries."""
    return f"{found.value:z.{decimals_of(found)}f}{f' {unit}' if unit else ''}"


def signed(found: Estimate) -> str:
    """``+1.20`` or ``-0.40``; what is rounded to 0 has no sign."""
    text = f"{found.value:+.{decimals_of(found)}f}"
    return text if any(c in "123456789" for c in text) else text[1:]


def within(found: Estimate, unit: str) -> str:
    """``95 % interval 97.92 to 98.44 %``; ``no interval`` where there is none."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return "no interval"
    decimals, unit = decimals_of(found), f" {unit}" if unit else ""
    return f"{100 * found.level:g} % interval {found.low:z.{decimals}f} to {found.high:z.{decimals}f}{unit}"


def decimals_of(found: Estimate) -> int:
    """Decimals that show two digits of half the interval's width, six at most; two where there is none."""
    half = (found.high - found.low) / 2
    if not (math.isfinite(half) and half > 0):
        return 2
    return min(6, max(0, 1 - math.floor(math.log10(half))))


def p_value(p: float) -> str:
    """``p = 0.034``; ``p < 0.001``; ``p not known``."""
    if math.isnan(p):
        return "p not known"
    return "p < 0.001" if p < 0.001 else f"p = {min(p, 1):.2g}"


def rounded(count: float) -> str:
    """A count of which the size matters: two digits, upwards; ``23,000``."""
    step = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return f"{math.ceil(count / step) * step:,}"


def listing(words: Sequence[str], most: int = MOST) -> str:
    """Some of a list: ``a, b and 3 more``."""
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


def capital(words: str) -> str:
    """A sentence's beginning; a file's name stays as it is."""
    first = words.split(" ", 1)[0]
    return words if any(c in first for c in "./\\_:0123456789") else words[:1].upper() + words[1:]
