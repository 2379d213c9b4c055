"""Detectors of one thing in windows: found and taken for it, accuracy against cost of cascades and of nets with exits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressbench.report.drawing import Chart, Lines, bands, canvas, draw, finish, when
from compressbench.report.numbers import Spread
from compressbench.report.panels import Panel, Point, Series
from compressbench.report.section import Section, kept, moment_suffix
from compressbench.report.states import Column, Key, metric_table, of
from compressbench.report.styles import INK, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROBE = "windows"
FOUND = (
    *of(PROBE, "detection_rate", "detection_rate_low", "detection_rate_high"),
    *of(PROBE, "false_positive_rate", "false_positive_rate_low", "false_positive_rate_high"),
    *of(PROBE, "balanced_top1", "balanced_top1_low", "balanced_top1_high"),
)
COST = (
    *of(PROBE, "window_features", "all_features"),
    Column(PROBE, "kind_features", "Of a face", group="faces"),
    Column(PROBE, "kind_features", "Of another window", group="other windows"),
    *of(PROBE, "window_macs", "window_share"),
    *of("opencv", "opencv_agreement"),
)
GROUPED = ("kind_features", "reaching", "picture_false_positives")
LEAD = (
    "A window is a face or not; most are not. Balanced top-1 is the mean of the faces found and of the other windows "
    "passed over, so that saying no to all is worth 50 %. The cost is what an average test window is asked: of rectangle "
    "features their look-ups (sums of the integral image not counted), of nets their multiply-accumulates."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in (*FOUND, *COST)} | {(PROBE, metric, True) for metric in GROUPED}


def section(panel: Panel, suffix: str) -> Section:
    """Accuracy against cost for both; who reaches which stage; false positives by picture."""
    drawn, tables = [], []
    for moment in panel.moments:
        end = f"{moment_suffix(panel, moment)}{suffix}"
        drawn += [
            accuracy_vs_window_cost(panel, moment, f"accuracy_vs_window_cost{end}"),
            windows_reaching(panel, moment, f"windows_reaching{end}"),
        ]
        tables += [
            metric_table(panel, moment, "Faces found, and what else was taken for one", FOUND),
            metric_table(panel, moment, "What a window costs", COST),
            metric_table(panel, moment, "False positives by picture", _pictures(panel)),
        ]
    found = kept(tables) if any(r.probe == PROBE and r.value is not None for r in panel.rows) else ()
    return Section("Windows", "windows", kept(drawn), tuple(found), (), LEAD if found else "")


def accuracy_vs_window_cost(panel: Panel, moment: str, name: str) -> Chart | None:
    """Balanced accuracy against MACs an average window, cascades and nets on the same axes."""
    lines: Lines = [
        (series, sorted(points, key=lambda p: p[0]))
        for series in panel.series
        if (points := [p for point in series.at(moment) if (p := _place(point))])
    ]
    if not lines:
        return None
    figure, axes = canvas(f"Accuracy against cost, cascades and early exits{when(moment)}")
    counts = draw(panel, axes, lines)
    looks = styles(panel)
    for series in (*panel.series, *panel.dense.values()):
        colour = INK if series in panel.dense.values() else looks[series.label].colour
        for point in series.at(moment):
            _interval(axes, point, colour)
    for series in panel.dense.values():
        for point in series.at(moment):
            if place := _place(point):
                axes.plot([place[0]], [place[1].mean], marker="s", color=INK, markersize=5)
    axes.set_xscale("log")
    axes.set_xlabel("MACs an average test window, a look-up of a feature one")
    axes.set_ylabel("balanced top-1, %")
    caption = (
        "Black square: the reference. Bars: 95 % over the test windows, put together of Wilson’s intervals of both "
        "shares, mean of the ends over seeds; few faces make them wide, and states are asked the same ones. "
        f"{bands(counts)}"
    )
    return finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])


def windows_reaching(panel: Panel, moment: str, name: str) -> Chart | None:
    """Share of the windows that reach each stage of a cascade; of several of one series the longest."""
    lines: list[tuple[Series, list[tuple[float, Spread]]]] = []
    for series in panel.series:
        longest: list[tuple[float, Spread]] = []
        for point in series.at(moment):
            found = [
                reading.spread
                for (probe, metric, _), reading in point.readings.items()
                if (probe, metric) == (PROBE, "reaching") and reading.spread and reading.spread.mean > 0
            ]
            if len(found) > len(longest):
                longest = [(float(k + 1), s) for k, s in enumerate(found)]
        if len(longest) > 1:
            lines.append((series, longest))
    if not lines:
        return None
    figure, axes = canvas(f"Windows that reach a stage{when(moment)}")
    counts = draw(panel, axes, lines)
    axes.set_yscale("log")
    axes.set_xlabel("stage")
    axes.set_ylabel("test windows that reach it, %")
    caption = f"Stages that no test window reaches are left out. {bands(counts)}"
    return finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])


def _place(point: Point) -> tuple[float, Spread] | None:
    """(MACs a window, balanced accuracy) of a state that was asked both."""
    macs, right = point.reading(PROBE, "window_macs"), point.reading(PROBE, "balanced_top1")
    if not (macs and macs.spread and macs.spread.mean > 0 and right and right.spread):
        return None
    return macs.spread.mean, right.spread


def _interval(axes: Axes, point: Point, colour: str) -> None:
    """A bar from the lower to the upper end of a state's balanced accuracy."""
    place = _place(point)
    low, high = (point.reading(PROBE, f"balanced_top1_{end}") for end in ("low", "high"))
    if place and low and low.spread and high and high.spread:
        below, above = place[1].mean - low.spread.mean, high.spread.mean - place[1].mean
        axes.errorbar(
            [place[0]], [place[1].mean], [[max(0.0, below)], [max(0.0, above)]], color=colour, fmt="none",
            elinewidth=0.9, capsize=2, zorder=2,
        )  # fmt: skip


def _pictures(panel: Panel) -> list[Column]:
    names = dict.fromkeys(
        r.group for r in panel.rows if (r.probe, r.metric) == (PROBE, "picture_false_positives")
    )
    return [Column(PROBE, "picture_false_positives", name, group=name) for name in names]
