"""Choosing among measured states: limits, what breaks them, what is not worth having; pure functions of records.

A limit is kept where every seed keeps to it, broken where one surely doesn't, and else it can't be told. Latencies of
what ran are compared by their ratios to a reference, taken in turns with it; those of different moments are not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from compressbench.declared import METRICS, Declared, batch_of, declared
from compressbench.deploying.elsewhere import APART, is_elsewhere
from compressbench.errors import CantTell, Unmet, UserError, nearest
from compressbench.hardware.turns import OTHERS
from compressbench.records import ENCODINGS, Record, Records
from compressbench.runs.plan import DENSE, FINAL, FLOOR
from compressbench.specs.conf import conf_dir

FIGURES: Mapping[str, Declared] = {
    "accuracy": METRICS["top1"],
    "loyalty": METRICS["label_loyalty"],
    "latency": METRICS["latency_b#"],
    "bytes": METRICS["dense_bytes"],
    "drop": Declared("Below dense", "points", -1),
    "class drop": Declared("Below dense, of the class that loses most", "points", -1),
}
RANKED = ("accuracy", "loyalty", "latency", "bytes")
ENCODED = {
    "dense_bytes": "dense, as safetensors",
    "sparse_bytes": "zeros left out",
    "quantized_bytes": "integers at their bits",
    "huffman_bytes": "Huffman-coded",
}
OWN = tuple(words for metric, words in ENCODED.items() if metric != "dense_bytes")
"""Encodings of compressbench's own, of which no exporter writes a file."""
BUSY = ("busy machine", OTHERS)
"""What notes of timings say that others disturbed: in records before version 0.2, and since."""
FILES = {"targets": "file_bytes", "deployed": "artefact_bytes"}
CLOCKS = {
    "cost": ("latency_median", "speedup"),
    "targets": ("latency", "speedup"),
    "deployed": ("deployed_latency", "deployed_speedup"),
}
"""Probe -> its latency of a state, its ratio of the reference's to that, both without their batch sizes."""
SAME_STATE = 1.1
BARE = 0.05
"""Of a latency that has no interval it can't be told whether it keeps to a limit that is nearer than this share of it."""


@dataclass(frozen=True)
class Figure:
    """One figure of one state, a value a seed.

    Attributes:
        by_seed: seed -> value.
        within: seed -> the ends of its 95 % interval, where one is known; of what is exact, the value twice.
        bases: seed -> (what its latency may be compared with: those of the same name; that one's latency).
        why: seed -> why it has no value.
        words: what its bytes are of.
        bare: seeds whose latency is a point, no interval of it being known.
        own: seed -> the latency that was timed itself, undisturbed, where the value is derived from another's.
        elsewhere: whether it was measured elsewhere: seeds that nobody timed there are then no gap.
    """

    by_seed: Mapping[int, float]
    within: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    bases: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    why: Mapping[int, str] = field(default_factory=dict)
    words: str = ""
    bare: frozenset[int] = frozenset()
    own: Mapping[int, float] = field(default_factory=dict)
    elsewhere: bool = False

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than three, which say little of it."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 2 else None

    @property
    def span(self) -> tuple[float, float] | None:
        """From the lowest to the highest of all seeds and their intervals; None where one value is all that is known."""
        ends = [self.within.get(seed, (value, value)) for seed, value in self.by_seed.items()]
        if not ends or (len(ends) == 1 and not self.within):
            return None
        return min(low for low, _ in ends), max(high for _, high in ends)


NONE = Figure({})


@dataclass(frozen=True)
class Choice:
    """One state of one series, with its figures.

    Attributes:
        name: series, and the state where a series has several.
        state: its name in the recipe.
        figures: of ``FIGURES`` those that there are.
        seeds: that its setting was run with; a figure is wanted for each.
        basis: of the latency, ``measured`` or ``modelled``.
        series: that the state is of.
        keys: seed -> content address of the state.
    """

    name: str
    recipe: str
    state: str
    figures: Mapping[str, Figure]
    seeds: tuple[int, ...]
    basis: str = ""
    series: str = ""
    keys: Mapping[int, str] = field(default_factory=dict)

    def figure(self, name: str) -> Figure:
        return self.figures.get(name, NONE)

    @property
    def known(self) -> tuple[str, ...]:
        """Figures of which there is a value."""
        return tuple(name for name, figure in self.figures.items() if figure.by_seed)


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


