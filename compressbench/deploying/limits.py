"""What a state must keep to, and whether it does.

A limit is kept where every seed keeps to it, broken where one surely doesn't, and else it can't be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compressbench.deploying.choice import FIGURES, OWN, Choice, Figure
from compressbench.deploying.latencies import BUSY

BARE = 0.05
"""Of a latency that has no interval it can't be told whether it keeps to a limit that is nearer than this share of it."""


@dataclass(frozen=True)
class Limits:
    """What a state must keep to, at every seed; None asks for nothing.

    Attributes:
        max_bytes: of the target's file where one was made, else of the shortest encoding.
        max_latency: milliseconds.
        min_accuracy, min_loyalty: percent.
        max_drop: points of accuracy below the dense model of the same seed.
        max_class_drop: points of recall below it, in the class that loses most.
        needed: figures that a state must have, whatever they are.
        enough: figures for which, where they were measured elsewhere, seeds that have them speak for those nobody timed.
    """

    max_bytes: float | None = None
    max_latency: float | None = None
    min_accuracy: float | None = None
    min_loyalty: float | None = None
    max_drop: float | None = None
    max_class_drop: float | None = None
    needed: tuple[str, ...] = ()
    enough: tuple[str, ...] = ()

    @property
    def asked(self) -> dict[str, float]:
        """Figure -> limit; a floor where more of it is better, else a ceiling."""
        given = {
            "bytes": self.max_bytes,
            "latency": self.max_latency,
            "accuracy": self.min_accuracy,
            "loyalty": self.min_loyalty,
            "drop": self.max_drop,
            "class drop": self.max_class_drop,
        }
        return {name: limit for name, limit in given.items() if limit is not None}


@dataclass(frozen=True)
class Verdict:
    """Whether a state keeps to one limit (None: it can't be told), and its worst seed's figure in words."""

    kept: bool | None
    words: str


def verdicts(choice: Choice, limits: Limits) -> list[Verdict]:
    """What is to be said of each limit, in the order of ``Limits.asked``; then of figures that are needed and missing."""
    told = [_verdict(choice, name, limit, name in limits.enough) for name, limit in limits.asked.items()]
    for name in limits.needed:
        if name not in limits.asked and not choice.figure(name).by_seed:
            told.append(Verdict(None, _unknown(choice, name, choice.seeds)))
    return told


def encoded_in_words(found: Iterable[Choice]) -> list[str]:
    """What is to be said once where some bytes are of an encoding that no exporter writes."""
    said = (w for c in found for w in c.figure("bytes").words.split(", or ") if w in OWN)
    kinds = ", ".join(dict.fromkeys(said))
    return (
        [f"bytes ({kinds}) are those of compressbench's own encoder, and no exporter writes them"]
        if kinds
        else []
    )


def timed_anew(choice: Choice, limits: Limits) -> str:
    """The way out, as the end of a sentence, where a latency that was timed here is why it can't be told; else empty."""
    figure = choice.figure("latency")
    open_ = any(v.kept is None and v.words.startswith("latency") for v in verdicts(choice, limits))
    disturbed = any(words in why for why in figure.why.values() for words in BUSY)
    ours = not figure.elsewhere and (disturbed or bool(figure.by_seed))
    return "; the same run with --retime times it anew" if open_ and ours else ""


def _verdict(choice: Choice, name: str, limit: float, some: bool) -> Verdict:
    figure, better = choice.figure(name), FIGURES[name].better
    broken = {seed: _breaks(figure, seed, limit, better) for seed in figure.by_seed}
    sure = [seed for seed, is_broken in broken.items() if is_broken]
    perhaps = [seed for seed, is_broken in broken.items() if is_broken is None]
    missing = [seed for seed in choice.seeds if seed not in figure.by_seed]
    some = some and figure.elsewhere and not any(seed in figure.why for seed in missing)
    if sure:
        side = "below" if better > 0 else "above"
        return Verdict(False, f"{_worst(choice, name, sure, limit)} is {side} {limit:,.12g}")
    if not figure.by_seed or (missing and not some):
        return Verdict(None, _unknown(choice, name, missing))
    if perhaps:
        return Verdict(None, _open(choice, name, perhaps, limit))
    return Verdict(True, _worst(choice, name, list(figure.by_seed), limit))


