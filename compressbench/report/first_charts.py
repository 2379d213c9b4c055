"""One chart to each question of the first page: rows with intervals, loyalty against size, accuracy against time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressbench.report.answers import (
    ACCURATE,
    AGREES,
    ATTACKS,
    FRAGILE,
    LOYALTY,
    PAYS,
    SHIFTS,
    SMALLER,
    TAKE,
    Asked,
    apart,
    floor_of_populations,
    runtime,
)
from compressbench.report.drawing import (
    TOGETHER,
    Chart,
    Lines,
    accuracy_axis,
    accuracy_words,
    bands,
    canvas,
    clean,
    dense_lines,
    line_chart,
    log_axis,
    main_of,
    mark,
    name_rows,
    saved,
)
from compressbench.report.estimates import Estimate, change, class_changes, level
from compressbench.report.judged import judged
from compressbench.report.numbers import Spread, number
from compressbench.report.panels import Panel, Point, Series
from compressbench.report.picks import State, first_speed, picks, size_of
from compressbench.report.speed import batches
from compressbench.report.styles import INK, MUTED, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
ROWS = 24
CLASSES = 12
BAND = "#f0e3c4"
WHISKERS = (
    "Bars: 95 % intervals, over seeds where there are several, else over the test examples of the one net."
)


@dataclass(frozen=True)
class Whisker:
    """One row: a figure with the ends of its interval, not-a-number where it has none."""

    name: str
    series: str
    value: float
    low: float
    high: float


def charts(of: Asked, suffix: str) -> dict[str, Chart]:
    """Question -> its chart, where the records hold one."""
    builders: tuple[tuple[str, Callable[[Asked, str], Chart | None]], ...] = (
        (ACCURATE, changes),
        (AGREES, loyalty_vs_size),
        (PAYS, worst),
        (FRAGILE, attacked),
        (SMALLER, speeds),
        (TAKE, choice),
    )
    found = {question: build(of, f"first_{build.__name__}{suffix}") for question, build in builders}
    return {question: chart for question, chart in found.items() if chart}


def changes(of: Asked, name: str) -> Chart | None:
    """Accuracy against dense of each series' pick, with its interval."""
    chosen = picks(of.states)
    rows = [_row(p, p.change) for p in chosen if p.change]
    label, _ = accuracy_words(of.panel)
    unit = next((p.change.unit for p in chosen if p.change), "")
    lines = [(0.0, "-"), (-1.0, ":")] if unit == "points" else [(0.0, "-")]
    by = judged(of.panel)
    line = " (dotted line)" if unit == "points" else ""
    caption = (
        f"Each series where its file is smallest {by.within}{line}, else where it is best{by.lower}. "
        + WHISKERS
    )
    unit = "" if unit == "1" else unit
    return whiskers(of.panel, rows, f"{label}: change from dense", unit, name, caption, lines)


def worst(of: Asked, name: str) -> Chart | None:
    """Recall change of the classes that lose most, with intervals."""
    found = class_changes(of.taken.point)
    rows = [
        Whisker(c.name, of.taken.series.label, c.change.value, c.change.low, c.change.high)
        for c in found[:CLASSES]
    ]
    some = f", the {CLASSES} worst of {len(found)}" if len(found) > CLASSES else ""
    caption = f"{clean(of.taken.name)}{some}. {WHISKERS}"
    return whiskers(of.panel, rows, "Recall change per class", "points", name, caption, [(0.0, "-")])


def attacked(of: Asked, name: str) -> Chart | None:
    """Accuracy under the first attack or shift that the state spoken of has, against dense, over the floor's band."""
    for probe, metric, where in (*ATTACKS, *SHIFTS):
        if of.taken.point.reading(probe, metric) is None:
            continue
        rows = []
        for p in picks(of.states):
            dense = of.panel.dense_of(p.series, of.moment)
            found = change(p.point.reading(probe, metric), dense.reading(probe, metric) if dense else None)
            rows += [_row(p, found)] if found else []
        floor = apart(of, probe, metric)
        band = (-floor.most, floor.most) if floor else None
        told = "Shaded: how far two dense nets are apart at most. " if floor else ""
        return whiskers(
            of.panel,
            rows,
            f"Accuracy {where}: change from dense",
            "points",
            name,
            f"{told}{WHISKERS}",
            [(0.0, "-")],
            band,
        )
    return None