# ---- from records to choices ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spot:
    setting: tuple[str, ...]
    series: str
    state: str
    order: int
    density: float


@dataclass(frozen=True)
class _Clock:
    """How latencies on a target are read.

    Attributes:
        own: (key, machine) -> milliseconds of a state, where others didn't disturb that.
        lost: (key, machine) -> how they did.
    """

    probe: str
    target: str
    batch: int
    own: Mapping[tuple[str, str], float] = field(default_factory=dict)
    lost: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def of(self, row: Record, metric: str) -> bool:
        place = row.hardware if self.probe == "cost" else row.group
        return row.probe == self.probe and place == self.target and row.metric == f"{metric}_b{self.batch}"

    def any(self, row: Record) -> bool:
        return self.latency(row) or any(self.ratio(row, end) for end in ("", "_low", "_high"))

    def latency(self, row: Record) -> bool:
        return self.of(row, CLOCKS[self.probe][0])

    def ratio(self, row: Record, end: str = "") -> bool:
        return self.of(row, CLOCKS[self.probe][1] + end)


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
    clock = _clock(rows, target, batch) if target else None
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
            "latency": _latency(own, clock) if clock else NONE,
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
    if sum(c.series == DENSE for c in held) == 1:  # the only dense model left needs no recipe in its name
        held = [replace(c, name=_without_recipe(c)) if c.series == DENSE else c for c in held]
    return held


def _same(one: Choice, other: Choice) -> bool:
    return one == replace(other, name=one.name, recipe=one.recipe)


def _quoted(name: str) -> str:
    """A name that could be read as a part of the sentence around it, in quotes."""
    return f"“{name}”" if ": " in name else name


def _without_recipe(choice: Choice) -> str:
    """A name without the recipe at its beginning: ``dense`` of ``lth: dense``."""
    rest = choice.name.removeprefix(choice.recipe)
    return rest.removeprefix(": ").removeprefix(" on ") if rest != choice.name and rest else choice.name


def targets_of(records: Iterable[Record]) -> list[str]:
    """Targets that ``choices`` knows: groups of ``targets`` and ``deployed``, hardware of ``cost``."""
    found: dict[str, None] = {}
    for r in records:
        if r.probe in ("targets", "deployed") and r.group and "/" not in r.group:
            found.setdefault(r.group)
        if r.probe == "cost" and r.metric.startswith("latency_median_b"):
            found.setdefault(r.hardware)
    return list(found)


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
                values[r.seed] = max(round(-r.value, 9) + 0.0, values.get(r.seed, -math.inf))  # no -0.0
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


# ---- latencies ------------------------------------------------------------------------------------------------------


def _clock(rows: Sequence[Record], target: str, batch: int) -> _Clock:
    known = targets_of(rows)
    if target not in known:
        hint = f"{nearest(target, known)}; " if known else ""
        raise UserError(f"--target: nothing was measured on {target!r}; {hint}{_adding(target)}")
    clocks = [_Clock(probe, target, batch) for probe in CLOCKS]
    clock = next((c for c in clocks if any(c.latency(r) for r in rows)), None)
    if clock is None:
        sizes = sorted({b for c in clocks for r in rows if (b := _timed_at(c, r)) is not None})
        at = f"; it was at {', '.join(map(str, sizes))}" if sizes else ""
        raise UserError(f"--batch: {target} was not timed at batch {batch}{at}")
    timed = [r for r in rows if clock.latency(r) and r.value is not None]
    places = sorted({(r.basis, r.machine if r.basis == "measured" else "") for r in timed})
    if len(places) > 1:
        told = "; ".join(f"{basis} {machine}".strip() for basis, machine in places)
        raise UserError(f"--target: {target} has latencies of several kinds ({told}); give the runs of one")
    own: dict[tuple[str, str], list[float]] = {}
    for r in timed:
        if r.value is not None and not _disturbed(r):
            own.setdefault((r.key, r.machine), []).append(r.value)
    middle = {place: statistics.median(values) for place, values in own.items()}
    lost = {(r.key, r.machine): r.note for r in timed if _disturbed(r)}
    return _Clock(clock.probe, target, batch, middle, lost)


