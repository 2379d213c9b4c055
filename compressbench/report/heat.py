"""What was lost where: recall change per class, density per layer, shaded; pure functions of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compressbench.report.naming import told_apart
from compressbench.report.numbers import Spread, counted, number, percent, percentage, spread
from compressbench.report.panels import Panel, Point, Series, beside_lead
from compressbench.report.states import some
from compressbench.report.tables import DENSITY, EMPTY, LOSS, Cell, Row, Table, cell, diverging, shade
from compressbench.report.wording import as_share, moment_name

CLASSES_SHOWN = 20
LAYERS_SHOWN = 30
CHANGE = ("forgetting", "recall_change")
REMOVED = "removed"  # what the probe notes of a layer that went with its channels or its block


def forgetting_table(panel: Panel, moment: str) -> tuple[Table | None, Table | None]:
    """Recall change per class and state, the worst class first; then the rest of it."""
    heat = _group_heat(panel, moment, *CHANGE)
    if heat is None:
        return None, None
    columns, groups, names, states = heat
    dense = next((d for s in panel.series if (d := panel.dense_of(s, moment))), None)
    known = [r.spread for p in states for n in names if (r := p.reading(*CHANGE, n))]
    limit = max((abs(s.mean) for s in known if s), default=0.0)
    rows = [
        Row(
            name,
            (
                cell(dense.reading("forgetting", "recall", name) if dense else None, notes=False),
                *(_change_cell(point, name, limit) for point in states),
            ),
        )
        for name in sorted(names, key=lambda n: _worst(states, n))
    ]
    first = Table(
        title=f"Recall change per class, points, {moment_name(moment)}",
        stub="Class, worst first",
        heads=(("Dense", "recall, %"), *columns),
        rows=tuple(rows[:CLASSES_SHOWN]),
        groups=(("", 1), *groups),
        notes=(
            "Change of recall against the dense model of the same seed, by density in %, by setting where "
            "that is the same. Orange: forgotten; "
            f"blue: learned; shaded by the square root, full at {number(limit, 'points')} points.",
        ),
        heat=True,
    )
    left = rows[CLASSES_SHOWN:]
    return first, replace(first, title=f"The other {len(left)} classes", rows=tuple(left)) if left else None


def _change_cell(point: Point, name: str, limit: float) -> Cell:
    reading = point.reading(*CHANGE, name)
    figure = reading.spread if reading else None
    shown = cell(reading, signed=True, notes=False)
    return replace(shown, shade=diverging(figure.mean, limit)) if figure else shown


def changes_of(point: Point) -> dict[str, Spread]:
    """Recall change by class at a point."""
    found = {g: r.spread for (p, m, g), r in point.readings.items() if (p, m) == CHANGE and g}
    return {name: figure for name, figure in found.items() if figure}


def worst_classes(panel: Panel, moment: str) -> list[tuple[str, Series, Spread]]:
    """(class, the series that loses most of it, its recall change), the worst class first.

    Each series is taken where it stands beside the lead's lowest density.
    """
    worst: dict[str, tuple[Series, Spread]] = {}
    for series in panel.series:
        point = beside_lead(panel, series, moment)
        for name, change in (changes_of(point) if point else {}).items():
            if name not in worst or change.mean < worst[name][1].mean:
                worst[name] = (series, change)
    found = [(name, series, change) for name, (series, change) in worst.items()]
    return sorted(found, key=lambda x: (x[2].mean, x[0]))


def worst_first(panel: Panel, moment: str) -> list[str]:
    """Classes in the order of ``forgetting_table``: by the most that any state of any series loses."""
    heat = _group_heat(panel, moment, *CHANGE)
    return sorted(heat[2], key=lambda n: _worst(heat[3], n)) if heat else []


def _worst(states: Sequence[Point], name: str) -> tuple[float, str]:
    return min((c[name].mean for p in states if name in (c := changes_of(p))), default=0.0), name


def layer_table(panel: Panel, moment: str) -> tuple[Table | None, Table | None]:
    """Density per layer and state in network order, emptied layers flagged; then the rest of it."""
    heat = _group_heat(panel, moment, "structure", "layer_density")
    if heat is None:
        return None, None
    columns, groups, names, states = heat
    rows = [Row(name, tuple(_layer_cell(point, name) for point in states)) for name in names]
    notes = [
        "Share of a layer’s weights that is kept, %, by density of the whole, %, by setting where that is the same. "
        "Darker: sparser."
    ]
    if any(c.flag for row in rows for c in row.cells):
        notes.append("Orange: no weight is left in that layer, for at least one seed.")
    first = Table(
        title=f"Density per layer, %, {moment_name(moment)}",
        stub="Layer",
        heads=columns,
        rows=tuple(rows[:LAYERS_SHOWN]),
        groups=groups,
        notes=tuple(notes),
        heat=True,
    )
    left = rows[LAYERS_SHOWN:]
    return first, replace(first, title=f"The other {len(left)} layers", rows=tuple(left)) if left else None


def _layer_cell(point: Point, name: str) -> Cell:
    reading = point.reading("structure", "layer_density", name)
    figure = reading and spread(as_share(v, reading.unit) for v in reading.by_seed.values())
    if not reading or not figure:
        return EMPTY
    text, sd = _density_pair(figure)
    emptied = sum(v <= 0 for v in reading.by_seed.values())
    if emptied:
        whole = "removed" if REMOVED in reading.notes else "empty"
        return Cell(whole if emptied == figure.n else text, sd, figure.n, flag=True, shade=shade(0.5, LOSS))
    return Cell(text, sd, figure.n, shade=shade(1 - figure.mean, DENSITY))


def _density_pair(figure: Spread) -> tuple[str, str]:
    text = percentage(figure.mean)
    if figure.sd is None or figure.sd == 0:
        return text, ""
    return text, f"±{100 * figure.sd:.1f}" if figure.sd >= 0.0005 else f"±{100 * figure.sd:.1g}"


def _group_heat(
    panel: Panel, moment: str, probe: str, metric: str
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, int], ...], list[str], list[Point]] | None:
    names: dict[str, None] = {}
    columns, groups, states = [], [], []
    for series in panel.series:
        points = [p for p in some(series, moment) if any(k[:2] == (probe, metric) for k in p.readings)]
        for point in points:
            names.update(dict.fromkeys(g for p, m, g in point.readings if (p, m) == (probe, metric) and g))
        columns += [(name, "") for name in _heads(points)]
        states += points
        if points:
            groups.append((series.label, len(points)))
    if not states or not names:
        return None
    return tuple(columns), tuple(groups), list(names), states


def _heads(points: Sequence[Point]) -> list[str]:
    """Densities, or what else tells the points apart where these are all alike."""
    densities = [percentage(p.density).removesuffix(".0") for p in points]
    alike = len(points) > 1 and len(set(densities)) == 1
    return told_apart([p.states[0] for p in points]) if alike else densities


def emptied_layers(panel: Panel) -> list[str]:
    """One sentence a series that has lost a whole layer: which, from which density on, in how many seeds."""
    told = []
    for series in panel.series:
        for moment in panel.moments:
            lost = [(point, layer, seed) for point in series.at(moment) for layer, seed in _lost(point)]
            if not lost:
                continue
            names = list(dict.fromkeys(layer for _, layer, _ in lost if layer))
            listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            told.append(
                f"{series.label} ({moment_name(moment)}) has emptied layers"
                f"{f' ({listed})' if listed else ''}, "
                f"first at density {percent(max(p.density for p, _, _ in lost))}, "
                f"in {counted(len({seed for _, _, seed in lost}), 'seed')}."
            )
            break
    return told


def _lost(point: Point) -> list[tuple[str, int]]:
    """(layer, seed) of emptied layers, not of removed ones; the layer is empty where only their number is known."""
    found = [
        (group, seed)
        for (probe, metric, group), reading in point.readings.items()
        if (probe, metric) == ("structure", "layer_density") and REMOVED not in reading.notes
        for seed, value in reading.by_seed.items()
        if value <= 0
    ]
    counts = point.reading("structure", "empty_layers")
    if not found and counts:
        found = [("", seed) for seed, value in counts.by_seed.items() if value > 0]
    return found