def speeds(of: Asked, name: str) -> Chart | None:
    """Measured speed of each series' pick with its range."""
    rows = []
    for p in picks(of.states):
        if p.speed is not None and p.speed.figure is not None:
            low, high = p.speed.ends or (p.speed.figure.mean, p.speed.figure.mean)
            dense = ", runs dense" if p.speed.dense else ""
            rows.append(Whisker(f"{p.name}{dense}", p.series.label, p.speed.figure.mean, low, high))
    if not rows:
        return sizes(of, name)
    batch = first_speed(of.panel, of.taken.point)[1] or min(batches(of.panel), default=1)
    caption = (
        f"Batch {batch} on {clean(runtime(of.panel, of.taken))}; right of 1 is faster. Bars: the 95 % intervals of all "
        "seeds together, of median ratios in turns."
    )
    return whiskers(of.panel, rows, "Measured speed against dense", "× dense", name, caption, [(1.0, "-")])


def sizes(of: Asked, name: str) -> Chart | None:
    """Bytes of each series' pick, where no speed was measured."""
    rows = [
        Whisker(p.name, p.series.label, p.size / 1000, math.nan, math.nan)
        for p in picks(of.states)
        if math.isfinite(p.size)
    ]
    whole = size_of(of.dense)
    lines = [(whole / 1000, "-")] if math.isfinite(whole) else []
    caption = "Bytes really encoded, the shortest form; line: the dense net. No speed was measured."
    return whiskers(of.panel, rows, "Size on disk", "kB", name, caption, [(0.0, "-"), *lines])


def _row(state: State, found: Estimate) -> Whisker:
    return Whisker(state.name, state.series.label, found.value, found.low, found.high)


