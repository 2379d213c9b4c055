"""Flatness beside what compression costs: measures of the trained nets, rank correlations, matched dense accuracy.

A *setting* is a net whose flatness was measured: a state of a series at the moment of these measurements. What became
of it is found by name: in the series of that label, or of that label, a comma and more, those states that stand in
the same block of the recipe (``arm_sam.at_0p9.prune`` of ``arm_sam.train``).
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressbench.declared import unit_of
from compressbench.report.drawing import Chart, accuracy_words, bars, canvas, clean, finish, percent_ticks
from compressbench.report.naming import labels
from compressbench.report.numbers import MISSING, Spread, number, percentage, spread
from compressbench.report.panels import Panel, Point, Series
from compressbench.report.section import Section
from compressbench.report.styles import MUTED, styles
from compressbench.report.tables import Cell, Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import difference_unit, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
FLAT = (
    "Sharpness: how much the training loss rises nearby. Extent: how far the weights can move before it has risen by 0.1 "
    "nats. Rescaled: layers before a ReLU made larger and those after it smaller, which leaves the function as it is; "
    "what changes then is a property of how the weights are written, not of the net (Dinh et al. 2017)."
)
CURVATURE = ("hessian", "hessian_largest")
SUFFIX = "_rescaled"
MEASURES = (
    ("sharpness", "sam_sharpness"),
    ("sharpness", "adaptive_sharpness"),
    ("sharpness", "keskar_sharpness"),
    ("hessian", "hessian_largest"),
    ("hessian", "hessian_trace"),
    ("flat_region", "extent_random"),
    ("flat_region", "extent_random_relative"),
    ("flat_region", "extent_gradient"),
)
PROBES = tuple(dict.fromkeys(probe for probe, _ in MEASURES))
GAP = ("sharpness", "generalisation_gap")
RESAMPLES = 2000
FEWEST = 4
Mark = tuple[Series, str, Spread, Spread]


@dataclass(frozen=True)
class Setting:
    """One trained net over seeds."""

    label: str
    series: Series
    point: Point


@dataclass(frozen=True)
class Outcome:
    """What became of the settings: accuracy after a kind and level of compression, by setting and seed.

    Attributes:
        name: ``20 % density`` or ``3 bits, inputs too``; ``kind`` is the part of it that isn't a level.
        accuracy: setting's label -> seed -> accuracy of the compressed net.
    """

    name: str
    kind: str
    accuracy: Mapping[str, Mapping[int, float]]


def section(panel: Panel, suffix: str) -> Section:
    """Flatness of the trained nets and what it goes along with."""
    drawn = [
        *drop_vs_flatness(panel, f"drop_vs_curvature{suffix}"),
        *accuracy_vs_dense(panel, f"accuracy_vs_dense{suffix}"),
    ]
    return Section("Flatness", "flatness", tuple(drawn), tuple(flatness_tables(panel)), (), FLAT)


def drop_vs_flatness(panel: Panel, name: str) -> list[Chart]:
    """What compression cost each trained net against the curvature at which it lies; one chart a kind of compression."""
    moment = measured_at(panel)
    if moment is None:
        return []
    found = []
    for place, outcome in enumerate(widest(panel, moment)):
        marks = drop_marks(panel, moment, outcome, CURVATURE)
        if len(marks) < 2:
            continue
        figure, axes = canvas(f"Drop at {outcome.name} against curvature")
        axes.set_xscale("log")
        counts = _marks(panel, axes, marks)
        percent_ticks(axes.xaxis, [x.mean for _, _, x, _ in marks])
        axes.set_xlabel("largest eigenvalue of the training loss’s Hessian (log scale)")
        axes.set_ylabel("points lost to compression")
        caption = f"Each trained net against itself before. {bars(counts)}"
        drawn = [series for series, *_ in marks]
        found.append(finish(figure, axes, panel, f"{name}_{place}", caption, drawn=drawn))
    return found


def accuracy_vs_dense(panel: Panel, name: str) -> list[Chart]:
    """Accuracy after compression against that before: nets above each other had the same dense accuracy."""
    moment = measured_at(panel)
    if moment is None or panel.main is None:
        return []
    found = []
    for place, outcome in enumerate(widest(panel, moment)):
        marks = accuracy_marks(panel, moment, outcome)
        if len(marks) < 2:
            continue
        figure, axes = canvas(f"Accuracy at {outcome.name} against dense")
        counts = _marks(panel, axes, marks)
        base = marks[0][1]
        line = sorted(
            (x.mean, y.mean) for _, label, x, y in marks if label == base or label.startswith(f"{base}, ")
        )
        told = ""
        if len(line) > 1:
            axes.plot(*zip(*line, strict=True), color=MUTED, linewidth=0.9, zorder=1)
            told = f" Grey: {clean(base)} trained for other lengths."
        axes.set_xlabel("the same net’s accuracy before, %")
        axes.set_ylabel(f"{accuracy_words(panel)[0]}, %")
        caption = f"What lies above each other was equally accurate before.{told} {bars(counts)}"
        drawn = [series for series, *_ in marks]
        found.append(finish(figure, axes, panel, f"{name}_{place}", caption, drawn=drawn))
    return found


def _marks(panel: Panel, axes: Axes, marks: Sequence[Mark]) -> set[int]:
    """A mark a net, with bars for the spread on both axes."""
    looks = styles(panel)
    for series, _, x, y in marks:
        look = looks[series.label]
        axes.errorbar(
            [x.mean], [y.mean], xerr=x.sd or None, yerr=y.sd or None, fmt=look.marker or "o",
            color=look.colour, elinewidth=0.7, markersize=4.5, zorder=2,
        )  # fmt: skip
    return {y.n for *_, y in marks}


def measured_at(panel: Panel) -> str | None:
    """The first moment at which flatness was measured of any series."""
    for moment in panel.moments:
        for series in panel.series:
            if any(key[0] in PROBES for point in series.at(moment) for key in point.readings):
                return moment
    return None


def settings(panel: Panel, moment: str) -> list[Setting]:
    """All nets measured at a moment, the dense one too unless a series has it; of several in a series each is named."""
    found: list[Setting] = []
    for series in panel.series:
        points = [p for p in series.at(moment) if _measured(p)]
        found += [Setting(x, series, p) for x, p in zip(labels(series, points), points, strict=True)]
    known = {state for s in found for state in s.point.states}
    dense = [
        Setting(series.label, series, point)
        for series in panel.dense.values()
        for point in series.at(moment)
        if _measured(point) and not known & set(point.states)
    ]
    return [*dense, *found]


def _measured(point: Point) -> bool:
    return any(key[0] in PROBES for key in point.readings)


def outcomes(panel: Panel, moment: str) -> list[Outcome]:
    """Every kind and level of compression that at least two settings went through."""
    by_series: dict[str, list[Setting]] = {}
    for setting in settings(panel, moment):
        by_series.setdefault(setting.series.label, []).append(setting)
    found: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    for series in panel.series:
        label = _root(series.label, by_series)
        for setting in by_series.get(label or "", ()):
            scope = setting.point.states[0].rpartition(".")[0]
            for other in panel.moments:
                for point in series.at(other) if other != moment else ():
                    reading = panel.main_reading(point)
                    same = point.states == setting.point.states
                    if (
                        reading is None
                        or same
                        or not point.states[0].startswith(f"{scope}." if scope else "")
                    ):
                        continue
                    kind = series.label[len(label or "") :].removeprefix(", ")
                    place = found.setdefault((kind, _level(point), other), {})
                    place[setting.label] = dict(reading.by_seed)
    often = Counter((kind, level) for kind, level, _ in found)
    return [
        Outcome(
            ", ".join(x for x in (level, kind, where if often[kind, level] > 1 else "") if x), kind, values
        )
        for (kind, level, where), values in found.items()
        if len(values) > 1
    ]


def _root(label: str, known: Mapping[str, object]) -> str | None:
    """The longest known label that a series' label is, or begins with before a comma."""
    fitting = [k for k in known if label == k or label.startswith(f"{k}, ")]
    return max(fitting, key=len, default=None)


