"""The tour: its rows against fact sheet, recipes and report; what runs and headers say; listing, page, command."""

from __future__ import annotations

import os
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cases_report import accuracies, record
from compressbench.cli import main as front
from compressbench.cli.main import run
from compressbench.errors import UserError
from compressbench.records import Record, write_jsonl
from compressbench.report import first_charts
from compressbench.report.joint import drawn, gather
from compressbench.report.section import Gallery, Section, Tile
from compressbench.report.tour_page import FIRST, SECTIONS, page, picture
from compressbench.report.tour_rows import Answer, Part, Picture, Slide, found, parts
from compressbench.report.tour_runs import came_out, runs_below, runs_of
from compressbench.report.tour_told import anchor, header, results, run_of, section_of, time_of, told
from test_published import measured_by

ROOT = Path(__file__).parents[1]
RECIPES = {path.stem: path for path in (ROOT / "conf/recipe").glob("*.yaml")}
PARTS = parts()
SLIDES = {slide.name: slide for part in PARTS for slide in part.slides}
BUILT = {name: slide for name, slide in SLIDES.items() if slide.built}
NOT_YET = {
    "random_projections",
    "dropout_redundancy",
    "overparameterization",
    "overparameterization_net",
    "overparameterization_factorised",
    "dataset_distillation",
    "kernel_inducing_points",
    "viola_jones",
    "ticket_width",
    "overview",
}
"""Recipes of slides that may be missing: those that an issue of their own makes."""
HELPERS = {"dense", "lm_quantized"}
"""Recipes of no slide: the dense net of published figures; language models, which the lecture leaves out."""


def fact_sheet() -> str:
    base = os.environ.get("COMPRESSBENCH_SHARED")
    path = (Path(base) if base else ROOT.parent / "shared") / "FACTS.md"
    if not path.exists():
        pytest.skip(f"{path} is absent; COMPRESSBENCH_SHARED names another place")
    return path.read_text(encoding="utf-8")


# the rows -------------------------------------------------------------------------------------------------------------


def test_every_recipe_is_of_a_slide_and_every_slide_has_one() -> None:
    assert {slide.recipe for slide in SLIDES.values()} - set(RECIPES) <= NOT_YET
    shown = {name for slide in SLIDES.values() for name in (slide.recipe, *slide.also)}
    assert {name for slide in SLIDES.values() for name in slide.also} <= set(RECIPES)
    assert set(RECIPES) - shown == HELPERS & set(RECIPES)
    assert not HELPERS & shown
    assert [slide.number for part in PARTS for slide in part.slides] == list(range(1, len(SLIDES) + 1))


# The items of the fact sheet's index (its last lines) and the slides that are theirs.
INDEX = {
    "magnitude pruning": ["magnitude", "gradual"],
    "OBD": ["obd"],
    "ResNet-50/Transformer curves": ["sparsity_pictures", "sparsity_translation"],
    "structured": ["granularity", "channels", "heads", "n_m"],
    "random forests/projections, DNW": ["random_projections", "supermask", "wirings"],
    "holographic/dropout, Du, Haeffele-Vidal": [
        "holographic",
        "overparameterization",
        "wide_nets",
        "all_zero_factor",
    ],
    "LTH, IMP, rewinding": ["lottery", "iterative_magnitude", "rewinding", "ticket_width"],
    "flat minima, SAM, Train Flat": [
        "flat_minima",
        "sam",
        "train_flat_prune",
        "train_flat_quantize",
        "train_flat_texts",
    ],
    "Hooker x2, CelebA": ["forgotten", "bias"],
    "Bucila, Hinton, hard/soft, where, distance, dense vs sparse labels, architecture, Tang": [
        "model_compression",
        "softened",
        "hard_or_soft",
        "where_to_mimic",
        "distance",
        "dense_labels",
        "architectures",
        "understanding",
    ],
    "Wang": ["dataset_distillation", "kernel_inducing_points"],
    "Zhou-Gu-Neubig": ["translation"],
    "cheap conv": ["cheap_convolutions", "online"],
    "loyalty table": ["loyalty_pictures", "loyalty_texts", "combined"],
    "Viola-Jones, confidence, batching": [
        "viola_jones",
        "cascades",
        "early_exits",
        "confidence",
        "batching",
        "exits_texts",
        "exits_and_pruning",
    ],
    "quantise/sparse/adaptive chooser, CPU/GPU/TPU/FPGA": [
        "pretending",
        "fewer_bits",
        "hardware",
        "overview",
    ],
}


def test_every_item_of_the_lecture_has_its_slides() -> None:
    assert sorted(name for names in INDEX.values() for name in names) == sorted(SLIDES)
    index = re.search(r"\*\*Index: lecture item -> section\.\*\* (.+)\.", fact_sheet())
    assert index
    assert [re.sub(r" \d+$", "", item) for item in index[1].split("; ")] == list(INDEX)


