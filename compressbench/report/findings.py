"""Sentences computed from records: the summary, the warnings, where everything came from. No verdicts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from compressbench.records import Record
from compressbench.report.chance import at_chance_in_words, unseen
from compressbench.report.numbers import (
    FIXED,
    MISSING,
    Spread,
    between,
    counted,
    grouped,
    percent,
    plain,
    seeds,
    share,
)
from compressbench.report.panels import (
    FLOOR,
    Panel,
    Point,
    Reading,
    Series,
    beside_lead,
    bits_of,
    counterpart,
    macs_of,
    paired,
    smallness,
)
from compressbench.report.sections.differences import pairs
from compressbench.report.sections.exits import cost_of
from compressbench.report.sections.forgetting import changes_of
from compressbench.report.sections.layers import emptied_layers
from compressbench.report.sections.learning import carried
from compressbench.report.speed import (
    DISTURBED,
    FASTER,
    NOT_SHOWN,
    RULE,
    SLOWER,
    batches,
    figure_in_words,
    in_words,
    speed_of,
    whose_end,
)
from compressbench.report.varied import axis_of
from compressbench.report.wording import difference_unit, each_once, title_of
from compressbench.wording import ENDED, NO_FIGURE, NUMBERS

NAMED = 8
NO_ACCURACY = "There are no accuracy records."
OLD_BUSY = "busy machine"  # of records before disturbances were measured


def provenance(panels: Sequence[Panel], recipes: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """What was run, with what and on what: (heading, lines); a heading with several lines is a mixture.

    Args:
        recipes: names of the recipes as they ran, where the records call them by the arms of a sweep.
    """
    rows = [r for p in panels for r in (*p.rows, *p.populations)]
    facts = []
    for heading, column in (
        ("Recipe", "recipe"),
        ("Dataset", "dataset"),
        ("Model", "model"),
        ("Scale", "scale"),
        ("Precision", "dtype"),
        ("Hardware target", "hardware"),
    ):
        facts.append((heading, list(dict.fromkeys(str(getattr(r, column)) or MISSING for r in rows))))
    if recipes and (arms := [name for name in facts[0][1] if name not in recipes]):
        facts[:1] = [("Recipe", list(recipes)), ("Arms", arms)]
    known = sorted({r.seed for r in rows})
    facts.insert(len(facts) - 2, ("Seeds", [f"{', '.join(map(str, known))} ({seeds(len(known))})"]))
    machines = list(dict.fromkeys(r.machine for r in rows))
    facts.append(("Machine", machines))
    facts.append(("Versions", list(dict.fromkeys(r.versions for r in rows))))
    facts.append(("Examples", _example_counts(rows)))
    states = len({r.key for p in panels for r in p.rows})
    whose = f" of {counted(states, 'state')}" if states else ""
    facts.append(("Records", [f"{grouped(len(rows))}{whose}"]))
    return [(heading, [x for x in found if x] or [MISSING]) for heading, found in facts]


def _example_counts(rows: Sequence[Record]) -> list[str]:
    counts: dict[str, set[int]] = {}
    for row in rows:
        if row.n and not row.is_timing and not row.group:
            counts.setdefault(row.probe, set()).add(row.n)
    return [f"{probe}: {between(found)}" for probe, found in counts.items()]


def warnings(panel_list: Sequence[Panel]) -> list[str]:
    """What a reader must know before trusting the figures: mixtures, gaps, emptied layers, missing spread."""
    rows = [r for p in panel_list for r in (*p.rows, *p.populations)]
    told = []
    for column, what in (("versions", "Versions"), ("machine", "Machines"), ("dtype", "Precisions")):
        found = list(dict.fromkeys(getattr(r, column) for r in rows))
        if len(found) > 1:
            listed = "; ".join(f"{name or 'unknown'}" for name in found[:4])
            tail = "Timings are kept apart by machine." if column == "machine" else ""
            told.append(f"{what} are mixed ({len(found)}): {listed}. {tail}".rstrip())
    told += _disturbed(rows)
    for panel in panel_list:
        where = f"{panel.name}: " if len(panel_list) > 1 else ""
        told += [where + sentence for sentence in panel.split]
        told += [where + sentence for sentence in _gaps(panel)]
        told += [where + sentence for m in panel.moments for sentence in at_chance_in_words(panel, m)]
        told += [where + sentence for sentence in (*_no_numbers(panel), *_no_floor(panel))]
        told += [where + sentence for sentence in (*emptied_layers(panel), *_ended_early(panel))]
        if len(panel.seeds) == 1:
            told.append(
                f"{where}One seed: no spread over trainings. An interval here is over test examples, of these nets "
                "alone; another training may differ by more."
            )
    return told


def _no_numbers(panel: Panel) -> list[str]:
    """Which series hold states that answer what is no number."""
    noted = [r for r in panel.rows if NUMBERS in r.note]
    none = dict.fromkeys(r.series for r in noted if r.value is None and r.note.startswith(NO_FIGURE))
    some = dict.fromkeys(r.series for r in noted if not r.note.startswith(NO_FIGURE))
    told = [f"{', '.join(none)}: no figures of states whose answers all {NUMBERS}."] if none else []
    if some:
        told.append(
            f"{', '.join(some)}: some answers {NUMBERS}; they count as wrong, see the notes of the tables."
        )
    return told


def _ended_early(panel: Panel) -> list[str]:
    """Which series' cascades have fewer stages than were asked for, and why."""
    found = dict.fromkeys(
        (r.series, sentence)
        for r in panel.rows
        if r.metric == "window_share"
        for sentence in r.note.split(". ")
        if ENDED in sentence
    )
    return [f"{series}: {sentence}." for series, sentence in found]


