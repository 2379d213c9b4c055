"""Early exits in the report: figures where they belong, machines apart, sentences without densities."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cases_report import record
from compressbench.records import Record, Records
from compressbench.report.findings import summary
from compressbench.report.naming import told_apart
from compressbench.report.page import write_report
from compressbench.report.panels import Panel, panels
from compressbench.report.sections import exits
from compressbench.report.sections.exits import accuracy_vs_exit_macs, accuracy_vs_exit_time, exit_throughput
from compressbench.report.sections.others import leftover_tables

POLICIES = {  # state of the series "by a budget": top-1, cost in %, millions of MACs, speed at batch 1
    "of_joint_0p3.choose": (80.0, 30.0, 3.0, 2.5),
    "of_joint_0p6.choose": (89.5, 60.0, 6.0, 1.25),
}
CLASSES = {"trouser": (90.0, 10.0), "shirt": (20.0, 80.0)}


def found(machines: tuple[str, ...] = ("here",), seeds: tuple[int, ...] = (0, 1)) -> Records:
    rows: list[Record] = []

    def add(series: str, state: str, order: int, figures: list[tuple[Any, ...]], **known: Any) -> None:
        for seed in seeds:
            for probe, metric, value, unit, *rest in figures:
                given = dict(zip(("group", "basis"), rest, strict=False))
                rows.append(
                    record(series=series, state=state, order=order, seed=seed, key=f"{state}{seed}", probe=probe,
                           metric=metric, value=value, unit=unit, reference="joint", **given, **known)
                )  # fmt: skip

    def timed(series: str, state: str, order: int, speed: float) -> None:
        for k, machine in enumerate(machines):
            figures = [
                ("cost", "latency_median_b1", 4 / speed, "ms", "", "measured"),
                ("cost", "speedup_b1", speed * (1 + k), "x", "", "measured"),
                ("cost", "speedup_low_b1", 0.9 * speed * (1 + k), "x", "", "measured"),
                ("cost", "speedup_high_b1", 1.1 * speed * (1 + k), "x", "", "measured"),
            ]
            add(series, state, order, figures, machine=machine)

    add(
        "dense",
        "joint",
        0,
        [("accuracy", "top1", 90.0, "%"), ("cost", "macs", 1e7, "MACs", "", "theoretical")],
    )
    timed("dense", "joint", 0, 1.0)
    add(
        "without exits",
        "plain",
        1,
        [("accuracy", "top1", 91.0, "%"), ("cost", "macs", 9e6, "MACs", "", "theoretical")],
    )
    timed("without exits", "plain", 1, 1.1)
    for order, (state, (top1, cost, macs, speed)) in enumerate(POLICIES.items(), 2):
        shares = [
            ("exits", "class_exit_share", share, "%", f"{place}/{name}")
            for name, both in CLASSES.items()
            for place, share in zip(("layer1", "last"), both, strict=True)
        ]
        figures = [
            ("accuracy", "top1", top1, "%"),
            ("exits", "exits_top1", top1, "%"),
            ("exits", "random_top1", top1 - 5, "%"),
            ("exits", "expected_cost", cost, "%", "", "computed"),
            ("exits", "expected_macs", macs * 1e6, "MACs", "", "computed"),
            ("cost", "macs", 1e7, "MACs", "", "theoretical"),
            *shares,
            *(
                ("exits", "class_cost", 100 - both[0], "%", name, "computed")
                for name, both in CLASSES.items()
            ),
            *(("exits", "class_change", -1.0, "points", name) for name in CLASSES),
        ]
        add("by a budget", state, order, figures)
        timed("by a budget", state, order, speed)
    return Records(rows)


@pytest.fixture
def panel() -> Panel:
    (one,) = panels(found())
    return one


def test_states_stand_at_their_time_and_their_macs(panel: Panel) -> None:
    """Nets without exits too, so that a plain one can be compared at equal time."""
    times = exits.lines_of(panel, "final", lambda point: exits.time_of(point, ""))
    assert {s.label: [(round(x, 3), y.mean) for x, y in line] for s, line in times} == {
        "without exits": [(90.909, 91.0)],
        "by a budget": [(40.0, 80.0), (80.0, 89.5)],
    }
    macs = exits.lines_of(panel, "final", exits.macs_of)
    assert {s.label: [(x, y.mean) for x, y in line] for s, line in macs} == {
        "without exits": [(9.0, 91.0)],
        "by a budget": [(3.0, 80.0), (6.0, 89.5)],
    }
    label, chance = exits.controls(panel, "final")
    assert (label, [(x, y.mean) for x, y in chance]) == ("by a budget", [(3.0, 75.0), (6.0, 84.5)])


def test_machines_are_kept_apart() -> None:
    (panel,) = panels(found(machines=("laptop", "board")))
    assert len(panel.environments) == 2
    places = [
        [x for s, line in exits.lines_of(panel, "final", lambda p, e=e: exits.time_of(p, e)) for x, _ in line]
        for e in panel.environments
    ]
    assert places[0] == pytest.approx([2 * x for x in places[1]])
    drawn = [accuracy_vs_exit_time(panel, "final", e, f"t{k}") for k, e in enumerate(panel.environments)]
    assert all(e in chart.caption for e, chart in zip(panel.environments, drawn, strict=True))
    table, *_ = exits.exit_tables(panel, "final")
    assert len(table.groups) == 2 + 1


def test_the_summary_speaks_of_cost(panel: Panel) -> None:
    told = " ".join(summary(panel)).replace("\u00a0", " ")
    assert (
        "at 60 % of its MACs −0.5 ± 0.0 points (n = 2), faster, 1.25× [1.12–1.38] (n = 2) at batch 1" in told
    )
    assert (
        "cheapest, at 30 % of its MACs −10.0 ± 0.0 points (n = 2), faster, 2.50× [2.25–2.75] (n = 2) at batch 1"
        in told
    )
    assert "densit" not in told
    assert " 100 %" not in told


def test_branches_are_told_apart_by_their_value() -> None:
    assert told_apart(list(POLICIES)) == ["0.3", "0.6"]
    assert told_apart(["rate_0p03.train", "rate_1e-05.train"]) == ["0.03", "1e-05"]
    assert told_apart(["arm_adam.train", "arm_sam_long.train"]) == ["adam", "sam_long"]
    assert told_apart(["only.one"]) == [""]


def test_the_section_is_on_the_page(tmp_path, panel: Panel) -> None:
    assert exits.nearest_half(panel, "final").label == "by a budget, 0.6"
    *_, classes = exits.exit_tables(panel, "final")
    assert [row.label for row in classes.rows] == ["trouser", "shirt"]
    assert accuracy_vs_exit_macs(panel, "final", "macs") is not None
    assert exit_throughput(panel, "final", "", "rates") == []
    written = write_report(found(), tmp_path, "exits").read_text(encoding="utf-8")
    assert written.count("by a budget, 0.6") >= 2
    assert "time at batch 1" in written


def test_throughputs_have_figures_beside_their_charts() -> None:
    like = {
        "probe": "batching",
        "series": "by a budget",
        "state": "of_joint_0p3.choose",
        "order": 2,
        "key": "b",
        "machine": "here",
    }
    rows = [
        record(
            **like, metric=f"exit_{what}_b{size}", value=value * size, unit=unit, group=f"cpu/{way}", seed=0
        )
        for size in (1, 4)
        for way, value in (("full depth", 100.0), ("compacted", 150.0))
        for what, unit in (("throughput", "examples/s"), ("speedup", "x"))
    ]
    (panel,) = panels(Records([*found(seeds=(0,)), *rows]))
    table = exits.exit_tables(panel, "final")[-1]
    assert table.title == "Throughput on cpu"
    assert [row.label for row in table.rows] == [
        "by a budget, 0.3: full depth",
        "by a budget, 0.3: compacted",
    ]
    assert table.groups == (("Batch 1", 2), ("Batch 4", 2))
    assert [c.text for c in table.rows[1].cells] == ["150", "150.00", "600", "600.00"]
    assert len(exit_throughput(panel, "final", "", "rates")) == 1


def test_a_cpu_and_a_gpu_of_one_run_are_both_drawn() -> None:
    """Better suited to CPU than GPU? The same ways on two targets, each with its chart and its table."""
    like = {
        "probe": "batching", "series": "by a budget", "state": "of_joint_0p3.choose", "order": 2, "key": "b",
        "machine": "here",
    }  # fmt: skip
    speeds = {"cpu_torch": (1.5, 1.25), "cuda_eager": (1.1, 0.5), "cuda_graph": (1.2, 0.75)}
    rows = [
        record(**like, metric=f"exit_{what}_b{size}", value=value, unit=unit, group=f"{target}/{way}", seed=0)
        for target, factors in speeds.items()
        for size, factor in zip((1, 64), factors, strict=True)
        for way, times in (("full depth", 1.0), ("compacted", factor))
        for what, unit, value in (("throughput", "examples/s", 1000 * times), ("speedup", "x", times))
    ]
    (panel,) = panels(Records([*found(seeds=(0,)), *rows]))
    tables = {t.title: t for t in exits.exit_tables(panel, "final") if t.title.startswith("Throughput")}
    assert list(tables) == [f"Throughput on {target}" for target in speeds]
    for target, (single, many) in speeds.items():
        told = [
            c.text.replace("\u202f", "").replace("\u00a0", "")
            for c in tables[f"Throughput on {target}"].rows[1].cells
        ]
        assert float(told[1]) == pytest.approx(single)
        assert float(told[3]) == pytest.approx(many)
    charts = exit_throughput(panel, "final", "", "rates")
    assert len(charts) == len(speeds)


def test_what_the_section_shows_of_one_policy_is_still_shown_of_the_others(panel: Panel) -> None:
    left = {table.title: [head for head, _ in table.heads] for table in leftover_tables(panel, "final")}
    assert left["exits, final"] == ["Density", "State", "MACs by the policy"]  # the section only draws them
    assert {"exits: class cost (%), final", "exits: class change (points), final"} < set(left)


def test_figures_of_another_moment_than_the_sections_are_not_hidden() -> None:
    moved = [dataclasses.replace(r, moment="early") for r in found()]
    (panel,) = panels(Records([*found(), *moved]))
    (table,) = [t for t in leftover_tables(panel, "early") if t.title.startswith("exits, ")]
    assert "Top-1, exits at random" in [head for head, _ in table.heads]
