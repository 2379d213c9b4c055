"""The report's tables of targets: what ran apart from what was modelled, families in numbers."""

from __future__ import annotations

from typing import Any

import pytest

from cases_report import record
from compressbench.records import Record, Records
from compressbench.report.panels import panels
from compressbench.report.sections.targets import family_table, target_tables

STATES = {  # density, weight bits, MACs, top-1
    "dense": (1.0, 32, 100, 90.0),
    "int8": (1.0, 8, 100, 89.0),
    "masked": (0.1, 32, 100, 85.0),
    "halved": (0.25, 32, 30, 80.0),
    "halved, int8": (0.25, 8, 30, 79.0),
}
SPEED = {"int8": 2.0, "masked": 1.0, "halved": 1.8, "halved, int8": 3.0}
MEASURED = {"masked": 1.09}  # by chance


@pytest.fixture
def rows() -> Records:
    found: list[Record] = []
    for order, (series, (density, bits, macs, top1)) in enumerate(STATES.items()):
        like = {"series": series, "state": series, "order": order, "density": density, "key": series}

        def add(*figure: Any, group: str = "", basis: str = "measured", note: str = "", **known: Any) -> None:
            named = dict(zip(("probe", "metric", "value", "unit"), figure, strict=True))
            found.append(record(**known, **named, reference="dense", group=group, basis=basis, note=note))

        add("accuracy", "top1", top1, "%", **like)
        add("loyalty", "label_loyalty", top1 + 5, "%", **like)
        add("structure", "weight_bits", bits, "bits", basis="theoretical", **like)
        add("cost", "macs", macs, "MACs", basis="theoretical", **like)
        for name, basis in (("here", "measured"), ("board", "modelled")):
            add("targets", "latency_b1", 10 / SPEED.get(series, 1.0), "ms", group=name, basis=basis, **like)
            if series != "dense":
                note = "no speed-up: runs dense" if series == "masked" else ""
                speed = MEASURED.get(series, SPEED[series]) if basis == "measured" else SPEED[series]
                add("targets", "speedup_b1", speed, "x", group=name, basis=basis, note=note, **like)
                if basis == "measured":
                    for end, value in (("low", 0.95 * speed), ("high", 1.05 * speed)):
                        add("targets", f"speedup_{end}_b1", value, "x", group=name, basis=basis, **like)
        why = "fp32, waits for moving; zeros run dense"
        add("targets", "layer_time", 1.0, "ms", group="board/conv1", basis="modelled", note=why, **like)
        why = "modelled Tiny: weights of 4 MB don't fit"
        add("targets", "latency_b1", None, "ms", group="tiny", note=why, **like)
    return Records(found)


def test_measured_and_modelled_stand_in_tables_of_their_own(rows: Records) -> None:
    shown, layers = target_tables(panels(rows)[0], "final", "")
    assert [t.title.partition(":")[0] for t in shown] == ["Measured", "Modelled"]
    assert [[r.label for r in t.rows] for t in shown] == [["here"], ["board", "tiny"]]
    assert [c.text for c in shown[0].rows[0].cells[:3]] == ["10.0", "5.00", "2.00"]
    assert shown[1].rows[1].cells[0].text == "–"
    assert "don't fit" in " ".join(shown[1].footnotes)
    (table,) = layers
    assert [r.label for r in table.rows] == ["conv1"]
    assert any("waits for moving; zeros run dense" in text for text in table.footnotes)


def test_families_in_numbers(rows: Records) -> None:
    table = family_table(panels(rows)[0], "final", "")
    assert table is not None
    assert [label for label, _ in table.groups] == [
        "Fewer bits (quantization)",
        "Zeros (sparsity)",
        "Fewer parts (structured)",
    ]
    cells = {row.label: [c.text for c in row.cells] for row in table.rows}
    bits, parts = ["2.00", "−1.0", "94.0", "int8"], ["1.80", "−10.0", "85.0", "halved"]
    # no state of zeros is faster: what it lost is no price for anything, and what runs dense gains nothing by zeros
    assert cells == {
        "here": [*bits, "not shown", "nothing", *parts],
        "board (modelled)": [*bits, "1.00", "nothing", *parts],
    }, "what belongs to two families counts for neither"


def test_early_exits_are_a_family_of_their_own(rows: Records) -> None:
    like = {
        "series": "exits",
        "state": "exits",
        "order": 9,
        "density": 1.0,
        "key": "exits",
        "reference": "dense",
    }
    more = [
        record(**like, value=88.0),
        record(**like, probe="structure", metric="weight_bits", value=32, unit="bits", basis="theoretical"),
        record(**like, probe="cost", metric="macs", value=101, unit="MACs", basis="theoretical"),
        record(**like, probe="exits", metric="expected_cost", value=50.0, basis="computed"),
        record(**like, probe="targets", metric="latency_b1", value=6.0, unit="ms", group="here"),
        record(**like, probe="targets", metric="speedup_b1", value=1.6, unit="x", group="here"),
        record(**like, probe="targets", metric="speedup_low_b1", value=1.5, unit="x", group="here"),
        record(**like, probe="targets", metric="speedup_high_b1", value=1.7, unit="x", group="here"),
    ]
    table = family_table(panels(Records([*rows, *more]))[0], "final", "")
    assert table is not None
    assert [label for label, _ in table.groups][-1] == "Early exits (adaptive compute)"
    here = next(row for row in table.rows if row.label == "here")
    assert [c.text for c in here.cells[-3:]] == ["1.60", "−2.0", "exits"]
