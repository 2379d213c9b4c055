"""Students of several sizes: series that have the same students in the same order; pure functions of records."""

from __future__ import annotations

import re

from compressbench.report.panels import Panel, Point, Series, paired
from compressbench.report.tables import Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import difference_unit, moment_name, title_of

SIZES = 3
BRANCH = re.compile(r"[^_.]*_([^.]+)(?:\..*)?")


def families(panel: Panel, moment: str) -> list[tuple[Series, ...]]:
    """Series of one recipe whose students, dense ones of three sizes or more, are equally large one by one.

    Two series or more; the first is what the others are compared with.
    """
    alike: dict[tuple[object, ...], list[Series]] = {}
    for series in panel.series:
        sizes = tuple(map(size_of, series.at(moment)))
        dense = all(p.density == 1 for p in series.at(moment))
        if dense and None not in sizes and len(set(sizes)) >= SIZES:
            alike.setdefault((series.recipe, *sizes), []).append(series)
    return [tuple(family) for family in alike.values() if len(family) > 1]


def size_of(point: Point) -> float | None:
    """Parameters of a point's net."""
    reading = point.reading("structure", "parameters")
    return reading.spread.mean if reading and reading.spread else None


def branch(point: Point) -> str:
    """A student's name: ``mlp12`` of the state ``student_mlp12.ce``; that of the state where it has no such part."""
    state = point.states[0]
    found = BRANCH.fullmatch(state)
    return found[1] if found else state


def gain_tables(panel: Panel, moment: str) -> list[Table]:
    """For each family: students by size, accuracy of each series, and its difference to the first, paired by seed."""
    if panel.main is None:
        return []
    return [_gains(panel, moment, family) for family in families(panel, moment)]


def _gains(panel: Panel, moment: str, family: tuple[Series, ...]) -> Table:
    base, *others = family
    points = base.at(moment)
    order = sorted(range(len(points)), key=lambda k: size_of(points[k]) or 0)
    columns = Columns()
    sizes = [points[k].reading("structure", "parameters") for k in order]
    columns.add("Parameters", "", [cell(r, notes=False) for r in sizes], always=True)
    readings = {s.label: [panel.main_reading(s.at(moment)[k]) for k in order] for s in family}
    unit = next((r.unit for found in readings.values() for r in found if r), "")
    name = title_of(panel.main[1]) if panel.main else ""
    for series in family:
        columns.add(series.label, unit, [cell(r, notes=False) for r in readings[series.label]], name)
    gain = difference_unit(unit)
    for series in others:
        gains = [paired(a, b) for a, b in zip(readings[series.label], readings[base.label], strict=True)]
        columns.add(
            series.label, gain, [spread_cell(g, gain, signed=True) for g in gains], f"Gain over {base.label}"
        )
    return Table(
        title=f"Gain over {base.label} by the student’s size, {moment_name(moment)}",
        stub="Student",
        heads=tuple(columns.heads),
        rows=tuple(Row(branch(points[k]), columns.row(place)) for place, k in enumerate(order)),
        groups=columns.spanning,
        notes=("Gains are differences of the same seed: what seeds share cancels.",),
    )
