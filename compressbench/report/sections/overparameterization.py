"""Ease of training against size: loss step by step, moves from the start, the line, negative curvature, certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressbench.report.drawing import Chart, band, bars, canvas, mark, saved
from compressbench.report.numbers import Spread, from_text, grouped
from compressbench.report.panels import Panel, Point, Reading, Series
from compressbench.report.section import Section, kept, moment_suffix
from compressbench.report.states import Column, Key, every_seed, metric_table, of
from compressbench.report.styles import COLOURS, DASHES, INK, MARKERS, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
SIZES = (
    ("two_layer", "width", "width"),
    ("factorisation", "columns", "columns"),
    ("straight_line", "dimensions", "weights"),
    ("negative_curvature", "dimensions", "weights"),
)
"""What tells how large a net is: probe, metric, noun; the first that was measured."""
MOVES = of(
    "two_layer",
    "width",
    "patterns_flipped",
    "neuron_move_largest",
    "lambda0",
    "gram_smallest",
    "loss_halved_in",
    "loss_halved_in_proven",
)
OF_SEEDS = "of seeds (95 %)"
LINE = (
    *of("straight_line", "dimensions"),
    Column("straight_line", "line_monotone", unit=OF_SEEDS, yes_no=True),
    *of("straight_line", "line_rise", "line_length", "line_length_relative"),
)
CURVATURE = of(
    "negative_curvature",
    "dimensions",
    "negative_curvature",
    "negative_directions",
    "eigenvalue_smallest",
    "eigenvalue_largest",
)
CERTIFICATE = (
    *of(
        "factorisation",
        "columns",
        "columns_zero",
        "columns_needed",
        "objective",
        "objective_optimum",
        "objective_gap",
        "slope",
        "curvature_smallest",
        "curvature_smallest_widened",
        "certificate",
    ),
    Column("factorisation", "is_global", unit=OF_SEEDS, yes_no=True),
)
TABLES = (
    ("Moves from the start", MOVES),
    ("Line from start to end", LINE),
    ("Negative curvature", CURVATURE),
    ("Certificate", CERTIFICATE),
)
FITTED = of("fitting", "fitted_loss", "fitted_steps")
BY_GROUP = (
    ("fitting", "fitted_loss_at"),
    ("fitting", "epochs_to_loss"),
    ("two_layer", "loss_proven_at"),
    ("straight_line", "line_loss"),
)
ENDS = ("_low", "_high")
LEAD = (
    "A net’s moves, its line and its training loss are measured from its own start. A training loss that falls all along "
    "the straight line from start to end, and little negative curvature, are what a convex problem would have. A proven "
    "rate whose conditions don’t hold is a comparison and guarantees nothing; whether they do is said with it."
)


@dataclass(frozen=True)
class Net:
    """One state at one moment: its series, its point, its size and the size's noun."""

    series: Series
    point: Point
    size: float
    noun: str

    @property
    def label(self) -> str:
        told = grouped(round(self.size))
        return f"{told} weights" if self.noun == "weights" else f"{self.noun} {told}"

    def figure(self, probe: str, metric: str, group: str = "") -> Spread | None:
        """A metric over seeds."""
        reading = self.point.reading(probe, metric, group)
        return reading.spread if reading else None


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    known = {column.key for _, columns in TABLES for column in columns} | {c.key for c in FITTED}
    ends = {("negative_curvature", f"negative_curvature{end}", False) for end in ENDS}
    return known | ends | {(probe, metric, True) for probe, metric in BY_GROUP}


def section(panel: Panel, suffix: str) -> Section:
    """Ease of training against size."""
    drawn: list[Chart | None] = []
    for moment in panel.moments:
        end = f"{moment_suffix(panel, moment)}{suffix}"
        drawn += [
            loss_against_steps(panel, moment, f"loss_against_steps{end}"),
            loss_on_line(panel, moment, f"loss_on_line{end}"),
            epochs_to_loss(panel, moment, f"epochs_to_loss{end}"),
            *moves(panel, moment, end),
            gap_against_columns(panel, moment, f"gap_against_columns{end}"),
        ]
    drawn.append(negative_curvature(panel, f"negative_curvature{suffix}"))
    tables = [
        metric_table(panel, moment, title, columns)
        for moment in panel.moments
        for title, columns in (*TABLES, ("Fit", (*FITTED, *_levels(panel, moment))))
    ]
    return Section("Ease of training", "overparameterization", kept(drawn), kept(tables), (), LEAD)


