"""Accuracy against density, size and training cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from compressbench.records import ENCODINGS
from compressbench.report.drawing import (
    Chart,
    Lines,
    accuracy_axis,
    accuracy_words,
    bands,
    bars,
    canvas,
    clean,
    counts_of,
    dense_lines,
    density_axis,
    draw,
    finish,
    line_chart,
    log_axis,
    main_of,
    mark,
    name_rows,
    one_cost,
    percent_ticks,
    saved,
    when,
)
from compressbench.report.judged import judged
from compressbench.report.literature import published
from compressbench.report.numbers import MISSING, Spread, percent, percentage
from compressbench.report.panels import FINAL, Panel, Point, Series, paired, relative_compute
from compressbench.report.parts import accuracy_vs_parts
from compressbench.report.section import Section, kept, moment_suffix
from compressbench.report.sections.exits import policies
from compressbench.report.states import Key
from compressbench.report.students import gain_tables, gain_vs_parameters
from compressbench.report.styles import INK, MUTED, styles
from compressbench.report.tables import Cell, Columns, Row, Table, cell
from compressbench.report.trade_off import trade_off_tables
from compressbench.report.wording import moment_name, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
Drawn = list[tuple[Series, list[tuple[float, Spread]]]]
CLOSE = 5.0
TRIANGLE = 4.6  # points from one to the next
SAME_PLACE = 1.06


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {(*panel.main, False)} if panel.main else set()


def section(panel: Panel, suffix: str) -> Section:
    drawn: list[Chart | None] = []
    shown, tables, by = [], [], judged(panel)
    for moment in panel.moments:
        tail = moment_suffix(panel, moment) + suffix
        gains = gain_vs_parameters(panel, moment, f"gain_vs_parameters{tail}")
        drawn += gains
        shown += gain_tables(panel, moment)
        bits = accuracy_vs_bits(panel, moment, f"{by.file}_vs_bits{tail}")
        densities = {round(p.density, 3) for s in panel.series for p in s.at(moment)}
        varied = len(densities) > 1
        parts = [] if varied else accuracy_vs_parts(panel, moment, f"{by.file}_vs{tail}")
        drawn += parts
        single = not varied and all(len(s.at(moment)) == 1 for s in panel.series if s.at(moment))
        by_method = None
        if single and not (bits or gains):
            by_method = accuracy_by_method(panel, moment, f"{by.file}_by_method{tail}")
        if by_method is not None:
            drawn.append(by_method)
        elif varied or not (bits or gains or parts or policies(panel, moment)):
            if single or densities != {1.0}:
                drawn += [
                    accuracy_vs_density(panel, moment, f"{by.file}_vs_density{tail}"),
                    change_vs_density(panel, moment, f"change_vs_density{tail}"),
                ]
            tables.append(accuracy_table(panel, moment))
        drawn += [
            bits,
            accuracy_vs_bytes(panel, moment, f"{by.file}_vs_bytes{tail}"),
            None if gains else accuracy_vs_compute(panel, moment, f"{by.file}_vs_compute{tail}"),
        ]
    drawn += published(panel, f"published{suffix}")
    shown += [t for m in panel.moments for t in trade_off_tables(panel, m)]
    return Section(
        f"{by.name[:1].upper()}{by.name[1:]} against size and training cost",
        "accuracy",
        kept(drawn),
        tuple(shown),
        kept(tables),
    )


def accuracy_vs_density(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy against density (log, sparser to the right), dense line, bands over seeds."""
    lines = []
    for series in panel.series:
        points = [
            (100 * p.density, r) for p in series.at(moment) if (r := main_of(panel, p)) and p.density > 0
        ]
        if points:
            lines.append((series, points))
    if not lines:
        return None
    label, _ = accuracy_words(panel)
    counts = counts_of(panel, lines, moment, lambda p: main_of(panel, p))

    def dress(axes: Axes, _: Lines) -> None:
        dense_lines(panel, axes, moment, lambda p: main_of(panel, p))
        density_axis(axes, [x for _, points in lines for x, _ in points])
        accuracy_axis(axes, panel, lines)

    caption = f"Sparser to the right. {bands(counts)} Black: the dense model."
    return line_chart(panel, name, f"{label} against density{when(moment)}", lines, dress, caption)


