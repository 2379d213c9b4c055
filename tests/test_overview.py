"""How to choose: strengths chosen on validation, marks only where intervals allow them, sentences by what they show."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from cases_report import record
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.probes.validation import METRICS, Validation
from compressbench.records import Record, Records
from compressbench.report.page import write_report
from compressbench.report.panels import Panel, panels
from compressbench.report.sections import overview
from compressbench.report.speed import Speed
from compressbench.views import View
from conftest import MLP

SEEDS = (0, 1, 2)
TARGET = "cpu_openvino"


def plain(text: str) -> str:
    return re.sub(r"[\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}]", " ", text)


# the probe ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(digits) -> tuple[View, View, Bench]:
    bench = Bench(digits, seed=0, name="init")
    state = drawn(MLP, bench)
    other = state.with_groups(weights={n: -w for n, w in state.weights.items()})
    return View(other, bench), View(state, bench), bench


def accuracy(view: View) -> float:
    """By numpy, on the validation split."""
    examples = view.bench.dataset.split("validation")
    scores = view.module(*view.bench.task.encode(view.bench.feed("validation"))).detach().numpy()
    return 100 * float(np.mean(scores.argmax(1) == np.asarray(examples.labels)))


def test_what_is_lost_on_validation(pair) -> None:
    subject, reference, bench = pair
    found = {m.name: m for m in Validation(within=3.0).measure(subject, reference, bench)}
    lost = accuracy(reference) - accuracy(subject)
    assert list(found) == list(METRICS)
    assert found["validation_accuracy"].value == pytest.approx(accuracy(subject))
    assert found["validation_lost"].value == pytest.approx(lost)
    assert found["validation_allowed"].value == 3.0
    assert found["validation_within"].value == float(lost <= 3.0)
    assert {m.n for m in found.values()} == {len(bench.dataset.split("validation").labels)}


def test_without_a_validation_split_nothing_is_said(pair) -> None:
    subject, reference, bench = pair
    splits = {k: v for k, v in bench.dataset.splits.items() if k != "validation"}
    without = replace(bench, dataset=replace(bench.dataset, splits=splits), feeds={})
    found = list(Validation().measure(subject, reference, without))
    assert [m.value for m in found] == [None] * 4
    assert all("the test split chooses nothing" in m.note for m in found)


def test_points_that_can_not_be_lost_are_refused() -> None:
    with pytest.raises(UserError, match="from 0 to 100 points"):
        Validation(within=-1.0)


# a panel of planted families ------------------------------------------------------------------------------------------


def state(series: str, order: int, lost: float, change: float, **given) -> list[Record]:
    """Records of one state at every seed: ``lost`` on validation, ``change`` of test accuracy in points."""
    rows: list[Record] = []
    sizes = {"size": 1000, "pgd": 30.0, "loyal": 95.0, "speed": None, "compute": 1e9, "worst": 70.0} | given
    for seed in SEEDS:
        wobble = 0.1 * (seed - 1)
        here = {"series": series, "order": order, "seed": seed, "compute": sizes["compute"]}
        here |= {"density": 1 / (order + 1), "reference": f"lenet-digits-dense-final-0-{seed}"}

        def add(probe, metric, value, unit, here=here, **more):
            rows.append(record(**here, probe=probe, metric=metric, value=value, unit=unit, **more))

        add("accuracy", "top1", 90 + change + wobble * (1 if order else 0), "%", n=2000)
        add("validation", "validation_lost", lost + wobble, "points", n=1000)
        add("validation", "validation_allowed", 1.0, "points", n=1000)
        add("cost", "dense_bytes", sizes["size"], "bytes", basis="on disk")
        add("robustness", "pgd_accuracy", sizes["pgd"] + wobble * (2 if order else 1), "%", n=256)
        add("loyalty", "label_loyalty", sizes["loyal"] + wobble * (2 if order else 1), "%", n=2000)
        for name, recall in (("Shirt", sizes["worst"]), ("Bag", 95.0)):
            add("forgetting", "recall", recall + wobble, "%", group=name, n=200)
        if sizes["speed"]:
            low, middle, high = sizes["speed"]
            place = {"group": TARGET, "n": 50}
            add("targets", "speedup_b1", middle, "x", **place)
            add("targets", "speedup_low_b1", low, "x", **place)
            add("targets", "speedup_high_b1", high, "x", **place)
    return rows


def panel_of(*states: list[Record]) -> Panel:
    dense = state("dense", 0, 0.0, 0.0, size=4000, loyal=100.0, pgd=40.0)
    floor = [
        replace(r, series="floor", key=f"floor-{r.seed}") for r in state("dense", 0, 0.0, 0.0, loyal=90.0)
    ]
    (panel,) = panels(Records(itertools.chain(dense, floor, *states)))
    return panel


def bits(*lost: float, change: float = -0.1, **given) -> list[Record]:
    return [r for k, x in enumerate(lost, 1) for r in state("fewer bits", k, x, change, **given)]


# which strength -------------------------------------------------------------------------------------------------------


def test_the_strongest_that_validation_allows_is_taken_whatever_test_says() -> None:
    weak, middle = state("fewer bits", 1, 0.2, -9.0), state("fewer bits", 2, 0.9, -9.0)
    strong = state("fewer bits", 3, 1.2, +5.0)
    (family,) = overview.families(panel_of(weak, middle, strong), "final")
    assert family.point is not None
    assert family.point.order == 2
    assert [round(x, 6) for _, x in family.lost] == [0.2, 0.9, 1.2]


def test_a_family_that_does_not_reach_it_says_so() -> None:
    panel = panel_of(bits(1.5, 3.0))
    section = overview.section(panel, "")
    assert plain(section.sentences[0]) == (
        "fewer bits: not compared. No strength that was tried loses at most 1 point on validation; 50.0 % loses "
        "least, 1.5 points."
    )
    assert section.tables[0].rows[1].cells[0].text == "none loses ≤ 1"
    assert {c.text for c in section.tables[0].rows[1].cells[1:]} <= {"–"}


def test_random_weights_are_no_family_and_other_records_make_no_section() -> None:
    panel = panel_of(bits(0.2), state("random weights", 1, 0.2, 0.0))
    assert [f.label for f in overview.families(panel, "final")] == ["fewer bits"]
    (other,) = panels(Records([record(), record(series="ticket", order=1)]))
    assert overview.section(other, "").empty


# marks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [0.0, 3.0])
def test_the_best_is_marked_where_every_paired_interval_allows_it(spoil: float) -> None:
    values = {
        "a": {0: 90.0, 1: 91.0, 2: 92.0 - spoil},
        "b": {0: 88.0, 1: 89.1, 2: 90.0},
        "c": {0: 80.0, 1: 81.0, 2: 82.2},
    }
    ends = [
        scipy.stats.ttest_rel(list(values["a"].values()), list(values[k].values()))
        .confidence_interval(1 - 0.05 / 2)
        .low
        for k in "bc"
    ]
    assert (min(ends) > 0) == (spoil == 0), "the case is planted as it is meant"
    assert overview.surest(values, 1) == ("a" if min(ends) > 0 else "")
    assert overview.surest({k: {s: -x for s, x in v.items()} for k, v in values.items()}, -1) == (
        "a" if min(ends) > 0 else ""
    )


def test_one_seed_marks_nobody_and_equal_ones_are_not_best() -> None:
    assert overview.surest({"a": {0: 90.0}, "b": {0: 10.0}}, 1) == ""
    assert overview.surest({"a": {0: 1.0, 1: 1.0}, "b": {0: 1.0, 1: 1.0}}, 1) == ""
    assert overview.surest({"a": {0: 2.0, 1: 2.0}, "b": {0: 1.0, 1: 1.0}}, 1) == "a"


def speed(low: float, high: float) -> Speed:
    from compressbench.report.numbers import Spread

    return Speed(Spread((low + high) / 2, None, 1), (low, high), False, ())


def test_the_quickest_is_marked_where_intervals_do_not_overlap() -> None:
    apart = {"a": speed(1.4, 1.6), "b": speed(1.1, 1.3), "c": speed(0.8, 0.9)}
    assert (overview.quickest(apart), overview.quickest(apart, slowest=True)) == ("a", "c")
    near = {"a": speed(1.2, 1.6), "b": speed(1.1, 1.3), "c": speed(1.0, 1.15)}
    assert (overview.quickest(near), overview.quickest(near, slowest=True)) == ("", "")


def test_marks_stand_beside_the_figures_they_are_of() -> None:
    other = state("fewer weights", 1, 0.2, 0.0, size=2000, speed=(0.9, 1.0, 1.1))
    panel = panel_of(bits(0.2, size=1000, speed=(1.4, 1.5, 1.6)), other)
    table = overview.section(panel, "").tables[0]
    heads = [name for name, _ in table.heads]
    own = dict(zip(heads, table.rows[1].cells, strict=True))
    last = dict(zip(heads, table.rows[2].cells, strict=True))
    assert [own[h].plain.endswith("▲") for h in ("bytes", TARGET, "L-L")] == [True, True, False]
    assert [last[h].plain.endswith("▼") for h in ("bytes", TARGET, "L-L")] == [True, True, False]
    assert not any(mark in c.plain for mark in "▲▼" for c in table.rows[0].cells)


# in words -------------------------------------------------------------------------------------------------------------


def words(panel: Panel) -> overview.Said:
    (family,) = overview.families(panel, "final")
    return overview.said(panel, family, "final", 1)


def test_what_speaks_for_it_and_against_it() -> None:
    said = words(panel_of(bits(0.2, change=-2.0, size=1000, pgd=30.0, loyal=95.0, speed=(1.4, 1.5, 1.6))))
    pro, con = [plain(x) for x in said.pro], [plain(x) for x in said.con]
    assert any(x.startswith("its file is 4.00 × smaller") for x in pro)
    assert "faster at batch 1: cpu_openvino 1.50× [1.40–1.60] (n = 3)" in pro
    assert any("agree with the dense net’s by 5.0 points" in x and "more than another" in x for x in pro)
    assert "nothing is trained after the dense net" in pro
    assert any(x.startswith("top-1 accuracy is lower by 2.0 points") and "3 seeds" in x for x in con)
    assert any(x.startswith("accuracy under attack (PGD) is lower by 10.0 points") for x in con)
    assert any("recall of the worst class" in x for x in said.open), "its change is 0 at every seed"


def test_a_gain_is_for_it() -> None:
    said = words(panel_of(bits(0.2, change=2.0, pgd=50.0)))
    pro = [plain(x) for x in said.pro]
    assert any(x.startswith("top-1 accuracy is higher by 2.0 points") for x in pro)
    assert any(x.startswith("accuracy under attack (PGD) is higher by 10.0 points") for x in pro)


def test_what_can_not_be_told_is_neither() -> None:
    rows = bits(0.2, change=0.0, size=4000, pgd=40.0, loyal=90.0, speed=(0.9, 1.0, 1.1), compute=2e9)
    said = words(panel_of(rows))
    con = [plain(x) for x in said.con]
    assert any("no smaller" in x for x in con)
    assert "whether it is faster at batch 1: cpu_openvino 1.00× [0.90–1.10] (n = 3)" in map(plain, said.open)
    assert not any("faster" in x for x in con)
    assert "its training costs 2.00 × the dense net’s, a teacher’s own training not counted" in con
    assert any(x.startswith("whether top-1 accuracy differs from dense") for x in said.open)
    assert any("more than another training of it would" in x for x in said.open)
    assert not said.pro


def test_slower_is_against_it_and_what_runs_dense_is_not_for_it() -> None:
    slow = words(panel_of(bits(0.2, speed=(0.7, 0.8, 0.9))))
    assert any(x.startswith("slower at batch 1") for x in slow.con)
    rows = [
        replace(r, note="no speed-up: runs dense") if r.metric == "speedup_b1" else r
        for r in bits(0.2, speed=(1.01, 1.02, 1.03))
    ]
    dense = words(panel_of(rows))
    assert not any("faster" in x for x in dense.pro)
    assert any("zeros run dense there" in x for x in dense.con)


def test_a_speed_without_an_interval_can_not_be_told() -> None:
    rows = [r for r in bits(0.2, speed=(1.4, 1.5, 1.6)) if r.metric != "speedup_low_b1"]
    said = words(panel_of(rows))
    assert any(plain(x).startswith("whether it is faster at batch 1: cpu_openvino 1.50×") for x in said.open)
    assert not any("faster" in x for x in (*said.pro, *said.con))


@pytest.mark.parametrize(
    ("compute", "where"),
    [(0.6e9, "open"), (0.99e9, "open"), (1e9, "pro"), (1.01e9, "con"), (2e9, "con")],
)
def test_less_training_is_no_proof_as_a_teacher_s_own_is_not_counted(compute: float, where: str) -> None:
    rows = [*bits(0.2, compute=compute), *state("fewer weights", 1, 0.2, 0.0, compute=3e9)]
    panel = panel_of(rows)
    family = overview.families(panel, "final")[0]
    said = overview.said(panel, family, "final", 1)
    told = {"pro": said.pro, "con": said.con, "open": said.open}
    found = {k: [x for x in own if "train" in x and "another" not in x] for k, own in told.items()}
    assert [k for k, own in found.items() if own] == [where]
    assert (found["pro"] == ["nothing is trained after the dense net"]) == (where == "pro")
    assert all("a teacher’s own training not counted" in x for x in found["con"] + found["open"])
    table = overview.section(panel, "").tables[0]
    at = [name for name, _ in table.heads].index("training")
    assert not any(mark in row.cells[at].plain for row in table.rows for mark in "▲▼")
    assert any("Training: a teacher’s own training not counted" in note for note in table.notes)


def test_odd_batches_and_files_of_no_bytes_leave_the_report_whole() -> None:
    rows = bits(0.2, size=0, speed=(1.4, 1.5, 1.6))
    odd = [replace(r, metric="speedup_b²") for r in rows if r.metric == "speedup_b1"]
    panel = panel_of([*rows, *odd])
    assert overview.timed_batches(panel) == [1]
    section = overview.section(panel, "")
    assert "faster at batch 1" in section.sentences[0]
    assert "its file" not in section.sentences[0]


def test_names_from_records_are_text_on_the_page(tmp_path) -> None:
    rows = [replace(r, series="<i>bits</i>") for r in bits(0.2)]
    panel = panel_of(rows)
    page = write_report(panel.rows, tmp_path, "t").read_text(encoding="utf-8")
    assert "How to choose" in page
    assert "&lt;i&gt;bits&lt;/i&gt;" in page
    assert "<i>bits" not in page


def test_a_ratio_that_was_withheld_can_not_be_told() -> None:
    rows = [
        replace(r, value=None, note="other processes took 40 % of the time")
        if r.metric.startswith("speedup")
        else r
        for r in bits(0.2, speed=(1.4, 1.5, 1.6))
    ]
    said = words(panel_of([r for r in rows if not r.metric.startswith(("speedup_low", "speedup_high"))]))
    assert "speed at batch 1: cpu_openvino (other processes took 40 % of the time)" in said.open
    assert not any("faster" in x for x in (*said.pro, *said.con))


def test_strengths_alike_in_size_are_named_by_their_states() -> None:
    rows = [
        replace(r, state=f"leave_0p{8 - 2 * r.order}.choose", density=1.0, series="early exits")
        for r in bits(0.2, 0.3)
    ]
    (family,) = overview.families(panel_of(rows), "final")
    assert [family.name_of(p) for p, _ in family.lost] == ["0.6", "0.4"]
