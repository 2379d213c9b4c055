"""Methods side by side: the lecture's table."""

from __future__ import annotations

from compressbench.report.panels import DENSE, Panel, paired, restricted
from compressbench.report.section import Section, both
from compressbench.report.speed import BRACKETS, batches, speed_cell
from compressbench.report.states import Pick, columns_of, every, lines, readings_of, table_of, unit_of
from compressbench.report.tables import Table, cell, spread_cell
from compressbench.report.wording import LOYALTY, difference_unit, examples, moment_name, title_of

LOYAL = (
    ("label_loyalty", "L-L", "%"),
    ("probability_loyalty", "P-L", "nat. log"),
    ("probability_loyalty_base2", "P-L", "base 2"),
)


def section(panel: Panel, suffix: str) -> Section:
    return both(panel, "Methods side by side", "methods", lambda m, pick: lecture_table(panel, m, pick))


def lecture_table(panel: Panel, moment: str, pick: Pick = every) -> Table | None:
    """Method, speed, accuracy, L-L, P-L, after-attack accuracies, queries; dense of the same seeds beside each state."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    for environment in panel.environments:
        where = f" {environment}" if environment else ""
        for batch in batches(panel):
            speed = [speed_cell(x.point, f"speedup_b{batch}", environment) for x in found]
            columns.add(f"Speed{where}", f"×, batch {batch}", speed)
    notes = [BRACKETS] if any(name.startswith("Speed") for name, _ in columns.heads) else []
    if panel.main:
        name, main = title_of(panel.main[1]), [panel.main_reading(x.point) for x in found]
        unit = unit_of(main)
        columns.add(name, unit, [cell(r) for r in main])
        beside, change = [], []
        for line, reading in zip(found, main, strict=True):
            dense = None if line.kind == DENSE else panel.main_reading(panel.dense_of(line.series, moment))
            beside.append(spread_cell(restricted(dense, reading.by_seed if reading else ()), unit))
            change.append(spread_cell(paired(reading, dense), difference_unit(unit), signed=True))
        columns.add("Dense", "same seeds", beside)
        columns.add("Change", difference_unit(unit), change)
        if count := examples(main):
            notes.append(f"{name}: {count} test examples.")
    shifted = readings_of(found, "shifted", "shifted_top1")
    columns.add("Shifted", "test set, %", [cell(r, notes=False) for r in shifted])
    notes += list(dict.fromkeys(f"Shifted: {note}." for r in shifted if r for note in r.notes))
    for metric, name, unit in LOYAL:
        columns.add(name, unit, [cell(r, notes=False) for r in readings_of(found, "loyalty", metric)])
    if any(name == "P-L" for name, _ in columns.heads):
        notes.append(LOYALTY)
        if panel.floors:
            notes.append("floor: a dense model of another seed, the loyalty that retraining alone leaves.")
    attack = readings_of(found, "robustness", "pgd_accuracy")
    columns.add("After attack", "PGD, %", [cell(r) for r in attack])
    if any(attack):
        images = examples(attack)
        notes.append(
            f"After attack: accuracy under PGD{f' on {images} test images' if images else ''}; "
            "the dense row is what it is to be read against."
        )
    square, queries = (readings_of(found, "square", m) for m in ("square_accuracy", "square_queries"))
    columns.add("After attack", "Square, %", [cell(r) for r in square])
    columns.add("#Q", "queries", [cell(r, notes=False) for r in queries])
    if any(square):
        told = dict.fromkeys(note for r in queries if r for note in r.notes)
        notes.append(
            f"After the Square attack, which asks for no gradient, on {examples(square)} test images; "
            f"#Q: mean number of queries, {'; '.join(told)}."
        )
    return table_of(
        panel,
        f"Speed, accuracy, loyalty and after-attack accuracy, {moment_name(moment)}",
        found,
        columns,
        notes,
    )
