"""Charts: small SVGs that read the same on a phone, on paper and in a browser; matplotlib is imported late.

The same records give the same bytes: fixed hash salt, no date, text kept as text.
"""

from __future__ import annotations

import html
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressbench.records import ENCODINGS, Record
from compressbench.report import exits
from compressbench.report.flatness import Mark, accuracy_marks, drop_marks, measured_at, widest
from compressbench.report.heat import worst_first
from compressbench.report.numbers import Spread, between, counted, number, percentage, spread
from compressbench.report.panels import FINAL, Panel, Point, Series, beside_lead, paired, relative_compute
from compressbench.report.relations import Matrix, matrices
from compressbench.report.students import branch, families, size_of
from compressbench.report.styles import COLOURS, INK, MARKERS, MUTED, styles
from compressbench.report.tables import GAIN, LOSS
from compressbench.report.wording import title_of

Lines = Sequence[tuple[Series, Sequence[tuple[float, Spread]]]]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch

WIDTH, HEIGHT = 5.0, 3.7
LEGEND_ROWS, LEGEND_ROW = 4, 0.165
ROWS_SHOWN = 24
LABEL = 56
CLOSE = 5.0
TRIANGLE = 4.6  # points from one to the next
SAME_PLACE = 1.06
CURVATURE = ("hessian", "hessian_largest")
MATRICES, OF_MANY_CLASSES, MANY_CLASSES = 16, 8, 12
CLASSES_NAMED, MANY = 20, 10
NAME_WIDTH = 0.036
SHADES = 41  # matplotlib makes a picture of a colour bar of 50 or more
TITLE_WIDTH = 26
NOTHING = "#dfe1e4"
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "compressbench",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#9aa0a6",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#e4e6e8",
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.2,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.4,
}


def drawing() -> AbstractContextManager[None]:
    """The settings that every chart of this module is to be made under."""
    from matplotlib import rc_context

    return rc_context(SETTINGS)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Chart:
    """One drawing: file stem, title, a sentence of what it shows, the SVG document."""

    name: str
    title: str
    caption: str
    svg: str

    @property
    def inline(self) -> str:
        """The SVG element alone, sized by the page."""
        body = self.svg[self.svg.index("<svg") :]
        head, rest = body.split(">", 1)
        return re.sub(r'\s(?:width|height)="[^"]*"', "", head) + ">" + rest


