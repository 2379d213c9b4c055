"""Panels: records grouped into what may share axes, and averaged over seeds but over nothing else.

One panel per (dataset, model, scale). Inside it a *series* is drawn as one line; a *point* is one state of a
series at one moment, over all its seeds; a *reading* is one metric of a point, one value a seed.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from compressbench.declared import EXAMPLES
from compressbench.records import Record, Records
from compressbench.report.numbers import Spread, percentage, spread

DENSE = "dense"
FLOOR = "floor"
FINAL = "final"
PUBLISHED = "published"
POPULATIONS = "populations"
RANDOM = "random"
SAME_DENSITY = 1.02
SAME_STATE = 1.1
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Reading:
    """One metric of one point.

    Attributes:
        by_seed: seed -> value; repeats of one state (timings) are averaged first.
        examples: the examples or repetitions each value rests on.
        notes: what the probe had to say, each once.
        artefact: a picture, the first seed's; empty for none.
        asked: seeds at which it was measured, a figure or not.
    """

    unit: str
    basis: str
    by_seed: Mapping[int, float]
    examples: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    artefact: str = ""
    asked: tuple[int, ...] = ()

    @property
    def spread(self) -> Spread | None:
        return spread(self.by_seed[s] for s in sorted(self.by_seed))


@dataclass(frozen=True)
class Point:
    """One state of a series at one moment, over seeds. Timings are kept apart by environment."""

    order: int
    moment: str
    density: float
    compute: Mapping[int, float]
    states: tuple[str, ...]
    readings: Mapping[Key, Reading]
    timings: Mapping[str, Mapping[Key, Reading]] = field(default_factory=dict)

    def reading(self, probe: str, metric: str, group: str = "", environment: str = "") -> Reading | None:
        """A metric of this point, or ``None``; ``environment`` picks among timings of several machines."""
        key = (probe, metric, group)
        if key in self.readings:
            return self.readings[key]
        return self.timings.get(environment, {}).get(key)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(self.compute))


@dataclass(frozen=True)
class Series:
    """One line of a chart. ``reference`` is the label of the dense series that it is compared with."""

    label: str
    name: str
    recipe: str
    points: Mapping[str, tuple[Point, ...]]
    reference: str = ""

    def at(self, moment: str) -> tuple[Point, ...]:
        return self.points.get(moment, ())

    def lowest(self, moment: str) -> Point | None:
        """The smallest point: of the lowest density; of those alike by what is shown, of the fewest bits, then MACs."""
        return min(self.at(moment), key=smallness, default=None)

    @property
    def is_random(self) -> bool:
        """A series of random masks (a random re-initialisation keeps a chosen one), or of a sweep's arm of such."""
        if RANDOM in self.recipe.split(", "):
            return True
        words = set(re.findall("[a-z]+", self.name.lower()))
        return RANDOM in words and not {"reinit", "init", "initialisation"} & words


@dataclass(frozen=True)
class Panel:
    """All that may share axes: one dataset, model and scale.

    Attributes:
        series: the compressed ones, in the order of the records.
        dense: reference series by label; one where all recipes share their dense models.
        floors: dense models of other seeds, for reading loyalty.
        main: (probe, metric) of the accuracy that charts show, or ``None``.
        environments: hardware target and machine of the timings; never averaged over.
        split: sentences on rows that could not share a series as they were.
        published: figures from the literature, of other nets and data; in no series.
        populations: figures of many nets together; in no series either, since their seeds are inside them.
        examples: records of single examples, of states and of populations, in their order; in no series either.
    """

    dataset: str
    model: str
    scale: str
    rows: Records
    series: tuple[Series, ...]
    dense: Mapping[str, Series]
    floors: tuple[Series, ...]
    moments: tuple[str, ...]
    environments: tuple[str, ...]
    main: tuple[str, str] | None
    split: tuple[str, ...] = ()
    published: tuple[Record, ...] = ()
    populations: tuple[Record, ...] = ()
    examples: tuple[Record, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.model} on {self.dataset}, scale {self.scale}"

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({r.seed for r in self.rows}))

    @property
    def leads(self) -> tuple[Series, ...]:
        """Each recipe's first series, one of random masks only where it has no other; those come last."""
        found: dict[str, Series] = {}
        for series in sorted(self.series, key=lambda s: s.is_random):
            found.setdefault(series.recipe, series)
        return tuple(found.values())

    @property
    def lead(self) -> Series | None:
        """The series that sentences speak of."""
        return self.leads[0] if self.leads else None

    def dense_of(self, series: Series, moment: str) -> Point | None:
        """The dense point that a series is compared with at a moment, or ``None``."""
        found = self.dense.get(series.reference)
        points = found.at(moment) if found else ()
        return points[0] if points else None

    def everything(self) -> tuple[Series, ...]:
        """Dense, compressed and floor series, in the order in which tables list them."""
        return (*self.dense.values(), *self.series, *self.floors)

    def main_reading(self, point: Point | None) -> Reading | None:
        if point is None or self.main is None:
            return None
        return point.reading(*self.main)


