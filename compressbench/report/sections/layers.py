"""Where the weights went: density per layer, emptied layers."""

from __future__ import annotations

from dataclasses import replace

from compressbench.report.drawing import (
    ROWS_SHOWN,
    Chart,
    bars,
    by_group,
    canvas,
    dots,
    finish,
    lowest_at,
    percent_ticks,
    when,
)
from compressbench.report.heat import group_heat
from compressbench.report.numbers import Spread, counted, percent, percentage, spread
from compressbench.report.panels import Panel, Point
from compressbench.report.section import Section, kept
from compressbench.report.states import Key, metric_table, of
from compressbench.report.styles import styles
from compressbench.report.tables import DENSITY, EMPTY, LOSS, Cell, Row, Table, shade
from compressbench.report.wording import as_share, moment_name

LAYERS_SHOWN = 30
REMOVED = "removed"  # what the probe notes of a layer that went with its channels or its block
STRUCTURE = of("structure", "parameters", "prunable", "nonzero", "density", "density_all", "empty_layers")


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {
        *(c.key for c in STRUCTURE),
        ("structure", "layer_density", True),
        ("structure", "weight_bits", False),
        ("structure", "input_bits", False),
    }


def section(panel: Panel, suffix: str) -> Section:
    moment = panel.moments[0]
    chart = layer_density(panel, moment, f"layer_density{suffix}")
    first, rest = layer_table(panel, moment)
    if all(r.value == 100 for r in panel.rows if r.metric == "layer_density"):
        chart = first = rest = None  # no layer lost a weight
    counts = metric_table(panel, moment, "Counts", STRUCTURE)
    return Section("Where the weights went", "layers", kept([chart]), kept([first]), kept([rest, counts]))


def layer_density(panel: Panel, moment: str, name: str) -> Chart | None:
    """Density per layer at the lead's lowest density; an emptied layer is marked."""
    scaled = by_group(panel, moment, "structure", "layer_density")
    if not scaled:
        return None
    layers = list(dict.fromkeys(layer for _, _, found in scaled for layer in found))
    named = len(layers) <= ROWS_SHOWN
    figure, axes = canvas("Density per layer" + when(moment), rows=len(layers) if named else 0)
    positive = [s.mean for _, _, found in scaled for s in found.values() if s.mean > 0]
    floor = min(positive, default=1.0) / 2
    empty = any(s.mean <= 0 for _, _, found in scaled for s in found.values())
    if named:
        counts = dots(panel, axes, scaled, layers, floor)
        axes.set_xscale("log")
        percent_ticks(axes.xaxis, [*positive, 100])
        axes.set_xlabel("weights kept, % (log scale)")
    else:
        looks, counts = styles(panel), set()
        for series, _, found in scaled:
            places = [k for k, layer in enumerate(layers, 1) if layer in found]
            values = [max(found[layers[k - 1]].mean, floor) for k in places]
            look = looks[series.label]
            axes.plot(places, values, color=look.colour, linestyle=look.dash, linewidth=1.1)
            counts |= {s.n for s in found.values()}
        axes.set_yscale("log")
        axes.set_ylim(floor * 0.9, 120)
        percent_ticks(axes.yaxis, [*positive, 100])
        axes.set_xlabel(f"layer, 1 to {len(layers)} in network order")
        axes.set_ylabel("weights kept, % (log scale)")
    where = "on top" if named else "at the left"
    caption = f"{lowest_at(panel, scaled)}; first layer {where}. {bars(counts)}"
    if empty:
        caption += f" A {'hollow mark' if named else 'line'} at the edge is an emptied layer."
    return finish(figure, axes, panel, name, caption, scaled)


def layer_table(panel: Panel, moment: str) -> tuple[Table | None, Table | None]:
    """Density per layer and state in network order, emptied layers flagged; then the rest of it."""
    heat = group_heat(panel, moment, "structure", "layer_density")
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


def emptied_layers(panel: Panel) -> list[str]:
    """One sentence a series that has lost a whole layer, or nearly: which, from which density on, in how many seeds."""
    told = []
    for series in panel.series:
        for what, among in (("emptied layers", _lost), (f"layers with {FEW}", _nearly_lost)):
            for moment in panel.moments:
                lost = [(point, layer, seed) for point in series.at(moment) for layer, seed in among(point)]
                if not lost:
                    continue
                names = list(dict.fromkeys(layer for _, layer, _ in lost if layer))
                listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
                told.append(
                    f"{series.label} ({moment_name(moment)}) has {what}"
                    f"{f' ({listed})' if listed else ''}, "
                    f"first at density {percent(max(p.density for p, _, _ in lost))}, "
                    f"in {counted(len({seed for _, _, seed in lost}), 'seed')}."
                )
                break
    return told


FEW = "less than a hundredth of the net’s density"


def _nearly_lost(point: Point) -> list[tuple[str, int]]:
    """(layer, seed) of layers that keep less than a hundredth of the share that the net keeps, but something."""
    return [(layer, seed) for layer, seed, kept in _layers_of(point) if 0 < kept < point.density]


def _layers_of(point: Point) -> list[tuple[str, int, float]]:
    """(layer, seed, % of its weights that are kept) of layers that weren't removed."""
    return [
        (group, seed, value)
        for (probe, metric, group), reading in point.readings.items()
        if (probe, metric) == ("structure", "layer_density") and REMOVED not in reading.notes
        for seed, value in reading.by_seed.items()
    ]


def _lost(point: Point) -> list[tuple[str, int]]:
    """(layer, seed) of emptied layers, not of removed ones; the layer is empty where only their number is known."""
    found = [(layer, seed) for layer, seed, kept in _layers_of(point) if kept <= 0]
    counts = point.reading("structure", "empty_layers")
    if not found and counts:
        found = [("", seed) for seed, value in counts.by_seed.items() if value > 0]
    return found
