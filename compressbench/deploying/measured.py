"""From records to choices: every measured state with its figures; pure functions of records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from compressbench.declared import declared
from compressbench.deploying.choice import ENCODED, NONE, Choice, Figure
from compressbench.deploying.latencies import clock_of, latency_of
from compressbench.errors import UserError
from compressbench.records import ENCODINGS, Record, Records
from compressbench.runs.plan import DENSE, FINAL, FLOOR

FILES = {"targets": "file_bytes", "deployed": "artefact_bytes"}
SAME_STATE = 1.1


@dataclass(frozen=True)
class _Spot:
    setting: tuple[str, ...]
    series: str
    state: str
    order: int
    density: float


def choices(records: Records, target: str = "", batch: int = 1) -> list[Choice]:
    """Every state measured, dense ones too.

    Args:
        target: whose latency counts, by its name in the records of ``targets`` or ``deployed``, or the hardware's name
            of ``cost``; empty for none. The latency of a state that ran is its reference's over its speed-up in turns.

    Raises:
        UserError: nothing was measured on such a target, or not at this batch size; one seed was run twice, with
            settings that its records don't tell apart; records disagree about one figure of one state and seed (timings,
            which no second run repeats, don't: several count by their median); or a figure is in another unit.
    """
    rows = [_finite(r) for r in records if r.moment == FINAL and r.series != FLOOR]
    clock = clock_of(rows, target, batch) if target else None
    seeds: dict[tuple[str, ...], set[int]] = {}
    for row in rows:
        seeds.setdefault(_setting(row), set()).add(row.seed)
    spots = _spots(rows)
    names = _names(list(spots))
    keys = {spot: _keys(names[spot], own) for spot, own in spots.items()}
    dense = _accuracies(rows)
    written = any(_is_file(r, target) for r in rows)
    found = []
    for spot, own in spots.items():
        _check_agree(names[spot], [r for r in own if _is_judged(r, target)])
        _check_units(names[spot], [r for r in own if _is_judged(r, target) or (clock and clock.any(r))])
        figures = {
            "accuracy": _figure([r for r in own if _is_accuracy(r)]),
            "drop": _drops([r for r in own if _is_accuracy(r)], dense),
            "class drop": _class_drops(own),
            "loyalty": _figure([r for r in own if r.metric == "label_loyalty" and not r.group]),
            "bytes": _files(own, target) if written else _encodings(own),
            "latency": latency_of(own, clock) if clock else NONE,
        }
        basis = next((r.basis for r in own if clock and clock.latency(r) and r.value is not None), "")
        known = {name: f for name, f in figures.items() if f.by_seed or f.why}
        seeds_ = tuple(sorted(seeds[spot.setting]))
        found.append(
            Choice(names[spot], spot.setting[0], spot.state, known, seeds_, basis, spot.series, keys[spot])
        )
    return _dense_once(found)


def _dense_once(found: Sequence[Choice]) -> list[Choice]:
    """The dense model that recipes share stands once, without the name of one of them."""
    held: list[Choice] = []
    for choice in found:
        twin = next((k for k, c in enumerate(held) if c.series == DENSE and _same(c, choice)), None)
        if twin is None:
            held.append(choice)
        else:
            held[twin] = replace(held[twin], name=_without_recipe(held[twin]))
    if sum(c.series == DENSE for c in held) == 1:  # with it went what told recipes apart
        held = [replace(c, name=_without_recipe(c)) if c.series == DENSE else c for c in held]
    return held


def _same(one: Choice, other: Choice) -> bool:
    return one == replace(other, name=one.name, recipe=one.recipe)


def _without_recipe(choice: Choice) -> str:
    """A name without the recipe at its beginning: ``dense`` of ``lth: dense``."""
    rest = choice.name.removeprefix(choice.recipe)
    return rest.removeprefix(": ").removeprefix(" on ") if rest != choice.name and rest else choice.name


def _setting(row: Record) -> tuple[str, ...]:
    return row.recipe, row.model, row.dataset, row.scale, row.dtype


def _spots(rows: Sequence[Record]) -> dict[_Spot, list[Record]]:
    """Rows by state. Seeds of one state may differ a little in density; those of other densities are other states."""
    lines: dict[tuple[tuple[str, ...], str, str, int], list[Record]] = {}
    for row in rows:
        lines.setdefault((_setting(row), row.series, row.state, row.order), []).append(row)
    found: dict[_Spot, list[Record]] = {}
    for (setting, series, state, order), own in lines.items():
        places = _densities(own)
        for row in own:
            spot = _Spot(setting, series, state, order, places[row.density])
            found.setdefault(spot, []).append(row)
    return found


def _densities(rows: Sequence[Record]) -> dict[float, float]:
    """Density -> that of its state; nearly equal ones are one state's unless one seed has two of them."""
    known = sorted({r.density for r in rows})
    steps: list[list[float]] = []
    for density in known:
        if steps and density <= steps[-1][-1] * SAME_STATE:
            steps[-1].append(density)
        else:
            steps.append([density])
    for step in steps:
        held = {(r.seed, r.key, r.density) for r in rows if r.density in step}
        if len({seed for seed, _, _ in held}) < len(held):
            return {density: round(density, 6) for density in known}
    return {density: statistics.fmean(step) for step in steps for density in step}