def _level(point: Point) -> str:
    bits = point.reading("structure", "weight_bits")
    rounded = bits is not None and bits.spread is not None and bits.spread.mean < 32
    # A first or last layer may be kept in more bits; the level is what the rest has.
    parts = [f"{round(bits.spread.mean)} bits"] if rounded and bits and bits.spread else []
    if point.density < 0.995 or not parts:
        parts.insert(0, f"{percentage(point.density)} % density")
    return ", ".join(parts)


def drops(panel: Panel, moment: str, outcome: Outcome) -> dict[str, dict[int, float]]:
    """Setting -> seed -> points lost against the same net before compression."""
    found = {}
    for setting in settings(panel, moment):
        dense = panel.main_reading(setting.point)
        after = outcome.accuracy.get(setting.label)
        if dense is not None and after:
            found[setting.label] = {s: dense.by_seed[s] - after[s] for s in after if s in dense.by_seed}
    return found


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's, ties at their mean rank; None where one side is all alike or fewer than three pairs."""
    if len(pairs) < 3:
        return None
    one, other = (_ranks([p[k] for p in pairs]) for k in (0, 1))
    if len(set(one)) == 1 or len(set(other)) == 1:
        return None
    return statistics.correlation(one, other)


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda k: values[k])
    ranks, first = [0.0] * len(values), 0
    for _, group in itertools.groupby(order, key=lambda k: values[k]):
        places = list(group)
        for k in places:
            ranks[k] = first + (len(places) - 1) / 2
        first += len(places)
    return ranks