def whiskers(
    panel: Panel,
    rows: Sequence[Whisker],
    title: str,
    unit: str,
    name: str,
    caption: str,
    lines: Iterable[tuple[float, str]],
    band: tuple[float, float] | None = None,
) -> Chart | None:
    """One row a figure, its interval as a bar, vertical lines and a band behind; names at the rows, so no legend."""
    if not rows:
        return None
    left = f" The first {ROWS} of {len(rows)}." if len(rows) > ROWS else ""
    rows, looks = rows[:ROWS], styles(panel)
    figure, axes = canvas("", rows=len(rows), least=1.9)
    figure.suptitle(clean(title), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    if band:
        axes.axvspan(*band, color=BAND, linewidth=0, zorder=0)
    for place, dash in lines:
        axes.axvline(place, color=INK, linestyle=dash, linewidth=1.0, zorder=1)
    for place, row in enumerate(rows):
        look = looks[row.series]
        if row.low < row.high:
            mark(
                axes.plot([row.low, row.high], [place, place], color=look.colour, linewidth=1.6, alpha=0.6),
                row.series,
            )
        mark(axes.plot([row.value], [place], look.marker or "o", color=look.colour, markersize=5), row.series)
    name_rows(axes, [r.name for r in rows], 34)
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        mark([text], row.series)
    axes.set_xlabel(unit)
    return saved(figure, name, title, caption + left, [])


def loyalty_vs_size(of: Asked, name: str) -> Chart | None:
    """Label loyalty against bytes, or density where no bytes are known, over the floor of dense nets."""

    def loyal(point: Point) -> Spread | None:
        reading = point.reading(*LOYALTY)
        return reading.spread if reading else None

    panel, moment = of.panel, of.moment
    lines, what = _against_size(panel, moment, loyal)
    if not lines:
        return None
    floors = [f for s in panel.floors for p in s.at(moment) if (f := loyal(p))]
    population = floor_of_populations(panel)
    told = "Dashed: the floor, two dense nets of different seeds. " if floors else ""
    told += "Shaded: pairs of dense nets. " if population else ""
    told = told or "No floor was measured. "
    alone = all(len(points) == 1 for _, points in lines)
    if alone and (len(lines) > TOGETHER or _one_place(lines)):
        rows = [
            _loyal_row(s)
            for s in sorted(of.states, key=lambda s: s.order)
            if level(s.point.reading(*LOYALTY))
        ]
        places = [(f.mean, "--") for f in floors]
        band = population[1:3] if population else None
        caption = f"The smallest file on top. {told}{WHISKERS}"
        return whiskers(
            panel,
            rows,
            "Label loyalty, by size",
            "answers as the dense net’s, %",
            name,
            caption,
            places,
            band,
        )

    def dress(axes: Axes, _: Lines) -> None:
        for floor in floors:
            axes.axhline(floor.mean, color=MUTED, linestyle="--", linewidth=1.2, zorder=2)
        if population:
            axes.axhspan(population[1], population[2], color=BAND, linewidth=0, zorder=0)
        log_axis(axes, [x for _, points in lines for x, _ in points], what)
        axes.set_ylabel("answers as the dense net’s, %")

    counts = {s.n for _, points in lines for _, s in points}
    return line_chart(panel, name, "Label loyalty against size", lines, dress, f"{told}{bands(counts)}")


def _loyal_row(state: State) -> Whisker:
    found = level(state.point.reading(*LOYALTY))
    assert found is not None
    size = f", {number(state.size, 'bytes')}B" if math.isfinite(state.size) else ""
    return Whisker(f"{state.name}{size}", state.series.label, found.value, found.low, found.high)


def choice(of: Asked, name: str) -> Chart | None:
    """Accuracy against measured time where that was measured, else against bytes."""
    panel, moment = of.panel, of.moment
    batch, environment = _timed(of)
    label, _ = accuracy_words(panel)
    if batch:

        def time_of(point: Point) -> float | None:
            reading = point.reading("cost", f"latency_median_b{batch}", "", environment)
            return reading.spread.mean / batch if reading and reading.spread else None

        lines = _lines(panel, moment, time_of, lambda p: main_of(panel, p))
        dense = [x for s in panel.dense.values() for p in s.at(moment) if (x := time_of(p))]
        what, against = f"ms an example at batch {batch} (log scale, faster →)", "measured time"
    else:
        lines, what = _against_size(panel, moment, lambda p: main_of(panel, p))
        dense, against = [], "size"
    if not lines or (not batch and _one_place(lines)):
        return None

    def dress(axes: Axes, _: Lines) -> None:
        dense_lines(panel, axes, moment, lambda p: main_of(panel, p))
        for x in dense:
            axes.axvline(x, color=INK, linestyle=":", linewidth=1.0, zorder=2)
        log_axis(axes, [*dense, *(x for _, points in lines for x, _ in points)], what)
        accuracy_axis(axes, panel, lines)

    counts = {s.n for _, points in lines for _, s in points}
    told = (
        "Black: the dense net"
        + (", dotted its time; " if dense else "; ")
        + f"{'up' if judged(panel).better > 0 else 'down'} and to the right is better. "
    )
    if batch:
        told += f"Measured on {clean(runtime(panel, of.taken))}, the median forward; what others took isn’t taken out. "
    return line_chart(panel, name, f"{label} against {against}", lines, dress, told + bands(counts))


def _one_place(lines: Lines) -> bool:
    """Whether all marks stand above each other."""
    return len({x for _, points in lines for x, _ in points}) < 2


def _timed(of: Asked) -> tuple[int, str]:
    """Batch size and environment at which most states have a median time, at two states or more; 0 for none."""
    found = [
        (sum(_has(s.point, batch, e) for s in of.states), -batch, e)
        for batch in batches(of.panel)
        for e in of.panel.environments
    ]
    many, batch, environment = max(found, key=lambda x: x[:2], default=(0, 0, ""))
    return (-batch, environment) if many > 1 else (0, "")


def _has(point: Point, batch: int, environment: str) -> bool:
    reading = point.reading("cost", f"latency_median_b{batch}", "", environment)
    return reading is not None and reading.spread is not None


def _against_size(
    panel: Panel, moment: str, figure_of: Callable[[Point], Spread | None]
) -> tuple[list[tuple[Series, list[tuple[float, Spread]]]], str]:
    """Lines against kB where every series has bytes that differ from state to state or series, else against density."""

    def kilobytes(point: Point) -> float | None:
        size = size_of(point)
        return size / 1000 if 0 < size < float("inf") else None

    by_size = _lines(panel, moment, kilobytes, figure_of)
    if len({x for _, points in by_size for x, _ in points}) > 1:
        return by_size, "kB, shortest encoding (log scale, smaller →)"
    by_density = _lines(panel, moment, lambda p: 100 * p.density or None, figure_of)
    return by_density, "density: weights kept, % (log scale, sparser →)"


def _lines(
    panel: Panel,
    moment: str,
    place: Callable[[Point], float | None],
    figure_of: Callable[[Point], Spread | None],
) -> list[tuple[Series, list[tuple[float, Spread]]]]:
    found = []
    for series in panel.series:
        points = [(x, f) for p in series.at(moment) if (x := place(p)) and (f := figure_of(p))]
        if points:
            found.append((series, sorted(points, key=lambda q: -q[0])))
    return found
