"""Choosing among measured states: limits, what breaks them, what is not worth having; pure functions of records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from compressbench.errors import UserError, nearest
from compressbench.plan import DENSE, FINAL, FLOOR
from compressbench.records import ENCODINGS, Record, Records

BETTER = {"accuracy": 1, "loyalty": 1, "latency": -1, "bytes": -1}
Spot = tuple[str, str, str, str, str, str, int, float]
"""Recipe, model, dataset, scale, series, state, place in the series, density."""
UNITS = {
    "accuracy": "%",
    "loyalty": "%",
    "latency": "ms",
    "bytes": "bytes",
    "drop": "points",
    "class drop": "points",
}


@dataclass(frozen=True)
class Choice:
    """One state of one series, its figures averaged over seeds.

    Attributes:
        name: series, and the state where a series has several.
        state: its name in the recipe.
        figures: of ``accuracy``, ``loyalty``, ``latency``, ``bytes``, ``drop`` and ``class drop`` those that there are.
        seeds: how many.
        note: e.g. why it has no latency on a target.
        basis: of the latency, ``measured`` or ``modelled``.
        series: that the state is of.
        counts: figure -> seeds that it is known for.
    """

    name: str
    recipe: str
    state: str
    figures: Mapping[str, float]
    seeds: int
    note: str = ""
    basis: str = ""
    series: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What a state must keep to; None asks for nothing.

    Attributes:
        max_bytes: of the shortest encoding.
        max_latency: milliseconds.
        min_accuracy, min_loyalty: percent.
        max_drop: points of accuracy below the dense model of the same seed.
        max_class_drop: points of recall below it, in the class that loses most.
        needed: figures that a state must have, whatever they are.
    """

    max_bytes: float | None = None
    max_latency: float | None = None
    min_accuracy: float | None = None
    min_loyalty: float | None = None
    max_drop: float | None = None
    max_class_drop: float | None = None
    needed: tuple[str, ...] = ()

    @property
    def asked(self) -> dict[str, tuple[float, int]]:
        """Figure -> (limit, 1 for a floor, -1 for a ceiling)."""
        given = {
            "bytes": (self.max_bytes, -1),
            "latency": (self.max_latency, -1),
            "accuracy": (self.min_accuracy, 1),
            "loyalty": (self.min_loyalty, 1),
            "drop": (self.max_drop, -1),
            "class drop": (self.max_class_drop, -1),
        }
        return {name: (limit, sign) for name, (limit, sign) in given.items() if limit is not None}


@dataclass(frozen=True)
class Advice:
    """What is worth having within the limits, best accuracy first, and why each other state isn't."""

    kept: tuple[Choice, ...]
    out: Mapping[str, str] = field(default_factory=dict)


def choices(records: Records, target: str = "", batch: int = 1) -> list[Choice]:
    """Every state measured, dense ones too.

    Args:
        target: whose latency counts, by its name in the records of ``targets`` or ``deployed``, or the hardware's name
            of ``cost`` (there the reference's latency over the speed-up in turns); empty for none.

    Raises:
        UserError: nothing was measured on such a target, or not at this batch size.
    """
    rows = [r for r in records if r.moment == FINAL and r.series != FLOOR]
    if target:
        _check_target(rows, target, batch)
    spots: dict[Spot, list[Record]] = {}
    for row in rows:
        spots.setdefault(
            (*_setting(row), row.series, row.state, row.order, round(row.density, 6)), []
        ).append(row)
    dense = {(*_setting(r), r.seed): r.value for r in rows if r.series == DENSE and _is_accuracy(r)}
    timed = {
        (r.key, r.machine): r.value
        for r in rows
        if r.probe == "cost" and _is_latency(r, target, batch) and r.value
    }
    names = _names(list(spots))
    return [_choice(names[spot], spot, own, dense, timed, target, batch) for spot, own in spots.items()]


def _setting(row: Record) -> tuple[str, str, str, str]:
    return row.recipe, row.model, row.dataset, row.scale