def bare(text: str) -> str:
    return text.replace("*", "").replace("`", "").strip()


SHORTENED = {
    '"Discovering Neural Wirings: instead of changing the weights you can change '
    'which weights of the random network to keep"',
    'cheap-conv table, "Standard" row FLOPs 126.81 M',
}
"""Whose last words in the fact sheet are for developers."""
NO_ERROR = {'"P. Viola, M. Jones ... ACCEPTED CVPR 2001"'}
"""Where slide and literature agree."""


def test_every_erratum_of_the_fact_sheet_is_told_word_for_word() -> None:
    table = fact_sheet().partition("## 0.")[2].partition("\n---")[0]
    rows = [
        [bare(c) for c in line.strip("|").split(" | ")] for line in table.splitlines() if line.startswith("|")
    ]
    wanted = {(slide, right, mark.removeprefix("[").removesuffix("]")) for slide, right, mark in rows[2:]}
    assert len(wanted) == 8
    sheet = {slide: (right, mark) for slide, right, mark in wanted if slide not in NO_ERROR}
    told_ = {e.slide: (e.right, e.mark) for s in SLIDES.values() for e in s.errata}
    assert sheet.keys() == told_.keys()
    for slide, (right, mark) in told_.items():
        whole, whose = sheet[slide]
        assert mark == whose
        assert right
        assert whole.startswith(right)
        assert (right != whole) == (slide in SHORTENED)


def test_errata_stand_where_the_lecture_has_them() -> None:
    where = {
        e.slide[:24]: [s.name for s in SLIDES.values() if e in s.errata]
        for s in SLIDES.values()
        for e in s.errata
    }
    assert len(where) == 7
    assert where['"Hooker, Courville, Clar'] == ["forgotten", "bias"]
    assert where['"Discovering Neural Wiri'] == ["supermask"]
    assert where['"Entire training set (10'] == ["dataset_distillation", "kernel_inducing_points"]
    assert where["L_p uses D_JS without a "] == ["loyalty_pictures", "loyalty_texts"]


def compared(name: str) -> dict[str, Any]:
    """A recipe's block ``compare`` as its file has it, with those of the recipes it begins with."""
    text = RECIPES[name].read_text(encoding="utf-8")
    block: dict[str, Any] = {}
    for base in re.findall(r"^  - (?:/recipe/)?(\w+)$", text, re.M):
        if base in RECIPES:
            block |= compared(base)
    return block | (yaml.safe_load(text).get("compare") or {})


