"""What the report says of attacks: how far dense nets lie apart first, and where gradients mislead."""

from __future__ import annotations

from cases_report import full, record
from compressbench.records import Record, Records
from compressbench.report.panels import Panel, panels
from compressbench.report.section import Section
from compressbench.report.sections import robustness

SENTENCE = "its own gradients leave 60 % right, Square only 15 %"


def rows(seeds: int = 2, masked: str = "") -> list[Record]:
    """Worst cases of dense nets 3 and 12 %; of the pruned ones half of that."""
    found = []
    for seed in range(seeds):
        for series, order in (("dense", 0), ("ticket", 1), ("one-shot", 1)):
            here = {
                "seed": seed,
                "series": series,
                "order": order,
                "density": 0.5**order,
                "probe": "robustness",
            }
            worst = (3.0 + 9 * seed) * 0.5**order
            for metric, value in (
                ("clean_accuracy", 90.0),
                ("pgd_accuracy", 60.0),
                ("pgd_margin_accuracy", 50.0),
                ("worst_case_accuracy", worst),
                ("worst_case_low", worst - 1),
                ("worst_case_high", worst + 2),
            ):
                found.append(record(**here, metric=metric, value=value, n=256))
            for kind in robustness.KINDS:
                warned = series == masked and kind == "zero" and seed == 0
                note = SENTENCE if warned else ""
                found.append(
                    record(
                        **here,
                        metric="gradient_warning",
                        value=float(warned),
                        unit="1",
                        group=kind,
                        note=note,
                        n=256,
                    )
                )
    return found


def panel_of(found: list[Record]) -> Panel:
    others = [r for r in full(seeds=2, levels=1, moments=("final",)) if r.probe != "robustness"]
    (panel,) = panels(Records([*others, *found]))
    return panel


def told(found: list[Record]) -> Section:
    return robustness.section(panel_of(found), "")


def test_dense_nets_are_set_apart_before_anything_is_compared() -> None:
    lead = told(rows()).lead
    assert lead.startswith("The worst cases of 2 dense nets")
    assert "9.0 points apart (3.0 to 12.0 %)" in lead
    assert "mislead in" not in lead
    alone = told(rows(seeds=1)).lead
    assert alone.startswith("One dense net alone was attacked")


def test_a_figure_of_misleading_gradients_is_marked_and_says_why() -> None:
    section = told(rows(masked="ticket"))
    (table,) = section.tables
    heads = [head for head, _ in table.heads]
    marked = {
        (row.label, heads[k]): cell.notes
        for row in table.rows
        for k, cell in enumerate(row.cells)
        if cell.flag
    }
    assert marked == {("ticket", "PGD"): (SENTENCE,)}, "the margin has a gradient of its own"
    assert "Gradients mislead in 1 state: ticket." in section.lead
    ends = {row.label: row.cells[heads.index("95 % of examples")].text for row in table.rows}
    assert ends["dense"] == "6.5–9.5"  # means over the seeds of 2 and 11, and of 5 and 14
    assert ends["ticket"] == "2.8–5.8"


def test_what_a_runtime_executes_has_columns_of_its_own() -> None:
    here = [
        record(
            seed=seed,
            series=series,
            order=order,
            density=0.5**order,
            probe="robustness_deployed",
            metric="worst_case_accuracy",
            value=value,
            group=target,
            n=64,
        )
        for seed in (0, 1)
        for series, order in (("dense", 0), ("ticket", 1))
        for target, value in (("openvino", 8.0), ("ort", 7.0))
    ]
    table = next(t for t in told([*rows(), *here]).tables if "executes" in t.title)
    assert dict(table.groups)["openvino"] == dict(table.groups)["ort"] == 1
    assert [c.text for c in table.rows[0].cells][-2:] == ["8.0", "7.0"]


def test_without_attacks_there_is_no_section() -> None:
    section = told([])
    assert section.empty
    assert not section.lead


def test_all_that_the_probes_yield_is_shown_here() -> None:
    panel = panel_of(rows())
    keys = robustness.shown(panel, "final")
    assert {("robustness", r.metric, bool(r.group)) for r in rows()} <= keys
