"""Populations: what many nets of a series have in common; one row a population, each against the first."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from compressbench.declared import title_of
from compressbench.records import Record
from compressbench.report.numbers import MISSING, Spread, between, number
from compressbench.report.panels import Panel
from compressbench.report.section import Section
from compressbench.report.sections import subgroups
from compressbench.report.tables import EMPTY, Cell, Columns, Row, Table, spread_cell

PROBE = "agreement"
MEAN, SD = "population_", "_sd"
"""How the mean of a task's main metric begins, and its spread ends."""
ELSEWHERE = ("impact", "exemplars", "loyalty")
"""Probes whose figures have a section of their own."""
OWN = ("modal_disagreement", "modal_ties")
MODAL = (
    "Accuracy: mean ± sample standard deviation over the nets. Modal label: the one that most nets of a population give "
    "an example; of several that are as frequent (ties) the highest, as in the authors’ code. It is compared with the "
    "reference population’s, which stands first."
)
SHARED = "Populations of several runs share nets where their seeds overlap: their figures are no independent repeats."
Place = tuple[str, str, int, str]
Figures = Mapping[tuple[str, str, str], Record]


def section(panel: Panel, suffix: str) -> Section:
    tables = population_tables(panel)
    return Section("Populations", "populations", (), tuple(tables[:1]), tuple(tables[1:]))


def population_tables(panel: Panel) -> list[Table]:
    """All populations with their figures for the whole, then a table for each figure that is by group."""
    found = {k: f for k, f in populations(panel).items() if any(m[0] not in ELSEWHERE for m in f)}
    if not found:
        return []
    labels = labels_of(list(found))
    figures = list(found.values())
    columns = Columns()
    columns.add("nets", "", [_count(f) for f in figures])
    columns.add("seeds", "", [_seeds(place, f) for place, f in found.items()])
    name = next((row.metric for f in figures if (row := mean_of(f))), "")
    columns.add(title_of(name), "%", [_mean(f) for f in figures])
    for metric in OWN:
        columns.add(title_of(metric), "%", [_cell(f.get((PROBE, metric, ""))) for f in figures])
    own = (*OWN, name, f"{name}{SD}")
    others = dict.fromkeys(
        k for f in figures for k in f if k[0] not in ELSEWHERE and not (k[0] == PROBE and k[1] in own)
    )
    for probe, metric, group in others:
        if not group:
            cells = [_cell(f.get((probe, metric, group))) for f in figures]
            columns.add(title_of(metric), _unit(figures, probe, metric), cells)
    tables = [_table("Populations", "Population", labels, columns, figures, _notes(found))]
    for probe, metric in dict.fromkeys((k[0], k[1]) for k in others if k[2]):
        groups = list(dict.fromkeys(k[2] for k in others if k[:2] == (probe, metric)))
        by_group = Columns()
        for group in groups:
            by_group.add(group, "", [_cell(f.get((probe, metric, group))) for f in figures])
        unit = _unit(figures, probe, metric)
        title = f"{title_of(metric)}{f' ({unit})' if unit not in ('', '1') else ''}"
        tables.append(_table(title, "Population", labels, by_group, figures, []))
    return [t for t in tables if t.heads]


def _table(
    title: str,
    stub: str,
    labels: Sequence[str],
    columns: Columns,
    figures: Sequence[Figures],
    notes: list[str],
) -> Table:
    rows = tuple(Row(label, columns.row(k), reference=is_first(figures[k])) for k, label in enumerate(labels))
    return Table(title, stub, tuple(columns.heads), rows, notes=tuple(notes), remarks=tuple(columns.remarks))


def populations(panel: Panel) -> dict[Place, Figures]:
    """Figures of each population: those of one name but of other runs or nets stay apart, never averaged."""
    found: dict[Place, dict[tuple[str, str, str], Record]] = {}
    for row in panel.populations:
        if row.metric in subgroups.METRICS:
            continue  # shown by sub-group
        place = (row.recipe, row.series, row.seed, row.key)
        found.setdefault(place, {})[row.probe, row.metric, row.group] = row
    return dict(found)


def labels_of(places: Sequence[Place]) -> list[str]:
    """What each population is called: by its recipe and its run's seed where there are several."""
    recipes, seeds = ({p[k] for p in places} for k in (0, 2))
    return [
        (f"{recipe}: " if len(recipes) > 1 else "")
        + series
        + (f", run of seed {seed}" if len(seeds) > 1 else "")
        for recipe, series, seed, _ in places
    ]


def _notes(found: Mapping[Place, Figures]) -> list[str]:
    examples = between(r.n for f in found.values() for k, r in f.items() if k[1] == "modal_disagreement")
    notes = [f"{MODAL} {examples} test examples." if examples else MODAL]
    spans: dict[tuple[str, str], list[range]] = {}
    for (recipe, series, seed, _), figures in found.items():
        row = mean_of(figures)
        spans.setdefault((recipe, series), []).append(range(seed, seed + (row.n if row else 1)))
    for own in spans.values():
        ordered = sorted(own, key=lambda s: s.start)
        if any(a.stop > b.start for a, b in itertools.pairwise(ordered)):
            return [*notes, SHARED]
    return notes


def is_first(figures: Figures) -> bool:
    return any(r.key == r.reference for r in figures.values())


def _count(figures: Figures) -> Cell:
    row = mean_of(figures)
    return Cell(str(row.n)) if row else EMPTY


def _seeds(place: Place, figures: Figures) -> Cell:
    row = mean_of(figures)
    first = place[2]
    if row is None:
        return Cell(str(first))
    return Cell(f"{first}–{first + row.n - 1}" if row.n > 1 else str(first))


def mean_of(figures: Figures) -> Record | None:
    """The row of the mean over a population's nets."""
    return next(
        (r for k, r in figures.items() if k[0] == PROBE and k[1].startswith(MEAN) and not k[1].endswith(SD)),
        None,
    )


def _mean(figures: Figures) -> Cell:
    row = mean_of(figures)
    if row is None:
        return EMPTY
    sd = figures.get((PROBE, f"{row.metric}{SD}", ""))
    if row.value is None:
        return Cell(MISSING, notes=(row.note,))
    figure = Spread(row.value, sd.value if sd else None, row.n)
    return replace(spread_cell(figure, row.unit, notes=(row.note,) if row.note else ()), n=0)


def _cell(row: Record | None) -> Cell:
    if row is None:
        return EMPTY
    notes = (row.note,) if row.note else ()
    return Cell(MISSING if row.value is None else number(row.value, row.unit), notes=notes)


def _unit(figures: Sequence[Figures], probe: str, metric: str) -> str:
    return next(
        (r.unit for f in figures for k, r in f.items() if k[:2] == (probe, metric) and r.unit != "1"), ""
    )
