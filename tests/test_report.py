"""The report: what it computes, what it refuses to mix, what it survives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from compressbench.cli import report as command
from compressbench.cli.main import run as dispatch
from compressbench.errors import UserError
from compressbench.records import COLUMNS, SCHEMA, Record, Records, read_jsonl, write_jsonl
from compressbench.report import drawing
from compressbench.report.findings import summary, warnings
from compressbench.report.joint import gather, joint_report
from compressbench.report.numbers import Spread, number, percentage, plain, spread, with_spread
from compressbench.report.page import write_report
from compressbench.report.panels import FINAL, beside_lead, paired, panels, relative_compute
from compressbench.report.sections.accuracy import accuracy_table, accuracy_vs_bits, accuracy_vs_bytes
from compressbench.report.sections.cost import size_table, timing_table
from compressbench.report.sections.differences import difference_tables
from compressbench.report.sections.forgetting import forgetting_table
from compressbench.report.sections.layers import layer_table
from compressbench.report.sections.methods import lecture_table
from compressbench.report.sections.others import leftover_tables
from compressbench.report.speed import speed_of
from compressbench.report.tables import Table
from compressbench.report.terminal import print_tables, wrap
from compressbench.report.wording import merged

SCRIPT = "<script>alert(1)</script>"


def record(**given) -> Record:
    """A record with everything that a test doesn't care about filled in."""
    values = {
        "recipe": "lth",
        "model": "lenet",
        "dataset": "digits",
        "scale": "smoke",
        "hardware": "cpu",
        "seed": 0,
        "series": "dense",
        "moment": "final",
        "order": 0,
        "density": 1.0,
        "compute": 1e9,
        "probe": "accuracy",
        "metric": "top1",
        "group": "",
        "value": 90.0,
        "unit": "%",
        "basis": "measured",
        "n": 500,
        "note": "",
        "dtype": "fp32",
        "versions": "compressbench 0.1.0, torch 2.15.0",
        "machine": "a processor, 1 thread",
    } | given
    values.setdefault("state", f"level{values['order']}" if values["order"] else values["series"])
    values.setdefault(
        "key",
        "-".join(str(values[k]) for k in ("model", "dataset", "series", "moment", "order", "seed")),
    )
    values.setdefault(
        "reference", f"{values['model']}-{values['dataset']}-dense-{values['moment']}-0-{values['seed']}"
    )
    return Record(**values)


def accuracies(series: str, order: int, density: float, by_seed: dict[int, float], **given) -> list[Record]:
    compute = given.pop("compute", 1e9 * (order + 1))
    return [
        record(series=series, order=order, density=density, seed=s, value=v, compute=compute, **given)
        for s, v in by_seed.items()
    ]