def accuracy_vs_density(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy against density (log, sparser to the right), dense line, bands over seeds."""
    lines = []
    for series in panel.series:
        points = [(100 * p.density, r) for p in series.at(moment) if (r := _main(panel, p)) and p.density > 0]
        if points:
            lines.append((series, points))
    if not lines:
        return None
    label, unit = _accuracy(panel)
    figure, axes = _canvas(f"{label} against density{_at(moment)}")
    counts = _draw(panel, axes, lines) | _dense_lines(panel, axes, moment, lambda p: _main(panel, p))
    _density_axis(axes, [x for _, points in lines for x, _ in points])
    axes.set_ylabel(f"{label}, {unit}" if unit else label)
    caption = f"Sparser to the right. {_bands(counts)} Black: the dense model."
    drawn = [*panel.dense.values(), *(series for series, _ in lines)]
    return _finish(figure, axes, panel, name, caption, drawn=drawn)


def accuracy_vs_bits(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy against the mean bits of a prunable weight, fewer to the right; None where no weight was rounded."""

    def bits(point: Point) -> float | None:
        return _mean(point, "structure", "weight_bits")

    drawn = _accuracy_against(panel, moment, bits, "bits")
    if drawn is None or all(math.isclose(x, 32.0) for x in drawn[2]):
        return None
    figure, axes, places, counts, series, covered = drawn
    axes.set_xlabel("mean bits of a weight (log scale, fewer →)")
    _reversed_log(axes, places, [1, 2, 3, 4, 6, 8, 16, 32])
    caption = f"Fewer bits to the right; 32 is float. {_bands(counts)} Black: the dense model.{covered}"
    return _finish(figure, axes, panel, name, caption, drawn=series)


def accuracy_vs_bytes(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy against the bytes of the shortest encoding; None where nothing but zeros was ever left out."""

    def kilobytes(point: Point) -> float | None:
        found = [b for metric in ENCODINGS if (b := _mean(point, "cost", metric))]
        return min(found) / 1000 if found else None

    packed = any(_mean(p, "cost", "quantized_bytes") for s in panel.series for p in s.at(moment))
    drawn = _accuracy_against(panel, moment, kilobytes, "bytes on disk") if packed else None
    if drawn is None:
        return None
    figure, axes, places, counts, series, covered = drawn
    axes.set_xlabel("kB on disk, shortest encoding (log scale, smaller →)")
    decades = range(math.floor(math.log10(min(places))), math.ceil(math.log10(max(places))) + 1)
    _reversed_log(axes, places, [step * 10.0**d for d in decades for step in (1, 2, 5)])
    caption = f"Bytes really encoded, smaller to the right. {_bands(counts)} Black: the dense model.{covered}"
    return _finish(figure, axes, panel, name, caption, drawn=series)


def _accuracy_against(
    panel: Panel, moment: str, place: Callable[[Point], float | None], what: str
) -> tuple[Figure, Axes, list[float], set[int], list[Series], str] | None:
    """Accuracy of all series against some figure of a point.

    Returns:
        Drawing, axes, places, numbers of seeds, series, and a sentence on those that cover each other.
    """
    lines = []
    for series in panel.series:
        points = [(x, r) for p in series.at(moment) if (r := _main(panel, p)) and (x := place(p))]
        if points:
            lines.append((series, points))
    if not lines:
        return None
    label, unit = _accuracy(panel)
    figure, axes = _canvas(f"{label} against {what}{_at(moment)}")
    counts = _draw(panel, axes, lines) | _dense_lines(panel, axes, moment, lambda p: _main(panel, p))
    axes.set_ylabel(f"{label}, {unit}" if unit else label)
    drawn = [*panel.dense.values(), *(series for series, _ in lines)]
    return figure, axes, [x for _, points in lines for x, _ in points], counts, drawn, _covering(lines)


def _covering(lines: Lines) -> str:
    """Which series have a mark at exactly one place, so that only the last one's is seen."""
    places: dict[tuple[float, float], dict[str, None]] = {}
    for series, points in lines:
        for x, figure in points:
            places.setdefault((x, figure.mean), {}).setdefault(series.label)
    found = dict.fromkeys(
        "; ".join(clean(label) for label in labels) for labels in places.values() if len(labels) > 1
    )
    return "".join(f" At one place: {labels}." for labels in found)


def _mean(point: Point, probe: str, metric: str) -> float | None:
    reading = point.reading(probe, metric)
    return reading.spread.mean if reading and reading.spread else None


def _reversed_log(axes: Axes, places: Sequence[float], ticks: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(places), max(places)
    axes.set_xscale("log")
    axes.set_xlim(high * 1.12, low / 1.12)
    axes.xaxis.set_major_locator(FixedLocator([t for t in ticks if low / 1.1 <= t <= high * 1.1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def metric_vs_density(
    panel: Panel,
    moment: str,
    key: tuple[str, str],
    words: tuple[str, str, str],
    name: str,
    wanted: Callable[[Series, Point], bool] = lambda *_: True,
) -> Chart | None:
    """Any (probe, metric) against density, dense line, bands over seeds.

    Args:
        words: title, label of the y axis, first sentence of the caption.
        wanted: whether a series' point is drawn.
    """

    def figure_of(point: Point) -> Spread | None:
        reading = point.reading(*key)
        return reading.spread if reading else None

    lines = []
    for series in panel.series:
        points = [
            (100 * p.density, f)
            for p in series.at(moment)
            if (f := figure_of(p)) and p.density > 0 and wanted(series, p)
        ]
        if points:
            lines.append((series, points))
    if not lines:
        return None
    title, label, told = words
    figure, axes = _canvas(title + _at(moment))
    counts = _draw(panel, axes, lines) | _dense_lines(panel, axes, moment, figure_of)
    _density_axis(axes, [x for _, points in lines for x, _ in points])
    axes.set_ylabel(label)
    drawn = [*panel.dense.values(), *(series for series, _ in lines)]
    caption = f"{told} Black: the dense model. {_bands(counts)}"
    return _finish(figure, axes, panel, name, caption, drawn=drawn)


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
    figure, axes = _canvas(f"Throughput on {target}{_at(moment)}")
    counts = _draw(panel, axes, lines)
    _throughput_axes(axes)
    caption = f"Medians. {_bands(counts)} Each series at its lowest density."
    return _finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])


def _throughput_axes(axes: Axes) -> None:
    """Both logarithmic, batch sizes by powers of two."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for form in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        form(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "125" else "")
    axes.set_xlabel("batch size (log scale)")
    axes.set_ylabel("examples a second (log scale)")


def accuracy_vs_exit_time(panel: Panel, moment: str, environment: str, name: str) -> Chart | None:
    """Accuracy of every state against its time at the smallest batch size on one machine; None where no net has exits."""
    batch = min(exits.batches(panel), default=1)
    lines = exits.lines_of(panel, moment, lambda point: exits.time_of(point, environment, batch))
    drawn = _exits_chart(panel, moment, lines, "measured time", lambda _: 100.0)
    if drawn is None:
        return None
    figure, axes, caption = drawn
    caption += f" Measured on {clean(environment)}." if environment else ""
    axes.set_xlabel(f"time at batch {batch}, % of the reference’s, in turns")
    return _finish(figure, axes, panel, name, caption, drawn=[s for s, _ in lines])


def accuracy_vs_exit_macs(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy of every state against its MACs, chance beside the first series; None where no net has exits."""
    lines = exits.lines_of(panel, moment, exits.macs_of)
    drawn = _exits_chart(panel, moment, lines, "MACs", exits.macs_of)
    if drawn is None:
        return None
    figure, axes, caption = drawn
    label, chance = exits.controls(panel, moment)
    places, heights = [x for x, _ in chance], [s.mean for _, s in chance]
    axes.plot(places, heights, color=MUTED, linestyle=":", marker="x", markersize=4)
    axes.set_xlabel("MACs an example, millions, test mean")
    caption += f" Grey crosses: {clean(label)} with as many examples at each exit, but any."
    return _finish(figure, axes, panel, name, caption, drawn=[s for s, _ in lines])


def _exits_chart(
    panel: Panel, moment: str, lines: Lines, against: str, place: Callable[[Point], float | None]
) -> tuple[Figure, Axes, str] | None:
    if not lines:
        return None
    label, unit = _accuracy(panel)
    figure, axes = _canvas(f"{label} against {against}, early exits{_at(moment)}")
    counts = _draw(panel, axes, lines)
    for series in panel.dense.values():
        for point in series.at(moment):
            x, y = place(point), _main(panel, point)
            if x is not None and y:
                axes.plot([x], [y.mean], marker="s", color=INK, markersize=5)
    axes.set_ylabel(f"{label}, {unit}" if unit else label)
    return figure, axes, f"Black square: the reference. {_bands(counts)}"


def exit_throughput(panel: Panel, moment: str, environment: str, name: str) -> list[Chart]:
    """Measured throughput of early exits against batch size, a chart a target and policy, a line a way of running."""
    from matplotlib.lines import Line2D

    drawn = []
    for place, ((target, label), ways) in enumerate(exits.batching(panel, moment, environment).items()):
        figure, axes = _canvas(f"Throughput on {target}: {label}")
        handles, counts = [], set()
        for k, (way, points) in enumerate(ways.items()):
            look = {
                "color": INK if way == "full depth" else COLOURS[k % len(COLOURS)],
                "marker": MARKERS[k % len(MARKERS)],
            }
            known = sorted(points, key=lambda p: p[0])
            axes.plot([x for x, _ in known], [s.mean for _, s in known], **look)  # type: ignore[arg-type]
            if any(s.sd for _, s in known):
                axes.fill_between(
                    [x for x, _ in known],
                    [s.mean - (s.sd or 0) for _, s in known],
                    [s.mean + (s.sd or 0) for _, s in known],
                    color=look["color"], alpha=0.16, linewidth=0,
                )  # fmt: skip
            counts |= {s.n for _, s in known}
            handles.append((way, Line2D([], [], markersize=4.2, **look)))  # type: ignore[arg-type]
        _throughput_axes(axes)
        caption = (
            "Medians, all ways in turns on the same images; they answer alike. Full depth: the net without its exits. "
            f"{_bands(counts)}"
        )
        caption += f" Measured on {clean(environment)}." if environment else ""
        drawn.append(_saved(figure, f"{name}_{place}", axes.get_title(loc="left"), caption, handles))
    return drawn


def error_along_path(panel: Panel, moment: str, name: str) -> Chart | None:
    """Test error on the straight line from the reference (0) to a state (1), at the lead's lowest density."""
    lines = []
    for series in panel.series:
        point = beside_lead(panel, series, moment)
        found = [
            (float(group), reading.spread)
            for (probe, metric, group), reading in (point.readings.items() if point else ())
            if (probe, metric) == ("connectivity", "error_at") and reading.spread
        ]
        if found:
            lines.append((series, [(x, s) for x, s in sorted(found, key=lambda f: f[0]) if s]))
    if not lines:
        return None
    figure, axes = _canvas(f"Error between two nets{_at(moment)}")
    counts = _draw(panel, axes, lines)
    axes.set_xlabel("place on the line: 0 the reference, 1 the state")
    axes.set_ylabel("test error, %")
    caption = (
        "Both nets’ weights and batch-norm statistics are mixed; a hump is a barrier: training was not stable "
        f"where the two parted. {_bands(counts)}"
    )
    return _finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])


def accuracy_by_method(panel: Panel, moment: str, name: str) -> Chart | None:
    """One row a series, in the recipe's order: for methods that all leave the weights as many as they are."""
    rows = [
        (series, spread)
        for series in panel.series
        for point in series.at(moment)
        if (spread := _main(panel, point)) is not None
    ]
    if len(rows) < 2:
        return None
    label, unit = _accuracy(panel)
    figure, axes = _canvas(f"{label} by method" + _at(moment), rows=2 * len(rows))
    looks = styles(panel)
    for place, (series, found) in enumerate(rows):
        look = looks[series.label]
        if found.sd:
            ends = [found.mean - found.sd, found.mean + found.sd]
            axes.plot(ends, [place, place], color=look.colour, linewidth=1.2, alpha=0.7)
        axes.plot([found.mean], [place], look.marker or "o", color=look.colour, markersize=5)
    for dense in panel.dense.values():
        for point in dense.at(moment):
            if (whole := _main(panel, point)) is not None:
                axes.axvline(whole.mean, color=INK, linewidth=1.2)
    _name_rows(axes, [s.label for s, _ in rows], 40)
    axes.set_xlabel(f"{label}, {unit}")
    caption = f"Vertical line: the reference. {_bars({found.n for _, found in rows})}"
    return _saved(figure, name, axes.get_title(loc="left"), caption, [])


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
        figure, axes = _canvas(f"Drop at {outcome.name} against curvature")
        axes.set_xscale("log")
        counts = _marks(panel, axes, marks)
        _percent_ticks(axes.xaxis, [x.mean for _, _, x, _ in marks])
        axes.set_xlabel("largest eigenvalue of the training loss’s Hessian (log scale)")
        axes.set_ylabel("points lost to compression")
        caption = f"Each trained net against itself before. {_bars(counts)}"
        drawn = [series for series, *_ in marks]
        found.append(_finish(figure, axes, panel, f"{name}_{place}", caption, drawn=drawn))
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
        figure, axes = _canvas(f"Accuracy at {outcome.name} against dense")
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
        axes.set_ylabel(f"{_accuracy(panel)[0]}, %")
        caption = f"What lies above each other was equally accurate before.{told} {_bars(counts)}"
        drawn = [series for series, *_ in marks]
        found.append(_finish(figure, axes, panel, f"{name}_{place}", caption, drawn=drawn))
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


def published(panel: Panel, name: str) -> list[Chart]:
    """Figures from the literature, each net and data set on axes of its own, never on ours."""
    found: dict[str, dict[str, list[Record]]] = {}
    for row in panel.published:
        found.setdefault(row.group, {}).setdefault(row.series, []).append(row)
    return [
        chart
        for place, (of, labels) in enumerate(found.items())
        if (chart := _published(of, labels, name + (f"_{place + 1}" if place else "")))
    ]


def _published(of: str, labels: dict[str, list[Record]], name: str) -> Chart | None:
    from matplotlib.lines import Line2D

    drawn = {
        label: [(100 * r.density, r.value) for r in rows if r.value is not None]
        for label, rows in labels.items()
    }
    drawn = {label: points for label, points in drawn.items() if points}
    if not drawn:
        return None
    first = next(r for rows in labels.values() for r in rows if r.value is not None)
    one_each = len(drawn) > 1 and len({x for points in drawn.values() for x, _ in points}) == 1
    figure, axes = _canvas(f"Published: {of}", rows=2 * len(drawn) if one_each else 0)
    handles = []
    for place, (label, points) in enumerate(drawn.items()):
        looks = {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": (0, (1, 2)),
            "markerfacecolor": "white",
            "markersize": 5,
            "linewidth": 1,
        }
        if one_each:
            axes.plot([y for _, y in points], [place] * len(points), **looks)  # type: ignore[arg-type]
            continue
        axes.plot([x for x, _ in sorted(points)], [y for _, y in sorted(points)], **looks)  # type: ignore[arg-type]
        handles.append((f"{label} (published)", Line2D([], [], **looks)))  # type: ignore[arg-type]
    label = title_of(first.metric)
    value = f"{label}, {first.unit}" if first.unit != "1" else label
    if one_each:
        _name_rows(axes, list(drawn), 40)
        axes.set_xlabel(value)
    else:
        _density_axis(axes, [x for points in drawn.values() for x, _ in points])
        axes.set_ylabel(value)
    told: dict[str, list[str]] = {}
    for series, rows in labels.items():
        told.setdefault("; ".join(dict.fromkeys(r.note for r in rows if r.note)), []).append(series)
    sources = " ".join(f"{', '.join(names)}: {note}." for note, names in told.items() if note)
    caption = f"From the literature, not measured here; another net and other data than ours. {sources}"
    return _saved(figure, name, axes.get_title(loc="left"), caption, handles)


def change_vs_density(panel: Panel, moment: str, name: str) -> Chart | None:
    """Difference from the dense model of the same seed, a close-up of the range that matters."""
    lines = []
    for series in panel.series:
        dense = panel.main_reading(panel.dense_of(series, moment))
        points = [
            (100 * p.density, d)
            for p in series.at(moment)
            if (d := paired(panel.main_reading(p), dense)) and p.density > 0
        ]
        if points:
            lines.append((series, points))
    label, unit = _accuracy(panel)
    if not lines or (unit == "%" and all(d.mean < -CLOSE for _, points in lines for _, d in points)):
        return None
    figure, axes = _canvas(f"{label}: change from dense, close-up{_at(moment)}")
    lowest = min(d.mean for _, points in lines for _, d in points)
    highest = max(d.mean + (d.sd or 0) for _, points in lines for _, d in points)
    clipped = unit == "%" and lowest < -CLOSE
    counts = _draw(panel, axes, lines)
    axes.axhline(0, color=INK, linewidth=1.2)
    if clipped:
        axes.set_ylim(-CLOSE, max(1.0, highest + 0.3))
        _triangles(panel, axes, lines)
        for artist in (*axes.lines, *axes.collections):
            artist.set_in_layout(False)
    _density_axis(axes, [x for _, points in lines for x, _ in points])
    axes.set_ylabel("points" if unit == "%" else f"difference, {unit}".rstrip(", "))
    tail = f" A triangle at the edge stands for a state more than {CLOSE:g} points below." if clipped else ""
    caption = f"State minus dense model of the same seed, so what seeds share cancels. {_bands(counts)}{tail}"
    drawn = [*panel.dense.values(), *(series for series, _ in lines)]
    return _finish(figure, axes, panel, name, caption, drawn=drawn)


def _triangles(panel: Panel, axes: Axes, lines: Lines) -> None:
    """One at the lower edge for each state below it, those of one density side by side."""
    from matplotlib.transforms import ScaledTranslation

    looks = styles(panel)
    below = sorted(
        (x, place) for place, (_, points) in enumerate(lines) for x, d in points if d.mean < -CLOSE
    )
    groups: list[list[tuple[float, int]]] = []
    for x, place in below:
        if groups and x <= groups[-1][0][0] * SAME_PLACE:
            groups[-1].append((x, place))
        else:
            groups.append([(x, place)])
    for group in groups:
        for nth, (x, place) in enumerate(sorted(group, key=lambda found: found[1])):
            shift = TRIANGLE * (nth - (len(group) - 1) / 2) / 72
            moved = axes.transData + ScaledTranslation(shift, 0, axes.figure.dpi_scale_trans)
            colour = looks[lines[place][0].label].colour
            axes.plot(
                [x],
                [-CLOSE + 0.12],
                "v",
                color=colour,
                markersize=4,
                transform=moved,
                clip_on=False,
                zorder=4,
            )


def gain_vs_parameters(panel: Panel, moment: str, name: str) -> list[Chart]:
    """What each later series gains over the first one by the size of the student; one chart a family of students."""
    found = [
        _gain(panel, moment, family, name + (f"_{place + 1}" if place else ""))
        for place, family in enumerate(families(panel, moment))
    ]
    return [chart for chart in found if chart]


def _gain(panel: Panel, moment: str, family: Sequence[Series], name: str) -> Chart | None:
    base, *others = family
    pairs = [[(p, b) for p, b in zip(s.at(moment), base.at(moment), strict=True)] for s in others]
    lines = []
    for series, both in zip(others, pairs, strict=True):
        gains = [(size_of(p), paired(panel.main_reading(p), panel.main_reading(b))) for p, b in both]
        points = sorted(((x, d) for x, d in gains if x and d), key=lambda point: point[0])
        if points:
            lines.append((series, points))
    if not lines:
        return None
    label, unit = _accuracy(panel)
    figure, axes = _canvas(f"Gain against the student’s capacity{_at(moment)}")
    looks, errors = styles(panel), []
    low, high = (math.log10(f(x for _, points in lines for x, _ in points)) for f in (min, max))
    for place, (series, points) in enumerate(lines):
        look, shift = looks[series.label], (place - (len(lines) - 1) / 2) * 0.008 * (high - low)
        bars = [(d.sd or 0) / math.sqrt(d.n) if d.n > 2 else 0.0 for _, d in points]
        errors += [(d.mean - e, d.mean + e) for (_, d), e in zip(points, bars, strict=True)]
        xs, ys = [x * 10**shift for x, _ in points], [d.mean for _, d in points]
        axes.plot(xs, ys, color=look.colour, linestyle=look.dash, linewidth=0.8, alpha=0.6)
        axes.errorbar(xs, ys, bars, color=look.colour, fmt=look.marker, elinewidth=1, capsize=2, zorder=3)
    axes.axhline(0, color=INK, linewidth=1.2)
    bottom, top = min([0.0, *(a for a, _ in errors)]), max([0.0, *(b for _, b in errors)])
    room = (top - bottom) or 1.0
    axes.set_ylim(bottom - 0.06 * room, top + 0.4 * room)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - 0.06 * (high - low)), 10 ** (high + 0.06 * (high - low)))
    _count_ticks(axes)
    _name_students(axes, [(size_of(p) or 1.0, branch(p)) for p in base.at(moment)])
    axes.set_xlabel("parameters of the student (log scale)")
    axes.set_ylabel(
        f"{label} over {_short(clean(base.label), 30)}, {'points' if unit == '%' else unit}".rstrip(", ")
    )
    counts = {d.n for _, points in lines for _, d in points}
    spread_words = (
        f"Bars: mean ± standard error over {between(n for n in counts if n > 2)} seeds."
        if max(counts) > 2
        else "Two seeds: too few for an error."
        if max(counts) == 2
        else "One seed: no spread."
    )
    caption = f"Each series minus “{base.label}”, seed by seed, for each student. {spread_words}"
    return _finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])


