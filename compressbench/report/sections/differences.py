"""Differences of accuracy paired by seed."""

from __future__ import annotations

from compressbench.report.numbers import FIXED, percent
from compressbench.report.panels import Panel, Series, counterpart, paired
from compressbench.report.section import Section
from compressbench.report.tables import Columns, Row, Table, spread_cell
from compressbench.report.wording import difference_unit, moment_name, title_of


def section(panel: Panel, suffix: str) -> Section:
    lead = (
        "Each seed’s difference is taken first, then mean and spread over seeds: what seeds share cancels. "
        "Whether a difference matters is for a study to say, by a rule that was fixed before it ran."
    )
    tables = tuple(t for m in panel.moments for t in difference_tables(panel, m))
    return Section("Differences paired by seed", "differences", (), tables, (), lead)


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
