"""The page: whatever the records hold, the terminal, many runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cases_report import (
    Page,
    cells,
    full,
    record,
    runs,
    seed,
    written,  # noqa: F401
)
from compressbench.cli import report as command
from compressbench.cli.main import run as dispatch
from compressbench.errors import UserError
from compressbench.records import COLUMNS, SCHEMA, Records, read_jsonl, write_jsonl
from compressbench.report.findings import summary
from compressbench.report.joint import gather, joint_report
from compressbench.report.page import write_report
from compressbench.report.panels import panels
from compressbench.report.sections.accuracy import accuracy_table
from compressbench.report.sections.others import leftover_tables
from compressbench.report.terminal import print_tables, wrap

SCRIPT = "<script>alert(1)</script>"


# whatever the records hold --------------------------------------------------------------------------------------------


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
    assert page.tags["script"] == 1  # the page's own
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
    assert page.tags["script"] == 1
    assert not [a for a in page.attributes if a[0] == "script"]
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
        *(
            "first_changes",
            "first_loyalty_vs_size",
            "first_worst",
            "first_attacked",
            "first_speeds",
            "first_choice",
        ),
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


# the terminal ---------------------------------------------------------------------------------------------------------


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


# many runs ------------------------------------------------------------------------------------------------------------


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