def _count_ticks(axes: Axes) -> None:
    """1, 2 and 5 of each decade of a logarithmic x axis, as counts are written elsewhere."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    axes.xaxis.set_major_locator(
        FixedLocator([t for d in decades for s in steps if low <= (t := s * 10.0**d) <= high])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, "1")))


def _name_students(axes: Axes, students: Sequence[tuple[float, str]]) -> None:
    """Names upright under the top edge, at their place on the x axis or, where another stands there, beside it."""
    low, high = map(math.log10, axes.get_xlim())
    known = sorted(students)
    places = apart([(math.log10(x) - low) / (high - low) for x, _ in known], NAME_WIDTH)
    for (x, text), place in zip(known, places, strict=True):
        axes.axvline(x, color="#e4e6e8", linewidth=0.6, zorder=0)
        axes.text(
            place, 0.985, _short(clean(text), 16), rotation=90, ha="center", va="top", fontsize=7,
            color=MUTED, transform=axes.transAxes,
        )  # fmt: skip


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places in [0, 1], moved as little to the right, then to the left, as leaves the gap between them."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    limit = 1.0
    for k in range(len(moved) - 1, -1, -1):
        moved[k] = min(moved[k], limit)
        limit = moved[k] - gap
    return moved


def class_relations(panel: Panel, moment: str, name: str) -> Chart | None:
    """Relations between classes in the representation: a small matrix each of dense and the series."""
    found = matrices(panel, moment)
    if not found:
        return None
    most = OF_MANY_CLASSES if max(len(m.classes) for m in found) > MANY_CLASSES else MATRICES
    shown, left = found[:most], len(found) - most
    counts = {n for matrix in shown for n in matrix.counts}
    told = [
        "Cosine between the means of two classes in what the last layer reads, about the mean of all classes. "
        "Blue: the net takes them for alike; orange: for opposites.",
        "One seed." if counts <= {1} else f"Mean over {between(counts)} seeds.",
        *(f"Shown are {note}." for note in dict.fromkeys(n for matrix in shown for n in matrix.notes)),
        *([f"{counted(left, 'more series', 'more series')} in the records."] if left > 0 else []),
    ]
    title = f"Relations between classes{_at(moment)}"
    return _saved(_matrices(shown, title), name, title, " ".join(told), [])


def _matrices(shown: Sequence[Matrix], title: str) -> Figure:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    most = max(len(matrix.classes) for matrix in shown)
    across = min(len(shown), 3 if most <= MANY else 2)
    rows = -(-len(shown) // across)
    figure = Figure(figsize=(WIDTH, 1.0 + rows * (WIDTH - 0.2) / max(across, 2)), layout="constrained")
    figure.suptitle(clean(title), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    ends = [tuple(part / 255 for part in colour) for colour in (LOSS, (255, 255, 255), GAIN)]
    colours = LinearSegmentedColormap.from_list("relations", ends, N=SHADES)
    scale = Normalize(-1, 1)
    grid = figure.subplots(rows, across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        below = place + across >= len(shown)
        _matrix(axes, shown[place], colours, scale, named=(place % across == 0, below))
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=grid, location="bottom", fraction=0.03, aspect=45, ticks=[-1, 0, 1]
    )
    bar.outline.set_visible(False)
    bar.set_label("cosine")
    return figure


def _matrix(axes: Axes, matrix: Matrix, colours: Any, scale: Any, named: tuple[bool, bool]) -> None:
    """One matrix; ``named``: whether the classes stand at its left, and whether below it."""
    from matplotlib.colors import to_hex

    k = len(matrix.classes)
    cells: dict[str, list[tuple[int, int]]] = {}
    for y, row in enumerate(matrix.values):
        for x, value in enumerate(row):
            cells.setdefault(NOTHING if value is None else to_hex(colours(scale(value))), []).append((x, y))
    for colour, places in cells.items():
        axes.add_patch(_squares(places, colour))
    axes.set_aspect("equal")
    axes.set_xlim(0, k)
    axes.set_ylim(k, 0)
    axes.grid(visible=False)
    lines = textwrap.wrap(_short(clean(matrix.title), LABEL), TITLE_WIDTH, break_on_hyphens=False) or [""]
    axes.set_title("\n".join(lines), fontsize=7.5, fontweight="normal", pad=4)
    axes.tick_params(length=0, labelsize=5.5, pad=1.5)
    axes.spines[:].set_visible(False)
    names = [_short(clean(c), 12) for c in matrix.classes] if k <= CLASSES_NAMED else []
    for named_here, ticks in zip(named, (axes.set_yticks, axes.set_xticks), strict=True):
        kept = names if named_here else []
        ticks([place + 0.5 for place in range(len(kept))], kept)
    axes.tick_params(axis="x", rotation=90)


def _squares(places: Sequence[tuple[int, int]], colour: str) -> PathPatch:
    """Unit squares of one colour, as one path: a third of the bytes of a path each."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = [(x + a, y + b) for x, y in places for a, b in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(places)
    return PathPatch(Path(corners, codes), facecolor=colour, linewidth=0, clip_on=False)


