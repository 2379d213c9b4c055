"""One state on every target: measured ones in a table, modelled ones in another; every layer folded away below."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compressbench.declared import unit_of
from compressbench.report.drawing import Chart, bands, canvas, draw, finish, throughput_axes, when
from compressbench.report.numbers import MISSING, percentage
from compressbench.report.panels import DENSE, Panel, Point, Reading, Series, paired
from compressbench.report.section import Section, kept, slug
from compressbench.report.sections.exits import cost_of
from compressbench.report.speed import BRACKETS, FASTER, NOT_SHOWN, RULE, speed_cell, speed_of
from compressbench.report.styles import styles
from compressbench.report.tables import EMPTY, Cell, Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import moment_name

PROBE = "targets"
LAYER = "layer_time"
MODELLED = "modelled"
LEAST_GAIN = 1.02
FAMILIES = {
    "bits": "Fewer bits (quantization)",
    "zeros": "Zeros (sparsity)",
    "parts": "Fewer parts (structured)",
    "exits": "Early exits (adaptive compute)",
}
FACTS = (
    ("load_seconds", "load", ""),
    ("file_bytes", "file", ""),
    ("energy_b1", "energy", " a forward, batch 1"),
)


def section(panel: Panel, suffix: str) -> Section:
    moment = panel.moments[0]
    found = [target_tables(panel, moment, environment) for environment in panel.environments]
    choice = [family_table(panel, moment, environment) for environment in panel.environments]
    tables = tuple(dict.fromkeys(t for t in (*choice, *(t for shown, _ in found for t in shown)) if t))
    layers = tuple(dict.fromkeys(t for _, folded in found for t in folded))
    names = dict.fromkeys(
        r.group for r in panel.rows if r.probe == "targets" and r.metric.startswith("throughput")
    )
    drawn = [
        throughput_vs_batch(panel, moment, n, e, f"throughput_{slug(n)}_{place}{suffix}")
        for n in names
        for place, e in enumerate(panel.environments)
    ]
    return Section("Every hardware target", "targets", kept(drawn), tables, layers)


def throughput_vs_batch(panel: Panel, moment: str, target: str, environment: str, name: str) -> Chart | None:
    """Examples a second against the batch size on one target; None for fewer than three sizes."""
    lines = []
    for series in (*panel.dense.values(), *panel.series):
        point = series.lowest(moment)
        keys = [f"throughput_b{2**k}" for k in range(14)] if point else []
        found = [
            (float(key.removeprefix("throughput_b")), reading.spread)
            for key in keys
            if point and (reading := point.reading("targets", key, target, environment)) and reading.spread
        ]
        if len(found) > 2:
            lines.append((series, found))
    if not lines:
        return None
    figure, axes = canvas(f"Throughput on {target}{when(moment)}")
    counts = draw(panel, axes, lines)
    throughput_axes(axes)
    caption = f"Medians. {bands(counts)} Each series at its lowest density."
    return finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])


def target_tables(panel: Panel, moment: str, environment: str) -> tuple[list[Table], list[Table]]:
    """(tables of targets against states, tables of layers against states, one a modelled target)."""
    states = _states(panel, moment)
    names, modelled = _targets(panel)
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
    shown.append(_facts(panel, moment, environment, states, names))
    layers = [_layers(panel, moment, states, name) for name in names if name in modelled]
    return [t for t in shown if t], [t for t in layers if t]


def family_table(panel: Panel, moment: str, environment: str) -> Table | None:
    """The lecture's table of choices in numbers: for each target and family of methods its fastest state and its loss.

    Families: fewer bits, zeros, fewer parts, early exits; a state of two families counts for neither. The fastest is
    taken at the first batch size, whatever it lost: gain and loss stand beside each other.
    """
    states = [(s, p) for s, p in _states(panel, moment) if not s.is_random]
    names, modelled = _targets(panel)
    batches_ = _batches(panel, names)
    if not batches_ or panel.main is None:
        return None
    metric = f"speedup_b{batches_[0]}"
    columns = Columns()
    for family, words in FAMILIES.items():
        own = [(s, p) for s, p in states if _family(panel, s, p, moment) == family]
        if not own:
            continue
        fastest = [_fastest(own, metric, name, environment) for name in names]
        best = [
            b if b and _gains(b[1], metric, n, environment) else None
            for b, n in zip(fastest, names, strict=True)
        ]
        gains = [
            _gain(b[1], metric, n, environment) if b else EMPTY for b, n in zip(fastest, names, strict=True)
        ]
        columns.add("gain", "× dense", gains, words)
        columns.add("loss", "points", [_loss(panel, *b, moment) if b else EMPTY for b in best], words)
        loyal = [cell(b[1].reading("loyalty", "label_loyalty"), notes=False) if b else EMPTY for b in best]
        columns.add("L-L", "%", loyal, words)
        by = [_name(*b) if b else "nothing" if f else MISSING for b, f in zip(best, fastest, strict=True)]
        columns.add("by", "", [Cell(text) for text in by], words)
    if not columns.heads:
        return None
    rows = tuple(
        Row(f"{n} ({MODELLED})" if n in modelled else n, columns.row(k), first=True)
        for k, n in enumerate(names)
        if columns.filled(k)
    )
    notes = (
        "Each family’s fastest state there, whatever it lost; “nothing” where none is faster, modelled by more than 2 %. "
        + RULE,
        "A target that can't run the dense net has no ratio.",
    )
    where = f", {environment}" if environment else ""
    when = f"batch {batches_[0]}, {moment_name(moment)}{where}"
    title = f"What each family of methods gains and loses on each target, {when}"
    return Table(
        title, "Target", tuple(columns.heads), rows, columns.spanning, notes, remarks=tuple(columns.remarks)
    )


def _targets(panel: Panel) -> tuple[list[str], set[str]]:
    """(targets in the order of the records, groups with a modelled figure)."""
    rows = [r for r in panel.rows if r.probe == PROBE]
    names = dict.fromkeys(r.group for r in rows if r.group and "/" not in r.group)
    return list(names), {r.group for r in rows if r.basis == MODELLED}


def _loss(panel: Panel, series: Series, point: Point, moment: str) -> Cell:
    dense = panel.main_reading(panel.dense_of(series, moment))
    return spread_cell(paired(panel.main_reading(point), dense), "points", True)


def _family(panel: Panel, series: Series, point: Point, moment: str) -> str:
    bits, macs = point.reading("structure", "weight_bits"), point.reading("cost", "macs")
    dense = panel.dense_of(series, moment)
    whole = dense.reading("cost", "macs") if dense else None
    if series.name == DENSE or not (bits and bits.spread and macs and macs.spread and whole and whole.spread):
        return ""
    kinds = [
        kind
        for kind, has in (
            ("bits", bits.spread.mean < 32),
            ("parts", macs.spread.mean < 0.999 * whole.spread.mean),
            ("zeros", point.density < 0.999 and macs.spread.mean >= 0.999 * whole.spread.mean),
            ("exits", cost_of(point) is not None),
        )
        if has
    ]
    return kinds[0] if len(kinds) == 1 else ""


def _fastest(
    own: Sequence[tuple[Series, Point]], metric: str, name: str, environment: str
) -> tuple[Series, Point] | None:
    """The fastest of those that are shown to be faster; where none is, of all."""
    timed = [
        (_gains(p, metric, name, environment), speed.figure.mean, -place, (s, p))
        for place, (s, p) in enumerate(own)
        if (speed := speed_of(p, metric, environment, PROBE, name)) and speed.figure
    ]
    return max(timed, key=lambda x: x[:3])[3] if timed else None


def _gains(point: Point, metric: str, name: str, environment: str) -> bool:
    speed, reading = (
        speed_of(point, metric, environment, PROBE, name),
        _reading(point, metric, name, environment),
    )
    if speed is None or speed.figure is None:
        return False
    if reading and reading.basis == MODELLED:
        return speed.figure.mean > LEAST_GAIN
    return speed.verdict == FASTER


def _gain(point: Point, metric: str, name: str, environment: str) -> Cell:
    """The figure; of a measured one that shows nothing, that."""
    speed = speed_of(point, metric, environment, PROBE, name)
    reading = _reading(point, metric, name, environment)
    if speed and speed.verdict == NOT_SHOWN and reading and reading.basis != MODELLED:
        return Cell(NOT_SHOWN)
    return speed_cell(point, metric, environment, PROBE, name, notes=False)


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
            speed = [speed_cell(point, f"speedup_b{batch}", environment, PROBE, n) for n in names]
            columns.add("speed", "× dense", speed, name)
    if not columns.heads:
        return None
    rows = tuple(
        Row(name, columns.row(place), first=True) for place, name in enumerate(names) if columns.filled(place)
    )
    where = f", {environment}" if environment and basis == "measured" else ""
    told = (
        f"Measured{'' if environment else ' on this machine'}. A speed-up is within one target, against the dense model "
        f"timed in turns with the state: times of two columns are of two moments. {BRACKETS}"
        if basis == "measured"
        else "No device ran: each figure is a roofline’s, the slower of computing and moving bytes, layer by layer."
    )
    heads = {"measured": "Measured", MODELLED: "Modelled"}
    title = f"{heads[basis]}: every target, batch {batch}, {moment_name(moment)}{where}"
    return Table(
        title, "Target", tuple(columns.heads), rows, columns.spanning, (told,), remarks=tuple(columns.remarks)
    )


def _facts(
    panel: Panel, moment: str, environment: str, states: Sequence[tuple[Series, Point]], names: Sequence[str]
) -> Table | None:
    """States against what else was measured of them: memory, load time, file, energy; a column each a target."""
    memory = sorted(
        {r.metric for r in panel.rows if r.probe == PROBE and r.metric.startswith("peak_memory_b")},
        key=lambda m: int(m.removeprefix("peak_memory_b")),
    )
    wanted = [(m, "peak memory", f", batch {m.removeprefix('peak_memory_b')}") for m in memory]
    columns = Columns()
    for name in names:
        for metric, words, of in (*wanted, *FACTS):
            readings = [_reading(p, metric, name, environment) for _, p in states]
            if any(r and r.spread for r in readings):
                columns.add(words, unit_of(metric) + of, [cell(r) for r in readings], name)
    if not columns.heads:
        return None
    looks = styles(panel)
    rows = tuple(
        Row(_name(s, p), columns.row(k), looks[s.label].colour, first=True)
        for k, (s, p) in enumerate(states)
        if columns.filled(k)
    )
    no_energy = any(r.metric == "energy_b1" and r.value is None for r in panel.rows)
    notes = ("Energy was not measured where no counter could be read.",) if no_energy else ()
    title = f"Memory, load time, file, {moment_name(moment)}"
    return Table(
        title, "Method", tuple(columns.heads), rows, columns.spanning, notes, remarks=tuple(columns.remarks)
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
