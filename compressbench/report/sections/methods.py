"""Methods side by side: the lecture's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compressbench.report.judged import judged
from compressbench.report.numbers import MISSING
from compressbench.report.panels import DENSE, Panel, paired, restricted
from compressbench.report.section import Section, both
from compressbench.report.speed import BRACKETS, batches
from compressbench.report.states import (
    Column,
    Key,
    Line,
    Pick,
    add,
    columns_of,
    every,
    lines,
    table_of,
    unit_of,
)
from compressbench.report.tables import Cell, Table, spread_cell
from compressbench.report.wording import LOYALTY, difference_unit, examples, moment_name, title_of

SIZES = (
    Column("cost", "parameters", terminal=title_of("parameters")),
    Column("cost", "macs", terminal=title_of("macs")),
)
"""Of nets of their own sizes, in a terminal; the page has a section for them."""
SHIFTED = Column("shifted", "shifted_top1", "Shifted", "test set, %", notes=False)
LOYAL = (
    Column("loyalty", "label_loyalty", notes=False, terminal="L-L"),
    Column("loyalty", "probability_loyalty", "P-L", "nat. log", notes=False, terminal="P-L"),
    Column("loyalty", "probability_loyalty_base2", "P-L", "base 2", notes=False),
)
ATTACKED = Column("robustness", "pgd_accuracy", "After attack", "PGD, %", terminal="Attacked")
SQUARE = Column("square", "square_accuracy", "After attack", "Square, %")
QUERIES = Column("square", "square_queries", unit="queries", notes=False)
EXCHANGED = Column(
    "substitution", "substitution_accuracy", "AA", "words exchanged, %", notes=False, terminal="AA"
)
ASKED = Column("substitution", "substitution_queries", "#Q", "queries", notes=False, terminal="#Q")
COLUMNS = (SHIFTED, *LOYAL, ATTACKED, SQUARE, QUERIES, EXCHANGED, ASKED)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in COLUMNS}


def speeds(panel: Panel) -> list[Column]:
    """Speed on every machine and at every batch size; in a terminal at the first."""
    known = batches(panel)
    return [
        Column(
            "cost",
            f"speedup_b{batch}",
            f"Speed{where}",
            f"×, batch {batch}",
            terminal=f"Speed x, batch {batch}{where}" if batch == known[0] else "",
            environment=environment,
        )
        for environment in panel.environments
        for where in [f" {environment}" if environment else ""]
        for batch in known
    ]


def main_column(panel: Panel) -> list[Column]:
    """The accuracy that charts show, if there is any."""
    return [Column(*panel.main, terminal=title_of(panel.main[1]))] if panel.main else []


def for_terminal(panel: Panel, found: Sequence[Line]) -> list[tuple[str, list[Cell]]]:
    """(heading, cells) of what a terminal shows of the table, columns that no line fills left out."""
    columns = []
    if len({x.point.density for x in found}) == 1:
        columns += [c for c in SIZES if len({x.text for x in c.short(found)}) > 1]
    columns += [*speeds(panel), *main_column(panel), *COLUMNS]
    made = [(c.terminal, c.short(found, brackets=False)) for c in columns if c.terminal]
    return [(name, cells) for name, cells in made if any(c.text != MISSING for c in cells)]


def section(panel: Panel, suffix: str) -> Section:
    return both(panel, "Methods side by side", "methods", lambda m, pick: lecture_table(panel, m, pick))


def lecture_table(panel: Panel, moment: str, pick: Pick = every) -> Table | None:
    """Method, speed, accuracy, L-L, P-L, after-attack accuracies, queries; dense of the same seeds beside each state."""
    found = lines(panel, moment, pick)
    columns, by = columns_of(found), judged(panel)
    add(columns, found, speeds(panel))
    notes = [BRACKETS] if any(name.startswith("Speed") for name, _ in columns.heads) else []
    if panel.main:
        name, main = title_of(panel.main[1]), [panel.main_reading(x.point) for x in found]
        unit = unit_of(main)
        add(columns, found, [replace(c, unit="" if unit == "1" else unit) for c in main_column(panel)])
        beside, change = [], []
        for line, reading in zip(found, main, strict=True):
            dense = None if line.kind == DENSE else panel.main_reading(panel.dense_of(line.series, moment))
            beside.append(spread_cell(restricted(dense, reading.by_seed if reading else ()), unit))
            change.append(spread_cell(paired(reading, dense), difference_unit(unit), signed=True))
        columns.add("Dense", "same seeds", beside)
        columns.add("Change", difference_unit(unit), change)
        if count := examples(main):
            notes.append(f"{name}: {count} test examples.")
    attack, words = ATTACKED.readings(found), EXCHANGED.readings(found)
    # of texts, which no gradient attacks, the column would hold no figure
    of_texts = any(words) and not any(r and r.by_seed for r in attack)
    add(columns, found, [c for c in COLUMNS if not (of_texts and c is ATTACKED)])
    shifted = SHIFTED.readings(found)
    notes += list(dict.fromkeys(f"Shifted: {note}." for r in shifted if r for note in r.notes))
    if any(name == "P-L" for name, _ in columns.heads):
        notes.append(LOYALTY)
        if panel.floors:
            notes.append("floor: a dense model of another seed, the loyalty that retraining alone leaves.")
    if any(attack) and not of_texts:
        images = examples(attack)
        notes.append(
            f"After attack: accuracy under PGD{f' on {images} test images' if images else ''}; "
            "the dense row is what it is to be read against."
        )
    square, queries = SQUARE.readings(found), QUERIES.readings(found)
    if any(square):
        told = dict.fromkeys(note for r in queries if r for note in r.notes)
        notes.append(
            f"After the Square attack, which asks for no gradient, on {examples(square)} test images; "
            f"#Q: mean number of queries, {'; '.join(told)}."
        )
    if any(words):
        told = dict.fromkeys(note for r in words if r for note in r.notes if note)
        notes.append(
            f"AA: accuracy after words were exchanged for synonyms, on {examples(words)} test texts ({'; '.join(told)}); "
            "#Q: mean number of queries of texts that were right before."
        )
    return table_of(
        panel,
        f"Speed, {by.name}, loyalty{' and after-attack accuracy' if by.share else ''}, {moment_name(moment)}",
        found,
        columns,
        notes,
    )