def _adding(target: str) -> str:
    """How a run measures on a target."""
    shipped = (conf_dir() / "target" / f"{target}.yaml").is_file() if target.isidentifier() else False
    probe = "a run with +probe@evaluation.probes.targets=targets"
    named = f" +target@evaluation.probes.targets.targets.{target}={target}" if shipped else ""
    return f"{probe}{named} measures on {'it' if shipped else 'more'}"


def _disturbed(row: Record) -> bool:
    return any(words in row.note for words in BUSY)


def _timed_at(clock: _Clock, row: Record) -> int | None:
    batch = batch_of(row.metric)
    return batch if batch and _Clock(clock.probe, clock.target, batch).latency(row) else None


def _latency(rows: Sequence[Record], clock: _Clock) -> Figure:
    """Milliseconds a seed; with what they may be compared with, where they may."""
    values: dict[int, float] = {}
    within: dict[int, tuple[float, float]] = {}
    bases: dict[int, tuple[str, float]] = {}
    why: dict[int, str] = {}
    itself: dict[int, float] = {}
    exact: set[int] = set()  # or with an interval
    for seed in dict.fromkeys(r.seed for r in rows):
        own = [r for r in rows if r.seed == seed]
        timed = [r for r in own if clock.latency(r)]
        ratios = [r for r in own if clock.ratio(r)]
        if not timed:
            continue
        known = [r.value for r in timed if r.value is not None]
        steady = [r.value for r in timed if r.value is not None and not _disturbed(r)]
        first = timed[0]
        base = clock.own.get((first.reference, first.machine))
        quiet = _above_zero(r for r in ratios if not _disturbed(r))
        if not known:
            why[seed] = first.note
        elif first.basis == "modelled":
            values[seed] = statistics.median(known)
            within[seed], bases[seed] = (values[seed],) * 2, ("modelled", 1.0)
            exact.add(seed)
        elif not steady and not quiet:
            why[seed] = first.note
        elif not ratios or any(APART in r.note for r in ratios):
            if steady:
                values[seed] = statistics.median(steady)
            else:
                why[seed] = first.note
        elif base is None:
            lost = clock.lost.get((first.reference, first.machine), "not timed")
            why[seed] = lost if first.key == first.reference else f"its reference: {lost}"
        elif first.key == first.reference:
            values[seed], within[seed], bases[seed] = base, (base, base), (first.reference, base)
        elif not quiet:
            why[seed] = ratios[0].note or "it has no ratio in turns"
        else:
            values[seed], bases[seed] = base / statistics.median(quiet), (first.reference, base)
            if steady:
                itself[seed] = statistics.median(steady)
            ends = [_above_zero(r for r in own if clock.ratio(r, end)) for end in ("_low", "_high")]
            if all(ends):
                found = [values[seed], *(base / end for end in (*ends[0], *ends[1]))]
                within[seed] = min(found), max(found)
                exact.add(seed)
    abroad = [is_elsewhere(r) for r in rows if clock.latency(r) and r.value is not None]
    return Figure(
        values,
        within,
        bases,
        why,
        bare=frozenset(values) - exact,
        own=itself,
        elsewhere=bool(abroad) and all(abroad),
    )


def _above_zero(rows: Iterable[Record]) -> list[float]:
    return [r.value for r in rows if r.value is not None and r.value > 0]


# ---- limits ---------------------------------------------------------------------------------------------------------


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


# ---- advice ---------------------------------------------------------------------------------------------------------


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
