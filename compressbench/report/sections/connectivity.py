"""Error barriers on the line between two nets."""

from __future__ import annotations

from compressbench.report.drawing import Chart, bands, canvas, draw, finish, when
from compressbench.report.panels import Panel, beside_lead
from compressbench.report.section import Section, kept, moment_suffix
from compressbench.report.states import Key, metric_table, of

CONNECTED = of("connectivity", "barrier")


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in CONNECTED} | {("connectivity", "error_at", True)}


def section(panel: Panel, suffix: str) -> Section:
    """Error barriers on the line between two nets."""
    drawn = [
        error_along_path(panel, m, f"error_along_path{moment_suffix(panel, m)}{suffix}")
        for m in panel.moments
    ]
    tables = [metric_table(panel, m, "Error barrier", CONNECTED) for m in panel.moments]
    return Section("Barriers between nets", "connectivity", kept(drawn), kept(tables))


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
    figure, axes = canvas(f"Error between two nets{when(moment)}")
    counts = draw(panel, axes, lines)
    axes.set_xlabel("place on the line: 0 the reference, 1 the state")
    axes.set_ylabel("test error, %")
    caption = (
        "Both nets’ weights and batch-norm statistics are mixed; a hump is a barrier: training was not stable "
        f"where the two parted. {bands(counts)}"
    )
    return finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])