def section_source(name: str) -> str:
    assert name in SECTIONS
    return (ROOT / f"compressbench/report/sections/{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BUILT)
def test_a_slide_s_picture_is_one_that_the_report_draws(name: str) -> None:
    slide = BUILT[name]
    if slide.picture is None:
        assert slide.recipe in NOT_YET, "a slide whose recipe has been here says which picture"
        return
    chart = slide.picture.chart
    if ": " in chart:  # a gallery's title
        title, _, label = chart.partition(": ")
        moments = compared(slide.recipe).get("moments") or {}
        series = {*compared(slide.recipe)["series"], *(s for m in moments.values() for s in m["series"])}
        assert f'f"{title}: ' in section_source(slide.picture.section)
        assert any(one.startswith(label) for one in series)
        return
    if slide.picture.section == FIRST:
        assert callable(getattr(first_charts, chart.removeprefix("first_")))
        return
    source = section_source(slide.picture.section)
    stem = chart.removesuffix(f"_{slide.answer.moment}") if slide.answer else chart
    of_the_metric = re.sub(r"^(accuracy|bleu)_", "{by.file}_", stem)
    assert f'f"{stem}' in source or f'f"{of_the_metric}' in source


@pytest.mark.parametrize("name", [name for name, slide in BUILT.items() if slide.answer])
def test_what_answers_a_slide_is_measured_of_its_recipe(name: str) -> None:
    slide = BUILT[name]
    assert slide.answer
    block = compared(slide.recipe)
    moments = block.get("moments") or {}
    places = {"final": block["series"], "populations": block.get("populations")}
    series = places.get(slide.answer.moment) or moments[slide.answer.moment]["series"]
    assert set(slide.answer.series) <= set(series)
    assert slide.answer.metric in measured_by()[slide.answer.probe]


@pytest.mark.parametrize("name", BUILT)
def test_a_result_that_a_header_points_to_has_its_section(name: str) -> None:
    head = header(BUILT[name].file)
    assert head.measured
    heading, address = section_of(BUILT[name].recipe, results())
    assert bool(heading) == bool(address)
    if "docs/results.md" in head.measured:
        assert f"## {heading}\n" in (ROOT / "docs/results.md").read_text(encoding="utf-8")
        assert BUILT[name].recipe in heading


def changed(path: str, value: Any, tmp_path: Path) -> Path:
    """A folder with one slide, in which one thing is another."""
    slide: dict[str, Any] = {
        "title": "T",
        "claim": "C",
        "source": "S",
        "recipe": "one_shot",
        "answer": {"probe": "accuracy", "metric": "top1"},
        "picture": {"section": "accuracy", "chart": "c", "shows": "s"},
        "errata": [{"slide": "a", "right": "b", "mark": "c"}],
    }
    whole: dict[str, Any] = {"title": "P", "slides": {"one": slide}}
    at: Any = whole
    *way, last = path.split(".")
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[last] = value
    (tmp_path / "1.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("title", 1, "1.yaml.title: 1 is no text of one line"),
        ("slides", {}, "1.yaml: slides: a mapping of names is wanted"),
        ("slides.one.claims", "x", "slides.one: unknown key 'claims'; did you mean claim"),
        ("slides.one.recipe", "", "slides.one.recipe: '' is no text of one line"),
        ("slides.one.run", ["recipe=b"], "slides.one.run: 'recipe=b' is no override beside"),
        ("slides.one.run", ["word"], "slides.one.run: 'word' is no override"),
        ("slides.one.also", "one_shot", "slides.one.also: 'one_shot' is no list"),
        ("slides.one.answer.metric", "top2", "slides.one.answer.metric: unknown 'top2'"),
        ("slides.one.answer.density", 0, r"slides.one.answer.density: 0 is not in \(0, 100\] %"),
        ("slides.one.answer.density", "low", "slides.one.answer.density: 'low' is no number"),
        ("slides.one.picture.shows", "", "slides.one.picture.shows: '' is no text"),
        ("slides.one.errata", "x", "slides.one.errata: 'x' is no list"),
        (
            "slides.one.errata.0.mark",
            "",
            "slides.one.errata.0: unknown|slides.one.errata.0.mark: '' is no text",
        ),
        ("slides.7", {}, "slides.7: a mapping with"),
    ],
)
def test_what_a_file_of_slides_gets_wrong(path: str, value: Any, words: str, tmp_path: Path) -> None:
    folder = changed(path, value, tmp_path) if "errata.0" not in path else _erratum(value, tmp_path)
    with pytest.raises(UserError, match=words):
        parts(folder)


def _erratum(mark: str, tmp_path: Path) -> Path:
    return changed("slides.one.errata", [{"slide": "a", "right": "b", "mark": mark}], tmp_path)


def test_a_name_that_is_a_number_or_is_there_twice_is_refused(tmp_path: Path) -> None:
    changed("slides.one.title", "T", tmp_path)
    text = (tmp_path / "1.yaml").read_text(encoding="utf-8")
    (tmp_path / "2.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="two slides are called 'one'"):
        parts(tmp_path)
    (tmp_path / "2.yaml").write_text(text.replace("  one:", "  '3':"), encoding="utf-8")
    with pytest.raises(UserError, match="a slide's name is no number"):
        parts(tmp_path)
    with pytest.raises(UserError, match="no slides"):
        parts(tmp_path / "nowhere")


# what runs say --------------------------------------------------------------------------------------------------------


def kept(outputs: Path, name: str, rows: list[Record], overrides: tuple[str, ...] | None = ()) -> Path:
    """A finished run's folder."""
    folder = outputs / "runs" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}\n", encoding="utf-8")
    write_jsonl(rows, folder / "records.jsonl")
    if overrides is not None:
        (folder / ".hydra").mkdir()
        lines = "".join(f"- {word}\n" for word in overrides)
        (folder / ".hydra" / "overrides.yaml").write_text(lines, encoding="utf-8")
    return folder


def rows_of(recipe: str = "one_shot", scale: str = "laptop", **values: dict[int, float]) -> list[Record]:
    """Records of three levels a series, whose value is that of the seed less a point a level."""
    found = []
    for series, by_seed in {"dense": {0: 90.0, 1: 92.0}, **values}.items():
        for order in (1, 2, 3) if series != "dense" else (0,):
            own = {seed: value - order for seed, value in by_seed.items()}
            found += accuracies(series, order, 0.5**order, own, recipe=recipe, scale=scale)
    return found