def smallness(point: Point) -> tuple[float, ...]:
    """Orders points by size: density as it is shown, bits of weights and inputs, MACs."""
    return (float(percentage(point.density)), *bits_of(point), macs_of(point), point.density)


def bits_of(point: Point) -> tuple[float, float]:
    """Mean bits of weights and inputs, 32 where nothing was rounded."""
    found = [point.reading("structure", metric) for metric in ("weight_bits", "input_bits")]
    weights, inputs = (r.spread.mean if r and r.spread else 32.0 for r in found)
    return weights, inputs


def macs_of(point: Point) -> float:
    """Multiply-accumulates of one forward, zeros counted; infinite where they aren't known."""
    reading = point.reading("cost", "macs")
    return reading.spread.mean if reading and reading.spread else math.inf


def paired(one: Reading | None, other: Reading | None) -> Spread | None:
    """``one - other`` seed by seed, over the seeds that both have."""
    if one is None or other is None:
        return None
    common = sorted(set(one.by_seed) & set(other.by_seed))
    return spread(one.by_seed[s] - other.by_seed[s] for s in common)


def restricted(reading: Reading | None, seeds: Iterable[int]) -> Spread | None:
    """A reading's spread over the given seeds only."""
    if reading is None:
        return None
    return spread(reading.by_seed[s] for s in sorted(set(seeds) & set(reading.by_seed)))


def relative_compute(point: Point, dense: Point | None) -> Spread | None:
    """Training compute of the lineage in dense trainings, seed by seed; ``None`` if that is unknown."""
    if dense is None:
        return None
    common = [s for s in point.seeds if dense.compute.get(s)]
    return spread(point.compute[s] / dense.compute[s] for s in common)


def close(one: float, other: float, ratio: float = SAME_DENSITY) -> bool:
    """True if two densities differ by no more than the ratio."""
    low, high = sorted((one, other))
    return high <= low * ratio


def counterpart(point: Point, series: Series, same_recipe: bool) -> Point | None:
    """The point of another series to set beside this one: that of the same density.

    Within a recipe the same level counts too if its density is nearly the same. Of several equally near, as students of
    several sizes are, it is the one of the same level.
    """
    near = [
        p
        for p in series.at(point.moment)
        if close(p.density, point.density)
        or (same_recipe and p.order == point.order and close(p.density, point.density, SAME_STATE))
    ]
    return min(near, key=lambda p: (abs(p.density - point.density), p.order != point.order), default=None)


def beside_lead(panel: Panel, series: Series, moment: str) -> Point | None:
    """A series' point at the lead's lowest density, or its own lowest where it has none there."""
    lowest = panel.lead.lowest(moment) if panel.lead else None
    if lowest is None or panel.lead is None:
        return series.lowest(moment)
    return counterpart(lowest, series, series.recipe == panel.lead.recipe) or series.lowest(moment)


