"""Accuracy by density, and differences paired by seed; pure functions of records."""

from __future__ import annotations

from compressbench.report.numbers import FIXED, MISSING, percent
from compressbench.report.panels import Panel, Series, counterpart, paired
from compressbench.report.styles import styles
from compressbench.report.tables import Cell, Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import difference_unit, moment_name, title_of


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
    return Table(
        title=f"{title_of(panel.main[1])} ({unit}) by density, {moment_name(moment)}",
        stub="Density",
        heads=tuple(columns.heads),
        rows=tuple(
            Row(percent(sum(step) / len(step)), columns.row(place)) for place, step in enumerate(steps)
        ),
        notes=(),
        colours=tuple(looks[s.label].colour for s in drawn if any(h[0] == s.label for h in columns.heads)),
    )


def pairs(panel: Panel) -> list[tuple[Series, Series]]:
    """What is set against what: each recipe's lead against its other series, then recipe against recipe."""
    lead_of = {lead.recipe: lead for lead in panel.leads}
    found = [
        (lead_of[series.recipe], series) for series in panel.series if lead_of[series.recipe] is not series
    ]
    return found + [(panel.leads[0], other) for other in panel.leads[1:]]


def difference_tables(panel: Panel, moment: str) -> list[Table]:
    """Differences paired by seed: each first series minus the others at the same density, a table each."""
    if panel.main is None:
        return []
    against: dict[str, list[tuple[Series, Series]]] = {}
    for one, other in pairs(panel):
        against.setdefault(one.label, []).append((one, other))
    found = [_differences(panel, moment, couples) for couples in against.values()]
    return [table for table in found if table is not None]


def _differences(panel: Panel, moment: str, couples: list[tuple[Series, Series]]) -> Table | None:
    lead = couples[0][0]
    points = lead.at(moment)
    columns = Columns()
    for _, other in couples:
        column = []
        for point in points:
            reading = panel.main_reading(point)
            facing = counterpart(point, other, lead.recipe == other.recipe)
            figure = paired(reading, panel.main_reading(facing))
            unit = difference_unit(reading.unit) if reading else ""
            column.append(spread_cell(figure, unit, signed=True))
        columns.add(f"−{FIXED}{other.label}", "", column)
    kept = [k for k in range(len(points)) if any(c.n for c in columns.row(k))]
    if not any(c.n > 1 for k in kept for c in columns.row(k)):
        return None
    first = next((r for p in points if (r := panel.main_reading(p))), None)
    unit = difference_unit(first.unit) if first else ""
    name = title_of(panel.main[1]) if panel.main else ""
    return Table(
        title=f"{name} of {lead.label} minus that of others, {unit}, {moment_name(moment)}",
        stub="Density",
        heads=tuple(columns.heads),
        rows=tuple(Row(percent(points[k].density), columns.row(k)) for k in kept),
    )
