"""Choosing among measured states: what keeps to limits, and what of that is not worth having."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compressbench.deploying.choice import FIGURES, Choice, Figure
from compressbench.deploying.limits import Limits, timed_anew, verdicts
from compressbench.errors import CantTell, Unmet, UserError

RANKED = ("accuracy", "loyalty", "latency", "bytes")


@dataclass(frozen=True)
class Advice:
    """What is worth having within the limits.

    Attributes:
        kept: beaten by none, best accuracy first.
        beaten: within the limits too, but beaten by another one (see ``dominates``); best accuracy first.
        out: name -> why not, for every other state.
        unranked: those within the limits whose latency can't be compared with another's.
    """

    kept: tuple[Choice, ...]
    beaten: tuple[Choice, ...] = ()
    out: Mapping[str, str] = field(default_factory=dict)
    unranked: tuple[str, ...] = ()


def advise(found: Sequence[Choice], limits: Limits) -> Advice:
    """States within the limits that no other one beats in accuracy, loyalty, latency and bytes at once.

    One beats another as ``dominates`` says.

    Raises:
        Unmet: no state keeps to the limits; says which comes nearest.
        CantTell: none is known to, but of one it isn't known that it doesn't.
        UserError: there are no states.
    """
    out: dict[str, str] = {}
    inside, unsure = [], []
    for choice in found:
        told = verdicts(choice, limits)
        broken = [v.words for v in told if v.kept is False]
        unknown = [v.words for v in told if v.kept is None]
        if broken or unknown:
            out[choice.name] = "; ".join(broken) or f"can't tell: {'; '.join(unknown)}"
            unsure += [] if broken else [choice]
        else:
            inside.append(choice)
    if not inside:
        if not found:
            raise UserError("advise: there are no records of states")
        close = min(unsure or found, key=lambda c: _miss(c, limits))
        if unsure:
            why = out[close.name].removeprefix("can't tell: ")
            anew = timed_anew(close, limits)
            raise CantTell(
                f"can't tell: no state is known to keep to the limits; of {close.name}: {why}{anew}"
            )
        raise Unmet(f"no state keeps to the limits; nearest comes {close.name}: {out[close.name]}")
    kept, beaten = [], []
    for choice in inside:
        better = next((other for other in inside if other is not choice and dominates(other, choice)), None)
        if better is not None:
            out[choice.name] = f"{_quoted(better.name)} is at least as good in all"
            beaten.append(choice)
        else:
            kept.append(choice)
    timed = [c for c in inside if c.figure("latency").by_seed]
    apart = [c.name for c in timed if any(o is not c and not _sides(c, o, "latency") for o in timed)]
    return Advice(tuple(sorted(kept, key=_best)), tuple(sorted(beaten, key=_best)), out, tuple(apart))


def _quoted(name: str) -> str:
    """A name that could be read as a part of the sentence around it, in quotes."""
    return f"“{name}”" if ": " in name else name


def _best(choice: Choice) -> tuple[float, float]:
    means = {name: choice.figures[name].mean for name in choice.known}
    return -means.get("accuracy", -math.inf), means.get("latency", math.inf)


def _miss(choice: Choice, limits: Limits) -> tuple[int, float]:
    """How far a state is from the limits: figures that aren't there, then by how many times limits are missed."""
    missing, total = sum(name not in choice.known for name in limits.needed), 0.0
    for name, limit in limits.asked.items():
        figure, better = choice.figure(name), FIGURES[name].better
        if not figure.by_seed:
            missing += 1
            continue
        value = better * min(better * x for x in figure.by_seed.values())
        if better * value < better * limit:
            total += abs(math.log((abs(value) + 1e-9) / (abs(limit) + 1e-9)))
    return missing, total


def dominates(one: Choice, other: Choice) -> bool:
    """Whether one state is at least as good in every figure of ``RANKED`` that the other has, and better in one.

    At least as good in a figure is what isn't behind in its mean over seeds, nor at its worst: that of the worst seed,
    of a latency the highest end of any seed's interval. Latencies are taken as multiples of the reference's, with which
    both were timed in turns. Where the one lacks a figure, at any of its seeds, or latencies can't be compared, it beats
    nothing. Of states that are equal in all the first by name wins.
    """
    sides = [_sides(one, other, name) for name in RANKED if name in other.known]
    pairs = [pair for side in sides for pair in side]
    if not pairs or not all(sides) or any(mine < theirs for mine, theirs in pairs):
        return False
    return any(mine > theirs for mine, theirs in pairs) or one.name < other.name


def _sides(one: Choice, other: Choice, name: str) -> list[tuple[float, float]]:
    """(the one's, the other's) mean and worst of a figure, the larger the better; empty where they can't be compared."""
    if name == "latency":
        sides = _multiples(one, other)
    else:
        whole = set(one.seeds) <= set(one.figure(name).by_seed)
        sides = (one.figure(name), other.figure(name)) if whole else None
    if sides is None:
        return []
    better = FIGURES[name].better
    mine, theirs = ((better * figure.mean, _worst_end(figure, better)) for figure in sides)
    return list(zip(mine, theirs, strict=True))


def _worst_end(figure: Figure, better: int) -> float:
    ends = (end for seed, value in figure.by_seed.items() for end in (value, *figure.within.get(seed, ())))
    return min(better * end for end in ends)


def _multiples(one: Choice, other: Choice) -> tuple[Figure, Figure] | None:
    """Latencies as multiples of the reference's, over the seeds that both have; none where they can't be compared.

    They can't where a seed of either was withheld, where they share no reference, and where all is one point.
    """
    here, there = one.figure("latency"), other.figure("latency")
    common = [s for s in here.bases if there.bases.get(s) == here.bases[s]]
    mine, theirs = _over_bases(here, common), _over_bases(there, common)
    if here.why or there.why or mine.span is None or theirs.span is None:
        return None
    return mine, theirs


def _over_bases(figure: Figure, seeds: Sequence[int]) -> Figure:
    base = {s: figure.bases[s][1] for s in seeds}
    within = {s: figure.within[s] for s in seeds if s in figure.within}
    return Figure(
        {s: figure.by_seed[s] / base[s] for s in seeds},
        {s: (low / base[s], high / base[s]) for s, (low, high) in within.items()},
    )