def panels(records: Records) -> tuple[Panel, ...]:
    """Panels in the order in which their first record appears."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    many: dict[tuple[str, str, str], list[Record]] = {}
    told: dict[tuple[str, str, str], dict[Hashable, Record]] = {}
    single: dict[tuple[str, str, str], dict[Hashable, Record]] = {}
    for row in records:
        place = (row.dataset, row.model, row.scale)
        if row.basis == PUBLISHED:
            told.setdefault(place, {}).setdefault(
                (row.group, row.series, row.density, row.value, row.note), row
            )
        elif row.metric in EXAMPLES:
            groups.setdefault(place, [])
            known = (*_place(row), row.key, row.value, row.note)
            single.setdefault(place, {}).setdefault(known, row)
        else:
            groups.setdefault(place, [])
            (many.setdefault(place, []) if row.moment == POPULATIONS else groups[place]).append(row)
    return tuple(
        replace(
            _panel(place, rows),
            published=tuple(told.get(place, {}).values()),
            populations=tuple(many.get(place, ())),
            examples=tuple(single.get(place, {}).values()),
        )
        for place, rows in groups.items()
    )


def conflicts(rows: Iterable[Record]) -> bool:
    """True if one seed of one series has two different values for a metric that a second run would repeat."""
    seen: dict[Hashable, tuple[str, float]] = {}
    for row in rows:
        if row.value is None or row.is_timing or row.metric in EXAMPLES:
            continue
        spot = (row.dataset, row.model, row.scale, row.hardware, row.dtype, row.recipe, *_place(row))
        if seen.setdefault(spot, (row.key, row.value)) != (row.key, row.value):
            return True
    return False


@dataclass(frozen=True)
class _Arm:
    recipe: str
    dtype: str
    hardware: str
    variant: int


def _panel(place: tuple[str, str, str], rows: Sequence[Record]) -> Panel:
    """The panel of a dataset, a model and a scale; without rows where only populations were measured."""
    arms, split = _arms(rows)
    names = _arm_names(arms)
    environments = _environments(rows)
    lines: dict[tuple[_Arm, str], list[Record]] = {}
    for row, arm in zip(rows, arms, strict=True):
        lines.setdefault((arm, row.series), []).append(row)
    environment_of = environments if len(set(environments.values())) > 1 else {}
    dense = _pooled(lines, DENSE, names, environment_of)
    there = {k: own for k, own in lines.items() if k[1] != FLOOR or any(r.value is not None for r in own)}
    floors = _pooled(there, FLOOR, names, environment_of)
    reference_of = {row.key: label for label, (_, _, pool) in dense.items() for row in pool}
    recipe_of = {arm.recipe: label for label, (_, members, _) in dense.items() for arm in reversed(members)}
    series = []
    for (arm, name), own in lines.items():
        if name in (DENSE, FLOOR):
            continue
        known = next((reference_of[r.reference] for r in own if r.reference in reference_of), "")
        reference = known or recipe_of.get(arm.recipe, "")
        label = names[arm].format(name)
        series.append(Series(label, name, arm.recipe, _points(own, environment_of), reference))
    seen = dict.fromkeys(r.moment for r in rows)
    return Panel(
        dataset=place[0],
        model=place[1],
        scale=place[2],
        rows=Records(rows),
        series=tuple(series),
        dense={label: one for label, (one, _, _) in dense.items()},
        floors=tuple(one for one, _, _ in floors.values()),
        moments=tuple(sorted(seen, key=lambda m: m != FINAL)) or (FINAL,),
        environments=tuple(dict.fromkeys(environment_of.values())) or ("",),
        main=_main(rows),
        split=split,
    )


def _place(row: Record) -> tuple[Hashable, ...]:
    return (row.series, row.moment, row.order, row.seed, row.probe, row.metric, row.group)


def _arms(rows: Sequence[Record]) -> tuple[list[_Arm], tuple[str, ...]]:
    """Gives each row its arm, so that no series holds two states of one seed."""
    by_dtype, by_hardware = _tells_apart(rows, "dtype"), _tells_apart(rows, "hardware")
    seen: dict[Hashable, list[Hashable]] = {}
    arms: list[_Arm] = []
    doubled: dict[str, int] = {}
    for row in rows:
        dtype, hardware = row.dtype if by_dtype else "", row.hardware if by_hardware else ""
        variant = 0
        if row.value is not None:
            value = None if row.is_timing else row.value
            known = seen.setdefault((row.recipe, dtype, hardware, *_place(row)), [])
            if (row.key, value) not in known:
                known.append((row.key, value))
            variant = known.index((row.key, value))
        if variant:
            doubled[row.recipe] = max(doubled.get(row.recipe, 0), variant)
        arms.append(_Arm(row.recipe, dtype, hardware, variant))
    told = tuple(
        f"{recipe} holds up to {most + 1} different states or settings for one seed of one series; "
        "they are drawn apart as “run 2” and so on, in the order read, and never averaged."
        for recipe, most in doubled.items()
    )
    return arms, told


def _tells_apart(rows: Sequence[Record], column: str) -> bool:
    """True if a column's values give different figures for the same seed and state: then they are arms."""
    if len({getattr(r, column) for r in rows}) < 2:
        return False
    apart: dict[Hashable, set[Hashable]] = {}
    together: dict[Hashable, set[Hashable]] = {}
    for row in rows:
        if row.value is None or row.is_timing:
            continue
        spot = (row.recipe, *_place(row))
        apart.setdefault((getattr(row, column), *spot), set()).add((row.key, row.value))
        together.setdefault(spot, set()).add((row.key, row.value))
    split = [spot for spot, found in together.items() if len(found) > 1]
    return bool(split) and all(len(found) == 1 for found in apart.values())


