"""Whatever no other section shows: metrics of probes that this report does not know."""

from __future__ import annotations

from collections.abc import Sequence

from compressbench.report.numbers import counted
from compressbench.report.panels import Panel
from compressbench.report.section import Section
from compressbench.report.sections import (
    accuracy,
    connectivity,
    corruptions,
    cost,
    distilled,
    exits,
    forgetting,
    layers,
    learning,
    loyalty,
    methods,
    next_tokens,
    overparameterization,
    overview,
    projections,
    quality,
    redundancy,
    relations,
    robustness,
    subgroups,
    tickets,
    translation,
    windows,
)
from compressbench.report.speed import whose_end
from compressbench.report.states import Key, columns_of, lines, readings_of, some, table_of, unit_shown
from compressbench.report.tables import Table, cell
from compressbench.report.wording import moment_name, title_of

SHOWN = (
    overview.shown,
    accuracy.shown,
    distilled.shown,
    exits.shown,
    windows.shown,
    learning.shown,
    tickets.shown,
    methods.shown,
    connectivity.shown,
    overparameterization.shown,
    projections.shown,
    forgetting.shown,
    subgroups.shown,
    relations.shown,
    quality.shown,
    loyalty.shown,
    next_tokens.shown,
    translation.shown,
    robustness.shown,
    corruptions.shown,
    redundancy.shown,
    layers.shown,
    cost.shown,
)
GROUPS_SHOWN = 24
# shown in no table: findings mention the first; a comparison's own page has the second
SAID = ("majority_top1", "flip")
WHOLE = ("deployed", "targets")  # probes that have a table for all they say


def section(panel: Panel, suffix: str) -> Section:
    first, *rest = panel.moments
    more = [t for m in rest for t in leftover_tables(panel, m)]
    return Section("Other measurements", "other", (), tuple(leftover_tables(panel, first)), tuple(more))


def leftover_tables(panel: Panel, moment: str) -> list[Table]:
    """Whatever no other table shows: metrics of probes that this report does not know."""
    known = set[Key]().union(*(shown(panel, moment) for shown in SHOWN))
    figures = {(row.probe, row.metric) for row in panel.rows}
    wanted: dict[str, dict[str, None]] = {}
    by_group: dict[tuple[str, str], dict[str, None]] = {}
    for row in panel.rows:
        if (
            row.metric in SAID
            or row.probe in WHOLE
            or row.moment != moment
            or (row.probe, whose_end(row.metric)) in figures
        ):
            continue  # the end of an interval, shown beside the figure itself
        if (row.probe, row.metric, bool(row.group)) in known:
            continue
        if row.group:
            by_group.setdefault((row.probe, row.metric), {}).setdefault(row.group)
        else:
            wanted.setdefault(row.probe, {}).setdefault(row.metric)
    found = [
        _generic(panel, moment, probe, tuple(metrics), environment)
        for probe, metrics in wanted.items()
        for environment in panel.environments
    ]
    found += [
        _generic_groups(panel, moment, probe, metric, list(names))
        for (probe, metric), names in by_group.items()
    ]
    tables: list[Table] = []
    for table in found:
        if table is not None and table not in tables:
            tables.append(table)
    return tables


def _generic(panel: Panel, moment: str, probe: str, metrics: Sequence[str], environment: str) -> Table | None:
    found = lines(panel, moment)
    columns = columns_of(found)
    for metric in metrics:
        readings = readings_of(found, probe, metric, environment)
        basis = next((r.basis for r in readings if r and r.basis != "measured"), "")
        words = ", ".join(x for x in (unit_shown(readings), basis) if x)
        columns.add(title_of(metric), words, [cell(r) for r in readings])
    return table_of(panel, f"{probe}, {moment_name(moment)}", found, columns, ())


def _generic_groups(panel: Panel, moment: str, probe: str, metric: str, names: list[str]) -> Table | None:
    found = lines(panel, moment, some)
    columns = columns_of(found)
    unit = ""
    for name in names[:GROUPS_SHOWN]:
        for environment in panel.environments:
            readings = [x.point.reading(probe, metric, name, environment) for x in found]
            unit = unit or unit_shown(readings)
            columns.add(name, environment, [cell(r) for r in readings])
    left = len(names) - GROUPS_SHOWN
    notes = [f"{counted(left, 'more group')} in the records."] if left > 0 else []
    title = f"{probe}: {metric.replace('_', ' ')}{f' ({unit})' if unit else ''}, {moment_name(moment)}"
    return table_of(panel, title, found, columns, notes)
