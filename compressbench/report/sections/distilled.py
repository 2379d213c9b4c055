"""Few pictures in place of many: what nets learn from them before and after they were trained, and the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from compressbench.declared import EXAMPLES
from compressbench.png import PREFIX
from compressbench.records import Record
from compressbench.report.numbers import counted, spread
from compressbench.report.panels import DENSE, Panel
from compressbench.report.section import Gallery, Section, Tile, kept
from compressbench.report.states import Key, metric_table, of
from compressbench.report.tables import Cell, Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import title_of

PROBE, PICTURE = "pictures", "distilled_picture"
INIT, TRAINED = "init", "trained"
"""How the labels of two series end, behind a comma, that are one set of pictures before and after it was learned."""
TOLD = of(PROBE, "distilled_pictures", "distilled_outside", "step_size_mean", "chosen_validation")
MADE = of("compute", "train_macs", "train_seconds")
"""What it took to have them; nets that learn from pictures count their own training alone."""
LEAD = (
    "A net that learns from the pictures alone: from the pictures as they began (init), and as they were learned "
    "(trained). Nets of both begin with the same weights and make the same number of steps; kernel ridge regression is "
    "solved and has neither. The lecture has this table for ten pictures of CIFAR-10, with 16.3 % and 50.7 %, next to "
    "Wang et al. 2018. Those are no figures of that paper: ten pictures are its MNIST setting (94 %), on CIFAR-10 it has "
    "100 (54 %), both for one fixed init. “Init” and “trained” are words of the papers on kernel inducing points (Nguyen "
    "et al. 2021); which setting gave the two figures wasn’t found."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in TOLD}


def section(panel: Panel, suffix: str) -> Section:
    title, anchor = "Few pictures in place of many", "pictures"
    moments = [m for m in panel.moments if any((r.probe, r.moment) == (PROBE, m) for r in panel.rows)]
    if not moments:
        return Section(title, anchor)
    tables = [before_and_after(panel)]
    tables += [metric_table(panel, moment, "The pictures", (*TOLD, *MADE)) for moment in moments]
    galleries = _galleries(panel)
    first, more = kept(tables[:1]), kept(tables[1:])
    return Section(title, anchor, (), first or more, more if first else (), LEAD, galleries=galleries)


def rows_of(panel: Panel) -> dict[str, dict[str, Mapping[int, float]]]:
    """By what labels of series begin with and end in: the main metric by seed, the mean over the states of a series.

    Only beginnings of which both ``init`` and ``trained`` are there; endings are in the order of the series.
    """
    found: dict[str, dict[str, Mapping[int, float]]] = {}
    for series in panel.series:
        begin, comma, end = series.label.rpartition(", ")
        values: dict[int, list[float]] = {}
        for point in series.at(panel.moments[0]):
            reading = panel.main_reading(point)
            for seed, value in (reading.by_seed if reading else {}).items():
                values.setdefault(seed, []).append(value)
        if comma and values:
            means = {seed: math.fsum(own) / len(own) for seed, own in values.items()}
            found.setdefault(begin, {})[end] = means
    return {begin: own for begin, own in found.items() if {INIT, TRAINED} <= own.keys()}


def before_and_after(panel: Panel) -> Table | None:
    """The lecture's table: init, trained, what that gained seed by seed, and controls; None without such series."""
    found, columns = rows_of(panel), Columns()
    if not found or panel.main is None:
        return None
    controls = dict.fromkeys(end for own in found.values() for end in own if end not in (INIT, TRAINED))
    for end in (INIT, TRAINED):
        columns.add(end, "%", [_cell(own[end], "%") for own in found.values()])
    gains = [_less(own[TRAINED], own[INIT]) for own in found.values()]
    columns.add("gained", "points", [_cell(g, "points") for g in gains])
    for end in controls:
        columns.add(end, "%", [_cell(own.get(end, {}), "%") for own in found.values()])
    whole = next((d.at(panel.moments[0]) for d in panel.dense.values()), ())
    dense = cell(panel.main_reading(next(iter(whole), None)))
    said = f" Trained on the whole training set: {dense.text} %." if dense.n else ""
    note = f"Gained: trained less init of the same seed. Of several nets of a seed the mean.{said}"
    rows = tuple(Row(begin, columns.row(k)) for k, begin in enumerate(found))
    title = f"{title_of(panel.main[1])} of nets that saw these pictures alone"
    return Table(
        title, "Learned from", tuple(columns.heads), rows, notes=(note,), remarks=tuple(columns.remarks)
    )


def _less(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    return {seed: value - other[seed] for seed, value in one.items() if seed in other}


def _cell(by_seed: Mapping[int, float], unit: str) -> Cell:
    return spread_cell(spread(by_seed[s] for s in sorted(by_seed)), unit, signed=unit == "points")


def _galleries(panel: Panel) -> tuple[Gallery, ...]:
    """The pictures of each series, the first seed's; all but the first two folded."""
    assert PICTURE in EXAMPLES
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in panel.examples:
        if row.probe == PROBE and row.metric == PICTURE and row.value is not None:
            groups.setdefault((row.recipe, row.series), []).append(row)
    named = {row.key for (_, series), rows in groups.items() if series != DENSE for row in rows}
    groups = {k: rows for k, rows in groups.items() if k[1] != DENSE or rows[0].key not in named}
    several = len({recipe for recipe, _ in groups}) > 1
    found: list[Gallery] = []
    for (recipe, series), rows in groups.items():
        seed = rows[0].seed
        own = sorted((r for r in rows if r.seed == seed), key=lambda r: r.value or 0)
        many = own[0].n or len(own)
        lead = (
            f"Seed {seed}; the first {len(own)} of {counted(many, 'picture')}."
            if many > len(own)
            else f"Seed {seed}."
        )
        title = f"Pictures: {f'{recipe}: ' if several else ''}{series}"
        found.append(Gallery(title, lead, tuple(map(_tile, own)), folded=len(found) > 1))
    return tuple(found)


def _tile(row: Record) -> Tile:
    """Another address than a PNG's is left out, not linked to."""
    name, _, rest = row.note.partition(" · ")
    return Tile(row.artefact if row.artefact.startswith(PREFIX) else "", name, rest)