def _arm_names(arms: Sequence[_Arm]) -> dict[_Arm, _Label]:
    known = list(dict.fromkeys(arms))
    recipes, dtypes = {a.recipe for a in known}, {a.dtype for a in known}
    hardware = {a.hardware for a in known}
    return {
        a: _Label(
            before=f"{a.recipe}: " if len(recipes) > 1 else "",
            after=(f" [{a.dtype}]" if len(dtypes) > 1 else "")
            + (f" [{a.hardware}]" if len(hardware) > 1 else "")
            + (f" (run {a.variant + 1})" if a.variant else ""),
        )
        for a in known
    }


@dataclass(frozen=True)
class _Label:
    before: str
    after: str

    def format(self, name: str) -> str:
        return f"{self.before}{name}{self.after}"


def _environments(rows: Sequence[Record]) -> dict[tuple[str, str], str]:
    """(hardware, machine) of timings -> a short label, machines lettered where a target has several."""
    pairs = list(dict.fromkeys((r.hardware, r.machine) for r in rows if r.is_timing))
    machines = list(dict.fromkeys(machine for _, machine in pairs))
    several = len({h for h, _ in pairs}) > 1
    labels = {}
    for hardware, machine in pairs:
        letter = f"machine {letters(machines.index(machine))}" if len(machines) > 1 else ""
        labels[hardware, machine] = " on ".join(
            x for x in (hardware if several or not letter else "", letter) if x
        )
    return labels


def letters(place: int) -> str:
    """A, B, … Z, AA, AB …"""
    text = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        text = chr(65 + rest) + text
    return text


def _pooled(
    lines: Mapping[tuple[_Arm, str], list[Record]],
    name: str,
    names: Mapping[_Arm, _Label],
    environment_of: Mapping[tuple[str, str], str],
) -> dict[str, tuple[Series, list[_Arm], list[Record]]]:
    """Series of one name over all arms; arms that share these very states become one series."""
    clusters: list[tuple[list[_Arm], dict[tuple[Hashable, ...], tuple[str, float]], list[Record]]] = []
    for (arm, own), rows in lines.items():
        if own != name:
            continue
        facts: dict[tuple[Hashable, ...], tuple[str, float]] = {
            _place(r): (r.key, r.value) for r in rows if r.value is not None and not r.is_timing
        }
        for members, known, pool in clusters:
            common = facts.keys() & known.keys()
            if common and all(facts[k] == known[k] for k in common):
                members.append(arm)
                known.update(facts)
                pool.extend(rows)
                break
        else:
            clusters.append(([arm], facts, list(rows)))
    result: dict[str, tuple[Series, list[_Arm], list[Record]]] = {}
    for members, _, pool in clusters:
        if len(clusters) == 1:
            label = name
        else:
            recipes = dict.fromkeys(a.recipe for a in members)
            before = " + ".join(recipes) + ": " if names[members[0]].before else ""
            label = f"{before}{name}{names[members[0]].after}"
        while label in result:
            label += "′"
        series = Series(label, name, members[0].recipe, _points(pool, environment_of), label)
        result[label] = (series, members, pool)
    return result