def full(seeds: int = 2, levels: int = 3, moments: tuple[str, ...] = ("final", "early"), **given) -> Records:
    """Every probe that the package has, small and without randomness."""
    rows = []
    classes, layers = ["Shirt", "Coat", "Bag"], ["conv1", "layer1.0.conv2", "fc"]
    states = [("dense", 0), ("floor", 0)]
    states += [(s, k) for s in ("ticket", "random", "one-shot") for k in range(1, levels + 1)]
    for seed in range(seeds):
        for moment in moments:
            for series, order in states:
                loss = {"ticket": 0.4, "random": 3.0}.get(series, 1.0) * order + 0.2 * seed
                here = {"seed": seed, "moment": moment, "series": series, "order": order} | given
                here |= {"density": 0.5**order, "compute": 1e9 * (order + 1)}

                def add(probe, metric, value, unit, basis="measured", here=here, **more):
                    rows.append(
                        record(
                            **here, probe=probe, metric=metric, value=value, unit=unit, basis=basis, **more
                        )
                    )

                add("accuracy", "top1", 90 - loss, "%")
                add("accuracy", "nll", 0.3 + loss / 50, "nats")
                add("accuracy", "ece", 2.0, "%")
                add("accuracy", "n", 500, "examples")
                for place, name in enumerate(classes):
                    add("forgetting", "recall", 88 - loss * place, "%", group=name, n=50)
                    add("forgetting", "recall_change", -loss * place, "points", group=name, n=50)
                add("forgetting", "forgotten", loss, "%")
                add("loyalty", "label_loyalty", 100 - loss, "%")
                add("loyalty", "probability_loyalty", 99 - loss, "%", note="natural logarithm")
                add("loyalty", "probability_loyalty_base2", 98 - loss, "%", note="base 2")
                add("robustness", "pgd_accuracy", 20 - loss, "%", n=128)
                add("structure", "parameters", 1234, "1", "theoretical")
                for place, name in enumerate(layers):
                    kept = 0.0 if series == "random" and order == levels and place == 1 else 100 * 0.5**order
                    add("structure", "layer_density", kept, "%", "theoretical", group=name)
                add("compute", "train_seconds", 10.0 + seed, "s")
                add("cost", "parameters", 1234, "1", "theoretical")
                add("cost", "dense_bytes", 4936, "bytes", "on disk")
                for batch in (1, 64):
                    add("cost", f"latency_median_b{batch}", 1.5, "ms", n=99)
                    note = "no speed-up: runs dense" if order else "the reference itself"
                    add("cost", f"speedup_b{batch}", 1.0, "x", n=99, note=note)
    return Records(rows)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The folder of a report on everything."""
    folder = tmp_path_factory.mktemp("written")
    write_report(full(), folder, "everything")
    return folder


def cells(table: Table, label: str, density: str) -> dict[str, str]:
    """The texts of one row by heading."""
    name = ""
    for row in table.rows:
        name = row.label
        if name == label and row.cells[0].text == density:
            heads = [f"{head} {unit}".strip() for head, unit in table.heads]
            return dict(zip(heads, (c.plain for c in row.cells), strict=True))
    raise AssertionError(f"no row {label} {density} in {[r.label for r in table.rows]}")


class Page(HTMLParser):
    """What a browser would find: elements, ids, attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids[value] += 1

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


# numbers


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


# what is averaged, and what never is


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


# what is said


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


# whatever the records hold


def test_unknown_probes_and_metrics_are_shown_in_generic_tables():
    rows = [
        *full(),
        record(probe="mine", metric="sharpness_x", value=0.25, unit="1", seed=0),
        record(probe="accuracy", metric="brier", value=0.5, unit="1", seed=0),
        record(probe="mine", metric="by_group", value=3.0, unit="J", group="g1", basis="modelled"),
    ]
    (panel,) = panels(Records(rows))
    found = {t.title: t for t in leftover_tables(panel, "final")}
    assert set(found) == {"mine, final", "accuracy, final", "mine: by group (J), final"}
    assert cells(found["mine, final"], "dense", "100")["sharpness x"] == "0.250"


@pytest.mark.parametrize(
    "keep",
    [
        lambda r: r.probe == "accuracy",
        lambda r: r.probe == "forgetting",
        lambda r: r.probe == "structure",
        lambda r: r.probe == "cost",
        lambda r: r.probe not in ("accuracy", "compute"),
        lambda r: r.series == "dense",
        lambda r: r.series == "floor",
        lambda r: r.series == "random",
        lambda r: (r.seed + r.order) % 2 == 0,
    ],
)
def test_partial_records_never_break_a_report(tmp_path, keep):
    rows = Records(r for r in full(levels=2, moments=("final",)) if keep(r))
    assert rows
    text = Page(write_report(rows, tmp_path, "partial")).text
    assert "Provenance" in text
    print_tables(rows, Console(file=StringIO(), width=80))


def test_a_run_measured_early_alone_is_reported(tmp_path):
    rows = full(levels=1, moments=("early",))
    assert "ticket" in " ".join(summary(panels(rows)[0]))
    write_report(rows, tmp_path, "early")
    assert (tmp_path / "accuracy_by_method.svg").is_file()


def test_no_records_and_no_values(tmp_path):
    assert "There are no records to report." in Page(write_report(Records(), tmp_path, "none")).text
    rows = Records(replace(r, value=None, note="the target can't run it") for r in full(levels=1))
    assert "the target can't run it" in Page(write_report(rows, tmp_path, "empty")).text
    print_tables(rows, Console(file=StringIO(), width=80))
    zero = Records(
        replace(r, density=0.0, compute=0.0)
        for r in full(levels=1, moments=("final",))
        if r.series != "dense"
    )
    write_report(zero, tmp_path, "zero")


