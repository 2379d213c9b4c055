"""The drawing toolkit: small SVGs that read the same on a phone, on paper and in a browser.

Matplotlib is imported late. The same records give the same bytes: fixed hash salt, no date, text kept as text.
"""

from __future__ import annotations

import hashlib
import html
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressbench.declared import declared
from compressbench.report.numbers import Spread, between, percentage, spread
from compressbench.report.panels import FINAL, Panel, Point, Series, beside_lead
from compressbench.report.styles import INK, MUTED, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
Lines = Sequence[tuple[Series, Sequence[tuple[float, Spread]]]]
Grouped = list[tuple[Series, Point, dict[str, Spread]]]
WIDTH, HEIGHT = 5.0, 3.7
LETTER = 0.071
"""Inches of a digit at a tick."""
LEGEND_ROWS, LEGEND_ROW = 4, 0.165
LABEL = 56
ROWS_SHOWN = 24
TOGETHER, MULTIPLES, COLUMNS = 6, 30, 3
"""Series that share one chart; more get a small one each, up to so many, in so many columns."""
SPANS = 4.0
"""Of a main metric that is no share of examples: times the lowest that the highest may be on an even axis."""
AT_LINES, AT_LINE, LINE_LABEL = 20, 9.6, 26
"""Labels that fit beside the lines, points from one to the next, letters of one."""
PALE = "#d5d8dc"
VARIABLES = {
    INK: "--ink",
    "#000000": "--ink",
    MUTED: "--muted",
    "#9aa0a6": "--axis",
    "#e4e6e8": "--grid",
    "#eef0f1": "--grid",
    PALE: "--pale",
    "#f0e3c4": "--band",
    "#ffffff": "--paper",
}
"""Colours of a chart that the page sets, so that a dark one can set others."""
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
COLOUR = re.compile(rf"((?:fill|stroke): )({'|'.join(VARIABLES)})\b")
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


def settings() -> AbstractContextManager[None]:
    """The settings that every chart is to be made under."""
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
        rest = COLOUR.sub(lambda hit: f"{hit[1]}var({VARIABLES[hit[2]]}, {hit[2]})", rest)
        return re.sub(r'\s(?:width|height)="[^"]*"', "", head) + ">" + rest


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
    counts = counts_of(panel, lines, moment, figure_of)

    def dress(axes: Axes, _: Lines) -> None:
        dense_lines(panel, axes, moment, figure_of)
        density_axis(axes, [x for _, points in lines for x, _ in points])
        axes.set_ylabel(label)

    caption = f"{told} Black: the dense model. {bands(counts)}"
    return line_chart(panel, name, title + when(moment), lines, dress, caption)


def when(moment: str) -> str:
    return "" if moment == FINAL else f", “{moment}”"


def main_of(panel: Panel, point: Point) -> Spread | None:
    reading = panel.main_reading(point)
    return reading.spread if reading else None


def accuracy_words(panel: Panel) -> tuple[str, str]:
    metric = panel.main[1] if panel.main else "accuracy"
    unit = next((r.unit for r in panel.rows if (r.probe, r.metric) == panel.main), "")
    known = declared(metric)
    name = "Top-1 accuracy" if metric == "top1" else known.title if known else metric.replace("_", " ")
    if known is not None and known.better < 0 and unit != "%":
        name += " (lower is better)"
    return name, "" if unit == "1" else unit


def accuracy_axis(axes: Axes, panel: Panel, lines: Lines) -> None:
    """The main metric upwards, by its name; logarithmic where it is no share of examples and spans much."""
    label, unit = accuracy_words(panel)
    label = f"{label}, {unit}" if unit else label
    values = [spread.mean for _, points in lines for _, spread in points]
    if unit != "%" and min(values) > 0 and max(values) > SPANS * min(values):
        axes.set_yscale("log")
        percent_ticks(axes.yaxis, values)
        label += ", log scale"
    axes.set_ylabel(label)


def bands(counts: Iterable[int]) -> str:
    return _over("Bands", counts)


def bars(counts: Iterable[int]) -> str:
    return _over("Bars", counts)


def _over(what: str, counts: Iterable[int]) -> str:
    known = set(counts)
    if known <= {1}:
        return "One seed: no spread."
    return f"{what}: mean ± sample sd over {between(known)} seeds."


