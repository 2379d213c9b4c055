"""Equal bytes, equal accuracy: figures read off curves."""

from __future__ import annotations

import pytest

from cases_report import record
from compressbench.records import Records
from compressbench.report.panels import panels
from compressbench.report.trade_off import _times_smaller, at_accuracy, at_bytes, trade_off_tables

CURVE = [(1000.0, 90.0), (100.0, 80.0), (10.0, 40.0)]


def test_at_bytes_by_hand() -> None:
    assert at_bytes(CURVE, 100) == 80
    assert at_bytes(CURVE, 1000) == 90
    assert at_bytes(CURVE, 10) == 40
    assert at_bytes(CURVE, 1000 / 10**0.5) == pytest.approx(85)
    assert at_bytes(CURVE, 9) is None
    assert at_bytes(CURVE, 1001) is None
    assert at_bytes([], 5) is None


def test_at_accuracy_by_hand() -> None:
    assert at_accuracy(CURVE, 85) == (pytest.approx(1000 / 10**0.5), True)
    assert at_accuracy(CURVE, 80) == (pytest.approx(100), True)
    assert at_accuracy(CURVE, 40) == (10, False)
    assert at_accuracy(CURVE, 91) is None
    assert at_accuracy([(100.0, 80.0), (50.0, 70.0), (20.0, 79.0)], 75) == (
        pytest.approx(100 * 0.5**0.5),
        True,
    ), "what comes back up further down doesn't count"


def test_the_tables_of_two_families() -> None:
    """Pruned: 1 point lost a halving; quantized: 0.25 points; 800 bytes dense at 80 %."""
    rows = []
    for seed in (0, 1):
        found = [("dense", 0, 800.0, 80.0, "dense_bytes")]
        for order in (1, 2, 3):
            found.append(("pruned", order, 800 / 2**order, 80.0 - order, "sparse_bytes"))
            found.append(("quantized", order, 800 / 2**order, 80.0 - order / 4, "quantized_bytes"))
        for series, order, size, top1, encoding in found:
            for probe, metric, value, unit in (
                ("accuracy", "top1", top1 + seed, "%"),
                ("cost", encoding, size, "bytes"),
            ):
                rows.append(
                    record(
                        series=series,
                        order=order,
                        seed=seed,
                        state=f"{series}{order}",
                        key=f"{series}{order}{seed}",
                        reference=f"dense0{seed}",
                        density=1.0,
                        probe=probe,
                        metric=metric,
                        value=value,
                        unit=unit,
                    )
                )
    panel = panels(Records(rows))[0]
    equal_bytes, equal_accuracy = trade_off_tables(panel, "final")
    assert [h for h, _ in equal_bytes.heads] == ["2 × smaller", "4 × smaller", "8 × smaller"] * 2
    assert equal_bytes.heads[1][1] == "200 bytes"
    cells = {row.label: [c.text for c in row.cells] for row in equal_bytes.rows}
    assert cells["pruned"] == ["79.5", "78.5", "77.5", "–", "–", "–"]
    assert cells["quantized"] == ["80.2", "80.0", "79.8", "+0.8", "+1.5", "+2.2"]
    cells = {row.label: [c.text for c in row.cells] for row in equal_accuracy.rows}
    assert cells["pruned"] == ["–", "2.00", "4.00", "8.00"]
    assert cells["quantized"] == ["4.00", "8.00", "8.00", "8.00"]
    assert equal_accuracy.rows[1].cells[2].notes == ("at least: 2 of 2 seeds never fall so low",)


def test_a_seed_that_misses_the_line_is_no_reason_to_leave_it_out() -> None:
    cell = _times_smaller({0: 800.0, 1: 800.0}, {0: (100.0, True), 1: None})
    assert cell.text == "–"
    assert cell.notes == ("the largest state is below already at 1 of 2 seeds",)
    assert _times_smaller({0: 800.0}, {0: None}).notes == ()
    assert _times_smaller({0: 800.0, 1: 800.0}, {0: (100.0, True), 1: (100.0, True)}).text == "8.00"


def test_no_tables_where_nothing_is_rounded() -> None:
    rows = [
        record(series=s, order=o, state=s, density=0.5**o, probe=p, metric=m, value=v, unit=u)
        for s in ("dense", "one", "other")
        for o in ((0,) if s == "dense" else (1, 2))
        for p, m, v, u in (("accuracy", "top1", 80.0 - o, "%"), ("cost", "sparse_bytes", 800 / 2**o, "bytes"))
    ]
    assert trade_off_tables(panels(Records(rows))[0], "final") == []
