"""Accuracy by density, and differences paired by seed; pure functions of records."""

from __future__ import annotations

from compressbench.report.numbers import MISSING, percent
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
    """What is set against what: each recipe's first series against its others, then recipe against recipe."""
    leads: dict[str, Series] = {}
    found = []
    for series in panel.series:
        lead = leads.setdefault(series.recipe, series)
        if lead is not series:
            found.append((lead, series))
    ordered = list(leads.values())
    return found + [(ordered[0], other) for other in ordered[1:]]


def difference_table(panel: Panel, moment: str) -> Table | None:
    """Differences paired by seed: the first series minus each other at the same level."""
    if panel.main is None:
        return None
    columns = Columns()
    rows: list[tuple[str, int, float]] = []
    leads = dict.fromkeys(one.label for one, _ in pairs(panel))
    by_label = {s.label: s for s in panel.series}
    for label in leads:
        rows += [(label, p.order, p.density) for p in by_label[label].at(moment)]
    unit, several = "", False
    for one, other in pairs(panel):
        column = []
        for label, order, density in rows:
            point = next(
                (p for p in one.at(moment) if (one.label, p.order, p.density) == (label, order, density)),
                None,
            )
            facing = counterpart(point, other, one.recipe == other.recipe) if point else None
            reading = panel.main_reading(point)
            figure = paired(reading, panel.main_reading(facing))
            several = several or (figure is not None and figure.n > 1)
            unit = reading.unit if reading else unit
            column.append(spread_cell(figure, difference_unit(unit), signed=True))
        columns.add(f"{one.label} − {other.label}", difference_unit(unit), column)
    if not several:
        return None
    kept = [k for k in range(len(rows)) if any(c.n for c in columns.row(k))]
    many = len({rows[k][0] for k in kept}) > 1
    return Table(
        title=f"{title_of(panel.main[1])}: differences paired by seed, {moment_name(moment)}",
        stub="Density",
        heads=tuple(columns.heads),
        rows=tuple(
            Row((f"{rows[k][0]}, " if many else "") + percent(rows[k][2]), columns.row(k)) for k in kept
        ),
    )