def interval(pairs: Sequence[tuple[float, float]], resamples: int = RESAMPLES) -> tuple[float, float] | None:
    """95 % of the rank correlations of as many pairs drawn with replacement, the same draws each time."""
    drawing = random.Random(0)
    found = sorted(
        r
        for _ in range(resamples)
        if (r := rank_correlation(drawing.choices(pairs, k=len(pairs)))) is not None
    )
    if len(found) < resamples / 2:
        return None
    return found[round(0.025 * (len(found) - 1))], found[round(0.975 * (len(found) - 1))]


def at_matched(curve: Sequence[tuple[float, float]], dense: float) -> float | None:
    """Compressed accuracy at a dense accuracy, on the straight lines between neighbours; None beyond the ends."""
    points = sorted(curve)
    for (low, one), (high, other) in itertools.pairwise(points):
        if low <= dense <= high:
            return one if high == low else one + (dense - low) / (high - low) * (other - one)
    return None


def flatness_tables(panel: Panel) -> list[Table]:
    """What was measured of the trained nets, what it goes along with, and arms at the same dense accuracy."""
    moment = measured_at(panel)
    if moment is None:
        return []
    whole = all(s.point.density == 1 for s in settings(panel, moment))
    found = [
        _measures(panel, moment, "", "Flatness of the trained nets" if whole else "Flatness of the nets"),
        _measures(panel, moment, SUFFIX, "Flatness of the same functions, weights rescaled"),
        _correlations(panel, moment),
        *_matched(panel, moment),
    ]
    return [t for t in found if t is not None]


def _measures(panel: Panel, moment: str, suffix: str, title: str) -> Table | None:
    known, looks = settings(panel, moment), styles(panel)
    columns = Columns()
    if panel.main and not suffix:
        dense = [cell(panel.main_reading(s.point), notes=False) for s in known]
        columns.add(title_of(panel.main[1]), "%", dense, always=True)
    for probe, metric in MEASURES:
        readings = [s.point.reading(probe, metric + suffix) for s in known]
        unit = next((r.unit for r in readings if r), "1")
        columns.add(title_of(metric), "" if unit == "1" else unit, [cell(r) for r in readings])
    if not suffix:
        gaps = [s.point.reading(*GAP) for s in known]
        columns.add(title_of(GAP[1]), unit_of(GAP[1]), [cell(r, notes=False) for r in gaps])
    rows = [Row(s.label, columns.row(k), looks[s.series.label].colour) for k, s in enumerate(known)]
    if not any(columns.filled(k) for k in range(len(rows))):
        return None
    return Table(
        title, "Net", tuple(columns.heads), tuple(rows), columns.spanning, remarks=tuple(columns.remarks)
    )


def _of(setting: Setting, probe: str, metric: str) -> float | None:
    reading = setting.point.reading(probe, metric)
    return reading.spread.mean if reading and reading.spread else None


def _targets(panel: Panel, moment: str) -> dict[str, dict[str, float]]:
    """What measures are set beside: outcome -> setting -> mean over seeds."""
    found = {}
    for outcome in outcomes(panel, moment):
        lost = {k: statistics.fmean(v.values()) for k, v in drops(panel, moment, outcome).items() if v}
        found[f"Drop at {outcome.name}"] = lost
    gaps = {s.label: g for s in settings(panel, moment) if (g := _of(s, *GAP)) is not None}
    found["Generalisation gap"] = gaps
    return {name: values for name, values in found.items() if len(values) >= FEWEST}


def _correlations(panel: Panel, moment: str) -> Table | None:
    known, targets = settings(panel, moment), _targets(panel, moment)
    rows = []
    for suffix in ("", SUFFIX):
        for probe, metric in MEASURES:
            own = {s.label: v for s in known if (v := _of(s, probe, metric + suffix)) is not None}
            cells = [
                _correlation([(own[k], v) for k, v in values.items() if k in own])
                for values in targets.values()
            ]
            if any(c.text != MISSING for c in cells):
                name = title_of(metric) + (", rescaled" if suffix else "")
                rows.append(Row(name, tuple(cells)))
    if not rows:
        return None
    count = len(known)
    note = (
        f"Spearman’s rank correlation over those of the {count} nets above that have both, means of their seeds; in "
        f"brackets 95 % of {RESAMPLES} bootstrap samples of nets. An interval that holds 0 tells nothing. Measures of "
        "sharpness should be above 0, extents below it. Which nets there are decides much: these are no sample of all."
    )
    return Table(
        "Rank correlation with what is lost",
        "Measure",
        tuple((n, "") for n in targets),
        tuple(rows),
        notes=(note,),
    )


