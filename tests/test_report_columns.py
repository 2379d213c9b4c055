"""Sections are files, and a column is declared once: for the page, for the terminal, and for what is left over."""

from __future__ import annotations

import importlib
import pkgutil
from io import StringIO

import pytest
from rich.console import Console

from cases_report import accuracies, record
from compressbench.records import Record, Records
from compressbench.report import deployed, page, sections
from compressbench.report.panels import Panel, panels
from compressbench.report.sections import methods, others, quality
from compressbench.report.sections.methods import lecture_table
from compressbench.report.sections.others import leftover_tables
from compressbench.report.states import GAPS, Column, add, columns_of, lines, of
from compressbench.report.terminal import print_tables

STATES = (("dense", 0), ("pruned", 1))


def measured(*figures: tuple[str, str, float | None, str], **given: str) -> Records:
    """Two states with accuracy and the given (probe, metric, value, unit), 1 more for each of the dense one's."""
    found: list[Record] = []
    for series, order in STATES:
        found += accuracies(series, order, 0.5**order, {0: 90.0 - order})
        for probe, metric, value, unit in figures:
            known = None if value is None else value + (1 - order)
            like = {"series": series, "order": order, "density": 0.5**order}
            found.append(record(**like, probe=probe, metric=metric, value=known, unit=unit, **given))
    return Records(found)


def one(rows: Records) -> Panel:
    (panel,) = panels(rows)
    return panel


def printed(rows: Records) -> str:
    text = StringIO()
    print_tables(rows, Console(file=text, width=120))
    return text.getvalue()


def test_every_section_is_a_file_and_has_its_place_on_the_page() -> None:
    files = [m.name for m in pkgutil.iter_modules(sections.__path__)]
    modules = [importlib.import_module(f"{sections.__name__}.{name}") for name in files]
    found = [module.section for module in modules]
    assert len(found) >= 15
    assert sorted(page.ORDER, key=repr) == sorted(found, key=repr)
    telling = [module.shown for module in modules if hasattr(module, "shown")]
    assert sorted(others.SHOWN, key=repr) == sorted(telling, key=repr)


def test_a_column_is_declared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(("hinge", "margin", 3.0, "nats"))
    assert [t.title for t in leftover_tables(one(rows), "final")] == ["hinge, final"]
    assert "Margin" not in printed(rows)
    mine = Column("hinge", "margin", terminal="Margin")
    monkeypatch.setattr(methods, "COLUMNS", (*methods.COLUMNS, mine))
    table = lecture_table(one(rows), "final")
    assert table is not None
    assert ("margin", "nats") in table.heads
    place = table.heads.index(("margin", "nats"))
    assert [row.cells[place].text for row in table.rows] == ["4.000", "3.000"]
    said = printed(rows)
    assert "Margin" in said
    assert "4.000" in said
    assert leftover_tables(one(rows), "final") == []


def test_a_column_of_the_page_alone_is_not_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(("hinge", "margin", 3.0, "nats"))
    monkeypatch.setattr(quality, "QUALITY", (*quality.QUALITY, *of("hinge", "margin")))
    assert leftover_tables(one(rows), "final") == []
    assert "margin" not in printed(rows).lower()


@pytest.mark.parametrize(
    ("value", "notes", "told"),
    [(3.0, True, True), (3.0, GAPS, False), (3.0, False, False), (None, GAPS, True), (None, False, False)],
)
def test_notes_of_a_column(value: float | None, notes: bool | str, told: bool) -> None:
    panel = one(measured(("hinge", "margin", value, "nats"), note="why"))
    cells = Column("hinge", "margin", notes=notes).cells(lines(panel, "final"))
    assert [c.notes for c in cells] == [("why",) if told else ()] * 2


def test_a_marked_column_has_signs_and_flags_what_has_a_note() -> None:
    found = lines(one(measured(("hinge", "gap", 0.3, "points"), note="far")), "final")
    cells = Column("hinge", "gap", marked=True).cells(found)
    assert [(c.text, c.flag) for c in cells] == [("+1.3", True), ("+0.3", True)]
    quiet = lines(one(measured(("hinge", "gap", 0.3, "points"))), "final")
    assert [c.flag for c in Column("hinge", "gap", marked=True).cells(quiet)] == [False, False]


def test_a_ratio_of_timings_has_its_interval_and_a_ratio_of_bytes_has_none() -> None:
    figures = [
        ("cost", f"speedup{end}_b1", v, "x") for end, v in (("", 1.5), ("_low", 1.25), ("_high", 1.75))
    ]
    found = lines(one(measured(*figures, ("cost", "compression_ratio", 4.0, "x"))), "final")
    speed = Column("cost", "speedup_b1")
    assert [c.plain for c in speed.cells(found)] == ["2.50 [2.25–2.75]", "1.50 [1.25–1.75]"]
    assert [c.plain for c in speed.short(found, brackets=False)] == ["2.50", "1.50"]
    assert [c.plain for c in Column("cost", "compression_ratio").cells(found)] == ["5.00", "4.00"]
    assert (speed.is_ratio, Column("cost", "compression_ratio").is_ratio) == (True, False)


def test_headings_come_from_the_metric_unless_they_are_given() -> None:
    found = lines(one(measured(("hinge", "nll", 3.0, "nats"))), "final")
    columns = columns_of(found)
    add(columns, found, [Column("hinge", "nll"), Column("hinge", "nll", "Loss", "per example")])
    assert columns.heads[1:] == [("NLL", "nats"), ("Loss", "per example")]


def test_a_runtime_s_columns_in_a_terminal_are_the_page_s() -> None:
    figures = [
        ("deployed", "deployed_top1", 88.0, "%"),
        ("deployed", "layers_in_float", 2.0, "1"),
        ("deployed", "deployed_speedup_b4", 2.0, "x"),
        ("deployed", "compile_seconds", 9.0, "s"),
    ]
    panel = one(measured(*figures, group="ort"))
    heads = [name for name, _ in deployed.for_terminal(panel, lines(panel, "final"), "ort")]
    assert heads == ["deployed", "Speed x, batch 4", "layers in float"]
    tables = [t for t in deployed.deployed_tables(panel, "final", "") if t]
    shown = [head for table in tables for head in table.heads if head[0] != "Density"]
    assert shown == [("Top-1", "%"), ("Layers in float", ""), ("Compiled in", "s"), ("over fp32", "×")]