def nets(panel: Panel, moment: str) -> list[Net]:
    """All states of which a size was measured at a moment, the smallest first."""
    found = []
    for series in (*panel.dense.values(), *panel.series):
        for point in series.at(moment):
            for probe, metric, noun in SIZES:
                reading = point.reading(probe, metric)
                if reading and reading.spread:
                    found.append(Net(series, point, reading.spread.mean, noun))
                    break
    return sorted(found, key=lambda net: net.size)


def _by_place(net: Net, probe: str, metric: str) -> list[tuple[float, Spread]]:
    """A metric of groups that are numbers, in their order."""
    found = [
        (place, reading.spread)
        for (p, m, group), reading in net.point.readings.items()
        if (p, m) == (probe, metric) and (place := from_text(group)) is not None and reading.spread
    ]
    return sorted(found, key=lambda pair: pair[0])


def _levels(panel: Panel, moment: str) -> list[Column]:
    groups = dict.fromkeys(
        r.group for r in panel.rows if (r.probe, r.metric, r.moment) == ("fitting", "epochs_to_loss", moment)
    )
    known = {group: place for group in groups if (place := from_text(group)) is not None}
    return [
        Column("fitting", "epochs_to_loss", f"Epochs to a loss of {group}", group=group, done="reached")
        for group in sorted(known, key=known.__getitem__, reverse=True)
    ]


Line = tuple[str, str, Sequence[tuple[float, Spread]]]
"""A name, the label of its series, its places."""


def _lines(found: Sequence[Net], probe: str, metric: str) -> list[Line]:
    lines = [(net.label, net.series.label, _by_place(net, probe, metric)) for net in found]
    return [line for line in lines if line[2]]


def _drawn(axes: Axes, lines: Sequence[Line], marks: bool = True) -> list[tuple[str, object]]:
    """Draws lines, each in a colour of its own, the last in ink; bands for the spread; what a legend needs."""
    handles: list[tuple[str, object]] = []
    for place, (name, series, points) in enumerate(lines):
        last = place == len(lines) - 1
        round_ = place // len(COLOURS)
        colour = INK if last and len(lines) > 1 else COLOURS[place % len(COLOURS)]
        xs, means = [x for x, _ in points], [s.mean for _, s in points]
        sign = MARKERS[place % len(MARKERS)] if marks else ""
        (line,) = axes.plot(xs, means, color=colour, marker=sign, linestyle=DASHES[round_ % len(DASHES)])
        drawn = [line, *band(axes, points, colour)]
        if series:
            mark(drawn, series)
        handles.append((name, line))
    return handles


def _counts(lines: Sequence[Line]) -> set[int]:
    return {s.n for _, _, points in lines for _, s in points}


def loss_against_steps(panel: Panel, moment: str, name: str) -> Chart | None:
    """Training loss against steps, a line a net, and the bound that is proven for the largest."""
    found = nets(panel, moment)
    lines = _lines(found, "fitting", "fitted_loss_at")
    if not lines:
        return None
    figure, axes = canvas("Training loss against steps")
    handles = _drawn(axes, lines, marks=False)
    told = ""
    bound = _by_place(found[-1], "two_layer", "loss_proven_at")
    if bound:
        (line,) = axes.plot(
            [x for x, _ in bound], [s.mean for _, s in bound], color=MUTED, linestyle=DASHES[1]
        )
        handles.append((f"proven, {found[-1].label}", line))
        rate = found[-1].point.reading("two_layer", "loss_halved_in_proven")
        said = f" ({rate.notes[0]})" if rate and rate.notes else ""
        told = f" Dashed: the proven rate{said}."
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss (log scale)")
    return saved(
        figure, name, axes.get_title(loc="left"), f"A line a net.{told} {bars(_counts(lines))}", handles
    )


def loss_on_line(panel: Panel, moment: str, name: str) -> Chart | None:
    """Training loss on the straight line from the start (0) to the end (1), a line a net."""
    lines = _lines(nets(panel, moment), "straight_line", "line_loss")
    if not lines:
        return None
    figure, axes = canvas("Training loss on the line from start to end")
    handles = _drawn(axes, lines, marks=False)
    axes.set_xlabel("place on the line: 0 the start, 1 the end")
    axes.set_ylabel("training loss")
    caption = f"A hump is a rise that the training went around. {bars(_counts(lines))}"
    return saved(figure, name, axes.get_title(loc="left"), caption, handles)