def test_names_are_data_never_markup(tmp_path):
    names = {"Shirt": SCRIPT, "Coat": "$x_1$", "Bag": "_hidden \x00"}
    rows = Records(
        replace(
            r,
            group=names.get(r.group, SCRIPT if r.group else ""),
            series="<img src=x onerror=y>" if r.series == "ticket" else r.series,
            recipe=f"{SCRIPT}&",
            note=SCRIPT if r.note else "",
            machine="]]><svg onload=z>",
        )
        for r in full()
    )
    path = write_report(rows, tmp_path, f"{SCRIPT} title", f"a: {SCRIPT}")
    page = Page(path)
    assert not page.tags["script"]
    assert not page.tags["img"]
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert SCRIPT in page.text
    assert "\x00" not in path.read_text(encoding="utf-8")
    drawn = list(tmp_path.glob("*.svg"))
    assert len(drawn) >= 7
    for svg in drawn:
        tree = ET.parse(svg)
        assert not [e for e in tree.iter() if e.tag.endswith("}script")]
    words = {e.text for e in ET.parse(tmp_path / "forgetting.svg").iter() if e.tag.endswith("}text")}
    assert {"$x_1$", SCRIPT[:21] + "…"} <= words


def test_page_is_self_contained_and_accessible(written):
    path = written / "report.html"
    text, page = path.read_text(encoding="utf-8"), Page(path)
    assert not page.tags["script"]
    assert not page.tags["link"]
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    outside = [
        a for a in page.attributes if a[1] in ("href", "src", "xlink:href", "srcset", "data") and "//" in a[2]
    ]
    assert not outside
    assert max(page.ids.values()) == 1, [i for i, c in page.ids.items() if c > 1]
    anchors = {v[1:] for t, a, v in page.attributes if t == "a" and a == "href" and v.startswith("#")}
    assert anchors
    assert anchors <= set(page.ids)
    assert (
        [t for t, a, _ in page.attributes if a == "aria-label"].count("svg")
        == page.tags["svg"]
        == page.tags["figure"]
    )
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert used <= set(page.ids)


def test_each_moment_has_its_own_chart(written):
    assert {p.stem for p in written.glob("*.svg")} == {
        *("accuracy_vs_density", "change_vs_density", "accuracy_vs_compute", "forgetting", "layer_density"),
        *("accuracy_vs_density_early", "change_vs_density_early", "accuracy_vs_compute_early"),
    }


