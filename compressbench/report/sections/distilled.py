"""Few pictures in place of many: what nets learn from them before and after they were trained, and the pictures."""

from __future__ import annotations

from dataclasses import dataclass

from compressbench.declared import EXAMPLES
from compressbench.png import PREFIX
from compressbench.records import Record
from compressbench.report.numbers import counted
from compressbench.report.panels import Panel, Reading, Series, paired
from compressbench.report.section import Gallery, Section, Tile, kept
from compressbench.report.states import Key, metric_table, of
from compressbench.report.tables import EMPTY, Cell, Columns, Row, Table, cell, spread_cell
from compressbench.report.wording import title_of

PROBE, PICTURE = "pictures", "distilled_picture"
INIT, TRAINED = ", init", ", trained"
"""How the labels of two series end that are one set of pictures before and after it was learned."""
TOLD = of(PROBE, "distilled_pictures", "distilled_outside", "step_size_mean", "chosen_validation")
LEAD = (
    "A net that learns from the pictures alone: from the pictures as they began (init), and as they were learned "
    "(trained). Both nets begin with the same weights and make the same number of steps. The lecture has this table for "
    "ten pictures of CIFAR-10, with 16.3 % and 50.7 %, next to Wang et al. 2018. Those are no figures of that paper: ten "
    "pictures are its MNIST setting (94 %), on CIFAR-10 it has 100 (54 %), both for one fixed initialisation. “Init” and "
    "“trained” are words of the papers on kernel inducing points (Nguyen et al. 2021); which setting gave the two figures "
    "wasn’t found."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in TOLD}


def section(panel: Panel, suffix: str) -> Section:
    title, anchor = "Few pictures in place of many", "pictures"
    if not any(r.probe == PROBE for r in panel.rows):
        return Section(title, anchor)
    tables = [before_and_after(panel)]
    tables += [metric_table(panel, moment, "The pictures", TOLD) for moment in panel.moments]
    galleries = _galleries(panel)
    first, more = kept(tables[:1]), kept(tables[1:])
    return Section(title, anchor, (), first or more, more if first else (), LEAD, galleries=galleries)


@dataclass(frozen=True)
class Pair:
    """One set of pictures: a net trained on it as it began, and one trained on it as it was learned."""

    label: str
    init: Series
    trained: Series

    def readings(self, panel: Panel) -> tuple[Reading | None, Reading | None]:
        """The main metric of both."""
        init, trained = (
            panel.main_reading(next(iter(s.at(panel.moments[0])), None)) for s in (self.init, self.trained)
        )
        return init, trained


def pairs(panel: Panel) -> list[Pair]:
    """Series whose labels are alike but for their ends, in their order."""
    found = {s.label: s for s in panel.series}
    return [
        Pair(stem, found[f"{stem}{INIT}"], series)
        for label, series in found.items()
        if label.endswith(TRAINED) and f"{(stem := label.removesuffix(TRAINED))}{INIT}" in found
    ]


def before_and_after(panel: Panel) -> Table | None:
    """The lecture's table: init, trained, and what that gained, seed by seed; None where there are no such series."""
    found, columns = pairs(panel), Columns()
    if not found or panel.main is None:
        return None
    readings = [pair.readings(panel) for pair in found]
    main = title_of(panel.main[1])
    columns.add("init", "%", [cell(init) for init, _ in readings])
    columns.add("trained", "%", [cell(trained) for _, trained in readings])
    gains = [paired(trained, init) for init, trained in readings]
    columns.add("gained", "points", [spread_cell(g, "points", signed=True) if g else EMPTY for g in gains])
    whole = next((d.at(panel.moments[0]) for d in panel.dense.values()), ())
    dense = panel.main_reading(next(iter(whole), None))
    said = f" Trained on the whole training set: {_said(cell(dense))} %." if dense and dense.spread else ""
    rows = tuple(Row(pair.label, columns.row(k)) for k, pair in enumerate(found))
    return Table(
        f"{main} of nets that saw these pictures alone",
        "Pictures",
        tuple(columns.heads),
        rows,
        notes=(f"Gained: trained less init of the same seed.{said}",),
        remarks=tuple(columns.remarks),
    )


def _said(told: Cell) -> str:
    return told.text


def _galleries(panel: Panel) -> tuple[Gallery, ...]:
    """The pictures of each series, the first seed's; all but the first two folded."""
    assert PICTURE in EXAMPLES
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in panel.examples:
        if row.probe == PROBE and row.metric == PICTURE and row.value is not None:
            groups.setdefault((row.recipe, row.series), []).append(row)
    several = len({recipe for recipe, _ in groups}) > 1
    found = []
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