def epochs_to_loss(panel: Panel, moment: str, name: str) -> Chart | None:
    """Epochs until the training loss was down to each level, against the net's size."""
    found = nets(panel, moment)
    lines = [
        line
        for column in _levels(panel, moment)
        for line in _against_size(
            found, "fitting", "epochs_to_loss", f"loss {column.group}", column.group, every_seed
        )
    ]
    lines = [line for line in lines if any(s.mean > 0 for _, s in line[2])]
    if not lines:
        return None
    figure, axes = canvas("Epochs until the training loss is reached")
    handles = _drawn(axes, lines)
    _size_axis(axes, found)
    axes.set_ylabel("epochs")
    told = "As often as the training wrote its loss down (follow), no finer: true times are that much earlier at most."
    caption = f"{told} A net that never came down to a level, at one seed or more, has no mark. {bars(_counts(lines))}"
    return saved(figure, name, axes.get_title(loc="left"), caption, handles)


def moves(panel: Panel, moment: str, end: str) -> Iterator[Chart]:
    """Share of patterns flipped, and the largest move of a neuron, against width."""
    found = nets(panel, moment)
    for metric, title, label in (
        ("patterns_flipped", "Activation patterns flipped since the start", "pairs of example and neuron, %"),
        ("neuron_move_largest", "Largest move of a neuron", "distance from its start"),
    ):
        lines = _against_size(found, "two_layer", metric, title)
        if not lines:
            continue
        figure, axes = canvas(title)
        _drawn(axes, lines)
        _size_axis(axes, found)
        if all(s.mean > 0 for _, s in lines[0][2]):
            axes.set_yscale("log")
            label += " (log scale)"
        axes.set_ylabel(label)
        yield saved(figure, f"{metric}{end}", title, bars(_counts(lines)), [])


def negative_curvature(panel: Panel, name: str) -> Chart | None:
    """Share of negative curvature against the net's size, a line a moment."""
    lines: list[Line] = []
    every: list[Net] = []
    for moment in panel.moments:
        found = nets(panel, moment)
        lines += _against_size(found, "negative_curvature", "negative_curvature", moment)
        every += [net for net in found if net.figure("negative_curvature", "negative_curvature")]
    if not lines:
        return None
    figure, axes = canvas("Share of negative curvature")
    handles = _drawn(axes, lines)
    estimated = [interval for net in every if (interval := _estimated(net))]
    for size, mean, low, high in estimated:
        axes.errorbar([size], [mean], [[mean - low], [high - mean]], color=MUTED, elinewidth=0.9, capsize=2)
    _size_axis(axes, every)
    axes.set_ylabel("of the sum of eigenvalues’ sizes, %")
    told = "Grey bars: the estimate’s 95 % interval over random starts. " if estimated else ""
    caption = f"Of the training loss’s Hessian; exact where the whole of it was taken, else estimated. {told}"
    caption += bars(_counts(lines))
    return saved(figure, name, axes.get_title(loc="left"), caption, handles)


def _estimated(net: Net) -> tuple[float, float, float, float] | None:
    """Size, estimate and the ends of its interval, of one seed; over several their spread holds the estimate's error."""
    found = [net.figure("negative_curvature", f"negative_curvature{end}") for end in ("", *ENDS)]
    if any(f is None or f.n > 1 for f in found):
        return None
    mean, low, high = (f.mean for f in found if f)
    return (net.size, mean, low, high) if low <= mean <= high else None


def gap_against_columns(panel: Panel, moment: str, name: str) -> Chart | None:
    """How far the objective stays above the optimum in closed form, against the number of columns."""
    found = nets(panel, moment)
    lines = _against_size(found, "factorisation", "objective_gap", "above the optimum")
    if not lines:
        return None
    figure, axes = canvas("Objective above the optimum")
    _drawn(axes, lines)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    needed = found[-1].figure("factorisation", "columns_needed")
    told = ""
    if needed:
        axes.axvline(needed.mean, color=MUTED, linewidth=0.8, linestyle=DASHES[1])
        told = "Dashed: the rank of the optimum. "
    _size_axis(axes, found)
    axes.set_ylabel("objective − optimum in closed form")
    return saved(figure, name, axes.get_title(loc="left"), told + bars(_counts(lines)), [])


def _against_size(
    found: Sequence[Net],
    probe: str,
    metric: str,
    name: str,
    group: str = "",
    fit: Callable[[Reading], bool] = lambda reading: True,
) -> list[Line]:
    """One line over all nets, none where nothing was measured; it is of no series, since it runs through several."""
    readings = [(net.size, net.point.reading(probe, metric, group)) for net in found]
    points = [(size, r.spread) for size, r in readings if r and r.spread and fit(r)]
    return [(name, "", points)] if points else []


def _size_axis(axes: Axes, found: Sequence[Net]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    sizes = sorted({net.size for net in found})
    few = found[0].noun == "columns"
    if not few:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: grouped(round(value))))
    axes.set_xlabel(found[0].noun if few else f"{found[0].noun} (log scale)")