def test_a_legend_names_what_is_drawn_and_nothing_else(tmp_path):
    rows = [r for r in full() if not (r.moment == "early" and r.series == "one-shot")]
    write_report(Records(rows), tmp_path, "legend")
    for name, wanted in (("accuracy_vs_density", True), ("accuracy_vs_density_early", False)):
        assert ("one-shot" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")) is wanted


def test_same_records_give_the_same_bytes_in_another_process(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    rows = full(moments=("final",))
    for folder in (here, there):
        folder.mkdir()
        write_jsonl(rows, folder / "records.jsonl")
    code = (
        "import sys; from pathlib import Path; from compressbench.records import read_jsonl;"
        "from compressbench.report.page import write_report; d = Path(sys.argv[1]);"
        "write_report(read_jsonl(d / 'records.jsonl'), d, 'same')"
    )
    subprocess.run([sys.executable, "-c", code, there], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    write_report(rows, here, "same")
    names = sorted(p.name for p in here.iterdir())
    assert names == sorted(p.name for p in there.iterdir())
    assert [n for n in names if (here / n).read_bytes() != (there / n).read_bytes()] == []


def test_two_thousand_records_take_less_than_five_seconds(tmp_path):
    rows = full(seeds=4, levels=4)
    assert len(rows) >= 2000
    begin = time.process_time()
    write_report(rows, tmp_path, "quick")
    assert time.process_time() - begin < 5


def test_nothing_heavy_is_imported_for_the_tables():
    code = (
        "import sys, compressbench.cli.report, compressbench.report.page, compressbench.report.terminal;"
        "print([m for m in ('torch', 'matplotlib', 'numpy', 'jinja2') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_every_column_is_documented():
    text = (Path(__file__).parent.parent / "docs" / "records.md").read_text(encoding="utf-8")
    columns = text.partition("## Columns")[2].partition("## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", columns, re.M)) == COLUMNS
    assert f"**Schema {SCHEMA}.**" in text


# the terminal


def test_terminal_fits_80_columns_and_says_the_figures():
    out = StringIO()
    rows = [replace(r, recipe=f"{r.recipe}_with_a_long_name") for r in full()]
    rows += [
        replace(r, recipe="another_recipe_entirely", key=r.key + "2", reference=r.reference + "2")
        for r in full()
    ]
    print_tables(Records(rows), Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("89.9±0.1" in line for line in lines)
    assert not any("…" in line for line in lines)


def test_wrapping_breaks_at_spaces_and_behind_underscores():
    assert wrap("iterative_finetune: random mask", 12) == ["iterative_", "finetune:", "random mask"]


# many runs


def runs(folder: Path, **by_name: list[Record]) -> None:
    for name, rows in by_name.items():
        (folder / name).mkdir(parents=True)
        write_jsonl(rows, folder / name / "records.jsonl")


def seed(number: int, **given) -> list[Record]:
    value = given.pop("value", 80.0 + number)
    return accuracies("dense", 0, 1.0, {number: 90.0}) + accuracies(
        "ticket", 1, 0.5, {number: value}, **given
    )


def test_joint_report_counts_each_record_once_also_when_repeated(tmp_path):
    runs(tmp_path / "sweep", **{"0": seed(0), "1": seed(1), "10": seed(10), "2": seed(2)})
    page = joint_report([tmp_path / "sweep"], tmp_path / "sweep")
    before = page.read_bytes()
    assert len(read_jsonl(tmp_path / "sweep" / "records.jsonl")) == 8
    assert (
        joint_report([tmp_path / "sweep", tmp_path / "sweep" / "0"], tmp_path / "sweep").read_bytes()
        == before
    )
    gathered = gather([tmp_path / "sweep"])
    assert [f.parent.name for f in gathered.files] == ["0", "1", "2", "10"]
    table = accuracy_table(panels(gathered.drawn)[0], "final")
    assert table.rows[1].cells[1].n == 4


def test_settings_that_collide_are_named_by_their_overrides(tmp_path):
    runs(tmp_path, a=seed(0, value=80.0, key="k1"), b=seed(0, value=60.0, key="k2"))
    for name, rate in (("a", 0.1), ("b", 0.01)):
        (tmp_path / name / ".hydra").mkdir()
        (tmp_path / name / ".hydra" / "overrides.yaml").write_text(
            f"- recipe=lth\n- seed=0\n- recipe.stages.dense.lr={rate}\n- outputs=/tmp\n"
        )
    gathered = gather([tmp_path])
    (panel,) = panels(gathered.drawn)
    assert [s.label for s in panel.series] == [
        "lr=0.1: ticket",
        "lr=0.01: ticket",
    ]
    assert {r.recipe for r in gathered.records} == {"lth"}


def test_settings_without_overrides_are_named_by_their_folder(tmp_path):
    runs(tmp_path, a=seed(0, value=80.0, key="k1"), b=seed(0, value=60.0, key="k2"))
    (panel,) = panels(gather([tmp_path]).drawn)
    assert [s.label for s in panel.series] == ["lth (a): ticket", "lth (b): ticket"]


def test_command_on_one_run_on_a_file_and_on_many(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs(tmp_path, a=seed(0), b=seed(1))
    (tmp_path / "a" / "config.yaml").write_text("recipe: {name: lth}\noutputs: o\n")
    before = (tmp_path / "a" / "records.jsonl").read_bytes()
    assert command.main(["a"]) == 0
    assert (tmp_path / "a" / "records.jsonl").read_bytes() == before
    assert "recipe: name: lth" in Page(tmp_path / "a" / "report.html").text
    assert "report: a/report.html" in capsys.readouterr().out
    assert command.main(["a/records.jsonl", "--output", "deep/er"]) == 0
    assert (tmp_path / "deep" / "er" / "report.html").is_file()
    assert command.main(["a", "b"]) == 0
    assert (tmp_path / "report" / "report.html").is_file()
    assert len(read_jsonl(tmp_path / "report" / "records.jsonl")) == 4
    assert (tmp_path / "report" / "records.csv").is_file()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "PATH"),
        (["nowhere"], "there is no such file or folder"),
        (["empty"], "no records.jsonl in this folder or below"),
        (["blank"], "no records"),
        (["broken"], "records.jsonl:1: not a record"),
        (["typed"], "records.jsonl:1: not a record (seed is '0')"),
        (["old"], "record schema 0"),
        (["good", "--output", "good/records.jsonl/x"], "can't write"),
        (["good", "--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    runs(tmp_path, good=seed(0), blank=[])
    row = asdict(seed(0)[0])
    for name, line in (
        ("broken", "{not json"),
        ("typed", json.dumps({**row, "seed": "0"})),
        ("old", json.dumps({**row, "schema": 0})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=re.escape(words)):
        command.main(argv)
    assert dispatch(["report", *argv]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


# Lottery tickets, barriers, published figures, what the clock found


def lottery(early: dict[str, float], top1: dict[str, float]) -> Records:
    rows = []
    for series in early:
        here = {
            "series": series,
            "order": int(series != "dense"),
            "density": 1.0 if series == "dense" else 0.2,
        }
        for seed in (0, 1):
            rows.append(record(**here, seed=seed, value=top1[series] + seed))
            learning = {"probe": "learning", "seed": seed, "basis": "measured"}
            iteration = {
                "metric": "early_stop_iteration",
                "unit": "iterations",
                "value": early[series] + 10 * seed,
            }
            rows.append(record(**here, **learning, **iteration))
            by = {"metric": "validation_top1_by_reference_stop", "value": top1[series] - 3}
            rows.append(record(**here, **learning, **by))
    return Records(rows)


def test_the_hypothesis_is_drawn_and_told(tmp_path):
    rows = lottery(
        {"dense": 500, "ticket": 300, "reinit": 700, "one-shot": 500},
        {"dense": 90, "ticket": 91, "reinit": 92, "one-shot": 89},
    )
    page = write_report(rows, tmp_path, "t").read_text()
    assert (tmp_path / "early_stop_vs_density.svg").is_file()
    assert (tmp_path / "accuracy_by_dense_stop.svg").is_file()
    assert "Speed of learning" in page
    (panel,) = panels(rows)
    told = " ".join(summary(panel))
    assert "ticket 1 of 1 (20.0\u202f%); reinit 0 of 1; one-shot 0 of 1" in told
    assert not leftover_tables(panel, "final")
    plain_rows = Records(r for r in rows if r.series != "ticket")
    assert "minimum validation loss" not in " ".join(summary(panels(plain_rows)[0]))


def test_the_line_between_two_nets_and_its_barrier(tmp_path):
    rows = list(lottery({"dense": 500, "twin": 300}, {"dense": 90, "twin": 91}))
    for place, error in (("0", 10.0), ("0.5", 30.0), ("1", 9.0)):
        given = {"probe": "connectivity", "metric": "error_at", "group": place, "value": error}
        rows.append(record(series="twin", order=1, density=0.2, **given))
    given = {"probe": "connectivity", "metric": "barrier", "value": 20.5, "unit": "points"}
    rows.append(record(series="twin", order=1, density=0.2, **given))
    page = write_report(Records(rows), tmp_path, "t").read_text()
    assert (tmp_path / "error_along_path.svg").is_file()
    assert "Barriers between nets" in page
    assert "20.5" in page
    assert not leftover_tables(panels(Records(rows))[0], "final")


def test_published_figures_stand_on_axes_of_their_own(tmp_path):
    from compressbench.report.published import published
    from compressbench.runs.execute import Labels

    labels = Labels("lth", "lenet", "digits", "smoke", "cpu", 0)
    block = {
        "magnitude": {
            "source": "Gale 2019",
            "of": "ResNet-50 on ImageNet",
            "points": [[10, 73.9], [50, 76.5]],
        },
        "L0": {"source": "Gale 2019", "of": "ResNet-50 on ImageNet", "note": "did not work there"},
    }
    extra = published(block, labels)
    assert [(r.series, r.density, r.value, r.basis) for r in extra] == [
        ("magnitude", 0.1, 73.9, "published"),
        ("magnitude", 0.5, 76.5, "published"),
        ("L0", 1.0, None, "published"),
    ]
    rows = Records([*full(), *extra, *(replace(r, seed=1) for r in extra)])
    (panel,) = panels(rows)
    assert len(panel.published) == 3
    assert panel.series == panels(full())[0].series
    page = write_report(rows, tmp_path, "t").read_text()
    svg = (tmp_path / "published.svg").read_text()
    assert "Published: ResNet-50 on ImageNet" in svg
    assert "magnitude (published)" in svg
    assert "did not work there" in page
    assert "Versions are mixed" not in page
    assert "Published" not in (tmp_path / "accuracy_vs_density.svg").read_text()


@pytest.mark.parametrize(
    ("figures", "why"),
    [
        ([], "a mapping with source"),
        ({"sourse": "x"}, "unknown key 'sourse'; did you mean source?"),
        ({"points": []}, "source: who published"),
        ({"source": "x", "points": [[10]]}, "is no pair of density in % and value"),
        ({"source": "x", "points": [[0, 1.0]]}, "density 0 is not in (0, 100] %"),
    ],
)
def test_published_figures_are_checked(figures, why):
    from compressbench.report.published import published
    from compressbench.runs.execute import Labels

    with pytest.raises(UserError, match=re.escape(why)):
        published({"magnitude": figures}, Labels("lth", "lenet", "digits", "smoke", "cpu", 0))


def speedup(
    value: float | None, low: float | None = None, high: float | None = None, **given
) -> list[Record]:
    """A speed-up at batch 1 and the ends of its interval."""
    like = {"probe": "cost", "unit": "x", "n": 40} | given
    batch, note = like.pop("batch", 1), like.pop("note", "")
    rows = [record(**like, metric=f"speedup_b{batch}", value=value, note=note)]
    ends = {"low": low, "high": high}
    return rows + [
        record(**like, metric=f"speedup_{k}_b{batch}", value=v) for k, v in ends.items() if v is not None
    ]


def against_dense(series: str, order: int, density: float, macs: float, speeds, bits: float = 32, **given):
    """A state's rows over seeds; ``speeds`` holds (ratio, low, high) of each."""
    rows = []
    here = {"series": series, "order": order, "density": density}
    for seed, speed in enumerate(speeds):
        rows.append(record(**here, seed=seed, value=80.0))
        rows.append(record(**here, seed=seed, probe="cost", metric="macs", value=macs, unit="MACs"))
        rows.append(
            record(**here, seed=seed, probe="structure", metric="weight_bits", value=bits, unit="bits")
        )
        rows.append(
            record(**here, seed=seed, probe="structure", metric="input_bits", value=bits, unit="bits")
        )
        rows += speedup(*speed, **here, seed=seed, **given)
    return rows


DENSE_ROWS = against_dense("dense", 0, 1.0, 1000, [(1.0,)] * 3, note="the reference itself")


def told_of(rows) -> str:
    (panel,) = panels(Records(rows))
    return " ".join(summary(panel)).replace("\u202f", " ").replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("speeds", "word"),
    [
        ([(1.3, 1.25, 1.36), (1.3, 1.2, 1.4), (1.3, 1.1, 1.5)], "faster"),
        ([(1.01, 1.001, 1.02)], "faster"),
        ([(1.6, 1.5, 1.7), (1.6, 1.5, 1.7), (0.9, 0.8, 0.95)], "not shown"),  # its mean is 1.37
        ([(1.6, 1.5, 1.7), (1.3, 0.99, 1.6)], "not shown"),
        ([(0.8, 0.7, 0.9), (0.9, 0.85, 0.99)], "slower"),
        ([(0.8, 0.7, 0.9), (0.5, 0.4, 1.01)], "not shown"),
        ([(1.8,)], "not shown"),  # no interval: nothing is known, not: no noise
        ([(1.8, 1.7, 1.9), (1.8,)], "not shown"),
    ],
)
def test_faster_slower_or_not_shown_is_what_every_seeds_interval_says(speeds, word):
    rows = DENSE_ROWS[: 7 * len(speeds)] + against_dense("ticket", 1, 0.5, 1000, speeds)
    (panel,) = panels(Records(rows))
    (point,) = panel.series[0].at("final")
    assert speed_of(point, "speedup_b1").verdict == word
    mean = sum(s[0] for s in speeds) / len(speeds)
    assert f"Measured speed of ticket at 50.0 %, batch 1: {word}, {mean:.2f}×" in told_of(rows)


def test_the_interval_stands_beside_the_figure_and_in_no_table_of_its_own():
    speeds = [(1.3, 1.25, 1.36), (1.5, 1.2, 1.6), (1.1, 1.05, 1.15)]
    rows = DENSE_ROWS + against_dense("ticket", 1, 0.5, 1000, speeds)
    (panel,) = panels(Records(rows))
    assert cells(timing_table(panel, "final", ""), "ticket", "50.0")["speed ×"] == "1.30 [1.05–1.60]"
    assert cells(lecture_table(panel, "final"), "ticket", "50.0")["Speed ×, batch 1"] == "1.30 [1.05–1.60]"
    shown = [head for table in leftover_tables(panel, "final") for head, _ in table.heads]
    assert not [head for head in shown if "peed" in head]
    assert "1.30× [1.05–1.60] (n = 3)" in told_of(rows)


SIMULATED = "no speed: rounding is simulated here; deploy it (probe deployed) to time it"


def test_a_simulation_has_no_speed_in_summary_terminal_tables_and_page(tmp_path, capsys):
    rows = DENSE_ROWS + against_dense("int8", 1, 1.0, 1000, [(None,)] * 3, bits=8, note=SIMULATED)
    rows.append(replace(rows[-1], metric="latency_median_b1", unit="ms"))
    rows += against_dense("halved", 2, 0.3, 300, [(1.8, 1.7, 1.9)] * 3)
    (panel,) = panels(Records(rows))
    assert cells(timing_table(panel, "final", ""), "int8", "100")["speed ×"] == "no speed"
    told = told_of(rows)
    assert f"Measured speed of int8 at 100 %, batch 1: {SIMULATED}." in told
    assert f"No ratio, rounded: int8 at 100 % {SIMULATED} at batch 1." in told
    print_tables(Records(rows), Console(width=80, color_system=None))
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "no speed" in printed.split("Cost, dense")[0]
    assert SIMULATED in printed.split("Cost, dense")[1]
    write_report(Records(rows), tmp_path, "simulated")
    page = Page(tmp_path / "report.html").text
    assert SIMULATED in page
    assert page.count("no speed") > 2


DISTURBED = "no ratio: other processes took at least 37 % of the processors in each of 4 tries"


def test_no_sentence_drops_that_ratios_were_withheld(capsys):
    some = against_dense("ticket", 1, 0.5, 1000, [(1.3, 1.2, 1.4), (1.3, 1.2, 1.4)])
    last = [replace(r, seed=2) for r in against_dense("ticket", 1, 0.5, 1000, [(None,)], note=DISTURBED)]
    rows = [*DENSE_ROWS, *some, *last]
    told = told_of(rows)
    assert f"batch 1: faster, 1.30× [1.20–1.40] (n = 2); at other seeds {DISTURBED}." in told
    every = against_dense("ticket", 1, 0.5, 1000, [(None,)] * 3, note=DISTURBED)
    assert f"Measured speed of ticket at 50.0 %, batch 1: {DISTURBED}." in told_of([*DENSE_ROWS, *every])
    print_tables(Records(rows), Console(width=80, color_system=None))
    assert "1 ratio of them withheld" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_only_what_the_clock_found_faster_is_called_faster():
    like = {"batch": 1}
    dense_zeros = "no speed-up: runs dense"
    rows = [
        *DENSE_ROWS,
        *against_dense("unstructured", 1, 0.1, 1000, [(1.09, 1.05, 1.12)] * 3, note=dense_zeros, **like),
        *against_dense("int8", 2, 1.0, 1000, [(0.8, 0.7, 0.9)] * 3, bits=8, **like),
        *against_dense("wide", 3, 0.5, 500, [(1.1, 0.9, 1.3)] * 3, **like),
        *against_dense("channels", 4, 0.3, 300, [(1.8, 1.7, 1.9)] * 3, **like),
    ]
    told = told_of(rows)
    faster, rest = told.split("what is faster? Batch 1: ")[1].split(". Slower, ", 1)
    assert faster == "channels at 30.0 % 1.80× [1.70–1.90] (n = 3)"
    assert rest.startswith(
        "rounded: int8 at 100 % 0.80× [0.70–0.90] (n = 3) at batch 1. Not shown, parts removed: wide"
    )
    zeros = "Not shown, the zeros are multiplied (runs dense): unstructured at 10.0 %"
    assert f"{zeros} 1.09× [1.05–1.12] (n = 3) at batch 1." in rest
    assert "batch 1: not shown: runs dense." in told, "of the lead"
    alone = [r for r in rows if r.series not in ("channels", "wide")]
    assert "what is faster" not in told_of(alone)


def test_the_summary_follows_what_a_series_varies():
    """A sweep of bits has one density: its smallest state is that of the fewest bits, and it is named by them."""
    rows = DENSE_ROWS[:7] + [
        r
        for order, (bits, top1) in enumerate(((8, 89.5), (4, 89.2), (2, 22.0)), 1)
        for r in against_dense("per channel", order, 1.0, 1000, [(None,)], bits=bits, note=SIMULATED)
        for r in [replace(r, value=top1) if r.probe == "accuracy" else r]
    ]
    rows[0] = replace(rows[0], value=90.0)
    told = told_of(rows)
    assert (
        "The fewest bits at which per channel is on average no more than one point below dense is 4 bits: −0.8"
        in told
    )
    assert "At its fewest bits, 2 bits, it is −68.0 points" in told
    assert "Measured speed of per channel at 2 bits, batch 1: no speed" in told
    assert "densit" not in told


def test_states_of_one_cost_have_no_line_through_them(tmp_path):
    rows = accuracies("dense", 0, 1.0, {0: 90.0, 1: 91.0}, compute=1e9)
    for series in ("one-shot", "other"):
        for order in (1, 2):
            rows += accuracies(series, order, 0.5**order, {0: 80.0 - order, 1: 82.0}, compute=2e9)
    page = write_report(Records(rows), tmp_path, "t").read_text()
    assert "Marks without a line" in page


def test_a_footnote_mark_stands_once(tmp_path):
    rows = accuracies("dense", 0, 1.0, {0: 90.0, 1: 91.0})
    rows += accuracies("ticket", 1, 0.5, {0: 88.0, 1: 89.0})
    for seed in (0, 1):
        given = {"series": "ticket", "order": 1, "density": 0.5, "seed": seed, "unit": "1"}
        rows.append(
            record(**given, probe="mine", metric="thing", value=1.5, note=f"measured {seed + 3} times")
        )
    page = write_report(Records(rows), tmp_path, "t").read_text()
    assert "<sup>a</sup>" in page
    assert "a,a" not in page


def test_seeds_that_agree_exactly_still_show_their_spread():
    assert with_spread(Spread(90.0, 0.0, 3), "%") == ("90.0", "±0.0")
    assert with_spread(Spread(90.0, None, 1), "%") == ("90.0", "")
    assert with_spread(Spread(1234.0, 0.0, 3), "1") == ("1\u202f234", "")
    assert with_spread(Spread(150.0, 0.0, 3), "iterations") == ("150", "")


def test_bits_and_bytes_have_charts_of_their_own(tmp_path):
    rows = []
    for seed in (0, 1):
        for order, (series, bits, size) in enumerate(
            [("dense", 32, 4000), ("ptq", 8, 1100), ("ptq", 4, 600)]
        ):
            here = {"series": series, "order": order, "seed": seed, "density": 1.0}
            rows.append(record(**here, value=90.0 - order))
            rows.append(record(**here, probe="structure", metric="weight_bits", value=bits, unit="bits"))
            rows.append(record(**here, probe="structure", metric="input_bits", value=32, unit="bits"))
            rows.append(record(**here, probe="cost", metric="dense_bytes", value=4000, unit="bytes"))
            packed = size if bits < 32 else None
            rows.append(record(**here, probe="cost", metric="quantized_bytes", value=packed, unit="bytes"))
    panel = panels(Records(rows))[0]
    with drawing.settings():
        bits = accuracy_vs_bits(panel, FINAL, "bits")
        size = accuracy_vs_bytes(panel, FINAL, "bytes")
    assert "mean bits of a weight" in bits.svg
    assert "kB on disk" in size.svg
    write_report(Records(rows), tmp_path, "bits")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "8/32" in page
    assert "against density" not in page, "all states have the same"
    float_only = panels(Records(r for r in rows if r.series == "dense" or r.metric == "top1"))[0]
    with drawing.settings():
        assert accuracy_vs_bits(float_only, FINAL, "bits") is None
        assert accuracy_vs_bytes(float_only, FINAL, "bytes") is None