def _no_floor(panel: Panel) -> list[str]:
    """Why there is no floor where one was asked for."""
    found = dict.fromkeys(r.note for r in panel.rows if r.series == FLOOR and r.value is None and r.note)
    return list(found) if not panel.floors else []


def _disturbed(rows: Sequence[Record]) -> list[str]:
    """How many timings others disturbed each time: latencies that may be inflated, ratios that are withheld."""
    timed = [r for r in rows if r.is_timing and r.basis != "modelled" and not whose_end(r.metric)]
    held = [r for r in timed if DISTURBED in r.note or OLD_BUSY in r.note]
    if not held:
        return []
    without = sum(r.unit == "x" and r.value is None for r in held)
    return [
        f"{grouped(len(held))} of {grouped(len(timed))} timings were disturbed by other processes"
        + (f", {counted(without, 'ratio')} of them withheld" if without else "")
        + ": measured again by the next run, or by --retime."
    ]


def _gaps(panel: Panel) -> list[str]:
    """Series whose points rest on different numbers of seeds, and series without a dense model."""
    moment = panel.moments[0]
    partial: dict[str, list[str]] = {}
    alone = []
    for series in panel.series:
        counts = {len(r.by_seed) for p in series.at(moment) if (r := panel.main_reading(p))}
        if len(counts) > 1:
            partial.setdefault(between(counts), []).append(series.label)
        if panel.main and panel.main_reading(panel.dense_of(series, moment)) is None:
            alone.append(series.label)
    told = [
        f"{', '.join(labels)}: {counts} seeds, depending on the level; a partial sweep?"
        for counts, labels in partial.items()
    ]
    if alone:
        told.append(f"{', '.join(alone)}: these records hold no dense model to compare with.")
    return told