def _points(
    rows: Sequence[Record], environment_of: Mapping[tuple[str, str], str]
) -> dict[str, tuple[Point, ...]]:
    """Moment -> points in execution order. States of one order but of other densities stay apart."""
    places: dict[tuple[str, int], list[Record]] = {}
    for row in rows:
        places.setdefault((row.moment, row.order), []).append(row)
    result: dict[str, list[Point]] = {}
    for (moment, order), own in places.items():
        for group in _by_density(own):
            result.setdefault(moment, []).append(_point(moment, order, group, environment_of))
    return {m: tuple(sorted(points, key=lambda p: (p.order, -p.density))) for m, points in result.items()}


def _by_density(rows: Sequence[Record]) -> list[list[Record]]:
    steps: list[list[float]] = []
    for density in sorted({r.density for r in rows}):
        if steps and close(steps[-1][-1], density, SAME_STATE):
            steps[-1].append(density)
        else:
            steps.append([density])
    place = {density: number for number, step in enumerate(steps) for density in step}
    groups: list[list[Record]] = [[] for _ in steps]
    for row in rows:
        groups[place[row.density]].append(row)
    return groups


def _point(
    moment: str, order: int, rows: Sequence[Record], environment_of: Mapping[tuple[str, str], str]
) -> Point:
    density = {r.seed: r.density for r in rows}
    compute = {r.seed: r.compute for r in rows if r.compute is not None and math.isfinite(r.compute)}
    stable: dict[Key, list[Record]] = {}
    timed: dict[str, dict[Key, list[Record]]] = {}
    for row in rows:
        key = (row.probe, row.metric, row.group)
        if row.is_timing:
            environment = environment_of.get((row.hardware, row.machine), "")
            timed.setdefault(environment, {}).setdefault(key, []).append(row)
        else:
            stable.setdefault(key, []).append(row)
    return Point(
        order=order,
        moment=moment,
        density=statistics.fmean(density.values()),
        compute={s: compute.get(s, 0.0) for s in density},
        states=tuple(dict.fromkeys(r.state for r in rows)),
        readings={key: _reading(own) for key, own in stable.items()},
        timings={e: {key: _reading(own) for key, own in inner.items()} for e, inner in timed.items()},
    )


def _reading(rows: Sequence[Record]) -> Reading:
    values: dict[int, list[float]] = {}
    for row in rows:
        if row.value is not None and math.isfinite(row.value):
            values.setdefault(row.seed, []).append(row.value)
    return Reading(
        unit=rows[0].unit,
        basis=rows[0].basis,
        by_seed={seed: v[0] if len(set(v)) == 1 else statistics.fmean(v) for seed, v in values.items()},
        examples=tuple(sorted({r.n for r in rows if r.n})),
        notes=tuple(dict.fromkeys(r.note for r in sorted(rows, key=lambda r: r.seed) if r.note)),
        artefact=min(rows, key=lambda r: r.seed).artefact,
        asked=tuple(sorted({r.seed for r in rows})),
    )


def _main(rows: Sequence[Record]) -> tuple[str, str] | None:
    """Top-1 where there is one, else the first figure of an accuracy probe for the whole."""
    known = dict.fromkeys(
        (r.probe, r.metric)
        for r in rows
        if r.probe == "accuracy" and not r.group and r.unit != "examples" and r.value is not None
    )
    if ("accuracy", "top1") in known:
        return "accuracy", "top1"
    return next(iter(known), None)
