"""Joint reports: jobs that failed, arms of a sweep, states that carry another's figures, what a legend can hold."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cases_report import Page, accuracies, full, lottery, record, runs, seed
from compressbench.cli import report as command
from compressbench.deploying.measured import choices
from compressbench.errors import UserError
from compressbench.records import Record, Records
from compressbench.report import drawing, naming
from compressbench.report.drawing import shortened
from compressbench.report.joint import gather, joint_report
from compressbench.report.numbers import bits
from compressbench.report.page import write_report
from compressbench.report.panels import panels
from compressbench.report.sections.accuracy import accuracy_vs_compute, change_vs_density
from compressbench.report.sections.cost import timing_table
from compressbench.report.sections.forgetting import forgetting, forgetting_table, worst_first
from compressbench.report.states import rounded_to
from compressbench.report.styles import GREYS, INK, styles
from compressbench.report.tables import Cell, Columns
from compressbench.report.terminal import print_tables


def started(folder: Path, *overrides: str, error: str = "") -> None:
    (folder / ".hydra").mkdir(parents=True)
    text = "".join(f"- {x}\n" for x in overrides)
    (folder / ".hydra" / "overrides.yaml").write_text(text)
    if error:
        (folder / "error.txt").write_text(f"{error}\n\nTraceback (most recent call last):\n")


def test_a_joint_report_says_which_jobs_failed_and_why(tmp_path, capsys):
    runs(tmp_path / "sweep", **{"0": seed(0), "5": seed(1)})
    broken = "the optimizer gave NaN at /home/me/secret/data"
    started(tmp_path / "sweep" / "2", "seed=2", "outputs=/home/me/o", error=broken)
    started(tmp_path / "sweep" / "10", "seed=3", error=broken)
    started(tmp_path / "sweep" / "3", "seed=4")
    started(tmp_path / "sweep" / "5", "seed=1", error="stopped early")
    page = Page(joint_report([tmp_path / "sweep"], tmp_path / "sweep")).text
    assert "Jobs 2 (seed=2), 10 (seed=3) failed, no records here: the optimizer gave NaN at …/data." in page
    assert "Job 3 (seed=4): no records here; killed, or still running." in page
    assert "Job 5 (seed=1) failed, only what was measured until then is here: stopped early." in page
    assert "/home/me" not in page
    assert "Job 0" not in page
    assert command.main([str(tmp_path / "sweep")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Jobs 2 (seed=2), 10 (seed=3) failed" in said


def test_a_sweep_of_failed_jobs_alone_says_why(tmp_path):
    started(tmp_path / "sweep" / "0", "seed=0", error="there is no such data set")
    with pytest.raises(
        UserError, match=r"Job 0 \(seed=0\) failed, no records here: there is no such data set"
    ):
        gather([tmp_path / "sweep"])


def test_the_header_keeps_the_recipes_name(tmp_path):
    runs(tmp_path / "sweep", a=seed(0, value=80.0, key="k1"), b=seed(0, value=60.0, key="k2"))
    for name, choice in (("a", "lamp"), ("b", "random")):
        started(tmp_path / "sweep" / name, f"stage/prune@recipe.stages.prune={choice}", "evaluation=quick")
    page = Page(joint_report([tmp_path / "sweep"], tmp_path / "out"))
    assert re.search(r"\bRecipe lth\b", page.text)
    assert "Arms lamp random" in page.text
    assert "lamp: ticket" in page.text


def test_what_is_only_measured_otherwise_names_no_arm():
    prune = "stage/prune@recipe.stages.prune=lamp"
    assert naming.arms([[prune, "evaluation=quick"], ["recipe.lr=0.1"]]) == ["lamp", "lr=0.1"]
    apart = naming.arms([["evaluation=quick"], ["evaluation=full"]])
    assert apart == ["evaluation=quick", "evaluation=full"], "where nothing else tells them apart"


def test_arms_of_random_masks_are_dashed_and_grey_however_many():
    rows = [*accuracies("dense", 0, 1.0, {0: 90.0}, key="d", reference="d")]
    names = ["ticket", *(f"random {k}" for k in range(5))]
    for name in names:
        rows += accuracies(name, 1, 0.5, {0: 80.0}, recipe="lth", reference="d")
    rows += accuracies("iterative", 1, 0.5, {0: 70.0}, recipe="one, random", reference="d")
    rows += accuracies("iterative", 1, 0.5, {0: 75.0}, recipe="one, randomised", reference="d")
    (panel,) = panels(Records(rows))
    looks = styles(panel)
    grey = {s.label for s in panel.series if looks[s.label].colour in GREYS}
    assert grey == {*(f"lth: random {k}" for k in range(5)), "one, random: iterative"}
    assert all(looks[label].dash != "-" for label in grey)
    assert len({looks[label] for label in grey}) == len(grey)
    assert panel.lead.label == "lth: ticket"


def forgot(by_series: dict[str, dict[str, float]]) -> Records:
    rows = [*accuracies("dense", 0, 1.0, {0: 90.0})]
    for name, own in by_series.items():
        rows += accuracies(name, 1, 0.5, {0: 89.0})
        given = {"series": name, "order": 1, "density": 0.5, "probe": "forgetting", "metric": "recall_change"}
        rows += [record(**given, group=g, value=v, unit="points") for g, v in own.items()]
    return Records(rows)


def test_chart_and_table_have_one_order_of_classes():
    rows = forgot({"first": {"a": -1.0, "b": -2.0, "c": 0.0}, "other": {"a": -9.0, "b": 0.0, "c": -5.0}})
    (panel,) = panels(rows)
    table, _ = forgetting_table(panel, "final")
    assert [row.label for row in table.rows] == ["a", "c", "b"]
    assert worst_first(panel, "final") == ["a", "c", "b"]
    with drawing.settings():
        svg = forgetting(panel, "final", "x").svg
    drawn = re.findall(r">([abc])</text>", svg)
    assert drawn == ["a", "c", "b"]


def test_states_not_trained_since_have_no_speed_of_learning(tmp_path):
    early = {"dense": 500, "ticket": 300, "untrained": 500}
    rows = [
        r for r in lottery(early, {"dense": 90, "ticket": 91, "untrained": 90}) if r.series != "untrained"
    ]
    dense = [r for r in rows if r.series == "dense"]
    rows += [
        replace(r, series="untrained", order=1, density=0.2, key=f"u{r.seed}", state="cut") for r in dense
    ]
    page = write_report(Records(rows), tmp_path, "t")
    table = page.read_text(encoding="utf-8").split('id="learning"')[1].split("</section>")[0]
    assert "Left out are states of untrained that were not trained since" in table
    assert 'title="ticket"' in table
    assert 'title="untrained"' not in table
    assert ">untrained<" not in (tmp_path / "early_stop_vs_density.svg").read_text()
    moved = [replace(r, compute=r.compute * 2) if r.series == "untrained" else r for r in rows]
    page = write_report(Records(moved), tmp_path / "moved", "t").read_text(encoding="utf-8")
    assert 'title="untrained"' in page.split('id="learning"')[1].split("</section>")[0]


def test_triangles_of_one_density_stand_side_by_side():
    rows = [*accuracies("dense", 0, 1.0, {0: 90.0})]
    for name, value in (("one", 88.0), ("two", 50.0), ("three", 40.0)):
        rows += accuracies(name, 1, 0.5, {0: value})
    (panel,) = panels(Records(rows))
    with drawing.settings():
        figure = change_vs_density(panel, "final", "x")
    looks, edge = styles(panel), {}
    for name in ("two", "three"):
        colour = looks[name].colour.lower()
        places = re.findall(rf'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*?fill: {colour}', figure.svg)
        (edge[name],) = [(float(x), float(y)) for x, y in places if 200 < float(y) < 250]  # the lower edge
    assert edge["three"][1] == edge["two"][1]
    assert edge["three"][0] - edge["two"][0] == pytest.approx(4.6, abs=0.01)


def test_small_figures_are_said_only_where_there_are_some():
    def caption(costs: tuple[float, float]) -> str:
        rows = [*accuracies("dense", 0, 1.0, {0: 90.0}, compute=1e9)]
        for order, cost in enumerate(costs, 1):
            rows += accuracies("ticket", order, 0.5**order, {0: 88.0}, compute=cost)
        (panel,) = panels(Records(rows))
        with drawing.settings():
            return accuracy_vs_compute(panel, "final", "x").caption

    assert "Small figures: densities of ticket." in caption((2e9, 3e9))
    assert "Small figures" not in caption((2e9, 2e9))


def test_a_note_of_all_but_the_reference_stands_at_the_column():
    columns = Columns(reference=(True, False, False))
    cells = [Cell("1.00", notes=("the reference",)), *(Cell("1.01", notes=(f"took {k} %",)) for k in (3, 7))]
    columns.add("speed", "x", cells)
    assert columns.remarks == [("took 3 %", "took 7 %")]
    assert [c.notes for c in columns.cells[0]] == [("the reference",), (), ()]
    bare = Columns()
    bare.add("speed", "x", cells)
    assert bare.remarks == [()]
    table = timing_table(panels(full(moments=("final",)))[0], "final", "")
    marked = [c for row in table.rows for c in row.cells if c.notes]
    assert all("runs dense" not in note for c in marked for note in c.notes)
    assert any("no speed-up: runs dense" in note for remarks in table.remarks for note in remarks)


def test_what_could_not_be_had_keeps_its_row_and_its_reason(tmp_path):
    lost = {"metric": "nll", "unit": "nats", "value": None, "note": "no figure: all 9 answers are no numbers"}
    rows = []
    for series, order in (("dense", 0), ("one", 1), ("two", 2)):
        here = {"series": series, "order": order, "density": 0.5**order}
        rows += [record(**here), record(**here, **lost)]
    page = write_report(Records(rows), tmp_path, "t").read_text(encoding="utf-8")
    table = page.split("Calibration and forgotten examples, final</p>")[1].split('class="notes"')[0]
    assert all(f'title="{name}"' in table for name in ("dense", "one", "two"))
    assert "all 9 answers are no numbers" in page


def test_names_in_a_legend_stay_apart_when_they_are_cut():
    same = ["x" * 60 + "a", "x" * 60 + "b", "short"]
    cut = shortened(same, 56)
    assert len(set(cut)) == 3
    assert all(len(text) <= 56 for text in cut)
    assert cut[2] == "short"
    middle = ["x" * 40 + mid + "y" * 40 for mid in "ab"]
    assert len(set(shortened(middle, 56))) == 2
    assert shortened(["z" * 60, "short"], 56) == ["z" * 55 + "…", "short"]


def test_heads_do_not_break_inside_a_short_name(tmp_path):
    page = write_report(full(), tmp_path, "t").read_text(encoding="utf-8")
    assert '<span class="whole">Top-1</span>' in page


def test_nearly_float_is_not_float():
    assert [bits(x) for x in (32.0, 31.98, 31.9999, 8.0, 3.94, 16.0)] == [
        "32", "31.98", "31.9999", "8", "3.94", "16",
    ]  # fmt: skip
    rows = [*accuracies("dense", 0, 1.0, {0: 90.0}), *accuracies("mixed", 1, 0.5, {0: 89.0})]
    given = {"series": "mixed", "order": 1, "density": 0.5, "probe": "structure", "unit": "bits"}
    rows += [record(**given, metric=m, value=v) for m, v in (("weight_bits", 31.98), ("input_bits", 32.0))]
    out = StringIO()
    print_tables(Records(rows), Console(file=out, width=120))
    assert "31.98/32" in out.getvalue()
    assert rounded_to([])[:1] == []


def several() -> list[Record]:
    rows = []
    for recipe in ("a", "b"):
        rows += accuracies("dense", 0, 1.0, {0: 90.0, 1: 91.0}, recipe=recipe)
        rows += accuracies("cut", 1, 0.5, {0: 80.0, 1: 81.0}, recipe=recipe, key=f"cut-{recipe}", state="s")
    keys = iter("abcdefgh")
    return [replace(r, key=next(keys)) if r.series == "cut" else r for r in rows]


def test_advice_names_a_shared_dense_model_once():
    assert [c.name for c in choices(Records(several()))] == ["dense", "a: cut", "b: cut"]
    apart = [replace(r, key="other") if (r.series, r.recipe) == ("dense", "b") else r for r in several()]
    apart = [r for r in apart if not (r.key == "other" and r.seed == 1)]
    assert [c.name for c in choices(Records(apart))] == ["a: dense", "a: cut", "b: dense", "b: cut"]


def test_the_reference_of_styles_is_ink():
    assert styles(panels(Records(several()))[0])["dense"].colour == INK