def test_a_sentence_has_the_mean_the_spread_the_level_and_the_seeds() -> None:
    given = {"one-shot": {0: 80.0, 1: 83.0}, "random": {0: 50.0, 1: 60.0}}
    text = came_out(rows_of(**given), Answer("accuracy", "top1", "", "final", ("random", "one-shot"), 30.0))
    values = [80.0 - 2, 83.0 - 2]
    assert f"{statistics.fmean(values):.1f}" == "79.5"
    assert f"{statistics.stdev(values):.1f}" == "2.1"
    plain = text.replace("\u00a0", " ").replace("\u202f", " ")
    assert plain == (
        "Top-1 at 25.0 % of the weights: reference 91.0 ± 1.4 %; random 53.0 ± 7.1 %; one-shot 79.5 ± 2.1 %; 2 seeds"
    )
    lowest = came_out(rows_of(**given), Answer("accuracy", "top1", "", "final", (), None))
    assert "one-shot 78.5" in lowest
    assert "12.5" in lowest
    one = came_out(
        rows_of(**{"one-shot": {0: 80.0}}), Answer("accuracy", "top1", "", "final", ("one-shot",), 50.0)
    )
    assert "one-shot 79.0 %" in one


def test_levels_of_one_density_are_told_by_their_state() -> None:
    rows = [
        record(series="exits", order=k, density=1.0, state=f"budget_0p{k}.choose", value=80.0 + k)
        for k in (3, 5, 8)
    ]
    asked = Answer("accuracy", "top1", "", "final", (), None, "0p5")
    assert "exits 85.0 % (budget_0p5)" in came_out(rows, asked)
    assert "exits 88.0 % (budget_0p8)" in came_out(rows, replace(asked, level="0p1"))


def test_of_each_series_the_last_state_that_validation_allows_is_told() -> None:
    rows = [record(series="dense", order=0, density=1.0, state="dense", value=90.0)]
    for series, lost in (
        ("bits", (0.1, 0.9, 5.0)),
        ("channels", (1.5, 3.0, 9.0)),
        ("exits", (0.0, 1.0, 0.5)),
    ):
        for k, points in enumerate(lost, 1):
            of = {"series": series, "order": k, "density": 1.0, "state": f"{series}_{k}"}
            rows.append(record(**of, value=90.0 - k))
            rows.append(record(**of, probe="validation", metric="validation_lost", value=points))
            rows.append(record(**of, probe="validation", metric="validation_allowed", value=1.0))
    asked = Answer("accuracy", "top1", "", "final", ("bits", "channels", "exits"), None, validated=True)
    text = came_out(rows, asked).replace("\u202f", " ")
    assert text == (
        "Top-1: reference 90.0 %; bits 88.0 % (bits_2); exits 87.0 % (exits_3); channels no state that "
        "validation allows; one seed: no spread"
    )


def test_draws_are_told_by_their_mean_by_what_else_their_names_hold() -> None:
    rows = [
        record(series="masks", order=k, density=0.1 * k, state=f"{width}.draw_{draw}.mask", value=value)
        for k, (width, draw, value) in enumerate(
            [("half", "a", 60.0), ("half", "b", 80.0), ("twice", "a", 90.0), ("twice", "b", 96.0)], 1
        )
    ]
    asked = Answer("accuracy", "top1", "", "final", ("masks",), None, mean="draw_", says="so it is")
    text = came_out(rows, asked).replace("\u00a0", " ").replace("\u202f", " ")
    assert "means over draws: masks 70.0 % (half, of 2); masks 93.0 % (twice, of 2); one seed" in text
    assert text.endswith("; so it is")


def test_levels_of_series_that_differ_are_told_in_brackets() -> None:
    rows = [
        *accuracies("dense", 0, 1.0, {0: 90.0}),
        *accuracies("a", 1, 0.25, {0: 80.0}),
        *accuracies("b", 1, 0.28, {0: 70.0}),
        *accuracies("c", 1, 1.0, {0: 60.0}),
        record(series="floor", value=1.0),
        record(series="d", value=None),
    ]
    text = came_out(rows, None).replace("\u202f", " ")
    assert text == (
        "Top-1, in brackets the share of the weights: reference 90.0 %; a 80.0 % (25.0 %); b 70.0 % (28.0 %); "
        "c 60.0 %; one seed: no spread"
    )
    many = [replace(r, moment="populations") for r in rows]
    together = came_out(many, Answer("accuracy", "top1", "", "populations", ("a",), None)).replace(
        "\u202f", " "
    )
    assert together == "Top-1 at 25.0 % of the weights: reference 90.0 %; a 80.0 %; of many nets together"
    assert came_out(rows, Answer("exits", "exits_top1", "", "last", (), None)).endswith(
        "“last”: the records hold none"
    )


