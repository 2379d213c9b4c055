"""Numbers of a report: how they are written, what is averaged, what is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cases_report import (
    Page,
    accuracies,
    cells,
    full,
    record,
    written,  # noqa: F401
)
from compressbench.records import Records
from compressbench.report.findings import summary, warnings
from compressbench.report.numbers import Spread, number, percentage, plain, spread, with_spread
from compressbench.report.page import write_report
from compressbench.report.panels import beside_lead, paired, panels, relative_compute
from compressbench.report.sections.cost import size_table, timing_table
from compressbench.report.sections.differences import difference_tables
from compressbench.report.sections.forgetting import forgetting_table
from compressbench.report.sections.layers import layer_table
from compressbench.report.sections.methods import lecture_table
from compressbench.report.wording import merged

# numbers --------------------------------------------------------------------------------------------------------------


def test_spread_is_mean_and_sample_deviation():
    assert spread([90.0, 92.0]) == Spread(91.0, pytest.approx(2**0.5), 2)
    assert spread([5.0]) == Spread(5.0, None, 1)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (91.25, "%", "91.2"),
        (-0.04, "points", "\N{MINUS SIGN}0.04"),
        (-3.26, "points", "−3.3"),
        (78042, "1", "78\u202f042"),
        (312168, "bytes", "312\u202fk"),
        (12.48e6, "MACs", "12.5\u202fM"),
        (0.9113, "ms", "0.911"),
        (24.31, "ms", "24.3"),
        (1.0, "x", "1.00"),
        (0.0, "s", "0"),
    ],
)
def test_numbers(value, unit, text):
    assert number(value, unit) == text


def test_spread_has_the_mean_s_scale_and_decimals():
    assert with_spread(Spread(91.0, 1.4142, 2), "%") == ("91.0", "±1.4")
    assert with_spread(Spread(312_500.0, 1500.0, 2), "bytes") == ("312", "±2\u202fk")
    assert with_spread(Spread(3.0, None, 1), "points", signed=True) == ("+3.0", "")
    assert plain(Spread(91.0, 1.4142, 2), "%") == "91.0\u00a0±\u00a01.4"


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100"), (0.9996, "99.96"), (0.513, "51.3"), (0.0355, "3.5"), (0.00072, "0.072"), (0.0, "0.0")],
)
def test_densities(share, text):
    assert percentage(share) == text


def test_notes_that_differ_in_numbers_alone_become_one():
    notes = [
        "busy machine: load 1.9 on 2 cores",
        "busy machine: load 3.2 on 2 cores",
        "flagged: layer1.0.conv2",
    ]
    found = merged([*notes, "flagged: layer1.0.conv1"])
    assert found[notes[0]] == found[notes[1]] == "busy machine: load 1.9 to 3.2 on 2 cores"
    assert found["flagged: layer1.0.conv2"] == "flagged: layer1.0.conv2"


# what is averaged, and what never is ----------------------------------------------------------------------------------


def test_table_has_planted_means_and_spreads_beside_dense_of_the_same_seeds():
    rows = accuracies("dense", 0, 1.0, {0: 90.0, 1: 92.0, 2: 100.0})
    rows += accuracies("ticket", 1, 0.5, {0: 89.0, 1: 93.0})
    (panel,) = panels(Records(rows))
    table = lecture_table(panel, "final")
    row = cells(table, "ticket", "50.0")
    assert row["Top-1 %"] == "91.0±2.8"
    assert row["Dense same seeds"] == "91.0±1.4"  # of seeds 0 and 1, not 94.0 of all three
    assert row["Change points"] == "0.0±1.4"
    assert cells(table, "dense", "100")["Top-1 %"] == "94.0±5.3"
    assert table.counts == (2, 3)
    assert table.n_place == "row"
    assert table.row_counts == (3, 2)


def test_one_seed_has_no_spread(tmp_path):
    rows = Records(accuracies("dense", 0, 1.0, {3: 90.0}) + accuracies("ticket", 1, 0.5, {3: 89.0}))
    page = write_report(rows, tmp_path, "one")
    text = Page(page).text
    assert "One seed: no spread." in text
    assert "±" not in text.replace("Mean ± sample", "").replace("mean ± sample", "")
    (panel,) = panels(rows)
    assert difference_tables(panel, "final") == []


def test_differences_are_paired_by_seed():
    rows = accuracies("dense", 0, 1.0, {0: 90.0, 1: 70.0})
    rows += accuracies("ticket", 1, 0.5, {0: 88.0, 1: 68.5})
    rows += accuracies("reinit", 1, 0.5, {0: 86.0, 1: 66.5, 2: 10.0})
    rows += accuracies("late", 7, 0.499, {0: 87.0, 1: 67.5})
    (panel,) = panels(Records(rows))
    (table,) = difference_tables(panel, "final")
    assert [head for head, _ in table.heads] == ["−\u00a0reinit", "−\u00a0late"]
    assert [c.plain for c in table.rows[0].cells] == ["+2.0±0.0", "+1.0±0.0"]
    assert table.counts == (2,)
    assert paired(panel.main_reading(panel.series[0].at("final")[0]), None) is None


def test_datasets_models_and_scales_are_never_mixed(tmp_path):
    rows = accuracies("dense", 0, 1.0, {0: 90.0}) + accuracies("ticket", 1, 0.5, {0: 80.0})
    other = [
        replace(r, dataset="mnist", key=r.key + "m", reference=r.reference + "m", value=10.0) for r in rows
    ]
    found = panels(Records(rows + other))
    assert [(p.dataset, p.main_reading(p.series[0].at("final")[0]).spread.mean) for p in found] == [
        ("digits", 80.0),
        ("mnist", 10.0),
    ]
    write_report(Records(rows + other), tmp_path, "two")
    assert len(list(tmp_path.glob("accuracy_vs_density_*.svg"))) == 2


def test_two_settings_of_one_seed_are_drawn_apart():
    rows = accuracies("dense", 0, 1.0, {0: 90.0})
    rows += accuracies("ticket", 1, 0.5, {0: 80.0}, key="a") + accuracies(
        "ticket", 1, 0.5, {0: 60.0}, key="b"
    )
    (panel,) = panels(Records(rows))
    assert [s.label for s in panel.series] == ["ticket", "ticket (run 2)"]
    assert all(s.reference == "dense" for s in panel.series)
    assert "never averaged" in " ".join(warnings([panel]))


def test_points_of_one_order_but_of_other_densities_are_not_pooled():
    rows = accuracies("one-shot", 1, 0.5, {0: 80.0}) + accuracies("one-shot", 1, 0.1, {1: 60.0})
    (panel,) = panels(Records(rows))
    assert [p.density for p in panel.series[0].at("final")] == [0.5, 0.1]


def test_dense_is_one_line_where_recipes_share_it_and_two_where_they_do_not():
    def recipe(name, key):
        dense = accuracies("dense", 0, 1.0, {0: 90.0}, recipe=name, key=key)
        return dense + accuracies("ticket", 1, 0.5, {0: 80.0}, recipe=name, key=f"{name}1", reference=key)

    (panel,) = panels(Records(recipe("a", "d") + recipe("b", "d")))
    assert list(panel.dense) == ["dense"]
    assert [s.label for s in panel.series] == ["a: ticket", "b: ticket"]
    (panel,) = panels(Records(recipe("a", "d") + recipe("b", "e")))
    assert list(panel.dense) == ["a: dense", "b: dense"]
    assert [s.reference for s in panel.series] == ["a: dense", "b: dense"]


def test_precisions_are_told_apart_only_where_they_would_collide():
    rows = accuracies("dense", 0, 1.0, {0: 90.0}) + accuracies("int8", 1, 1.0, {0: 80.0}, dtype="int8")
    (panel,) = panels(Records(rows))
    assert [s.label for s in panel.series] == ["int8"]
    assert panel.dense_of(panel.series[0], "final") is not None
    both = [
        replace(r, dtype=d, key=r.key + d, reference=r.reference + d)
        for r in rows[:1]
        for d in ("fp32", "bf16")
    ]
    (panel,) = panels(Records(both))
    assert list(panel.dense) == ["dense [fp32]", "dense [bf16]"]


def test_timings_of_two_machines_are_kept_apart(tmp_path):
    rows = [
        record(probe="cost", metric="latency_median_b1", value=v, unit="ms", machine=m, seed=s)
        for s, m, v in ((0, "fast", 1.0), (1, "slow", 9.0))
    ]
    (panel,) = panels(Records(rows))
    assert panel.environments == ("machine A", "machine B")
    tables = [timing_table(panel, "final", e) for e in panel.environments]
    assert [t.rows[0].cells[1].plain for t in tables] == ["1.00", "9.00"]
    told = warnings([panel])
    assert any(t.startswith("Machines are mixed (2): fast; slow.") for t in told)
    write_report(Records(rows), tmp_path, "machines")


def test_repeated_timings_of_one_state_count_as_one_seed():
    rows = [record(probe="cost", metric="latency_median_b1", value=v, unit="ms") for v in (1.0, 3.0)]
    (panel,) = panels(Records(rows))
    reading = panel.dense["dense"].at("final")[0].reading("cost", "latency_median_b1")
    assert reading.spread == Spread(2.0, None, 1)


def test_compute_is_in_dense_trainings_of_the_same_seed():
    rows = accuracies("dense", 0, 1.0, {0: 90.0}, compute=2e9) + accuracies(
        "dense", 0, 1.0, {1: 90.0}, compute=4e9
    )
    rows += accuracies("ticket", 1, 0.5, {0: 80.0, 1: 80.0}, compute=8e9)
    (panel,) = panels(Records(rows))
    point = panel.series[0].at("final")[0]
    assert relative_compute(point, panel.dense_of(panel.series[0], "final")).mean == 3.0
    assert relative_compute(point, None) is None


# what is said ---------------------------------------------------------------------------------------------------------


def test_summary_names_the_lowest_density_within_a_point_of_dense():
    rows = accuracies("dense", 0, 1.0, {0: 90.0, 1: 92.0})
    for order, loss in enumerate((0.2, 0.9, 2.5), 1):
        rows += accuracies("ticket", order, 0.5**order, {0: 90.0 - loss, 1: 92.0 - loss})
    (panel,) = panels(Records(rows))
    text = " ".join(summary(panel)).replace("\u202f", " ").replace("\u00a0", " ")
    assert "no more than one point below dense is 25.0 %: −0.9" in text
    assert "At its lowest density, 12.5 %, it is −2.5" in text
    assert "Dense Top-1: 91.0 ± 1.4 % (n = 2)." in text


def test_summary_does_not_hide_that_no_density_is_within_a_point():
    rows = accuracies("dense", 0, 1.0, {0: 90.0}) + accuracies("ticket", 1, 0.5, {0: 80.0})
    (panel,) = panels(Records(rows))
    assert "At every density ticket is on average more than one point below dense." in " ".join(
        summary(panel)
    )


def test_mixed_versions_gaps_emptied_layers_and_busy_machines_are_flagged():
    rows = list(full(seeds=2))
    rows = [replace(r, versions="torch 1.0") if r.seed == 1 else r for r in rows]
    rows = [r for r in rows if not (r.seed == 1 and r.series == "ticket" and r.order == 3)]
    disturbed = "other processes took at least 37 % of the processors in each of 4 tries"
    rows[-2] = replace(rows[-2], note=disturbed)
    rows[-1] = replace(rows[-1], value=None, note=f"no ratio: {disturbed}")
    told = " ".join(warnings(panels(Records(rows)))).replace("\u202f", " ")
    assert "Versions are mixed (2)" in told
    assert "ticket: 1–2 seeds, depending on the level" in told
    assert "random (final) has emptied layers (layer1.0.conv2), first at density 12.5 %, in 2 seeds." in told
    assert "2 of 210 timings were disturbed by other processes, 1 ratio of them withheld" in told
    assert not warnings(panels(Records(r for r in full(seeds=2) if r.series != "random")))


@pytest.mark.parametrize(("left", "flagged"), [(0.0007, True), (0.11, True), (0.14, False), (0.0, False)])
def test_a_layer_of_which_next_to_nothing_is_left_is_flagged(left, flagged):
    """Of a hundredth of the net's density, and less; one with nothing at all is told as emptied."""
    rows = [
        replace(r, value=left)
        if (r.metric, r.group) == ("layer_density", "layer1.0.conv2") and r.value == 0
        else r
        for r in full(seeds=2)
    ]
    assert rows != list(full(seeds=2)) or not left
    told = " ".join(warnings(panels(Records(rows)))).replace("\u202f", " ")
    words = "random (final) has layers with less than a hundredth of the net’s density (layer1.0.conv2)"
    assert (f"{words}, first at density 12.5 %, in 2 seeds." in told) is flagged
    assert ("emptied layers" in told) is (left == 0)


