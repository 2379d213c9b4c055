"""The report's section on redundancy: curves read at equal clean accuracy, by hand; from records alone."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from scipy import stats

from cases_report import Page, record
from compressbench.cli.run import composed
from compressbench.records import Record, Records
from compressbench.report import drawing
from compressbench.report.page import write_report
from compressbench.report.panels import Panel, panels
from compressbench.report.sections import redundancy
from compressbench.report.sections.others import leftover_tables
from compressbench.report.sections.redundancy import at_clean
from compressbench.report.tables import Cell, Table

DENSITIES = (1.0, 0.5, 0.2)
# by line: of each seed (clean, corrupted) at each density
LINES = {
    "no dropout": {0: ((90, 70), (86, 60), (60, 30)), 1: ((91, 72), (88, 66), (60, 30))},
    "dropout 0.5": {0: ((88, 74), (87, 70), (80, 50)), 1: ((90, 75), (89, 72), (79, 51))},
    "no dropout, units removed": {0: ((90, 70), (80, 50), (20, 15)), 1: ((91, 72), (81, 50), (20, 15))},
    "dropout 0.5, units removed": {0: ((88, 74), (86, 70), (40, 30)), 1: ((90, 75), (88, 71), (40, 30))},
}  # fmt: skip


def rows(lines=LINES, seeds=(0, 1), deletion: bool = True) -> list[Record]:
    """Records of nets that were pruned, the unpruned of each net the same state in all its lines."""
    found = []
    for seed in seeds:
        states = [("dense", "no dropout", 0)]
        states += [(name, name, k) for name, by_seed in lines.items() for k in range(len(by_seed[0]))]
        for series, line, place in states:
            clean, corrupted = lines[line][seed][place]
            net = line.partition(",")[0]
            state = f"{net}.train" if not place else f"{line}.{place}"
            here = {
                "series": series, "order": 0 if series == "dense" else place + 1, "seed": seed,
                "density": DENSITIES[place], "state": state, "key": f"{state}-{seed}",
                "reference": f"no dropout.train-{seed}",
            }  # fmt: skip
            found.append(record(**here, value=float(clean)))
            found += [
                record(**here, probe="corruptions", metric="corrupted_top1", value=float(corrupted)),
                *(record(**here, probe="corruptions", metric="corrupted_top1", group=f"gaussian_noise, severity {s}",
                         value=corrupted + 4.0 * s) for s in (1, 3)),
                record(**here, probe="corruptions", metric="corrupted_top1", group="fog, severity 3", value=1.0),
            ]  # fmt: skip
            for what, lost in (("units", 10.0), ("weights", 30.0)) if deletion else ():
                for share in (25, 50):
                    value = clean - lost * share / 25
                    found.append(
                        record(**here, probe="deletion", metric="deleted", group=f"{what}, {share} %",
                               value=float(share), unit="1")
                    )  # fmt: skip
                    for end, off in (("", 0.0), ("_low", -3.0), ("_high", 2.0)):
                        found.append(
                            record(**here, probe="deletion", metric=f"deletion_accuracy{end}",
                                   group=f"{what}, {share} %", value=value + off, n=500,
                                   note="" if end else f"{share} of 100")
                        )  # fmt: skip
    return found


def panel_of(found: list[Record]) -> Panel:
    [panel] = panels(Records(found))
    return panel


def numbers(cell: Cell) -> list[float]:
    """The figures of a cell: mean, then what stands behind it."""
    return [float(x) for x in re.findall(r"[-+]?\d+\.?\d*", cell.plain.replace("−", "-").replace("±", " "))]


def column(table: Table, name: str, group: str = "") -> list[Cell]:
    over = [g for g, span in table.groups for _ in range(span)] or [""] * len(table.heads)
    [place] = [
        k for k, (head, g) in enumerate(zip(table.heads, over, strict=True)) if (head[0], g) == (name, group)
    ]
    return [row.cells[place] for row in table.rows]


def test_a_curve_is_read_where_it_first_falls_below() -> None:
    curve = [(0.2, 60.0, 30.0), (1.0, 90.0, 70.0), (0.5, 86.0, 60.0)]
    assert at_clean(curve, 87.0) == pytest.approx((0.625, 62.5))
    assert at_clean(curve, 90.0) == (1.0, 70.0)
    assert at_clean(curve, 86.0) == pytest.approx((0.5, 60.0))
    assert at_clean(curve, 60.0) is None, "it never falls below"
    assert at_clean(curve, 90.5) is None, "it is below already"
    assert at_clean([], 50.0) is None
    # what rises again further down isn't looked at: the first fall on the way counts
    humps = [(1.0, 90.0, 70.0), (0.8, 92.0, 71.0), (0.5, 84.0, 60.0), (0.4, 91.0, 50.0), (0.1, 10.0, 0.0)]
    assert at_clean(humps, 88.0) == pytest.approx((0.65, 65.5))


def test_at_its_own_clean_accuracy_a_net_is_itself_though_pruning_a_little_helps() -> None:
    curve = [(1.0, 98.0, 80.0), (0.5, 98.05, 70.0), (0.45, 97.95, 65.0)]
    assert at_clean(curve, 98.0) == (1.0, 80.0)
    assert at_clean(curve, 97.99) == pytest.approx((0.47, 67.0)), "straight between 98.05 and 97.95"


def test_groups_of_strangers_name_no_files_and_kill_nothing(tmp_path) -> None:
    """What records call parts or shares is theirs to say; names of files are not."""
    own = rows()
    here = next(r for r in own if (r.series, r.metric) == ("no dropout", "deletion_accuracy"))
    groups = ["units, x %", "units, nan %", "units, 900 %", "../../evil, 50 %", f"{'a' * 400}, 50 %",
              "up, 50 %", "../up, 50 %", f"weights, {'9' * 5000} %"]  # fmt: skip
    panel = panel_of([*own, *(dataclasses.replace(here, group=g) for g in groups)])
    with drawing.settings():
        made = redundancy.section(panel, "")
    names = [chart.name for chart in made.charts]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,60}", name) for name in names)
    assert {"deleted_units", "deleted_weights", "deleted_evil", "deleted_up__4", "deleted_up__5"} <= set(
        names
    )
    assert [redundancy.share_of(text) for text in ("50 %", "x %", "nan %", "900 %", "")] == [
        50.0,
        *[None] * 4,
    ]
    write_report(panel.rows, tmp_path, "strange")


def test_nets_and_their_ways() -> None:
    panel = panel_of(rows())
    assert list(redundancy.nets(panel, "final")) == ["no dropout", "dropout 0.5"]
    ways = redundancy.ways(panel, "final")
    assert {way: [(x.net, x.series.label) for x in lines] for way, lines in ways.items()} == {
        "": [("no dropout", "no dropout"), ("dropout 0.5", "dropout 0.5")],
        "units removed": [
            ("no dropout", "no dropout, units removed"),
            ("dropout 0.5", "dropout 0.5, units removed"),
        ],
    }
    assert [m.name for m in redundancy.measures(ways[""])] == [
        "Gaussian noise", "Corrupted top-1", "Half of the units deleted",
    ]  # fmt: skip
    [_, noise] = [redundancy.curves(panel, ways[""][0], m)[0] for m in redundancy.measures(ways[""])[1::-1]]
    assert noise[0] == (1.0, 90.0, 70 + 8), "of severities 1 and 3 the mean: +4 and +12"


def test_a_line_that_does_not_begin_with_its_net_is_no_line() -> None:
    found = [r for r in rows() if (r.series, r.density) != ("dropout 0.5, units removed", 1.0)]
    ways = redundancy.ways(panel_of(found), "final")
    assert [x.net for x in ways["units removed"]] == ["no dropout"]
    assert [x.net for x in ways[""]] == ["no dropout", "dropout 0.5"]
    assert redundancy.at_equal_clean(panel_of(found), "final", "units removed", ways["units removed"]) is None


def test_robustness_at_equal_clean_accuracy_by_hand() -> None:
    panel = panel_of(rows())
    lines = redundancy.ways(panel, "final")[""]
    table = redundancy.at_equal_clean(panel, "final", "", lines)
    assert table is not None
    assert [c.text for c in column(table, "Below")] == ["0", "1", "2", "5"]
    assert {row.label for row in table.rows} == {"dropout 0.5"}
    # 1 point below the less accurate net: 87 at seed 0, 89 at seed 1
    assert numbers(column(table, "Clean")[1])[0] == 88.0
    assert numbers(column(table, "Density")[1])[0] == 50.0
    assert numbers(column(table, "of no dropout")[1])[0] == pytest.approx(64.6, abs=0.051)  # 62.5 and 66.7
    assert numbers(column(table, "accuracy", "Corrupted top-1")[1])[0] == 71.0
    gains = [70 - 62.5, 72 - 68]
    low, high = stats.t.interval(0.95, 1, loc=np.mean(gains), scale=stats.sem(gains))
    found = column(table, "minus no dropout", "Corrupted top-1")[1]
    assert numbers(found) == pytest.approx([np.mean(gains), low, high], abs=0.051)
    assert found.n == 2
    # 5 points below: 83 and 85 of clean accuracy, where both lie between their last two states
    base = [60 + (86 - 83) / 26 * (30 - 60), 66 + (88 - 85) / 28 * (30 - 66)]
    other = [70 + (87 - 83) / 7 * (50 - 70), 72 + (89 - 85) / 10 * (51 - 72)]
    apart = np.subtract(other, base).mean()
    assert numbers(column(table, "minus no dropout", "Corrupted top-1")[3])[0] == pytest.approx(
        apart, abs=0.051
    )


def test_what_pruning_costs_by_hand() -> None:
    panel = panel_of(rows())
    lines = redundancy.ways(panel, "final")[""]
    table = redundancy.cost_of_pruning(panel, "final", "", lines)
    assert table is not None
    assert [row.label for row in table.rows] == ["no dropout"] * 3 + ["dropout 0.5"] * 3
    change = column(table, "change", "Corrupted top-1")
    beside = column(table, "minus no dropout’s", "Corrupted top-1")
    assert numbers(change[0])[0] == pytest.approx(-2.25, abs=0.051)  # −2.5 and −2
    assert numbers(change[3])[0] == pytest.approx(-3.5, abs=0.051)  # −4 and −3
    low, high = stats.t.interval(0.95, 1, loc=-1.25, scale=stats.sem([-1.5, -1.0]))
    assert numbers(beside[3]) == pytest.approx([-1.25, low, high], abs=0.051)
    assert beside[0].text == "–", "the first line isn’t set beside itself"


def test_no_mean_over_the_seeds_that_happen_to_reach_it() -> None:
    lines = {**LINES, "dropout 0.5": {**LINES["dropout 0.5"], 1: ((90, 75), (89, 72), (88.5, 51))}}
    panel = panel_of(rows(lines))
    table = redundancy.at_equal_clean(panel, "final", "", redundancy.ways(panel, "final")[""])
    assert table is not None
    found = column(table, "accuracy", "Corrupted top-1")
    assert [c.text != "–" for c in found] == [True, True, False, False]
    costs = redundancy.cost_of_pruning(panel, "final", "", redundancy.ways(panel, "final")[""])
    assert costs is not None
    assert [c.text != "–" for c in column(costs, "change", "Corrupted top-1")] == [True] * 4 + [False] * 2


def test_one_seed_has_no_interval_over_seeds_but_one_over_draws() -> None:
    panel = panel_of(rows(seeds=(0,)))
    table = redundancy.at_equal_clean(panel, "final", "", redundancy.ways(panel, "final")[""])
    assert table is not None
    assert numbers(column(table, "minus no dropout", "Corrupted top-1")[1]) == [7.5]
    deleted = redundancy.deleted(panel, "final")
    assert deleted is not None
    assert numbers(column(deleted, "50 %", "units deleted")[0]) == [70.0, 67.0, 72.0]
    both = redundancy.deleted(panel_of(rows()), "final")
    assert both is not None
    assert numbers(column(both, "50 %", "units deleted")[0]) == [70.5, 0.7]
    assert numbers(column(both, "25 %", "weights deleted")[1]) == [59.0, 1.4]
    assert [row.label for row in both.rows] == ["no dropout", "dropout 0.5"]


def test_a_net_without_units_is_said_in_the_table() -> None:
    found = rows()
    gone = [r for r in found if not r.group.startswith("units")]
    why = "no hidden units to delete: it has none"
    more = [
        record(**{n: getattr(r, n) for n in ("series", "order", "seed", "density", "state", "key", "reference")},
               probe="deletion", metric="deletion_accuracy", group="units", value=None, note=why)
        for r in found if r.metric == "top1"
    ]  # fmt: skip
    table = redundancy.deleted(panel_of(gone + more), "final")
    assert table is not None
    assert [c.text for c in column(table, "units", "units deleted")] == ["–", "–"]
    assert why in table.footnotes


def test_the_section_on_the_page(tmp_path) -> None:
    found = rows()
    panel = panel_of(found)
    with drawing.settings():
        section = redundancy.section(panel, "")
    assert [c.title for c in section.charts] == [
        "Accuracy with units deleted", "Accuracy with weights deleted", "Gaussian noise against clean accuracy",
        "Corrupted top-1 against clean accuracy", "Half of the units deleted against clean accuracy",
    ]  # fmt: skip
    assert len(section.tables) == 3
    assert len(section.more) == 2
    assert not [t for t in leftover_tables(panel, "final") if "deletion" in t.title], "shown twice"
    page = Page(write_report(Records(found), tmp_path, "redundant"))
    assert page.ids["redundancy"] == 1
    assert "What pruning costs in robustness, weights pruned" in page.text
    assert redundancy.section(panel_of(rows(deletion=False)), "").empty


@pytest.mark.parametrize(("scale", "test_images"), [("laptop", 2000), ("paper", 10_000)])
def test_clean_accuracy_and_robustness_are_of_the_same_images(scale: str, test_images: int) -> None:
    """All of the test split, whose size the data sets' headers say."""
    probes = composed(["recipe=dropout_redundancy", f"scale={scale}"])["evaluation"]["probes"]
    asked = [probes["corruptions"]["examples"], probes["deletion"]["examples"]]
    asked += [probes["robustness"][name] for name in ("examples", "most")]
    assert all(examples is None or examples >= test_images for examples in asked)