def _breaks(figure: Figure, seed: int, limit: float, better: int) -> bool | None:
    """Whether a seed's figure breaks a limit.

    None where that can't be told: its interval holds the limit; it has none and is nearer than 5 % to it; or the state's
    own latency is on the other side of it than the one by its ratio.
    """
    value = figure.by_seed[seed]
    if seed in figure.bare and abs(value - limit) <= BARE * abs(limit):
        return None
    ends = (value, *_interval(figure, seed), figure.own.get(seed, value))
    found = {better * end < better * limit for end in ends}
    return found.pop() if len(found) == 1 else None


def _interval(figure: Figure, seed: int) -> tuple[float, float]:
    """The ends of what a limit is held against; a point's are itself."""
    value = figure.by_seed[seed]
    return (value, value) if seed in figure.bare else figure.within.get(seed, (value, value))


def _open(choice: Choice, name: str, seeds: Sequence[int], limit: float) -> str:
    """Why it can't be told whether some seeds keep to a limit."""
    figure = choice.figure(name)
    for seed in seeds:
        value, own = figure.by_seed[seed], figure.own.get(seed, figure.by_seed[seed])
        if (own > limit) != (value > limit):
            return (
                f"{_worst(choice, name, [seed], limit)} by its ratio, but {_digits(own, limit)} {FIGURES[name].unit} "
                f"where it was timed itself: one is above {limit:,.12g}, the other isn't"
            )
    if held := [seed for seed in seeds if seed not in figure.bare]:
        return f"{_worst(choice, name, held, limit)}: its interval holds the limit, {limit:,.12g}"
    return (
        f"{_worst(choice, name, seeds, limit)}: that is within {100 * BARE:.0f} % of the limit, {limit:,.12g}"
    )


def _worst(choice: Choice, name: str, seeds: Sequence[int], limit: float) -> str:
    """A figure at the worst of some seeds: ``drop 0.4 points at worst (seed 2; mean 0.1, n=3)``."""
    figure, better = choice.figure(name), FIGURES[name].better
    seed = min(seeds, key=lambda s: better * figure.by_seed[s])
    value, n = figure.by_seed[seed], len(figure.by_seed)
    ends, shown = _interval(figure, seed), _digits(value, limit)
    if name == "bytes":
        text = f"{value:,.0f} bytes{f' ({figure.words})' if figure.words else ''}"
    else:
        text = f"{name} {shown} {FIGURES[name].unit}"
    between = f"; 95 % {_digits(ends[0], limit)} to {_digits(ends[1], limit)}" if ends[0] < ends[1] else ""
    between = "; no interval" if seed in figure.bare else between
    if n == 1:
        return f"{text} (seed {seed}{between}, n=1)"
    mean = f"{figure.mean:,.0f}" if name == "bytes" else f"{figure.mean:.4g}"
    return f"{text} at worst (seed {seed}{between}; mean {mean}, n={n})"


def _digits(value: float, limit: float) -> str:
    """Four digits, or as many as tell the value from the limit."""
    side = (value > limit) - (value < limit)
    texts = (f"{value:.{digits}g}" for digits in range(4, 18))
    return next((t for t in texts if (float(t) > limit) - (float(t) < limit) == side), str(value))


def _unknown(choice: Choice, name: str, seeds: Sequence[int]) -> str:
    why = choice.figure(name).why
    found = list(dict.fromkeys(why[s] for s in seeds if why.get(s)))
    reasons = "; ".join([*found[:1], *["…"] * (len(found) > 1)])
    some = len(seeds) < len(choice.seeds)
    where = f" for seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if some else ""
    return f"{name} not known{where}{f' ({reasons})' if reasons else ''}"