def accuracy_vs_compute(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy against the training compute of the whole lineage, in dense trainings."""
    lines: list[tuple[Series, list[tuple[float, Spread]]]] = []
    densities: list[float] = []
    for series in panel.series:
        dense = panel.dense_of(series, FINAL) or panel.dense_of(series, moment)
        points = []
        for p in series.at(moment):
            spent, reading = relative_compute(p, dense), _main(panel, p)
            if spent and reading:
                points.append((spent.mean, reading))
                densities += [p.density] if not lines else []
        if points:
            lines.append((series, points))
    spans = [x for _, points in lines for x, _ in points if x > 0]
    if not spans or all(abs(x - 1) < 0.01 for x in spans):  # no state cost more training than dense
        return None
    label, unit = _accuracy(panel)
    figure, axes = _canvas(f"{label} against training compute{_at(moment)}")
    spread_out = _apart(lines)
    counts = _draw(panel, axes, spread_out) | _dense_lines(panel, axes, moment, lambda p: _main(panel, p))
    labelled = _label_ends(axes, lines[0][1], densities)
    if max(spans) / min(spans) > 20:
        axes.set_xscale("log")
        _percent_ticks(axes.xaxis, [*spans, 1.0])
    else:
        left = min([1.0, *spans])
        right = max([1.0, *spans])
        room = max(right - left, 0.1)
        axes.set_xlim(left - 0.03 * room, right + 0.04 * room)
    axes.set_xlabel("training MACs of the whole lineage, in dense trainings")
    axes.set_ylabel(f"{label}, {unit}" if unit else label)
    caption = (
        "What a state cost to train, all earlier levels and a teacher’s forwards included, not the teacher’s own "
        "training; the dense model costs 1. "
        + (f"Small figures: densities of {clean(lines[0][0].label)}. " if labelled else "")
        + _bands(counts)
        + (
            " Marks without a line: a series whose states all cost the same, moved aside a little where several do."
            if any(map(_one_cost, lines))
            else ""
        )
    )
    drawn = [*panel.dense.values(), *(series for series, _ in lines)]
    return _finish(figure, axes, panel, name, caption, drawn=drawn)


def forgetting(panel: Panel, moment: str, name: str) -> Chart | None:
    """Recall change per class at the lead's lowest density, the classes in the order of the table."""
    lines = _by_group(panel, moment, "forgetting", "recall_change")
    if not lines:
        return None
    drawn = {c for _, _, found in lines for c in found}
    classes = [c for c in worst_first(panel, moment) if c in drawn]
    shown = classes[:ROWS_SHOWN]
    title = "Recall change per class" + (
        "" if len(shown) == len(classes) else f", the {len(shown)} worst of {len(classes)}"
    )
    figure, axes = _canvas(title + _at(moment), rows=len(shown))
    counts = _dots(panel, axes, lines, shown)
    axes.axvline(0, color=INK, linewidth=1.2)
    axes.set_xlabel("points, against the dense model of the same seed")
    caption = f"{_lowest(panel, lines)}; on top the class of which any state loses most. {_bars(counts)}"
    return _finish(figure, axes, panel, name, caption, lines)


def layer_density(panel: Panel, moment: str, name: str) -> Chart | None:
    """Density per layer at the lead's lowest density; an emptied layer is marked."""
    scaled = _by_group(panel, moment, "structure", "layer_density")
    if not scaled:
        return None
    layers = list(dict.fromkeys(layer for _, _, found in scaled for layer in found))
    named = len(layers) <= ROWS_SHOWN
    figure, axes = _canvas("Density per layer" + _at(moment), rows=len(layers) if named else 0)
    positive = [s.mean for _, _, found in scaled for s in found.values() if s.mean > 0]
    floor = min(positive, default=1.0) / 2
    empty = any(s.mean <= 0 for _, _, found in scaled for s in found.values())
    if named:
        counts = _dots(panel, axes, scaled, layers, floor)
        axes.set_xscale("log")
        _percent_ticks(axes.xaxis, [*positive, 100])
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
        _percent_ticks(axes.yaxis, [*positive, 100])
        axes.set_xlabel(f"layer, 1 to {len(layers)} in network order")
        axes.set_ylabel("weights kept, % (log scale)")
    where = "on top" if named else "at the left"
    caption = f"{_lowest(panel, scaled)}; first layer {where}. {_bars(counts)}"
    if empty:
        caption += f" A {'hollow mark' if named else 'line'} at the edge is an emptied layer."
    return _finish(figure, axes, panel, name, caption, scaled)


def _at(moment: str) -> str:
    return "" if moment == FINAL else f", “{moment}”"


def _main(panel: Panel, point: Point) -> Spread | None:
    reading = panel.main_reading(point)
    return reading.spread if reading else None


def _accuracy(panel: Panel) -> tuple[str, str]:
    metric = panel.main[1] if panel.main else "accuracy"
    unit = next((r.unit for r in panel.rows if (r.probe, r.metric) == panel.main), "")
    return ("Top-1 accuracy" if metric == "top1" else metric.replace("_", " ")), "" if unit == "1" else unit


def _bands(counts: Iterable[int]) -> str:
    return _over("Bands", counts)


def _bars(counts: Iterable[int]) -> str:
    return _over("Bars", counts)


def _over(what: str, counts: Iterable[int]) -> str:
    known = set(counts)
    if known <= {1}:
        return "One seed: no spread."
    return f"{what}: mean ± sample sd over {between(known)} seeds."


def _canvas(title: str, rows: int = 0) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, max(HEIGHT, 1.5 + 0.19 * rows)), layout="constrained")
    axes = figure.add_subplot()
    long = len(title) > 52 and ", “" in title
    axes.set_title("\n“".join(map(clean, title.rsplit(", “", 1))) if long else clean(title))
    return figure, axes