def test_forgetting_lists_the_worst_class_first_and_all_of_them():
    (panel,) = panels(full())
    table, rest = forgetting_table(panel, "final")
    assert [r.label for r in table.rows] == ["Bag", "Coat", "Shirt"]
    assert table.rows[0].cells[0].plain == "87.8±0.3"  # dense recall, the raw figure beside the differences
    assert table.rows[0].cells[3].plain == "−2.6±0.3"
    assert rest is None
    many = [
        record(
            series=s,
            order=o,
            density=1 - o / 2,
            probe="forgetting",
            metric="recall_change",
            unit="points",
            group=f"c{k}",
            value=-k,
        )
        for s, o in (("dense", 0), ("ticket", 1))
        for k in range(100)
    ]
    table, rest = forgetting_table(panels(Records(many))[0], "final")
    assert table.rows[0].label == "c99"
    assert len(table.rows) + len(rest.rows) == 100


def test_emptied_layer_is_flagged_in_the_table_whether_shares_or_percent():
    (panel,) = panels(full())
    table, _ = layer_table(panel, "final")
    flagged = [(r.label, c.text) for r in table.rows for c in r.cells if c.flag]
    assert flagged == [("layer1.0.conv2", "empty")]
    shares = Records(
        replace(r, value=r.value / 100, unit="1") if r.metric == "layer_density" else r for r in full()
    )
    assert layer_table(panels(shares)[0], "final")[0] == table


