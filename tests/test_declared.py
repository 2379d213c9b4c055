"""Metrics are declared once: timings are known by name, batch sizes are read from it, a ratio of bytes is no timing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import test_exits_report
from cases_report import record
from compressbench.declared import METRICS, batch_of, declared, is_timing, title_of
from compressbench.deploying.card import _figures
from compressbench.records import Records
from compressbench.report.findings import summary
from compressbench.report.panels import panels
from compressbench.report.sections.cost import size_table
from compressbench.report.sections.exits import accuracy_vs_exit_time, exit_tables

DOCS = Path(__file__).parents[1] / "docs" / "records.md"


@pytest.mark.parametrize(
    ("metric", "unit", "timing"),
    [
        ("compression_ratio", "x", False),
        ("dense_bytes", "bytes", False),
        ("macs", "MACs", False),
        ("exit_cost_b3", "%", False),
        ("peak_memory_b1", "bytes", True),
        ("speedup_b48", "x", True),
        ("speedup_low_b48", "x", True),
        ("deployed_speedup_over_bf16_high_b7", "x", True),
        ("energy_b1", "mJ", True),
        ("train_seconds", "s", True),
        ("layer_time", "ms", True),
        ("machine_load", "load", True),
        ("hinge_ms", "ms", True),  # a user's own
        ("images_a_second", "examples/s", True),
        ("gain", "x", False),
        ("latency_b1", "queries", False),  # declared in ms: of a user's own in something else, the unit says
        ("latency_b01", "points", False),
    ],
)
def test_what_a_timing_is(metric: str, unit: str, timing: bool) -> None:
    assert is_timing(metric, unit) is timing
    assert record(metric=metric, unit=unit).is_timing is timing


@pytest.mark.parametrize(
    ("metric", "batch"),
    [("speedup_b1", 1), ("latency_median_b48", 48), ("exit_cost_b100", 100), ("top1", None), ("x_b0", None),
     ("x_b1_low", None), ("fb12", None), ("weight_bits", None)],
)  # fmt: skip
def test_batch_sizes_are_any_whole_number(metric: str, batch: int | None) -> None:
    assert batch_of(metric) == batch


def test_titles() -> None:
    assert title_of("top1") == "Top-1"
    assert title_of("speedup_b48") == "Speed-up, batch 48"
    assert title_of("sam_sharpness_rescaled") == "SAM sharpness, rescaled"
    assert title_of("my_own_figure_b2") == "my own figure b2"
    assert declared("speedup_b#") is not None, "a family itself"
    assert declared("top1_b4") is None, "no family"


NO_METRICS = {"group", "artefact", "basis"}


def test_every_declared_metric_is_in_the_table_of_the_docs_and_the_other_way_round() -> None:
    text = DOCS.read_text(encoding="utf-8")
    table = text.partition("## Metrics")[2].partition("## Reading them")[0]
    told = {re.sub(r"_bN$", "_b#", name) for name in re.findall(r"`([a-z][a-z0-9_]*(?:_bN)?)`", table)}
    suffixed = {n for n in METRICS if n.endswith("_rescaled")}
    assert sorted(set(METRICS) - suffixed - told) == []
    assert sorted(n for n in told - set(METRICS) if n not in NO_METRICS) == []


def test_batch_sizes_of_a_report_come_from_its_records() -> None:
    rows = [replace(r, metric=re.sub("_b1$", "_b48", r.metric)) for r in test_exits_report.found()]
    (panel,) = panels(Records(rows))
    heads = [name for name, _ in exit_tables(panel, "final")[0].heads]
    assert "Batch 48" in heads
    assert "Speed 48" in heads
    assert "Batch 1" not in heads
    chart = accuracy_vs_exit_time(panel, "final", "", "x")
    assert chart is not None
    assert "time at batch 48" in chart.svg
    said = [line for line in summary(panel) if "MACs" in line]
    assert "at batch 48" in " ".join(said)
    lines = [name for name, *_ in _figures([record(metric="speedup_b48", value=2.0, unit="x")])]
    assert lines == ["speedup_b48"]


def test_a_joint_report_of_two_machines_keeps_the_ratio_of_bytes() -> None:
    rows = []
    for seed, machine in ((0, "one processor"), (1, "another processor")):
        given = {"seed": seed, "machine": machine, "probe": "cost"}
        for series, order, size, ratio in (("dense", 0, 1000.0, 1.0), ("pruned", 1, 250.0, 4.0)):
            where = {"series": series, "order": order, "density": 1.0 if order == 0 else 0.25}
            rows += [
                record(**where, seed=seed, machine=machine, value=90.0 - order),
                record(**where, **given, metric="dense_bytes", value=size, unit="bytes", basis="on disk"),
                record(**where, **given, metric="compression_ratio", value=ratio, unit="x", basis="on disk"),
                record(**where, **given, metric="latency_median_b3", value=1.0, unit="ms"),
            ]
    (panel,) = panels(Records(rows))
    assert len(panel.environments) == 2
    table = size_table(panel, "final")
    assert table is not None
    place = [name for name, _ in table.heads].index("Ratio")
    assert [row.cells[place].text for row in table.rows] == ["1.00", "4.00"]