def _correlation(pairs: Sequence[tuple[float, float]]) -> Cell:
    found = rank_correlation(pairs) if len(pairs) >= FEWEST else None
    if found is None:
        return Cell(MISSING)
    ends = interval(pairs)
    text = number(found, "x", signed=True)
    return Cell(text, f" [{number(ends[0], 'x', True)}, {number(ends[1], 'x', True)}]" if ends else "")


def _matched(panel: Panel, moment: str) -> list[Table]:
    """Each other arm against the first one's curve over its lengths, at its own dense accuracy, seed by seed."""
    known = {s.label: s for s in settings(panel, moment)}
    base = next(iter(known), None)
    if base is None or panel.main is None or len({s.series.label for s in known.values()}) != len(known):
        return []
    cost = known[base].point.compute
    lengths = [
        k for k, s in known.items() if k == base or (k.startswith(f"{base}, ") and s.point.compute != cost)
    ]
    arms = [k for k in known if k not in lengths]
    if len(lengths) < 2 or not arms:
        return []
    unit = difference_unit("%")
    columns = Columns()
    for outcome in outcomes(panel, moment):
        cells = []
        for arm in arms:
            gains = [
                outcome.accuracy[arm][seed] - there
                for seed, dense in _dense(panel, known[arm]).items()
                if seed in outcome.accuracy.get(arm, {})
                if (there := at_matched(_curve(panel, known, lengths, outcome, seed), dense)) is not None
            ]
            cells.append(spread_cell(spread(gains), unit, signed=True))
        columns.add(outcome.name, unit, cells)
    looks = styles(panel)
    rows = [Row(a, columns.row(k), looks[known[a].series.label].colour) for k, a in enumerate(arms)]
    rows = [row for k, row in enumerate(rows) if columns.filled(k)]
    if not rows:
        return []
    note = (
        f"Accuracy after compression minus that of “{base}” at the same dense accuracy, which is read off its nets of "
        f"{len(lengths)} lengths ({', '.join(lengths)}), seed by seed, straight between neighbours; a seed whose dense "
        "accuracy is beyond them is left out."
    )
    return [
        Table(
            "At the same dense accuracy", "Net", tuple(columns.heads), tuple(rows), columns.spanning, (note,)
        )
    ]


def _dense(panel: Panel, setting: Setting) -> Mapping[int, float]:
    reading = panel.main_reading(setting.point)
    return reading.by_seed if reading else {}


def _curve(
    panel: Panel, known: Mapping[str, Setting], lengths: Sequence[str], outcome: Outcome, seed: int
) -> list[tuple[float, float]]:
    return [
        (dense[seed], outcome.accuracy[k][seed])
        for k in lengths
        if seed in (dense := _dense(panel, known[k])) and seed in outcome.accuracy.get(k, {})
    ]


def widest(panel: Panel, moment: str) -> list[Outcome]:
    """Of each kind of compression the level at which the settings' drops are farthest apart: what charts show."""
    best: dict[str, tuple[float, Outcome]] = {}
    for outcome in outcomes(panel, moment):
        lost = [statistics.fmean(v.values()) for v in drops(panel, moment, outcome).values() if v]
        kind = outcome.kind or ("bits" if "bits" in outcome.name else "density")
        apart = max(lost) - min(lost) if len(lost) > 1 else 0.0
        if kind not in best or apart > best[kind][0]:
            best[kind] = (apart, outcome)
    return [outcome for _, outcome in best.values()]


def drop_marks(panel: Panel, moment: str, outcome: Outcome, measure: tuple[str, str]) -> list[Mark]:
    """For each setting its measure and its drop, over seeds."""
    lost = drops(panel, moment, outcome)
    marks = []
    for setting in settings(panel, moment):
        reading, drop = setting.point.reading(*measure), spread(lost.get(setting.label, {}).values())
        if (
            reading
            and reading.spread
            and drop
            and reading.spread.mean > 0
            and math.isfinite(reading.spread.mean)
        ):
            marks.append((setting.series, setting.label, reading.spread, drop))
    return marks


def accuracy_marks(panel: Panel, moment: str, outcome: Outcome) -> list[Mark]:
    """For each setting its accuracy before and after compression, over seeds."""
    marks = []
    for setting in settings(panel, moment):
        dense = panel.main_reading(setting.point)
        after = spread(outcome.accuracy.get(setting.label, {}).values())
        if dense and dense.spread and after:
            marks.append((setting.series, setting.label, dense.spread, after))
    return marks