def canvas(title: str, rows: int = 0, least: float = HEIGHT) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, max(least, 1.5 + 0.19 * rows)), layout="constrained")
    axes = figure.add_subplot()
    long = len(title) > 52 and ", “" in title
    axes.set_title("\n“".join(map(clean, title.rsplit(", “", 1))) if long else clean(title))
    return figure, axes


def line_chart(
    panel: Panel,
    name: str,
    title: str,
    lines: Lines,
    dress: Callable[[Axes, Lines], None],
    caption: str,
) -> Chart:
    """Lines with their names beside them; of many series a small chart each, the others pale behind.

    Args:
        dress: draws what is no series and sets the axes up, of one chart and the lines that are its own.
        caption: of one chart.
    """
    single = len(lines) <= AT_LINES and all(len(points) == 1 for _, points in lines)
    if single or not TOGETHER < len(lines) <= MULTIPLES:
        figure, axes = canvas(title)
        draw(panel, axes, lines)
        dress(axes, lines)
        drawn = [*panel.dense.values(), *(series for series, _ in lines)]
        return finish(figure, axes, panel, name, caption, drawn=drawn)

    def paint(axes: Axes, place: int) -> None:
        for series, points in lines:
            if series is not lines[place][0]:
                xs, means = [x for x, _ in points], [s.mean for _, s in points]
                pale = axes.plot(xs, means, color=PALE, linewidth=0.8, marker=".", markersize=2.5)
                mark(pale, series.label)
        draw(panel, axes, lines[place : place + 1])
        dress(axes, lines[place : place + 1])

    return multiples(name, title, [series.label for series, _ in lines], paint, caption)


def dot_chart(
    panel: Panel,
    name: str,
    title: str,
    lines: Grouped,
    names: Sequence[str],
    dress: Callable[[Axes], None],
    caption: str,
    floor: float | None = None,
) -> Chart:
    """One row a name, one dot a series; of many series a small chart each, the others pale behind.

    Args:
        dress: sets up the axes of one chart.
        floor: see ``dots``.
    """
    if not TOGETHER < len(lines) <= MULTIPLES:
        figure, axes = canvas(title, rows=len(names))
        dots(panel, axes, lines, names, floor)
        dress(axes)
        return finish(figure, axes, panel, name, caption, lines)

    def paint(axes: Axes, place: int) -> None:
        for series, _, found in lines:
            if series is not lines[place][0]:
                spots = [
                    (max(found[n].mean, floor or -math.inf), k) for k, n in enumerate(names) if n in found
                ]
                mark(axes.plot(*zip(*spots, strict=True), ".", color=PALE, markersize=4), series.label)
        dots(panel, axes, lines[place : place + 1], names, floor)
        dress(axes)

    labels = [series.label for series, _, _ in lines]
    shares = [percentage(point.density) for _, point, _ in lines]
    beside = [f", {share} %" for share in shares] if len(set(shares)) > 1 else ()
    return multiples(name, title, labels, paint, caption, 0.45 + 0.11 * len(names), beside)


