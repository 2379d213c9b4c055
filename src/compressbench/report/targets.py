"""One state on every target: measured ones in a table, modelled ones in another; every layer folded away below."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compressbench.report.numbers import percentage
from compressbench.report.panels import DENSE, Panel, Point, Reading, Series
from compressbench.report.styles import styles
from compressbench.report.tables import Columns, Row, Table, cell
from compressbench.report.wording import moment_name

PROBE = "targets"
LAYER = "layer_time"
MODELLED = "modelled"


def target_tables(panel: Panel, moment: str, environment: str) -> tuple[list[Table], list[Table]]:
    """(tables of targets against states, tables of layers against states, one a modelled target)."""
    states = _states(panel, moment)
    names = list(
        dict.fromkeys(r.group for r in panel.rows if r.probe == PROBE and r.group and "/" not in r.group)
    )
    modelled = {r.group for r in panel.rows if r.probe == PROBE and r.basis == MODELLED}
    modelled |= {
        r.group for r in panel.rows if r.probe == PROBE and r.value is None and r.note.startswith(MODELLED)
    }
    shown = []
    for basis, own in (
        ("measured", [n for n in names if n not in modelled]),
        (MODELLED, [n for n in names if n in modelled]),
    ):
        for batch in _batches(panel, own):
            shown.append(_table(panel, moment, environment, states, own, basis, batch))
    layers = [_layers(panel, moment, states, name) for name in names if name in modelled]
    return [t for t in shown if t], [t for t in layers if t]


def _states(panel: Panel, moment: str) -> list[tuple[Series, Point]]:
    return [(s, p) for s in panel.everything() for p in s.at(moment) if _told(p)]


def _told(point: Point) -> bool:
    return any(key[0] == PROBE for key in point.readings) or any(
        key[0] == PROBE for found in point.timings.values() for key in found
    )


def _batches(panel: Panel, names: Sequence[str]) -> list[int]:
    found = {
        int(hit[1])
        for r in panel.rows
        if r.probe == PROBE and r.group in names and (hit := re.fullmatch(r"latency_b(\d+)", r.metric))
    }
    return sorted(found)


def _table(
    panel: Panel,
    moment: str,
    environment: str,
    states: Sequence[tuple[Series, Point]],
    names: Sequence[str],
    basis: str,
    batch: int,
) -> Table | None:
    columns = Columns()
    for series, point in states:
        latency = [_reading(point, f"latency_b{batch}", n, environment) for n in names]
        name = _name(series, point)
        columns.add("time", "ms", [cell(r, notes=r is not None and r.spread is None) for r in latency], name)
        if series.name != DENSE:
            speed = [_reading(point, f"speedup_b{batch}", n, environment) for n in names]
            columns.add("speed", "× dense", [cell(r) for r in speed], name)
    if not columns.heads:
        return None
    rows = tuple(
        Row(name, columns.row(place), first=True) for place, name in enumerate(names) if columns.filled(place)
    )
    where = f", {environment}" if environment else ""
    told = (
        "Measured on this machine. A speed-up is within one target."
        if basis == "measured"
        else "No device ran: each figure is a roofline’s, the slower of computing and moving bytes, layer by layer."
    )
    heads = {"measured": "Measured", MODELLED: "Modelled"}
    title = f"{heads[basis]}: every target, batch {batch}, {moment_name(moment)}{where}"
    return Table(
        title, "Target", tuple(columns.heads), rows, columns.spanning, (told,), remarks=tuple(columns.remarks)
    )


def _layers(panel: Panel, moment: str, states: Sequence[tuple[Series, Point]], name: str) -> Table | None:
    groups = list(
        dict.fromkeys(
            r.group
            for r in panel.rows
            if r.probe == PROBE and r.metric == LAYER and r.group.startswith(f"{name}/")
        )
    )
    columns = Columns()
    for series, point in states:
        found = [_reading(point, LAYER, group, e) for group in groups for e in panel.environments[:1]]
        columns.add(_name(series, point), "ms", [cell(r) for r in found])
    if not columns.heads:
        return None
    looks = styles(panel)
    rows = tuple(
        Row(group.partition("/")[2], columns.row(place), first=True) for place, group in enumerate(groups)
    )
    return Table(
        f"Why not faster? {name}, modelled, layer by layer",
        "Layer",
        tuple(columns.heads),
        rows,
        notes=("What each layer waits for, and what brings nothing there, is in the notes.",),
        colours=tuple(
            looks[s.label].colour
            for s, p in states
            if any(_reading(p, LAYER, g, e) for g in groups for e in panel.environments[:1])
        ),
        remarks=tuple(columns.remarks),
    )


def _reading(point: Point, metric: str, group: str, environment: str) -> Reading | None:
    return point.reading(PROBE, metric, group, environment)


def _name(series: Series, point: Point) -> str:
    several = sum(1 for points in series.points.values() for _ in points) > len(series.points)
    return f"{series.label} {percentage(point.density)} %" if several else series.label