def test_runs_of_just_the_slide_s_settings_answer_and_paper_speaks_first(tmp_path: Path) -> None:
    ours = replace(SLIDES["magnitude"], run=())
    kept(tmp_path, "a", rows_of(scale="smoke"), ("recipe=one_shot", "scale=smoke", "seed=1", "hardware=cpu1"))
    kept(tmp_path, "b", rows_of(), ("recipe=one_shot", "evaluation=quick", "hardware.threads=2"))
    kept(tmp_path, "c", rows_of(), ("recipe=one_shot", "model=resnet20"))
    kept(tmp_path, "d", rows_of(), ("recipe=one_shot", "recipe.length=9ep"))
    kept(tmp_path, "e", rows_of("dnw"), ("recipe=dnw",))
    kept(tmp_path, "f", [replace(r, overrides="recipe.length=9ep") for r in rows_of()], None)
    kept(tmp_path, "g", rows_of(), None)
    write_jsonl(rows_of(scale="paper"), tmp_path / "runs" / "records.jsonl")  # a joint report's
    (tmp_path / "runs" / "h").mkdir()
    (tmp_path / "runs" / "h" / "config.yaml").write_text("{}")
    (tmp_path / "runs" / "h" / "records.jsonl").write_text('{"recipe": 1}\n[')
    runs = runs_below(tmp_path)
    assert [r.folder.name for r in runs] == list("abcdefg")
    chosen, others = runs_of(ours, runs)
    assert [r.folder.name for r in chosen] == ["b", "g"]
    assert others == 4
    longer, _ = runs_of(replace(ours, run=("recipe.length=9ep",)), runs)
    assert [r.folder.name for r in longer] == ["d", "f"]
    kept(tmp_path, "i", rows_of(scale="paper"), ("recipe=one_shot", "scale=paper"))
    assert [r.folder.name for r in runs_of(ours, runs_below(tmp_path))[0]] == ["i"]


def test_what_is_told_of_a_slide_with_records_without_and_without_a_recipe(tmp_path: Path) -> None:
    slide = SLIDES["magnitude"]
    kept(tmp_path, "a", rows_of(**{"one-shot": {0: 80.0, 1: 83.0}}), ())
    here = told(slide, runs_below(tmp_path))
    assert here.here.startswith("Top-1")
    assert here.scale == "laptop"
    assert here.published == header(slide.file).measured
    assert here.address == "docs/results.md#one_shot-and-iterative_finetune-three-seeds"
    alone = told(slide, ())
    assert (alone.here, alone.records) == ("", ())
    assert time_of(alone) == "about 3 minutes a seed where it was published; not run here"
    published = "about 3 minutes a seed where it was published"
    assert time_of(here, "2.0 hours") == (
        f"{published}; about 2.0 hours of training a seed here, at scale=laptop, and measuring"
    )
    assert time_of(here) == f"{published}; run here; how long it takes isn’t known any more"
    missing = told(replace(slide, recipe="not_there"), runs_below(tmp_path))
    assert missing.published == "not built: there is no recipe not_there yet"
    assert time_of(missing) == "not run here"
    (tmp_path / "runs/a/records.jsonl").write_text(
        (tmp_path / "runs/a/records.jsonl").read_text() + "no record\n"
    )
    assert told(slide, runs_below(tmp_path)).here.startswith("the records can’t be read")


def test_a_header_says_the_command_the_result_and_the_minutes(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "# x: what it is\n#\n# Claim    A b.\n"
        "# Run      compressbench run recipe=x data_dir=FOLDER    (first: c)\n#          more=d\n"
        "# Measured scale=laptop, 3 seeds: 80 ± 1\n#          (about 2.5 minutes a seed on one thread).\n"
        "defaults: []\n"
        "# Measured later\n"
    )
    head = header(path)
    assert head.measured == "scale=laptop, 3 seeds: 80 ± 1 (about 2.5 minutes a seed on one thread)."
    assert head.minutes == "about 2.5 minutes a seed"
    slide = replace(SLIDES["magnitude"], recipe="x", run=("a.b=[1,2]",))
    assert run_of(slide, head.run) == "compressbench run recipe=x data_dir=FOLDER 'a.b=[1,2]'"
    assert run_of(slide, "compressbench run recipe=x (a.c=1 does more)") == run_of(slide, "")
    assert run_of(slide, "compressbench run recipe=y z=1") == "compressbench run recipe=x 'a.b=[1,2]'"


def test_addresses_are_those_of_the_rendered_headings() -> None:
    assert (
        anchor("lth_conv2, lth_conv4, lth_conv6: three seeds") == "lth_conv2-lth_conv4-lth_conv6-three-seeds"
    )
    assert anchor("EfficientNet-Lite0: somebody else's net") == "efficientnet-lite0-somebody-elses-net"
    text = "## one_shot and b: three seeds\n\n## random: one_shot\n"
    assert section_of("one_shot", text) == (
        "one_shot and b: three seeds",
        "docs/results.md#one_shot-and-b-three-seeds",
    )
    assert section_of("shot", text) == ("", "")