def summary(panel: Panel) -> list[str]:
    """The panel in a few paragraphs, each sentence computed from its records; no verdicts."""
    moment = panel.moments[0]
    if not panel.rows:
        return [f"{panel.name}: populations only."]
    opening = [f"{panel.name}: {counted(len(panel.series), 'series', 'series')}, {seeds(len(panel.seeds))}."]
    if panel.main is None:
        why = dict.fromkeys(
            r.note for r in panel.rows if r.probe == "accuracy" and r.value is None and r.note
        )
        return [" ".join([*opening, f"There is no accuracy: {'; '.join(why)}." if why else NO_ACCURACY])]
    name = title_of(panel.main[1])
    for label, series in panel.dense.items():
        points = series.at(moment)
        reading = panel.main_reading(points[0]) if points else None
        if reading and reading.spread:
            opening.append(f"{label[:1].upper()}{label[1:]} {name}: {_figure(reading.spread, reading.unit)}.")
    leaving = [s for s in panel.series if _leaves(s, moment)]
    told = [opening, at_chance_in_words(panel, moment)]
    seen = {s.label for s in panel.series if not unseen(panel, s, moment)}
    told += [_within(panel, x, moment) for x in panel.leads[:4] if x not in leaving and x.label in seen]
    told += [_leaving(panel, series, moment) for series in leaving if series.label in seen]
    if seen:
        told.append(_hypothesis(panel, moment))
    if not leaving:  # states with exits differ by policy, and these sentences compare densities
        told.append(_faster(panel, moment))
    told.append(_random(panel, moment) if seen else [])
    if not leaving:
        told[-1] += [*_speed(panel, moment), *(_forgotten(panel, moment) if seen else [])]
    return [" ".join(sentences) for sentences in told if sentences]


def _hypothesis(panel: Panel, moment: str) -> list[str]:
    """Of lottery tickets and their controls: where a series was no later at its early stop than dense and no worse
    at the end, on average over seeds.
    """
    if not any(re.search(r"\b(ticket|rewound)", series.name) for series in panel.series):
        return []
    told = []
    for series in panel.series:
        dense = panel.dense_of(series, moment)
        met, known = [], 0
        for point in series.at(moment):
            later = paired(_early(point), _early(dense))
            change = paired(panel.main_reading(point), panel.main_reading(dense))
            if later is None or change is None or carried(panel, series, point):
                continue
            known += 1
            if later.mean <= 0 and change.mean >= 0:
                met.append(percent(point.density))
        if known:
            where = f" ({', '.join(met)})" if met and len(met) <= NAMED else ""
            told.append(f"{series.label} {len(met)} of {known}{where}")
    if not told:
        return []
    name = title_of(panel.main[1]) if panel.main else "accuracy"
    return [
        f"Densities at which minimum validation loss came no later than the dense net’s and {name} at the end was "
        f"no lower, both on average over seeds: {'; '.join(told)}."
    ]


def _early(point: Point | None) -> Reading | None:
    return point.reading("learning", "early_stop_iteration") if point else None


