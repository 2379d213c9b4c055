"""What was lost where: recall change per class, density per layer, shaded; pure functions of records."""

from __future__ import annotations

from compressbench.report.numbers import Spread, counted, percent, percentage
from compressbench.report.panels import Panel, Point
from compressbench.report.states import some
from compressbench.report.tables import DENSITY, EMPTY, LOSS, Cell, Row, Table, cell, diverging, shade
from compressbench.report.wording import moment_name

CLASSES_SHOWN = 20
LAYERS_SHOWN = 30


def forgetting_table(panel: Panel, moment: str) -> tuple[Table | None, Table | None]:
    """Recall change per class and state, the worst class first; the second table holds the classes left out of the first."""
    heat = _group_heat(panel, moment, "forgetting", "recall_change")
    if heat is None:
        return None, None
    columns, groups, names, states = heat
    order = sorted(names, key=lambda c: _worst(panel, moment, c))
    limit = max(
        (
            abs(r.spread.mean)
            for s in states
            for c in names
            if (r := s.reading("forgetting", "recall_change", c)) and r.spread
        ),
        default=0.0,
    )
    rows = []
    for name in order:
        dense = panel.dense_of(panel.series[0], moment) if panel.series else None
        raw = cell(dense.reading("forgetting", "recall", name) if dense else None, notes=False)
        cells = [raw]
        for point in states:
            reading = point.reading("forgetting", "recall_change", name)
            figure = reading.spread if reading else None
            shown = cell(reading, signed=True, notes=False)
            if figure:
                shown = Cell(shown.text, shown.sd, shown.n, shade=diverging(figure.mean, limit))
            cells.append(shown)
        rows.append(Row(name, tuple(cells)))
    heads = (("Dense", "recall, %"), *columns)
    table = Table(
        title=f"Recall change per class, points, {moment_name(moment)}",
        stub="Class, worst first",
        heads=heads,
        rows=tuple(rows[:CLASSES_SHOWN]),
        groups=(("", 1), *groups),
        notes=(
            "Change of recall against the dense model of the same seed. Orange: forgotten; blue: learned; "
            f"full colour at {limit:.1f} points, shaded by its square root.",
        ),
        heat=True,
        name="forgetting",
    )
    rest = None
    if len(rows) > CLASSES_SHOWN:
        rest = Table(
            f"The other {len(rows) - CLASSES_SHOWN} classes",
            table.stub,
            heads,
            tuple(rows[CLASSES_SHOWN:]),
            table.groups,
            heat=True,
        )
    return table, rest


def worst_classes(panel: Panel, moment: str) -> list[tuple[str, Spread]]:
    """Classes with the first series' recall change at its lowest density, the worst first."""
    lead = panel.series[0].lowest(moment) if panel.series else None
    if lead is None:
        return []
    found = [
        (group, reading.spread)
        for (probe, metric, group), reading in lead.readings.items()
        if (probe, metric) == ("forgetting", "recall_change") and group and reading.spread
    ]
    return sorted(((g, s) for g, s in found if s), key=lambda x: (x[1].mean, x[0]))


def _worst(panel: Panel, moment: str, name: str) -> tuple[float, str]:
    for series in panel.series:
        point = series.lowest(moment)
        reading = point.reading("forgetting", "recall_change", name) if point else None
        if reading and reading.spread:
            return reading.spread.mean, name
    return 0.0, name


def layer_table(panel: Panel, moment: str) -> tuple[Table | None, Table | None]:
    """Density per layer and state in network order; emptied layers are flagged. The second table holds the layers left out."""
    heat = _group_heat(panel, moment, "structure", "layer_density")
    if heat is None:
        return None, None
    columns, groups, names, states = heat
    rows, emptied = [], False
    for name in names:
        cells = []
        for point in states:
            reading = point.reading("structure", "layer_density", name)
            figure = reading.spread if reading else None
            if reading is None or figure is None:
                cells.append(EMPTY)
                continue
            none_left = [s for s, v in reading.by_seed.items() if v <= 0]
            emptied = emptied or bool(none_left)
            text, sd = _density_pair(figure)
            cells.append(
                Cell(text, sd, figure.n, flag=bool(none_left), shade=shade(1 - figure.mean, DENSITY))
                if not none_left
                else Cell(
                    "empty" if len(none_left) == figure.n else text,
                    sd,
                    figure.n,
                    flag=True,
                    shade=shade(0.5, LOSS),
                )
            )
        rows.append(Row(name, tuple(cells)))
    notes = ["Share of a layer's weights that is kept, %. Darker: sparser."]
    if emptied:
        notes.append("Flagged: no weight is left in that layer, for at least one seed.")
    first = Table(
        title=f"Density per layer, %, {moment_name(moment)}",
        stub="Layer",
        heads=columns,
        rows=tuple(rows[:LAYERS_SHOWN]),
        groups=groups,
        notes=tuple(notes),
        heat=True,
        name="layers",
    )
    rest = None
    if len(rows) > LAYERS_SHOWN:
        rest = Table(
            f"The other {len(rows) - LAYERS_SHOWN} layers",
            "Layer",
            columns,
            tuple(rows[LAYERS_SHOWN:]),
            groups,
            heat=True,
        )
    return first, rest


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
        columns += [(percentage(p.density), "%") for p in points]
        states += points
        if points:
            groups.append((series.label, len(points)))
    if not states or not names:
        return None
    return tuple(columns), tuple(groups), list(names), states


def emptied_layers(panel: Panel) -> list[str]:
    """One sentence a series that has lost a whole layer: where, at which density, for how many seeds."""
    told = []
    for series in panel.series:
        for moment in panel.moments:
            worst: dict[str, list[int]] = {}
            at = 0.0
            for point in series.at(moment):
                for (probe, metric, group), reading in point.readings.items():
                    if (probe, metric) == ("structure", "layer_density"):
                        lost = [s for s, v in reading.by_seed.items() if v <= 0]
                        if lost:
                            worst.setdefault(group, []).extend(lost)
                            at = max(at, point.density)
                if not worst:
                    reading = point.reading("structure", "empty_layers")
                    lost = [s for s, v in reading.by_seed.items() if v > 0] if reading else []
                    if lost:
                        worst[""] = lost
                        at = max(at, point.density)
            if worst:
                names = [n for n in worst if n]
                listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
                hit = len({s for lost in worst.values() for s in lost})
                told.append(
                    f"{series.label} ({moment_name(moment)}) has emptied layers{f' ({listed})' if listed else ''}, "
                    f"first at density {percent(at)}, in {counted(hit, 'seed')}."
                )
                break
    return told