def multiples(
    name: str,
    title: str,
    labels: Sequence[str],
    paint: Callable[[Axes, int], None],
    caption: str,
    height: float = 1.2,
    beside: Sequence[str] = (),
) -> Chart:
    """A small chart for each series, all on the same axes.

    Args:
        beside: what each heading says behind the label.
        paint: draws one and sets up its axes, of the axes and the place of the series.
        height: of one, in inches.
    """
    from matplotlib.figure import Figure

    rows = -(-len(labels) // COLUMNS)
    more = beside or [""] * len(labels)
    names = [clean(label + tail).partition(": ") for label, tail in zip(labels, more, strict=True)]
    tall = height + 0.14 * any(rest for _, _, rest in names)
    figure = Figure(figsize=(WIDTH, 0.9 + tall * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    ends = shortened([rest or first for first, _, rest in names], LINE_LABEL)
    heads = [short(first, LINE_LABEL) + ":\n" if rest else "" for first, _, rest in names]
    for place, axes in enumerate(grid.flat):
        if place >= len(labels):
            axes.set_axis_off()
            continue
        paint(axes, place)
        axes.set_title("\u200b" + heads[place] + ends[place], fontsize=7, fontweight="normal", pad=3)
        mark([axes.title, axes._left_title], labels[place])
        if not place:
            figure.supxlabel(axes.get_xlabel(), fontsize=8)
            figure.supylabel(axes.get_ylabel(), fontsize=8)
        axes.set(xlabel="", ylabel="")
        axes.tick_params(labelsize=6.5)
        _fewer(axes)
        if place + COLUMNS >= len(labels):
            axes.tick_params(labelbottom=True)
    figure.suptitle(clean(title), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    return saved(figure, name, title, f"A small chart each, the other series grey behind. {caption}", [])


def _fewer(axes: Axes, most: int = 4) -> None:
    """Leaves as many marks of the x axis as a small chart has room for."""
    from matplotlib.ticker import FixedLocator

    low, high = sorted(axes.get_xlim())
    places = [x for x in axes.get_xticks() if low <= x <= high]
    if len(places) > most:
        step = -(-len(places) // most)
        axes.xaxis.set_major_locator(FixedLocator(places[::-1][::step]))


def mark(artists: Iterable[Any], label: str) -> None:
    """Names artists as those of a series, by which a page hides them."""
    for artist in artists:
        artist.set_gid(series_class(label))


def series_class(label: str) -> str:
    """A name for a series that any document can hold: the class of all that shows it."""
    return f"s-{hashlib.sha256(label.encode('utf-8', 'replace')).hexdigest()[:10]}"


def draw(panel: Panel, axes: Axes, lines: Lines) -> set[int]:
    """Means as lines, ± sd as bands; returns the numbers of seeds met."""
    looks, counts = styles(panel), set()
    for series, points in lines:
        look = looks[series.label]
        xs, means = [x for x, _ in points], [s.mean for _, s in points]
        if one_cost((series, points)):
            deviations = [s.sd or 0 for _, s in points]
            bars_ = axes.errorbar(
                xs, means, deviations, color=look.colour, fmt=look.marker, elinewidth=0.9, zorder=3
            )
            mark(bars_.get_children(), series.label)
            counts |= {s.n for _, s in points}
            continue
        mark(
            axes.plot(xs, means, color=look.colour, marker=look.marker, linestyle=look.dash, zorder=3),
            series.label,
        )
        mark(band(axes, points, look.colour, zorder=2), series.label)
        counts |= {s.n for _, s in points}
    return counts


def band(axes: Axes, points: Sequence[tuple[float, Spread]], colour: str, zorder: float = 1) -> list[Any]:
    """Mean ± sd as a pale band, what was drawn; nothing where no place has a spread."""
    if not any(s.sd for _, s in points):
        return []
    low, high = ([s.mean + sign * (s.sd or 0) for _, s in points] for sign in (-1, 1))
    xs = [x for x, _ in points]
    return [axes.fill_between(xs, low, high, color=colour, alpha=0.16, linewidth=0, zorder=zorder)]


def one_cost(line: tuple[Series, Sequence[tuple[float, Spread]]]) -> bool:
    """True for several points at one place of the x axis: a line through them would say nothing."""
    xs = [x for x, _ in line[1]]
    return len(xs) > 1 and math.isclose(min(xs), max(xs), rel_tol=0.02)


def dense_lines(
    panel: Panel, axes: Axes, moment: str, figure_of: Callable[[Point], Spread | None]
) -> set[int]:
    looks, counts = styles(panel), set()
    for label, series in panel.dense.items():
        points = series.at(moment)
        figure = figure_of(points[0]) if points else None
        if figure is None:
            continue
        look = looks[label]
        line = axes.axhline(figure.mean, color=look.colour, linestyle=look.dash, linewidth=1.2, zorder=2.5)
        mark([line], label)
        if figure.sd:
            axes.axhspan(
                figure.mean - figure.sd, figure.mean + figure.sd, color=look.colour, alpha=0.1, linewidth=0
            )
        counts.add(figure.n)
    return counts


def counts_of(
    panel: Panel, lines: Lines, moment: str, figure_of: Callable[[Point], Spread | None]
) -> set[int]:
    """The numbers of seeds behind lines and dense lines."""
    whole = [figure_of(points[0]) for series in panel.dense.values() if (points := series.at(moment))]
    return {s.n for _, points in lines for _, s in points} | {s.n for s in whole if s}


def log_axis(axes: Axes, values: Sequence[float], label: str, ticks: Sequence[float] = ()) -> None:
    """Logarithmic, smaller to the right; marked at ``ticks``, or at round numbers."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low > 3 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    ticks = ticks or [step * 10.0**d for d in decades for step in steps]
    axes.set_xscale("log")
    axes.set_xlim(high * 1.12, low / 1.12)
    figure: Any = axes.figure
    inches = axes.get_position().width * figure.get_figwidth() / math.log(high / low * 1.12**2)
    within = [t for t in sorted(ticks) if low / 1.1 <= t <= high * 1.1]
    axes.xaxis.set_major_locator(FixedLocator(_apart(within, inches)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def _apart(ticks: Sequence[float], inches: float) -> list[float]:
    """Those of rising ticks whose labels don't touch, the first of them; ``inches`` of the axis a factor of e."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or math.log(tick / kept[-1]) * inches >= LETTER * (len(f"{tick:g}") + 1):
            kept.append(tick)
    return kept


def density_axis(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = min(values), max([*values, 100.0])
    axes.set_xlim(high * 1.12, low / 1.12)
    percent_ticks(axes.xaxis, [low, high])
    axes.set_xlabel("density: prunable weights kept, % (log scale, sparser →)")


def percent_ticks(axis: Any, values: Sequence[float]) -> None:
    """Marks a logarithmic axis at 1, 2 and 5 of each decade, or at powers of ten alone; a short one at round numbers."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    ticks = [s * 10.0**d for d in decades for s in steps]
    if sum(low / 1.15 <= t <= high * 1.01 for t in ticks) < 2:
        ticks = [float(t) for t in MaxNLocator(3).tick_values(low, high) if t > 0]
    axis.set_major_locator(FixedLocator([t for t in ticks if low / 1.15 <= t <= high * 1.01]))
    axis.set_minor_locator(NullLocator())


def throughput_axes(axes: Axes) -> None:
    """Both logarithmic, batch sizes by powers of two."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for form in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        form(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "125" else "")
    axes.set_xlabel("batch size (log scale)")
    axes.set_ylabel("examples a second (log scale)")


def by_group(panel: Panel, moment: str, probe: str, metric: str) -> Grouped:
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


def lowest_at(panel: Panel, lines: Grouped) -> str:
    known = {percentage(point.density) for _, point, _ in lines}
    if len(known) == 1:
        return f"All at {known.pop()} % density, the lowest of {_lead(panel)}"
    return f"Each at the lowest density of {_lead(panel)}, or at its own"


def dots(
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
                ends = [low, figure.mean + figure.sd]
                mark(axes.plot(ends, [y, y], color=look.colour, linewidth=1, alpha=0.6), series.label)
            dot = axes.plot(
                [x],
                [y],
                look.marker or "o",
                color=look.colour,
                markersize=4,
                markerfacecolor="white" if gone else look.colour,
            )
            mark(dot, series.label)
            counts.add(figure.n)
    name_rows(axes, names, 22)
    for edge in range(1, len(names)):
        axes.axhline(edge - 0.5, color="#eef0f1", linewidth=0.6, zorder=0)
    return counts


def name_rows(axes: Axes, names: Sequence[str], length: int) -> None:
    """One row a name, the first on top."""
    axes.set_yticks(range(len(names)), [short(clean(name), length) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def shortened(texts: Sequence[str], length: int) -> list[str]:
    """Texts cut at their ends, or in the middle where two would look alike; those that still do are numbered."""
    cut = [short(text, length) for text in texts]
    if len(set(cut)) < len(set(texts)):
        half = length // 2
        cut = [t if len(t) <= length else f"{t[: length - half - 1]}…{t[-half:]}" for t in texts]
    if len(set(cut)) < len(set(texts)):
        cut = [t if len(t) <= length else f"{short(t, length - 5)} #{k}" for k, t in enumerate(texts, 1)]
    return cut


def finish(
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
        if label_lines(figure, axes, panel, list(labels)):
            return saved(figure, name, axes.get_title(loc="left"), caption, [])
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
    return saved(figure, name, axes.get_title(loc="left"), caption, handles)


def label_lines(figure: Figure, axes: Axes, panel: Panel, labels: Sequence[str]) -> bool:
    """Writes each name beside the right end of its line; false where one has no line, or too many would stand there."""
    axes.autoscale_view()  # limits are stale until they are asked for
    ends = {label: end for label in labels if (end := _right_end(axes, series_class(label)))}
    labels = [label for label in labels if label in ends or label not in panel.dense]
    if len(ends) < len(labels) or not labels or len(labels) > AT_LINES:
        return False
    looks, box = styles(panel), axes.bbox
    height = 72 * figure.get_size_inches()[1] - 80
    if AT_LINE * (len(labels) - 1) > height:
        return False
    names = dict(zip(labels, shortened([clean(label) for label in labels], LINE_LABEL), strict=True))

    def wanted(label: str) -> float:
        place = axes.transData.transform(ends[label])[1]
        return min(max((place - box.y0) / box.height, 0.0), 1.0)

    order = sorted(labels, key=lambda label: (wanted(label), labels.index(label)))
    places = spread_apart([wanted(label) for label in order], AT_LINE / height)
    for label, y in zip(order, places, strict=True):
        look, at = looks[label], axes.transAxes.inverted().transform(axes.transData.transform(ends[label]))
        note = axes.annotate(
            "\u200b" + names[label],
            (min(max(at[0], 0.0), 1.0), wanted(label)),
            (1.035, y),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=7.5,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": look.colour,
                "linewidth": 0.8,
                "linestyle": (0, (1, 1.5)),
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )
        mark([note, note.arrow_patch], label)
    return True


def _right_end(axes: Axes, name: str) -> tuple[float, float] | None:
    """The data place of a series' line that is farthest to the right on paper; of a line across, its right end."""
    import numpy as np

    found = []
    for line in axes.lines:
        if line.get_gid() != name:
            continue
        spots = np.asarray(line.get_xydata(), float).tolist()
        if line.get_transform() == axes.get_yaxis_transform(which="grid"):
            return axes.get_xlim()[1], spots[0][1]
        found += [(axes.transData.transform((x, y))[0], x, y) for x, y in spots]
    known = [spot for spot in found if all(map(math.isfinite, spot))]
    return max(known)[1:] if known else None


def spread_apart(wanted: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Places at least ``gap`` apart in the order given, as near to those wanted as can be, within ``low`` and ``high``.

    Args:
        wanted: in rising order.

    Returns:
        The least squares solution (isotonic regression of ``wanted`` less the gaps), moved into the bounds; where there
        is no room for all of them they start at ``low``.
    """
    blocks: list[tuple[float, int]] = []  # mean, size
    for place, value in enumerate(wanted):
        mean, size = value - place * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    level = [mean for mean, size in blocks for _ in range(size)]
    most = high - (len(level) - 1) * gap
    return [max(low, min(value, most)) + place * gap for place, value in enumerate(level)]


def _plain_powers(figure: Figure) -> None:
    """Ticks of logarithmic axes as plain numbers; matplotlib's own are formulas, which charts here don't parse."""
    from matplotlib.ticker import FuncFormatter, LogFormatter

    def plain(shown: str) -> FuncFormatter:
        return FuncFormatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in shown else "")

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if isinstance(axis.get_minor_formatter(), LogFormatter):
            low, high = sorted(axis.get_view_interval())
            axis.set_minor_formatter(plain("25" if low > 0 and high / low < 100 else ""))


def saved(figure: Figure, name: str, title: str, caption: str, handles: Sequence[tuple[str, Any]]) -> Chart:
    import io

    _plain_powers(figure)
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
    body = re.sub(r'\sid="(s-[0-9a-f]{10})"', r' class="\1"', body)
    body = re.sub(r'(?<=\sid=")', f"{prefix}-", body)
    body = re.sub(r'((?:xlink:)?href=")#', rf"\1#{prefix}-", body)
    body = body.replace("url(#", f"url(#{prefix}-").replace("*{stroke", f"#{prefix} *{{stroke")
    words = f"<title>{html.escape(title)}</title><desc>{html.escape(caption)}</desc>"
    head, rest = body.split(">", 1)
    return f'{head} id="{prefix}" role="img" aria-label="{html.escape(title)}">{words}{rest}'