def _faster(panel: Panel, moment: str) -> list[str]:
    """Where some states only hold zeros and others lost parts: which of them the clock found faster than dense."""
    told = []
    for environment in panel.environments:
        found = [(series, series.lowest(moment), panel.dense_of(series, moment)) for series in panel.series]
        kinds = {
            series.label: (
                f"{series.label} at {_at(series, point, moment)}",
                point,
                _kind(point, size < whole),
            )
            for series, point, dense in found
            if point
            and dense
            and (size := macs_of(point)) < math.inf
            and (whole := macs_of(dense)) < math.inf
        }
        removed = {kind == PARTS for _, _, kind in kinds.values()}
        if len(removed) < 2:
            continue
        sentences = []
        rest: dict[tuple[str, str], dict[str, list[str]]] = {}
        lacking: dict[str, dict[str, list[int]]] = {}
        why: dict[str, list[str]] = {}
        for batch in batches(panel):
            speeds = {
                name: (kind, speed)
                for name, point, kind in kinds.values()
                if (speed := speed_of(point, f"speedup_b{batch}", environment))
            }
            if not any(speed.figure for _, speed in speeds.values()):
                continue
            quick = [f"{n} {figure_in_words(s)}" for n, (_, s) in speeds.items() if s.verdict == FASTER]
            sentences.append(f"Batch {batch}: {_named(quick) or 'nothing is shown to be faster'}.")
            for name, (kind, speed) in speeds.items():
                if not speed.figure:
                    lacking.setdefault(kind, {}).setdefault(name, []).append(batch)
                    why.setdefault(kind, []).append(in_words(speed))
                elif speed.verdict != FASTER:
                    rest.setdefault((speed.verdict, kind), {}).setdefault(name, []).append(
                        f"{figure_in_words(speed)} at batch {batch}"
                    )
        if not sentences:
            continue
        where = f" on {environment}" if environment else ""
        told.append(f"Measured against dense{where}, each at its smallest, what is faster?")
        told += sentences
        for words in (SLOWER, NOT_SHOWN):
            for kind in (PARTS, ROUNDED, ZEROS):
                if own := rest.get((words, kind)):
                    listed = [f"{name} {', '.join(figures)}" for name, figures in own.items()]
                    told.append(f"{words[:1].upper()}{words[1:]}, {kind}: {_named(listed, '; ')}.")
        for kind in (PARTS, ROUNDED, ZEROS):
            if at := lacking.get(kind):
                listed = [f"{name} (batch {' and '.join(map(str, found))})" for name, found in at.items()]
                told.append(f"No ratio, {kind}: {_named(listed)}: {'; '.join(each_once(why[kind]))}.")
    return [*told, RULE] if told else []


def _at(series: Series, point: Point, moment: str) -> str:
    """A state of a series by what the series varies."""
    return axis_of(series.at(moment)).name(point)