def _names(spots: Sequence[_Spot]) -> dict[_Spot, str]:
    """What tells each state from all others, and no more: series, then state and density, then the setting."""
    columns: list[Callable[[_Spot], str]] = [
        lambda s: s.series,
        lambda s: f"{s.series} ({s.state})",
        lambda s: f"{s.series} ({s.state}, {100 * s.density:.4g} %)",
        lambda s: f"{s.series} ({s.state}, {100 * s.density:.4g} %, place {s.order})",
    ]
    settings = {s.setting for s in spots}
    apart = [k for k in range(5) if len({setting[k] for setting in settings}) > 1]
    names = {}
    for spot in spots:
        beside = [other for other in spots if (other.setting, other.series) == (spot.setting, spot.series)]
        text = next(c(spot) for c in columns if c is columns[-1] or sum(c(o) == c(spot) for o in beside) == 1)
        names[spot] = ": ".join([" on ".join(spot.setting[k] for k in apart), text]) if apart else text
    return names


def _is_accuracy(row: Record) -> bool:
    return row.probe == "accuracy" and row.metric == "top1" and not row.group


def _is_judged(row: Record, target: str) -> bool:
    """Whether a record, no timing, gives one of ``FIGURES``."""
    return (
        _is_accuracy(row)
        or (row.metric == "label_loyalty" and not row.group)
        or (row.probe, row.metric) == ("forgetting", "recall_change")
        or (row.probe == "cost" and row.metric in ENCODINGS)
        or _is_file(row, target)
    )


def _finite(row: Record) -> Record:
    if row.value is None or math.isfinite(row.value):
        return row
    return replace(row, value=None, note=row.note or f"it is {row.value}")


def _accuracies(rows: Iterable[Record]) -> Mapping[tuple[str, str], float]:
    """(key, dtype) -> top-1."""
    found: dict[tuple[str, str], float] = {}
    for r in rows:
        if _is_accuracy(r) and r.value is not None and found.setdefault((r.key, r.dtype), r.value) != r.value:
            raise UserError(
                f"{r.series}: records disagree: {r.metric} of seed {r.seed} is {found[r.key, r.dtype]:.12g} and "
                f"{r.value:.12g} for one and the same state; give one of the runs"
            )
    return found


def _check_agree(name: str, rows: Iterable[Record]) -> None:
    """One figure of one seed has one value."""
    held: dict[tuple[int, str, str, str], float | None] = {}
    for r in rows:
        place = r.seed, r.probe, r.metric, r.group
        if held.setdefault(place, r.value) != r.value:
            said = [f"{v:.12g}" if v is not None else "none" for v in (held[place], r.value)]
            of = f"{r.metric} of {r.group}" if r.group else r.metric
            raise UserError(
                f"{name}: records disagree: {of} of seed {r.seed} is {' and '.join(said)}; give one of the runs"
            )


def _check_units(name: str, rows: Iterable[Record]) -> None:
    for r in rows:
        known = declared(r.metric)
        if known is not None and known.unit != r.unit:
            raise UserError(
                f"{name}: {r.metric} of seed {r.seed} is in {r.unit!r}, must be in {known.unit!r}"
            )


def _keys(name: str, rows: Iterable[Record]) -> Mapping[int, str]:
    """Seed -> content address of its state."""
    found: dict[int, str] = {}
    for row in rows:
        if found.setdefault(row.seed, row.key) != row.key:
            raise UserError(
                f"{name}: seed {row.seed} was run twice, in settings that records don't tell apart; give one"
            )
    return found


def _figure(rows: Sequence[Record]) -> Figure:
    values = {r.seed: r.value for r in rows if r.value is not None}
    return Figure(values, why={r.seed: r.note for r in rows if r.value is None})


def _drops(rows: Sequence[Record], dense: Mapping[tuple[str, str], float]) -> Figure:
    """Points below the reference; to nine decimals, which binary fractions of percents don't reach."""
    known = {r.seed: r for r in rows if r.value is not None}
    values = {
        seed: round(dense[r.reference, r.dtype] - r.value, 9)
        for seed, r in known.items()
        if r.value is not None and (r.reference, r.dtype) in dense
    }
    why = {r.seed: r.note for r in rows if r.value is None}
    why |= {s: "its dense model has no accuracy here" for s in known if s not in values}
    return Figure(values, why=why)


def _class_drops(rows: Sequence[Record]) -> Figure:
    """Of each seed that of the class that loses most."""
    values: dict[int, float] = {}
    why = {}
    for r in rows:
        if r.probe == "forgetting" and r.metric == "recall_change":
            if r.value is None:
                why[r.seed] = f"{r.group}: {r.note}".removesuffix(": ")
            else:
                values[r.seed] = max(round(-r.value, 9) + 0.0, values.get(r.seed, -math.inf))  # no -0
    return Figure({s: v for s, v in values.items() if s not in why}, why=why)


def _encodings(rows: Sequence[Record]) -> Figure:
    """The shortest of ``cost``'s encodings."""
    best: dict[int, tuple[float, str]] = {}
    for r in rows:
        if r.probe == "cost" and r.metric in ENCODINGS and r.value is not None:
            best[r.seed] = min((r.value, r.metric), best.get(r.seed, (math.inf, "")))
    words = dict.fromkeys(ENCODED[metric] for _, metric in best.values())
    return Figure({seed: value for seed, (value, _) in best.items()}, words=", or ".join(words))


def _is_file(row: Record, target: str) -> bool:
    return row.group == target != "" and FILES.get(row.probe) == row.metric


def _files(rows: Sequence[Record], target: str) -> Figure:
    """The file that a target reads."""
    found = _figure([r for r in rows if _is_file(r, target)])
    return Figure(found.by_seed, why=found.why, words=f"the file that {target} reads")