def accuracy_vs_bits(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy against the mean bits of a prunable weight, fewer to the right; None where no weight was rounded."""

    def bits(point: Point) -> float | None:
        return _mean(point, "structure", "weight_bits")

    lines = _accuracy_against(panel, moment, bits)
    if not lines or all(math.isclose(x, 32.0) for _, points in lines for x, _ in points):
        return None
    ticks = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0]
    axis = "mean bits of a weight (log scale, fewer →)"
    return _against(panel, moment, name, lines, "bits", axis, "Fewer bits to the right; 32 is float.", ticks)


def accuracy_vs_bytes(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy against the bytes of the shortest encoding; None where nothing but zeros was ever left out."""

    def kilobytes(point: Point) -> float | None:
        found = [b for metric in ENCODINGS if (b := _mean(point, "cost", metric))]
        return min(found) / 1000 if found else None

    packed = any(_mean(p, "cost", "quantized_bytes") for s in panel.series for p in s.at(moment))
    lines = _accuracy_against(panel, moment, kilobytes) if packed else []
    if not lines:
        return None
    axis = "kB on disk, shortest encoding (log scale, smaller →)"
    told = "Bytes really encoded, smaller to the right."
    return _against(panel, moment, name, lines, "bytes on disk", axis, told)


def _accuracy_against(panel: Panel, moment: str, place: Callable[[Point], float | None]) -> Drawn:
    """Accuracy of all series by some figure of a point."""
    lines = []
    for series in panel.series:
        points = [(x, r) for p in series.at(moment) if (r := main_of(panel, p)) and (x := place(p))]
        if points:
            lines.append((series, points))
    return lines


def _against(
    panel: Panel,
    moment: str,
    name: str,
    lines: Lines,
    what: str,
    axis: str,
    told: str,
    ticks: Sequence[float] = (),
) -> Chart:
    """Accuracy against what is smaller to the right, with a sentence on marks that cover each other."""
    label, _ = accuracy_words(panel)

    def dress(axes: Axes, _: Lines) -> None:
        dense_lines(panel, axes, moment, lambda p: main_of(panel, p))
        log_axis(axes, [x for _, points in lines for x, _ in points], axis, ticks)
        accuracy_axis(axes, panel, lines)

    counts = counts_of(panel, lines, moment, lambda p: main_of(panel, p))
    caption = f"{told} {bands(counts)} Black: the dense model.{_covering(lines)}"
    return line_chart(panel, name, f"{label} against {what}{when(moment)}", lines, dress, caption)


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
    label, unit = accuracy_words(panel)
    if not lines or (unit == "%" and all(d.mean < -CLOSE for _, points in lines for _, d in points)):
        return None
    lowest = min(d.mean for _, points in lines for _, d in points)
    highest = max(d.mean + (d.sd or 0) for _, points in lines for _, d in points)
    clipped = unit == "%" and lowest < -CLOSE

    def dress(axes: Axes, own: Lines) -> None:
        mark([axes.axhline(0, color=INK, linewidth=1.2)], next(iter(panel.dense), ""))
        if clipped:
            axes.set_ylim(-CLOSE, max(1.0, highest + 0.3))
            _triangles(panel, axes, own)
            for artist in (*axes.lines, *axes.collections):
                artist.set_in_layout(False)
        density_axis(axes, [x for _, points in lines for x, _ in points])
        axes.set_ylabel("points" if unit == "%" else f"difference, {unit}".rstrip(", "))

    counts = {d.n for _, points in lines for _, d in points}
    tail = f" A triangle at the edge stands for a state more than {CLOSE:g} points below." if clipped else ""
    caption = f"State minus dense model of the same seed, so what seeds share cancels. {bands(counts)}{tail}"
    title = f"{label}: change from dense, close-up{when(moment)}"
    return line_chart(panel, name, title, lines, dress, caption)


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
            (triangle,) = axes.plot(
                [x],
                [-CLOSE + 0.12],
                "v",
                color=colour,
                markersize=4,
                transform=moved,
                clip_on=False,
                zorder=4,
            )
            mark([triangle], lines[place][0].label)


def accuracy_by_method(panel: Panel, moment: str, name: str) -> Chart | None:
    """One row a series, in the recipe's order: for methods that all leave the weights as many as they are."""
    rows = [
        (series, spread)
        for series in panel.series
        for point in series.at(moment)
        if (spread := main_of(panel, point)) is not None
    ]
    if len(rows) < 2:
        return None
    label, unit = accuracy_words(panel)
    figure, axes = canvas(f"{label} by method" + when(moment), rows=2 * len(rows))
    looks = styles(panel)
    for place, (series, found) in enumerate(rows):
        look = looks[series.label]
        if found.sd:
            ends = [found.mean - found.sd, found.mean + found.sd]
            axes.plot(ends, [place, place], color=look.colour, linewidth=1.2, alpha=0.7)
        axes.plot([found.mean], [place], look.marker or "o", color=look.colour, markersize=5)
    for dense in panel.dense.values():
        for point in dense.at(moment):
            if (whole := main_of(panel, point)) is not None:
                axes.axvline(whole.mean, color=INK, linewidth=1.2)
    name_rows(axes, [s.label for s, _ in rows], 40)
    axes.set_xlabel(f"{label}, {unit}")
    caption = f"Vertical line: the reference. {bars({found.n for _, found in rows})}"
    return saved(figure, name, axes.get_title(loc="left"), caption, [])


def accuracy_vs_compute(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy against the training compute of the whole lineage, in dense trainings."""
    lines: list[tuple[Series, list[tuple[float, Spread]]]] = []
    densities: list[float] = []
    for series in panel.series:
        dense = panel.dense_of(series, FINAL) or panel.dense_of(series, moment)
        points = []
        for p in series.at(moment):
            spent, reading = relative_compute(p, dense), main_of(panel, p)
            if spent and reading:
                points.append((spent.mean, reading))
                densities += [p.density] if not lines else []
        if points:
            lines.append((series, points))
    spans = [x for _, points in lines for x, _ in points if x > 0]
    if not spans or all(abs(x - 1) < 0.01 for x in spans):  # no state cost more training than dense
        return None
    label, _ = accuracy_words(panel)
    wide = max(spans) / min(spans) > 20
    if wide:  # then logarithmic, and what cost nothing has no place
        paid = [(series, [(x, figure) for x, figure in points if x > 0]) for series, points in lines]
        densities = densities if paid[0][1] == lines[0][1] else []
        lines = [(series, points) for series, points in paid if points]
    figure, axes = canvas(f"{label} against training compute{when(moment)}")
    spread_out = _apart(lines)
    counts = draw(panel, axes, spread_out) | dense_lines(panel, axes, moment, lambda p: main_of(panel, p))
    labelled = _label_ends(axes, lines[0][1], densities)
    if wide:
        axes.set_xscale("log")
        percent_ticks(axes.xaxis, [*spans, 1.0])
    else:
        left = min([1.0, *spans])
        right = max([1.0, *spans])
        room = max(right - left, 0.1)
        axes.set_xlim(left - 0.03 * room, right + 0.04 * room)
    axes.set_xlabel("training MACs of the whole lineage, in dense trainings")
    accuracy_axis(axes, panel, lines)
    caption = (
        "What a state cost to train, all earlier levels and a teacher’s forwards included, not the teacher’s own "
        "training nor the learning of pictures that it was trained on; the dense model costs 1. "
        + (f"Small figures: densities of {clean(lines[0][0].label)}. " if labelled else "")
        + bands(counts)
        + (
            " Marks without a line: a series whose states all cost the same, moved aside a little where several do."
            if any(map(one_cost, lines))
            else ""
        )
    )
    drawn = [*panel.dense.values(), *(series for series, _ in lines)]
    return finish(figure, axes, panel, name, caption, drawn=drawn)


def _apart(
    lines: Sequence[tuple[Series, list[tuple[float, Spread]]]],
) -> list[tuple[Series, list[tuple[float, Spread]]]]:
    """Series that stand at one place side by side instead of on top of each other."""
    xs = [x for _, points in lines for x, _ in points]
    step = 0.012 * max(max([1.0, *xs]) - min([1.0, *xs]), 0.1)
    upright = [series.label for series, points in lines if one_cost((series, points))]
    moved = []
    for series, points in lines:
        if series.label in upright:
            shift = step * (upright.index(series.label) - (len(upright) - 1) / 2)
            points = [(x + shift, figure) for x, figure in points]
        moved.append((series, points))
    return moved


def _label_ends(axes: Axes, points: Sequence[tuple[float, Spread]], densities: Sequence[float]) -> bool:
    """The density beside the first and the last point of the first series; whether they don't cost the same."""
    if not densities or math.isclose(points[0][0], points[-1][0], rel_tol=0.02):
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


def accuracy_table(panel: Panel, moment: str) -> Table | None:
    """Accuracy by density (rows) and series (columns), the dense model in the first row."""
    if panel.main is None:
        return None
    drawn = [s for s in (*panel.dense.values(), *panel.series) if any(map(panel.main_reading, s.at(moment)))]
    if not drawn:
        return None
    steps: list[list[float]] = []
    for density in sorted({p.density for s in drawn for p in s.at(moment)}, reverse=True):
        if steps and steps[-1][-1] <= density * 1.02:
            steps[-1].append(density)
        else:
            steps.append([density])
    columns = Columns()
    unit = ""
    for series in drawn:
        column = []
        for step in steps:
            points = [p for p in series.at(moment) if p.density in step]
            readings = [r for p in points if (r := panel.main_reading(p)) and r.by_seed]
            unit = next((r.unit for r in readings), unit)
            shown = [cell(r, notes=False) for r in readings]
            column.append(
                shown[0] if len(shown) == 1 else Cell(" / ".join(c.plain for c in shown) or MISSING)
            )
        columns.add(series.label, "", column)
    looks = styles(panel)
    told = "" if unit == "1" else f" ({unit})"
    return Table(
        title=f"{title_of(panel.main[1])}{told} by density, {moment_name(moment)}",
        stub="Density",
        heads=tuple(columns.heads),
        rows=tuple(
            Row(percent(sum(step) / len(step)), columns.row(place)) for place, step in enumerate(steps)
        ),
        notes=(),
        colours=tuple(looks[s.label].colour for s in drawn if any(h[0] == s.label for h in columns.heads)),
    )