def test_cost_is_in_three_labelled_columns_with_the_notes(written):
    (panel,) = panels(full())
    assert [g for g, _ in size_table(panel, "final").groups] == ["", "Theoretical", "On disk"]
    measured = timing_table(panel, "final", "")
    assert [g for g, _ in measured.groups] == ["", "Measured, batch 1", "Measured, batch 64"]
    text = Page(written / "report.html").text
    assert "no speed-up: runs dense" in text
    assert "PGD on 128 test images" in text
    assert "natural logarithm its range is 16.7 to 100" in text


def test_series_are_set_beside_the_lead_at_its_lowest_density_where_they_reach_it():
    rows = [p for k, d in enumerate((0.8, 0.5), 1) for p in accuracies("ticket", k, d, {0: 80.0})]
    rows += [p for k, d in enumerate((0.501, 0.04), 1) for p in accuracies("one-shot", k, d, {0: 80.0})]
    rows += accuracies("other", 1, 0.3, {0: 80.0})
    (panel,) = panels(Records(rows))
    assert [beside_lead(panel, s, "final").density for s in panel.series] == [0.5, 0.501, 0.3]


def test_a_series_of_random_masks_leads_only_where_there_is_no_other():
    rows = accuracies("random mask", 1, 0.5, {0: 10.0}) + accuracies("random reinit", 1, 0.5, {0: 80.0})
    (panel,) = panels(Records(rows))
    assert panel.lead.label == "random reinit"
    (alone,) = panels(Records(rows[:1]))
    assert alone.lead.label == "random mask"
