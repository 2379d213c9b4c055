"""Figures from the literature: each net and data set on axes of its own, never on ours."""

from __future__ import annotations

from compressbench.records import Record
from compressbench.report.drawing import Chart, canvas, density_axis, name_rows, saved
from compressbench.report.panels import Panel
from compressbench.report.styles import COLOURS, MARKERS
from compressbench.report.wording import title_of


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
    figure, axes = canvas(f"Published: {of}", rows=2 * len(drawn) if one_each else 0)
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
        name_rows(axes, list(drawn), 40)
        axes.set_xlabel(value)
    else:
        density_axis(axes, [x for points in drawn.values() for x, _ in points])
        axes.set_ylabel(value)
    told: dict[str, list[str]] = {}
    for series, rows in labels.items():
        told.setdefault("; ".join(dict.fromkeys(r.note for r in rows if r.note)), []).append(series)
    sources = " ".join(f"{', '.join(names)}: {note}." for note, names in told.items() if note)
    caption = f"From the literature, not measured here; another net and other data than ours. {sources}"
    return saved(figure, name, axes.get_title(loc="left"), caption, handles)