def _draw(panel: Panel, axes: Axes, lines: Lines) -> set[int]:
    """Means as lines, ± sd as bands; returns the numbers of seeds met."""
    looks, counts = styles(panel), set()
    for series, points in lines:
        look = looks[series.label]
        xs, means = [x for x, _ in points], [s.mean for _, s in points]
        if _one_cost((series, points)):
            deviations = [s.sd or 0 for _, s in points]
            axes.errorbar(xs, means, deviations, color=look.colour, fmt=look.marker, elinewidth=0.9, zorder=3)
            counts |= {s.n for _, s in points}
            continue
        axes.plot(xs, means, color=look.colour, marker=look.marker, linestyle=look.dash, zorder=3)
        if any(s.sd for _, s in points):
            low = [s.mean - (s.sd or 0) for _, s in points]
            high = [s.mean + (s.sd or 0) for _, s in points]
            axes.fill_between(xs, low, high, color=look.colour, alpha=0.16, linewidth=0, zorder=2)
        counts |= {s.n for _, s in points}
    return counts


def _one_cost(line: tuple[Series, Sequence[tuple[float, Spread]]]) -> bool:
    """True for several points at one place of the x axis: a line through them would say nothing."""
    xs = [x for x, _ in line[1]]
    return len(xs) > 1 and math.isclose(min(xs), max(xs), rel_tol=0.02)