def _names(spots: Sequence[Spot]) -> dict[Spot, str]:
    """What tells each state from all others, and no more: series, then state and density, then the setting."""
    columns: list[Callable[[Spot], str]] = [
        lambda s: s[4],
        lambda s: f"{s[4]} ({s[5]})",
        lambda s: f"{s[4]} ({s[5]}, {100 * s[7]:.4g} %)",
        lambda s: f"{s[4]} ({s[5]}, {100 * s[7]:.4g} %, place {s[6]})",
    ]
    settings = {s[:4] for s in spots}
    apart = [k for k in range(4) if len({setting[k] for setting in settings}) > 1]
    names = {}
    for spot in spots:
        beside = [other for other in spots if other[:5] == spot[:5]]
        text = next(c(spot) for c in columns if c is columns[-1] or sum(c(o) == c(spot) for o in beside) == 1)
        names[spot] = ": ".join([" on ".join(str(spot[k]) for k in apart), text]) if apart else text
    return names


def _choice(
    name: str,
    spot: Spot,
    rows: Sequence[Record],
    dense: Mapping[tuple[str, str, str, str, int], float | None],
    references: Mapping[tuple[str, str], float],
    target: str,
    batch: int,
) -> Choice:
    accuracy = {r.seed: r.value for r in rows if _is_accuracy(r) and r.value is not None}
    drops = {s: d - a for s, a in accuracy.items() if (d := dense.get((*spot[:4], s))) is not None}
    sizes: dict[int, float] = {}
    for r in rows:
        if r.probe == "cost" and r.metric in ENCODINGS and r.value is not None:
            sizes[r.seed] = min(r.value, sizes.get(r.seed, math.inf))
    worst: dict[int, float] = {}
    for r in rows:
        if r.probe == "forgetting" and r.metric == "recall_change" and r.value is not None:
            worst[r.seed] = max(-r.value, worst.get(r.seed, -math.inf))
    timed = [r for r in rows if target and _is_latency(r, target, batch)]
    values: dict[str, Mapping[int, float]] = {
        "accuracy": accuracy,
        "drop": drops,
        "class drop": worst,
        "loyalty": {r.seed: r.value for r in rows if r.metric == "label_loyalty" and r.value is not None},
        "bytes": sizes,
        "latency": {**_per_seed(timed), **_in_turns(rows, references, target, batch)},
    }
    figures = {k: statistics.fmean(v.values()) for k, v in values.items() if v}
    return Choice(
        name,
        spot[0],
        spot[5],
        figures,
        len({r.seed for r in rows}),
        next((r.note for r in timed if r.value is None), ""),
        next((r.basis for r in timed if r.value is not None), ""),
        spot[4],
        {k: len(v) for k, v in values.items()},
    )


def _per_seed(timed: Sequence[Record]) -> dict[int, float]:
    """Repeated timings of one seed are averaged."""
    found: dict[int, list[float]] = {}
    for r in timed:
        if r.value is not None:
            found.setdefault(r.seed, []).append(r.value)
    return {seed: statistics.fmean(v) for seed, v in found.items()}


def _in_turns(
    rows: Sequence[Record], references: Mapping[tuple[str, str], float], target: str, batch: int
) -> dict[int, float]:
    """The reference's latency over the speed-up: both ran in turns, which latencies of several moments didn't."""
    return {
        r.seed: references[r.reference, r.machine] / r.value
        for r in rows
        if (r.probe, r.metric) == ("cost", f"speedup_b{batch}")
        and r.hardware == target
        and r.value
        and (r.reference, r.machine) in references
    }


def _is_accuracy(row: Record) -> bool:
    return row.probe == "accuracy" and row.metric == "top1" and not row.group


def _is_latency(row: Record, target: str, batch: int) -> bool:
    if row.probe == "cost":
        return row.hardware == target and row.metric == f"latency_median_b{batch}"
    names = {"targets": f"latency_b{batch}", "deployed": f"deployed_latency_b{batch}"}
    return row.group == target and row.metric == names.get(row.probe)


def targets_of(records: Iterable[Record]) -> list[str]:
    """Names of all targets that anything was timed or priced on."""
    found: dict[str, None] = {}
    for r in records:
        if r.probe in ("targets", "deployed") and r.group and "/" not in r.group:
            found.setdefault(r.group)
        if r.probe == "cost" and r.metric.startswith("latency_median_b"):
            found.setdefault(r.hardware)
    return list(found)