def _named(names: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return between.join(names[:NAMED]) + more


PARTS, ROUNDED, ZEROS = "parts removed", "rounded", "the zeros are multiplied (runs dense)"


def _kind(point: Point, removed: bool) -> str:
    if removed:
        return PARTS
    return ROUNDED if bits_of(point)[0] < 32 else ZEROS


def _forgotten(panel: Panel, moment: str) -> list[str]:
    """The class that is lost most, and by which series, each where it stands beside the lead's smallest."""
    found = [
        (change.mean, name, series, point, change)
        for series in panel.series
        if (point := beside_lead(panel, series, moment))
        for name, change in changes_of(point).items()
    ]
    worst = min(found, key=lambda x: (x[0], x[1]), default=None)
    if worst is None or worst[0] >= 0:
        return []
    _, name, series, point, change = worst
    return [
        f"Most is lost by {series.label} at {_at(series, point, moment)}: class “{name}”, "
        f"recall {_figure(change, 'points', True)}."
    ]


def _figure(figure: Spread, unit: str, signed: bool = False) -> str:
    text = f"{plain(figure, unit, signed)}{FIXED}{'' if unit == '1' else unit}".rstrip()
    return f"{text} ({'one seed' if figure.n == 1 else f'n = {figure.n}'})"


def _within(panel: Panel, series: Series, moment: str) -> list[str]:
    """The smallest state with which a series is within a point of dense, and what its smallest costs."""
    changes = [
        (point, change)
        for point in series.at(moment)
        if (change := paired(panel.main_reading(point), panel.main_reading(panel.dense_of(series, moment))))
    ]
    if not changes or panel.main is None:
        return []
    reading = panel.main_reading(changes[0][0])
    unit = difference_unit(reading.unit if reading else "")
    if unit != "points":
        return []
    axis = axis_of([p for p, _ in changes])
    lowest, change = min(changes, key=lambda x: smallness(x[0]))
    if len(changes) == 1 and lowest.density == 1:
        return [f"{series.label} is {_figure(change, unit, True)} from dense."]
    near = [(p, c) for p, c in changes if c.mean >= -1]
    told = []
    if near:
        best, gap = min(near, key=lambda x: smallness(x[0]))
        above = [p for p, c in changes if axis.level(p) > axis.level(best) and c.mean < -1]
        told.append(
            f"The {axis.least} at which {series.label} is on average no more than one point below dense "
            f"is {axis.name(best)}: {_figure(gap, unit, True)}"
            + (f"; it is further below at {counted(len(above), *axis.higher)}." if above else ".")
        )
    else:
        told.append(f"At every {axis.among} {series.label} is on average more than one point below dense.")
    if not near or best is not lowest:
        told.append(
            f"At its {axis.least}, {axis.name(lowest)}, it is {_figure(change, unit, True)} from dense."
        )
    return told


def _leaves(series: Series, moment: str) -> list[tuple[Point, float]]:
    """A series' states from which some examples leave early, with their mean cost, % of the last exit's MACs."""
    costs = [(p, cost_of(p)) for p in series.at(moment)]
    return [(p, cost) for p, cost in costs if cost is not None]


def _leaving(panel: Panel, series: Series, moment: str) -> list[str]:
    """The cheapest exit policy of a series that is within a point of dense, and the cheapest of all."""
    dense = panel.main_reading(panel.dense_of(series, moment))
    changes = [
        (cost, point, change)
        for point, cost in _leaves(series, moment)
        if (change := paired(panel.main_reading(point), dense))
    ]
    if not changes:
        return []

    def told(cost: float, point: Point, change: Spread) -> str:
        speeds = [speed_of(point, f"speedup_b{b}", e) for e in panel.environments for b in batches(panel)[:1]]
        known = [f"{in_words(s)} at batch {batches(panel)[0]}" for s in speeds if s]
        return ", ".join([f"at {share(cost)} % of its MACs {_figure(change, 'points', True)}", *known])

    near = [c for c in changes if c[2].mean >= -1]
    cheapest, best = min(changes, key=lambda c: c[0]), min(near, key=lambda c: c[0], default=None)
    if best is None:
        dearest = max(changes, key=lambda c: c[0])
        both = [told(*c) for c in ([cheapest] if cheapest is dearest else [cheapest, dearest])]
        return [f"{series.label} is more than one point below dense by every exit policy; {'; '.join(both)}."]
    rest = "" if best is cheapest else f"; cheapest, {told(*cheapest)}"
    return [
        f"{series.label}, its cheapest exit policy no more than one point below dense: {told(*best)}{rest}."
    ]


def _random(panel: Panel, moment: str) -> list[str]:
    """The first series against the random one, paired by seed, at the lowest density they share."""
    for one, other in pairs(panel):
        if not other.is_random or one.is_random:
            continue
        shared = [
            (p, figure)
            for p in one.at(moment)
            if (q := counterpart(p, other, one.recipe == other.recipe))
            and (figure := paired(panel.main_reading(p), panel.main_reading(q)))
        ]
        if shared:
            point, figure = min(shared, key=lambda x: smallness(x[0]))
            reading = panel.main_reading(point)
            unit = difference_unit(reading.unit if reading else "")
            return [
                f"{one.label} − {other.label} at {_at(one, point, moment)}, paired by seed: "
                f"{_figure(figure, unit, True)}."
            ]
    return []


def _speed(panel: Panel, moment: str) -> list[str]:
    """Measured speed of the lead's smallest state, and whether anything is shown; or why it has none."""
    point = panel.lead.lowest(moment) if panel.lead else None
    if panel.lead is None or point is None:
        return []
    for environment in panel.environments:
        for batch in batches(panel)[:1]:
            found = speed_of(point, f"speedup_b{batch}", environment)
            if found is None:
                continue
            where = f" on {environment}" if environment else ""
            name = _at(panel.lead, point, moment)
            return [
                f"Measured speed of {panel.lead.label} at {name}, batch {batch}{where}: {in_words(found)}."
            ]
    return []