def _apart(
    lines: Sequence[tuple[Series, list[tuple[float, Spread]]]],
) -> list[tuple[Series, list[tuple[float, Spread]]]]:
    """Series that stand at one place side by side instead of on top of each other."""
    xs = [x for _, points in lines for x, _ in points]
    step = 0.012 * max(max([1.0, *xs]) - min([1.0, *xs]), 0.1)
    upright = [series.label for series, points in lines if _one_cost((series, points))]
    moved = []
    for series, points in lines:
        if series.label in upright:
            shift = step * (upright.index(series.label) - (len(upright) - 1) / 2)
            points = [(x + shift, figure) for x, figure in points]
        moved.append((series, points))
    return moved


def _dense_lines(
    panel: Panel, axes: Axes, moment: str, figure_of: Callable[[Point], Spread | None]
) -> set[int]:
    looks, counts = styles(panel), set()
    for label, series in panel.dense.items():
        points = series.at(moment)
        figure = figure_of(points[0]) if points else None
        if figure is None:
            continue
        look = looks[label]
        axes.axhline(figure.mean, color=look.colour, linestyle=look.dash, linewidth=1.2, zorder=2.5)
        if figure.sd:
            axes.axhspan(
                figure.mean - figure.sd, figure.mean + figure.sd, color=look.colour, alpha=0.1, linewidth=0
            )
        counts.add(figure.n)
    return counts