def _check_target(rows: Sequence[Record], target: str, batch: int) -> None:
    known = targets_of(rows)
    if target not in known:
        hint = (
            nearest(target, known)
            if known
            else "none was measured; +probe@evaluation.probes.targets=targets adds them"
        )
        raise UserError(f"--target: nothing was measured on {target!r}; {hint}")
    timed = [r for r in rows if _is_latency(r, target, batch)]
    if not timed:
        raise UserError(f"--batch: {target} was not timed at batch {batch}")
    places = sorted(
        {(r.basis, r.machine if r.basis == "measured" else "") for r in timed if r.value is not None}
    )
    if len(places) > 1:
        told = "; ".join(f"{basis} {machine}".strip() for basis, machine in places)
        raise UserError(f"--target: {target} has latencies of several kinds ({told}); give the runs of one")


def broken(choice: Choice, limits: Limits) -> list[str]:
    """The limits that a state breaks, in words; a figure that isn't there breaks its limit."""
    told = [
        f"{name} not known{f' ({choice.note})' if choice.note and name == 'latency' else ''}"
        for name in limits.needed
        if name not in choice.figures and name not in limits.asked
    ]
    for name, (limit, sign) in limits.asked.items():
        value = choice.figures.get(name)
        unit = UNITS[name]
        known = choice.counts.get(name, choice.seeds)
        if value is not None and known < choice.seeds and name != "latency":  # one seed's says that of all
            told.append(f"{name} known for {known} of {choice.seeds} seeds only")
        if value is None:
            told.append(f"{name} not known{f' ({choice.note})' if choice.note and name == 'latency' else ''}")
        elif sign * value < sign * limit:
            text = f"{value:,.0f} bytes" if name == "bytes" else f"{name} {value:.4g} {unit}"
            told.append(f"{text} is {'below' if sign > 0 else 'above'} {limit:,.6g}")
    return told


def advise(found: Sequence[Choice], limits: Limits) -> Advice:
    """States within the limits that no other one beats in accuracy, loyalty, latency and bytes at once.

    Raises:
        UserError: no state keeps to the limits; says which comes nearest.
    """
    out: dict[str, str] = {}
    inside = []
    for choice in found:
        if faults := broken(choice, limits):
            out[choice.name] = "; ".join(faults)
        else:
            inside.append(choice)
    if not inside:
        if not found:
            raise UserError("advise: there are no records of states")
        close = min(found, key=lambda c: _miss(c, limits))
        raise UserError(f"no state keeps to the limits; nearest comes {close.name}: {out[close.name]}")
    kept = []
    for choice in inside:
        better = next((other for other in inside if other is not choice and _dominates(other, choice)), None)
        if better is not None:
            out[choice.name] = f"{better.name} is at least as good in all"
        else:
            kept.append(choice)
    kept.sort(key=lambda c: (-c.figures.get("accuracy", -math.inf), c.figures.get("latency", math.inf)))
    return Advice(tuple(kept), out)


def _miss(choice: Choice, limits: Limits) -> tuple[int, float]:
    """How far a state is from the limits: figures that aren't there, then by how many times limits are missed."""
    missing, total = sum(name not in choice.figures for name in limits.needed), 0.0
    for name, (limit, sign) in limits.asked.items():
        value = choice.figures.get(name)
        if value is None:
            missing += 1
        elif sign * value < sign * limit:
            total += abs(math.log((abs(value) + 1e-9) / (abs(limit) + 1e-9)))
    return missing, total


def _dominates(one: Choice, other: Choice) -> bool:
    """At least as good in every figure that both have, better in one; equal ones are won by the first by name."""
    signs = [
        sign * (one.figures[name] - other.figures[name])
        for name, sign in BETTER.items()
        if name in one.figures and name in other.figures
    ]
    lacks = [name for name in BETTER if name in other.figures and name not in one.figures]
    return bool(signs) and not lacks and min(signs) >= 0 and (max(signs) > 0 or one.name < other.name)