def test_what_trainings_took_before_adds_up_and_an_unknown_training_leaves_it_open(tmp_path: Path) -> None:
    import json

    from compressbench.runs.estimate import making
    from compressbench.runs.execute import Executor, Watcher, history_key
    from compressbench.runs.experiment import prepare
    from compressbench.specs.compose import composed
    from compressbench.stages.train import Train

    ready = prepare(
        composed(
            ["recipe=one_shot", "scale=smoke", "hardware=cpu1", "evaluation=quick", f"outputs={tmp_path}"]
        )
    )
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    context = ready.setting.context
    assert making(ready, executor) is None
    trainings = [n for n in ready.plan.nodes if isinstance(n.stage, Train)]
    known = {history_key(ready.plan, node, context): 2.0 for node in trainings}
    (ready.store.root / "history.json").write_text(json.dumps(known))
    assert len(trainings) > 10
    assert making(ready, executor) == pytest.approx(2.0 * len(trainings))
    del known[history_key(ready.plan, trainings[-1], context)]
    (ready.store.root / "history.json").write_text(json.dumps(known))
    assert making(ready, executor) is None


# listing, page, command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 140])
def test_the_listing_has_every_slide_and_fits(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(["tour", "--outputs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    heads = re.findall(r"^ ? ?(\d+)  \S", said, re.M)
    assert heads == [str(k) for k in range(1, len(SLIDES) + 1)]
    lines = said.splitlines()
    assert max(len(line) for line in lines if "#" not in line) <= columns
    assert said.count("not built") == sum(not s.built for s in SLIDES.values())
    flat = " ".join(said.split())
    for slide in SLIDES.values():
        assert f"[{slide.name}]" in said
        assert " ".join(slide.claim.split()) in flat
        for erratum in slide.errata:
            assert f"the slide: {erratum.slide}. {erratum.right} [{erratum.mark}]" in flat


def test_nothing_in_a_record_steers_terminal_or_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = "<script>alert(1)</script>\x1b[31m&\nnew"
    kept(tmp_path, "a", rows_of(**{bad: {0: 80.0, 1: 81.0}, "one-shot": {0: 11.0, 1: 12.0}}), ())
    slide = replace(SLIDES["magnitude"], answer=None)
    known = [told(slide, runs_below(tmp_path))]
    text = page([Part("p", bad, (slide,))], known, {slide.name: bad}, "")
    assert "alert(1)" in text
    assert "<script" not in text
    assert "\x1b" not in text
    assert "script-src" not in text
    assert "default-src 'none'" in text
    monkeypatch.setattr("compressbench.cli.tour.parts", lambda: (Part("p", bad, (slide,)),))
    assert run(["tour", "--only", "1", "--outputs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    flat = " ".join(said.split())
    shown = bad.replace("\x1b", "\\x1b").replace("\n", "\\n")
    assert flat.count(shown) == 2, "the part's title, and the series in what came out here"
    assert f"here scale=laptop: Top-1 at 12.5 % of the weights: reference 91.0 ± 1.4 %; {shown} 77.5" in flat


def test_the_page_has_each_slide_once_pictures_from_records_and_commands_for_the_rest(tmp_path: Path) -> None:
    kept(tmp_path, "a", rows_of(**{"one-shot": {0: 80.0, 1: 81.0}, "random": {0: 60.0, 1: 62.0}}), ())
    target = tmp_path / "pages" / "tour.html"
    assert run(["tour", "--write", str(target), "--outputs", str(tmp_path)]) == 0
    text = target.read_text(encoding="utf-8")
    assert re.findall(r'<section class="slide" id="(\w+)">', text) == list(SLIDES)
    slides = dict(re.findall(r'<section class="slide" id="(\w+)">(.*?)</section>', text, re.S))
    assert "<svg" in slides["magnitude"]
    assert "Top-1 accuracy against density" in slides["magnitude"]
    assert sum("<svg" in own for own in slides.values()) == 1
    for name, own in slides.items():
        if name != "magnitude" and SLIDES[name].built:
            assert "No records of it here" in own
            assert own.count(f"compressbench run recipe={SLIDES[name].recipe}") == 2
        if not SLIDES[name].built:
            assert f"Not built: there is no recipe {SLIDES[name].recipe} yet" in own
    assert f"Of {len(SLIDES)} slides 1 has records here" in text
    before = target.read_bytes()
    assert run(["tour", "--write", str(target), "--outputs", str(tmp_path)]) == 0
    assert target.read_bytes() == before


def test_of_two_runs_of_one_seed_with_other_states_the_newer_one_counts(tmp_path: Path) -> None:
    """As after a recipe was changed: figures of both would be neither's. Equal states are one, and other seeds stay."""
    given = {"one-shot": {0: 80.0, 1: 82.0}, "random": {0: 60.0, 1: 62.0}}
    now = rows_of(**given)
    before = [
        replace(r, value=(r.value or 0) - 30, key="0" * 64) if (r.series, r.seed) == ("one-shot", 0) else r
        for r in now
    ]
    kept(tmp_path, "b_20260101-000000-1", now)
    kept(tmp_path, "c_20250101-000000-1", before)
    (same,) = (told(SLIDES["magnitude"], runs_below(tmp_path)).records,)
    assert sorted(r.value or 0 for r in same if r.series == "one-shot") == sorted(
        r.value or 0 for r in now if r.series == "one-shot"
    )
    assert {r.seed for r in same} == {0, 1}


def test_no_id_stands_twice_on_the_page_and_each_that_is_named_is_there(tmp_path: Path) -> None:
    """Several slides show a chart of the same name."""
    alike = [
        s for s in BUILT.values() if s.picture and s.picture.chart == "accuracy_vs_density" and not s.run
    ]
    for slide in alike[:3]:
        rows = rows_of(slide.recipe, **{"one-shot": {0: 80.0, 1: 81.0}, "random": {0: 60.0, 1: 62.0}})
        kept(tmp_path, slide.name, rows, ())
    target = tmp_path / "tour.html"
    assert run(["tour", "--write", str(target), "--outputs", str(tmp_path)]) == 0
    text = target.read_text(encoding="utf-8")
    assert text.count("<svg") == 3
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)} <= set(ids)


def test_records_that_can_not_be_drawn_leave_the_other_slides_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a training loss whose group, a step, is no number."""
    kept(tmp_path, "a", rows_of(**{"one-shot": {0: 80.0, 1: 81.0}, "random": {0: 60.0, 1: 62.0}}), ())
    slide = SLIDES["overparameterization"]
    assert slide.picture
    kept(tmp_path, "b", rows_of(slide.recipe, net={0: 80.0, 1: 81.0}), slide.run)
    monkeypatch.setitem(SECTIONS, slide.picture.section, lambda panel, suffix: int("a<b>\nc"))
    target = tmp_path / "tour.html"
    assert run(["tour", "--write", str(target), "--outputs", str(tmp_path)]) == 0
    slides = dict(
        re.findall(r'<section class="slide" id="(\w+)">(.*?)</section>', target.read_text("utf-8"), re.S)
    )
    assert "<svg" in slides["magnitude"]
    (line,) = re.findall(r'<p class="none">(.*)</p>', slides["overparameterization"])
    assert line.startswith("Its records can’t be drawn: ValueError: invalid literal")
    assert "a&lt;b&gt;" in line


def test_the_list_of_all_slides_reads_no_plan_and_no_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = kept(tmp_path, "a", rows_of(**{"one-shot": {0: 80.0, 1: 81.0}}), ())
    assert drawn([folder / "records.jsonl"]).rows == gather([folder]).drawn.rows

    def never(*_: Any) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr("compressbench.report.joint._config", never)
    monkeypatch.setattr("compressbench.runs.finished.opened", never)
    assert run(["tour", "--outputs", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "run here; compressbench tour --only magnitude says how long its training took" in said
    asked: list[Path] = []

    def opened(path: Path, *_: Any) -> Any:
        asked.append(path)
        raise UserError("gone")

    monkeypatch.setattr("compressbench.runs.finished.opened", opened)
    assert run(["tour", "--only", "1", "--outputs", str(tmp_path)]) == 0
    assert asked == [folder]
    assert "how long it takes isn’t known any more" in " ".join(capsys.readouterr().out.split())


def test_galleries_whose_titles_begin_alike_are_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiles(*names: str) -> tuple[Tile, ...]:
        return tuple(Tile(f"data:image/png;base64,{n}", n, "c", "") for n in names)

    galleries = (
        Gallery("Pictures: init", "Seed 0.", (*tiles("A", "B"), Tile("", "a text", "", "words"))),
        Gallery("Pictures: none", "", (Tile("", "a text", "", "words"),)),
        Gallery("Pictures: trained", "", tiles("C", "D")),
        Gallery("Pictures: best real", "", tiles("E")),
    )
    own = Section("T", "a", galleries=galleries)
    monkeypatch.setitem(SECTIONS, "lost", lambda panel, suffix: own)
    rows = rows_of(**{"one-shot": {0: 80.0}})
    both = picture(rows, Picture("lost", "Pictures: ", "s"))
    assert [name for _, name in both.images] == ["A: c", "B: c", "C: c", "D: c"]
    assert [(len(images), caption[:8]) for caption, images in both.rows] == [(2, "Pictures"), (2, "Pictures")]
    assert both.images[0][0] == "data:image/png;base64,A"
    assert both.caption == "Pictures: init. Seed 0. Pictures: trained."
    assert [name for _, name in picture(rows, Picture("lost", "Pictures: best", "s")).images] == ["E: c"]
    assert picture(rows, Picture("lost", "Pictures: nothing", "s")).images == ()


def test_a_picture_that_records_do_not_hold_is_said_to_be_missing() -> None:
    rows = rows_of(**{"one-shot": {0: 80.0, 1: 81.0}})
    wanted = SLIDES["magnitude"].picture
    assert wanted
    drawn = picture(rows, wanted)
    assert drawn.svg.startswith("<svg")
    assert "against density" in drawn.caption
    nothing = picture(rows, replace(wanted, chart="accuracy_vs_bits"))
    assert (nothing.svg, nothing.images) == ("", ())
    assert wanted.shows in nothing.caption
    assert picture(rows, None).svg.startswith("<svg")
    assert picture((), wanted).caption == "There are no records to draw."


@pytest.mark.parametrize(
    ("asked", "argv"),
    [
        (["magnitude", "scale=smoke", "seed=1"], ["recipe=one_shot", "scale=smoke", "seed=1"]),
        (["1", "-m", "seed=0,1"], ["recipe=one_shot", "-m", "seed=0,1"]),
        (["forgotten"], ["recipe=what_is_forgotten", "recipe.seeds=8"]),
    ],
)
def test_a_slide_runs_as_its_recipe_does(
    asked: list[str], argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import compressbench.cli.run as verb

    assert front.VERBS["run"][0] == verb.__name__
    seen: list[list[str]] = []
    monkeypatch.setattr(verb, "main", lambda given: seen.append(given) or 0)
    assert run(["tour", *asked]) == 0
    assert seen == [argv]


def test_what_the_run_refuses_the_tour_refuses_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "recipe=one_shot", "seeed=1"]) == 2
    theirs = capsys.readouterr().err
    assert run(["tour", "magnitude", "seeed=1"]) == 2
    assert capsys.readouterr().err == theirs
    assert "seeed" in theirs


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["0"], f"there is no slide 0; they are 1 to {len(SLIDES)}"),
        (["999"], "there is no slide 999"),
        (["lotery"], "there is no slide 'lotery'; did you mean lottery?"),
        (["--only", "lotery"], "did you mean lottery?"),
        (["--write", "page.md"], "page.md is no HTML file"),
        (["--write", "page.html"], "no records of any slide below"),
        (["--nothing"], "unrecognized arguments: --nothing"),
        (["--only"], "expected one argument"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["tour", *argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert words in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_slide_that_is_not_built_and_a_file_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, "a", rows_of(**{"one-shot": {0: 80.0}}), ())
    (tmp_path / "file").write_text("")
    assert run(["tour", "--write", str(tmp_path / "file/t.html"), "--outputs", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "can't write" in said
    assert said.count("\n") == 1
    slide = replace(SLIDES["magnitude"], recipe="not_there")
    monkeypatch.setattr("compressbench.cli.tour.parts", lambda: (Part("p", "P", (slide,)),))
    assert run(["tour", "1"]) == 2
    assert "slide 1, magnitude, is not built: there is no recipe not_there yet" in capsys.readouterr().err


def test_slides_are_found_by_number_and_name() -> None:
    known: tuple[Slide, ...] = tuple(SLIDES.values())
    assert found("1", known) is found("magnitude", known)
    assert found(str(len(known)), known).name == "overview"


def test_completion_offers_slides_and_then_what_a_run_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressbench.cli.completion import query

    assert query("compressbench tour ", "") == 0
    offered = capsys.readouterr().out.split()
    assert set(SLIDES) < set(offered)
    assert "--write" in offered
    seen: list[tuple[list[str], str]] = []
    monkeypatch.setattr(front, "run", lambda argv: seen.append((argv, os.environ["COMP_LINE"])) or 0)
    monkeypatch.setenv("COMP_LINE", "")
    monkeypatch.setenv("COMP_POINT", "")
    assert query("compressbench tour forgotten sca", "") == 0
    assert seen == [(["run", "-sc", "query=bash"], "compressbench recipe=what_is_forgotten sca")]
    for place in ("1", "magnitude"):
        assert query(f"compressbench tour {place} ", "") == 0
        assert seen[-1][1] == "compressbench recipe=one_shot "
    assert len(seen) == 3
    assert query("compressbench tour 999 ", "") == 0
    assert len(seen) == 3
    assert not any(word.isdecimal() for word in offered)