def _density_axis(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = min(values), max([*values, 100.0])
    axes.set_xlim(high * 1.12, low / 1.12)
    _percent_ticks(axes.xaxis, [low, high])
    axes.set_xlabel("density: prunable weights kept, % (log scale, sparser →)")


def _percent_ticks(axis: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    ticks = [s * 10.0**d for d in decades for s in steps]
    axis.set_major_locator(FixedLocator([t for t in ticks if low / 1.15 <= t <= high * 1.01]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _label_ends(axes: Axes, points: Sequence[tuple[float, Spread]], densities: Sequence[float]) -> bool:
    """The density beside the first and the last point of the first series; whether they don't cost the same."""
    if math.isclose(points[0][0], points[-1][0], rel_tol=0.02):
        return False
    for place in (0, -1):
        x, figure = points[place]
        axes.annotate(
            f"{percentage(densities[place])} %",
            (x, figure.mean),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize=7,
            color=MUTED,
        )
    return True


Grouped = list[tuple[Series, Point, dict[str, Spread]]]


def _by_group(panel: Panel, moment: str, probe: str, metric: str) -> Grouped:
    found: Grouped = []
    for series in panel.series:
        point = beside_lead(panel, series, moment)
        if point is None:
            continue
        values = {}
        for (p, m, group), reading in point.readings.items():
            if (p, m) != (probe, metric) or not group:
                continue
            # charts have percent on their axes, whether a probe gives densities as shares or in percent
            factor = 100.0 if reading.unit == "1" else 1.0
            figure = spread(factor * v for v in reading.by_seed.values())
            if figure:
                values[group] = figure
        if values:
            found.append((series, point, values))
    return found


def _lead(panel: Panel) -> str:
    return panel.lead.label if panel.lead else "the first series"


def _lowest(panel: Panel, lines: Grouped) -> str:
    known = {percentage(point.density) for _, point, _ in lines}
    if len(known) == 1:
        return f"All at {known.pop()} % density, the lowest of {_lead(panel)}"
    return f"Each at the lowest density of {_lead(panel)}, or at its own"


def _dots(
    panel: Panel, axes: Axes, lines: Grouped, names: Sequence[str], floor: float | None = None
) -> set[int]:
    """One row a name, one dot a series, bars for the spread; 0 on a log axis is hollow, at the edge."""
    looks, counts = styles(panel), set()
    share = 0.62 / max(1, len(lines))
    for place, (series, _, found) in enumerate(lines):
        look = looks[series.label]
        for row, name in enumerate(names):
            figure = found.get(name)
            if figure is None:
                continue
            y = row + (place - (len(lines) - 1) / 2) * share
            gone = floor is not None and figure.mean <= 0
            x = floor if gone and floor is not None else figure.mean
            if figure.sd and not gone:
                low = max(figure.mean - figure.sd, floor) if floor is not None else figure.mean - figure.sd
                axes.plot([low, figure.mean + figure.sd], [y, y], color=look.colour, linewidth=1, alpha=0.6)
            axes.plot(
                [x],
                [y],
                look.marker or "o",
                color=look.colour,
                markersize=4,
                markerfacecolor="white" if gone else look.colour,
            )
            counts.add(figure.n)
    _name_rows(axes, names, 22)
    for edge in range(1, len(names)):
        axes.axhline(edge - 0.5, color="#eef0f1", linewidth=0.6, zorder=0)
    return counts


def _name_rows(axes: Axes, names: Sequence[str], length: int) -> None:
    """One row a name, the first on top."""
    axes.set_yticks(range(len(names)), [_short(clean(name), length) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def shortened(texts: Sequence[str], length: int) -> list[str]:
    """Texts cut at their ends, or in the middle where two would look alike; those that still do are numbered."""
    cut = [_short(text, length) for text in texts]
    if len(set(cut)) < len(set(texts)):
        half = length // 2
        cut = [t if len(t) <= length else f"{t[: length - half - 1]}…{t[-half:]}" for t in texts]
    if len(set(cut)) < len(set(texts)):
        cut = [t if len(t) <= length else f"{_short(t, length - 5)} #{k}" for k, t in enumerate(texts, 1)]
    return cut


def _finish(
    figure: Figure,
    axes: Axes,
    panel: Panel,
    name: str,
    caption: str,
    lines: Grouped | None = None,
    drawn: Sequence[Series] = (),
) -> Chart:
    from matplotlib.lines import Line2D

    looks = styles(panel)
    if lines is None:
        known = {s.label for s in drawn}
        labels = {s.label: s.label for s in (*panel.dense.values(), *panel.series) if s.label in known}
    else:
        alike = len({percentage(p.density) for _, p, _ in lines}) == 1
        labels = {s.label: s.label if alike else f"{s.label}, {percentage(p.density)} %" for s, p, _ in lines}
    handles = [
        (
            text,
            Line2D(
                [],
                [],
                color=looks[label].colour,
                marker=looks[label].marker,
                linestyle=looks[label].dash,
                markersize=4.2,
            ),
        )
        for label, text in labels.items()
    ]
    return _saved(figure, name, axes.get_title(loc="left"), caption, handles)


def _saved(figure: Figure, name: str, title: str, caption: str, handles: Sequence[tuple[str, Any]]) -> Chart:
    import io

    labels = shortened([clean(label) for label, _ in handles], LABEL)
    handles = [(label, handle) for label, (_, handle) in zip(labels, handles, strict=True)]
    columns = _legend_columns([len(label) for label in labels])
    rows = -(-len(handles) // columns)
    if rows > LEGEND_ROWS:  # the legend takes room of its own, not the axes'
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + LEGEND_ROW * (rows - LEGEND_ROWS))
    # matplotlib fills a legend column by column; a reader goes row by row.
    across = [
        handles[k] for c in range(columns) for r in range(rows) if (k := r * columns + c) < len(handles)
    ]
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        if handles:
            figure.legend(
                [handle for _, handle in across],
                ["\u200b" + label for label, _ in across],
                loc="outside lower left",
                ncols=columns,
            )
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return Chart(name, title, caption, described(buffer.getvalue(), name, title, caption))


def _legend_columns(lengths: Sequence[int]) -> int:
    """As many columns as fit the width, read row by row (points: 35 for a handle, 5 for a letter)."""
    for columns in range(len(lengths), 1, -1):
        if sum(35 + 5 * max(lengths[c::columns]) for c in range(columns)) <= 72 * WIDTH - 10:
            return columns
    return 1


def clean(text: str) -> str:
    """Text without characters that XML can't hold."""
    return UNPRINTABLE.sub("\ufffd", str(text))


def described(svg: str, name: str, title: str, caption: str) -> str:
    """The document with an accessible title, ids of its own (several share a page) and no DTD."""
    prefix = "chart-" + re.sub(r"[^A-Za-z0-9_-]", "-", name)
    body, title, caption = clean(svg[svg.index("<svg") :]), clean(title), clean(caption)
    body = re.sub(r'(?<=\sid=")', f"{prefix}-", body)
    body = re.sub(r'((?:xlink:)?href=")#', rf"\1#{prefix}-", body)
    body = body.replace("url(#", f"url(#{prefix}-").replace("*{stroke", f"#{prefix} *{{stroke")
    words = f"<title>{html.escape(title)}</title><desc>{html.escape(caption)}</desc>"
    head, rest = body.split(">", 1)
    return f'{head} id="{prefix}" role="img" aria-label="{html.escape(title)}">{words}{rest}'
