"""What a user reads: one line for bad input, names of a sweep's arms, a line a state with the time left."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cases_report import accuracies, record
from compressbench.cli.left import Left, shortly
from compressbench.cli.run import composed
from compressbench.cli.terminal import Terminal
from compressbench.console import console
from compressbench.errors import UserError, nearest
from compressbench.models.lenet import LeNet300100
from compressbench.records import read_jsonl, write_jsonl
from compressbench.report import naming
from compressbench.report.joint import gather
from compressbench.report.panels import panels
from compressbench.specs import overrides
from compressbench.wording import counted
from conftest import Command

RECIPES = list((Path(__file__).parents[1] / "conf" / "recipe").glob("*.yaml"))

RUN = (
    "run",
    "scale=smoke",
    "hardware=cpu1",
    "recipe=one_shot",
    "model=lenet_300_100",
    "evaluation=none",
    "+probe@evaluation.probes.accuracy=accuracy",
    "recipe.length=1it",
    "recipe.compare.floor=false",
    "recipe.fractions=[0.5]",
)
PRUNE = "stage/prune@recipe.stages.level.stages.prune"


def one_line(done, *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "fault in compressbench" not in done.stderr
    for word in words:
        assert word in done.stderr


# overrides as typed


@pytest.mark.parametrize(
    "value",
    [
        "/a/epoch=3-step=100.pth",
        "~/data",
        "~",
        "/bilder [ä]/x",
        "/a/ü.pth",
        "it's",
        "par(en)",
        "/c{url}y",
        "=3",
        "a\\'b\\",
        "Größe",
    ],
)
def test_a_text_that_hydra_can_t_read_arrives_as_it_is(value: str) -> None:
    assert composed(["recipe=one_shot", f"data_dir={value}"])["data_dir"] == value


def test_a_path_that_is_there_is_a_text_whatever_is_in_it(tmp_path: Path) -> None:
    for name in ("a,b", "a, b [1]"):
        folder = tmp_path / name
        folder.mkdir()
        assert composed(["recipe=one_shot", f"data_dir={folder}"])["data_dir"] == str(folder)


def test_what_hydra_reads_is_left_to_it() -> None:
    given = ["seed=1", "recipe.fractions=[0.5,0.9]", "~a.b", "+x={a: 1}", "k='q=1'", "s=1,2", "e="]
    assert overrides.readable(given) == given


def test_a_sweep_over_paths_is_one() -> None:
    assert overrides.readable(["a=/x/e=1.pth,/x/e=2.pth"], several=True) == ["a='/x/e=1.pth','/x/e=2.pth'"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("run",), ("which recipe?", "recipe=lth_resnet")),
        (("run", "one_shot"), ("did you mean recipe=one_shot?",)),
        (("run", "lottery_seeds"), ("did you mean sweep=lottery_seeds?",)),
        (("run", "recipe=one_shot", "seed"), ("seed=…",)),
        (("run", "one_shoot"), ("recipe=one_shot",)),
        ((*RUN, "=3"), ("a name is missing before the =",)),
        ((*RUN, "recipe.fractions=[0.5"), ("left open",)),
        ((*RUN, "seed=1,2"), ("-m runs",)),
        ((*RUN, "seed==3"), ("seed: '=3' is not a whole number",)),
        ((*RUN, "~seed"), ("seed: a value is needed",)),
        ((*RUN, "seed=99999999999999999999"), ("too large",)),
        ((*RUN, "+evaluation.nope=1"), ("evaluation: unknown key 'nope'",)),
        ((*RUN, "+hardware.nope=1"), ("hardware: unknown key 'nope'",)),
        ((*RUN, "+scale.nope=1"), ("scale: unknown key 'nope'",)),
        ((*RUN, "recipe.stages.dense.length=1.5it"), ("'1.5it' is no length",)),
        ((*RUN, f"recipe.stages.dense.length={'9' * 5000}it"), ("is no length",)),
        (("explain", "recipe=one_shot", "--config-dir", "~/nope"), ("nope is no folder",)),
        (("list", "--config-dir", "/nope"), ("/nope is no folder",)),
        (("store", "--prune", "--older-than", "nan"), ("--older-than",)),
    ],
    ids=lambda v: " ".join(v)[-60:] if isinstance(v, tuple) else None,
)
def test_bad_input_is_one_line(given: tuple[str, ...], words: tuple[str, ...], command: Command) -> None:
    one_line(command(*given), *words)


def test_run_says_its_own_version(command: Command) -> None:
    import compressbench

    assert command("run", "--version").stdout.strip() == f"compressbench {compressbench.__version__}"


def test_explain_takes_what_run_takes(command: Command, tmp_path: Path) -> None:
    (tmp_path / "itsstages.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    def apply(self, state, bench):\n"
        "        return state\n    def describe(self):\n        return 'mine alone'\n"
    )
    mine = "+recipe.stages.mine={_target_: itsstages.Mine}"
    done = command("explain", "recipe=one_shot", "--config-dir", str(tmp_path), mine, "trust=[itsstages]")
    assert done.returncode == 0, done.stderr
    assert "mine alone" in done.stdout
    shown = command("explain", "one_shot", "~recipe.compare.series.random")
    assert shown.returncode == 0, shown.stderr
    assert "random (final)" not in shown.stdout


def test_a_home_is_found_everywhere(command: Command, tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    weights = LeNet300100(shape=[1, 8, 8], classes=10).state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, home / "epoch=3-step=1.safetensors")
    done = command(*RUN, "outputs=~/out", "recipe.stages.dense.checkpoint=~/epoch=3-step=1.safetensors")
    assert done.returncode == 0, done.stderr
    (run,) = (home / "out/runs").iterdir()
    config = str(home / "out")
    assert command("report", "~/out/runs", "--output=~/page").returncode == 0
    assert (home / "page/report.html").is_file()
    assert not (tmp_path / "~").exists()
    done = command(
        "export", f"~/out/runs/{run.name}", "--state", "dense", "--to", "safetensors", "--output=~/x"
    )
    assert done.returncode == 0, done.stderr
    assert (home / "x/dense.safetensors").is_file()
    assert config not in (home / "page/report.html").read_text()
    (rows,) = {r.overrides for r in read_jsonl(run / "records.jsonl")}
    assert "epoch=3-step=1.safetensors" in rows
    assert "~" not in rows


# nets and weights


NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))

    def forward(self, x):
        return self.body(x)

class Kept(Net):
    def forward(self, x):
        h = self.body[1](x.flatten(1)).sigmoid()
        y = h * h
        h += 1
        return self.body[4](y)
"""


def test_a_training_that_can_t_go_names_layer_reason_and_way_out(command: Command, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    own = ("trust=[nets]", "~model.build", "+model.build={_target_: nets.Net, outputs: '@classes'}")
    one_line(
        command(*RUN, *own, "recipe.stages.dense.batch_size=1"),
        "stage dense: the forward of a training batch of 1 fails: body.2 (BatchNorm1d): Expected more than 1 value",
        "set batch_size to 2 or more",
    )
    own = ("trust=[nets]", "~model.build", "+model.build={_target_: nets.Kept, outputs: '@classes'}")
    one_line(command(*RUN, *own), "stage dense: no gradient could be taken", "inplace operation")


def test_weights_without_dense_values(command: Command, tmp_path: Path) -> None:
    weights = LeNet300100(shape=[1, 8, 8], classes=10).state_dict()
    torch.save({k: v.to_sparse() for k, v in weights.items()}, tmp_path / "sparse.pt")
    torch.save({k: v.to("meta") for k, v in weights.items()}, tmp_path / "meta.pt")
    one_line(command(*RUN, "model.weights=sparse.pt"), "sparse.pt holds a torch.sparse_coo tensor")
    one_line(command(*RUN, "recipe.stages.dense.checkpoint=meta.pt"), "holds no values (a meta tensor)")


def test_too_little_memory_is_said(command: Command, monkeypatch) -> None:
    def asks(*_: object) -> None:
        raise MemoryError("Unable to allocate 9 EiB")

    monkeypatch.setattr("compressbench.cli.catalog.main", asks)
    one_line(command("list"), "not enough memory (Unable to allocate 9 EiB)")
    one_line(command(*RUN, "dataset.augment.pad=99999999"), "not enough memory")


# arms


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([[f"{PRUNE}=random"], [f"{PRUNE}=lamp"], []], ["random", "lamp", ""]),
        ([["a.lr=1", "x=2"], ["a.lr=2", "x=2"]], ["lr=1", "lr=2"]),
        ([["a.b.lr=1", "c.lr=3"], ["a.b.lr=2", "c.lr=4"]], ["b.lr=1, c.lr=3", "b.lr=2, c.lr=4"]),
        ([["scope@a.scope=layer"], ["grain@a.grain=layer"]], ["scope=layer", "grain=layer"]),
        ([["scope@a.scope=layer", "n=1"], ["scope@a.scope=erk", "n=2"]], ["layer, n=1", "erk, n=2"]),
        ([["~a.floor"], ["+a.floor=1"]], ["without floor", "floor=1"]),
        ([["x@a.x=null"], ["x@a.x=deep/one"]], ["x=null", "one"]),
    ],
)
def test_arms_are_called_by_what_differs(settings, names) -> None:
    assert naming.arms(settings) == names


def test_told_leaves_out_what_has_a_column() -> None:
    given = [
        "recipe=a",
        "model=b",
        "seed=1",
        "outputs=/tmp",
        "hydra.x=1",
        "hydra/launcher=joblib",
        "trust=[m]",
    ]
    kept = ["model.build.width=4", f"{PRUNE}=lamp", "r.fractions=[0.5, 0.9]", "d.root='/home/me/a=b/pic'"]
    text = overrides.told([*given, *kept])
    assert overrides.parted(text) == (*kept[:3], "d.root=…/pic")
    assert overrides.parted("'open") == ("'open",)


def arm(value: float, given: str, seed: int = 0) -> list:
    rows = accuracies("dense", 0, 1.0, {seed: 90.0}, overrides=given)
    rows += accuracies("plain", 1, 0.5, {seed: 70.0}, overrides=given)
    return rows + accuracies("ticket", 1, 0.5, {seed: value}, key=f"k{value}", overrides=given)


def test_a_sweep_s_series_are_named_by_what_differs_and_records_tell_the_arms(tmp_path: Path) -> None:
    for place, (value, given) in enumerate(
        [(80.0, f"{PRUNE}=random"), (60.0, f"{PRUNE}=lamp"), (50.0, f"{PRUNE}=snip")]
    ):
        (tmp_path / str(place)).mkdir()
        write_jsonl(arm(value, given), tmp_path / str(place) / "records.jsonl")
    gathered = gather([tmp_path])
    (panel,) = panels(gathered.drawn)
    assert [s.label for s in panel.dense.values()] == ["dense"]
    assert {s.label for s in panel.series} == {"lth: plain", "random: ticket", "lamp: ticket", "snip: ticket"}
    assert gathered.records.where(overrides=f"{PRUNE}=lamp", series="ticket").values() == [60.0]
    assert len(gathered.records) == 9
    write_jsonl(gathered.records, tmp_path / "all.jsonl")
    (panel,) = panels(gather([tmp_path / "all.jsonl"]).drawn)
    assert {s.label for s in panel.series} == {"lth: plain", "random: ticket", "lamp: ticket", "snip: ticket"}


def test_with_several_recipes_their_names_stay(tmp_path: Path) -> None:
    rows = [*arm(80.0, "a.times=2"), *arm(60.0, "a.times=6"), record(recipe="other", series="s", order=1)]
    write_jsonl(rows, tmp_path / "records.jsonl")
    (panel,) = panels(gather([tmp_path]).drawn)
    assert {"lth, times=2: ticket", "lth, times=6: ticket", "other: s"} <= {s.label for s in panel.series}


def test_an_arm_keeps_points_that_another_has_as_well(tmp_path: Path) -> None:
    shared = {"order": 1, "density": 0.5, "key": "same"}
    rows = []
    for given, last in (("a.to=1", 40.0), ("a.to=2", 30.0)):
        rows += [record(overrides=given), record(series="ticket", value=70.0, overrides=given, **shared)]
        rows += accuracies("ticket", 2, 0.2, {0: last}, key=given, overrides=given)
    write_jsonl(rows, tmp_path / "records.jsonl")
    (panel,) = panels(gather([tmp_path]).drawn)
    assert {s.label: len(s.at("final")) for s in panel.series} == {"to=1: ticket": 2, "to=2: ticket": 2}


def test_a_run_s_records_carry_its_overrides(command: Command, tmp_path: Path) -> None:
    assert command(*RUN, "seed=3").returncode == 0
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    expected = (
        "evaluation=none probe@evaluation.probes.accuracy=accuracy recipe.length=1it recipe.compare.floor=false "
        "'recipe.fractions=[0.5]'"
    )
    assert {r.overrides.replace("+", "") for r in read_jsonl(folder / "records.jsonl")} == {expected}
    assert "overrides" in (folder / "records.csv").read_text().splitlines()[0]


def test_records_of_schema_1_are_read_and_others_are_not(tmp_path: Path) -> None:
    write_jsonl([record()], tmp_path / "records.jsonl")
    row = json.loads((tmp_path / "records.jsonl").read_text())
    assert row["schema"] == 2
    del row["overrides"]
    (tmp_path / "old.jsonl").write_text(json.dumps({**row, "schema": 1}) + "\n")
    assert read_jsonl(tmp_path / "old.jsonl").rows == (record(),)
    for schema in (3, 0, True, "1", None):
        (tmp_path / "odd.jsonl").write_text(json.dumps({**row, "schema": schema}) + "\n")
        with pytest.raises(UserError, match="this version reads 1 to 2"):
            read_jsonl(tmp_path / "odd.jsonl")


# progress


def test_time_left_is_what_is_expected_corrected_by_what_pieces_take() -> None:
    left = Left(
        {("a", "train"): 10.0, ("b", "train"): 10.0, ("b", "measure x"): None, ("c", "measure x"): None}
    )
    assert left.words() == "at least 20 s left"
    assert left.begin(("a", "train")) == "[1/4]"
    assert left.words(elapsed=4.0) == "at least 16 s left"
    assert left.words(elapsed=4.0, share=0.25) == "at least 22 s left"  # 4 s a quarter: 12 s more, and b's 10
    left.end(("a", "train"), 20.0)
    assert left.begin(("b", "train")) == "[2/4]"
    assert left.words() == "at least 20 s left"  # trainings take twice what was thought
    left.end(("b", "train"), 20.0)
    left.begin(("b", "measure x"))
    left.end(("b", "measure x"), 180.0)
    assert left.words() == "about 3 min left"  # as long as the same probe took
    assert left.begin(("c", "measure x")) == "[4/4]"
    left.end(("c", "measure x"), 1.0)
    assert left.begin(("c", "again")) == "[5/5]"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "1 s"), (89, "89 s"), (91, "2 min"), (7200, "2 h"), (400000, "5 days")]
)
def test_durations_in_short(seconds: float, text: str) -> None:
    assert shortly(seconds) == text


def test_piped_output_has_a_line_a_state_with_the_time_left(command: Command) -> None:
    done = command(*RUN)
    found = re.findall(r"^\[(\d+)/(\d+)\] (\S+): (.*)$", done.stdout, re.M)
    assert [name for _, _, name, words in found if not words.startswith("measure")] == [
        "init",
        "dense",
        "magnitude_0p5.prune",
        "magnitude_0p5.finetune",
        "random_0p5.prune",
        "random_0p5.finetune",
    ]
    assert [words.startswith("measure") for *_, words in found].count(True) == 4
    assert {int(total) for _, total, _, _ in found} == {10}  # six states; four of them are measured
    told = [words for *_, words in found]
    assert all(re.search(r", (about|at least) \d+ s left$", words) for words in told[3:-1]), told


def test_the_live_line_fits_60_columns_and_says_the_time_left() -> None:
    shown = io.StringIO()
    terminal = Terminal(console(file=shown, force_terminal=True, width=60))
    piece = (
        "level12.with.a.very_long_name.retrain",
        "train 160ep (SGD, lr 0.1, batch 128), and on and on and on",
    )
    terminal.left = Left({piece: 120.0, ("x", "measure y"): 600.0})
    with terminal.working(*piece) as progress:
        progress.step(1200, 4000, loss=1.23456, lr=0.1)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert lines
    assert max(map(len, lines)) <= 60
    assert all(line.startswith("[1/2] level12.") for line in lines)
    assert re.search(r"about 1[0-2] min left", lines[0])
    assert "1200/4000" in lines[-1]
    assert os.linesep not in lines[-1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("recipe.length=2", "2 is not a text; a length has a unit, 2ep or 2it"),
        ("foo=1", "unknown key 'foo'"),
        ("recipe.nope=1", "(a key that is really new is added with +recipe.nope=…)"),
    ],
)
def test_what_newcomers_type_is_answered(command: Command, tmp_path: Path, given: str, words: str) -> None:
    done = command("run", "recipe=one_shot", "scale=smoke", given)
    assert done.returncode == 2
    assert words in done.stderr
    assert ("+" in done.stderr) == ("+" in words)
    assert not (tmp_path / "outputs").exists()


def test_options_are_whole_and_percentages_are_some(command: Command, tmp_path: Path) -> None:
    for args, words in (
        (("--max-byte", "3"), "unrecognized arguments: --max-byte 3"),
        (("--min-loyalty", "120"), "--min-loyalty: '120' is not a percentage, from 0 to 100"),
        (("--min-accuracy", "-1"), "--min-accuracy: "),
    ):
        done = command("gate", str(tmp_path), *args)
        assert done.returncode == 2
        assert words in done.stderr


def test_a_gate_on_a_net_at_chance_says_so(command: Command, tmp_path: Path) -> None:
    from dataclasses import replace

    from cases_report import full
    from compressbench.records import write_jsonl

    rows = [r for r in full(1) if r.moment == "final"]
    rows = [replace(r, value=r.value / 90 * 5) if r.metric == "top1" else r for r in rows]
    write_jsonl(rows, tmp_path / "records.jsonl")
    for verb, more in (("gate", ("--max-drop", "1")), ("advise", ())):
        done = command(verb, str(tmp_path), *more)
        assert "note: dense: Top-1" in done.stdout
        assert "no better than naming the commonest class" in done.stdout
    write_jsonl((r for r in full(1) if r.moment == "final"), tmp_path / "records.jsonl")
    assert "note: dense" not in command("gate", str(tmp_path), "--max-drop", "1").stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("run", "-m", "seed=0,1"), ("which recipe?", "recipe=lth_resnet")),
        (("run", "--retime"), ("which recipe?",)),
        (("run", "scale=smoke", "seed=1"), ("which recipe?",)),
        (("run", "sweep=null"), ("which recipe?",)),
        (("run", "recipe=null"), ("recipe=null: one name is wanted",)),
        (("run", "recipe="), ("recipe=: a name is missing", "compressbench list recipes")),
        (("run", "recipe=one_shot", "model="), ("model=: a name is missing", "compressbench list models")),
        (("run", "recipe=[one_shot]"), ("one name is wanted, recipe=NAME",)),
        (("run", "recipe=one_shot", "model={a: 1}"), ("one name is wanted, model=NAME",)),
        (("run", "~"), ("a name is missing after the ~",)),
        (("run", "~recipe"), ("~recipe: a run needs a recipe; recipe=NAME",)),
        (("run", "recipe=one_shot", "~scale"), ("~scale: a run needs a scale",)),
        (("run", "recipe=one_shot", "~a.b"), ("~a.b: there is no such setting",)),
        (("run", "recipe=one_shot", "+recipe=lth_lenet"), ("is chosen twice",)),
        (("explain",), ("explain: which recipe?", "explain recipe=lth_resnet")),
        (("explain", "scale=smoke"), ("explain: which recipe?",)),
        (("explain", "recipe="), ("a name is missing",)),
        (
            ("explain", "one_shot", "lth_lenet"),
            ("one recipe at a time, not recipe=one_shot and recipe=lth_lenet",),
        ),
        (("explain", "~"), ("which recipe?",)),
        (
            ("run", "recipe=one_shot", "stage/prune@recipe.stages.x=random"),
            (
                "the recipe has no stage/prune at recipe.stages.x; stage/prune is chosen at "
                "recipe.stages.magnitude.stages.prune, recipe.stages.random.stages.prune",
            ),
        ),
        (
            ("run", "recipe=one_shot", "stage/theseus@recipe.stages.x=blocks"),
            ("has no stage/theseus at recipe.stages.x; compressbench explain recipe=NAME",),
        ),
        (
            ("run", "recipe=one_shot", "stage/prunx@recipe.stages.magnitude.stages.prune=random"),
            ("there is no config group 'stage/prunx'", "stage/prune"),
        ),
        (("run", "recipe=one_shot", "hydra/launcher=nope"), ("known: basic",)),
        (("run", "recipe=one_shot", "model=lenet"), ("did you mean lenet_300_100 or lenet_5?",)),
        (("run", "recipe=zzzz"), (f"and {len(RECIPES) - 12} more (compressbench list recipes)",)),
        (("run", "recipe=one_shot", "-config-dir", "x"), ("-config-dir; did you mean --config-dir?",)),
        (("run", "recipe=one_shot", "--multi"), ("did you mean --multirun?",)),
        (("list", "-config-dir", "x"), ("did you mean --config-dir?",)),
        (("gate", "x", "--max-byte", "3"), ("did you mean --max-bytes?",)),
        ((*RUN, "recipe.stages.dense.length=0it"), ("'0it' trains nothing",)),
        ((*RUN, "recipe.stages.dense.length=0.0ep"), ("'0.0ep' trains nothing",)),
        ((*RUN, "recipe.stages.dense.length=0.001ep"), ("0.001ep is less than one of the",)),
        ((*RUN, "dataset.imbalance=1e308"), ("leaves the smallest empty",)),
        ((*RUN, "hydra.output_subdir=../x"), ("leads out of the run's folder",)),
        ((*RUN, "hydra.output_subdir='/x'"), ("leads out of the run's folder",)),
        ((*RUN, "-m", "hydra.sweep.subdir=a/../../x"), ("leads out of the run's folder",)),
        ((*RUN, "hydra.job.chdir=true"), ("leave it out",)),
    ],
    ids=lambda v: " ".join(v)[-60:] if isinstance(v, tuple) else None,
)
def test_what_is_missing_or_misplaced_is_said_with_what_would_be_right(
    given: tuple[str, ...], words: tuple[str, ...], command: Command, tmp_path: Path
) -> None:
    one_line(command(*given), *words)
    assert not (tmp_path.parent / "x").exists()


def test_from_python_too_a_run_begins_with_a_recipe(tmp_path: Path, monkeypatch) -> None:
    import compressbench

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape("which recipe?")):
        compressbench.run("scale=smoke")


def test_a_recipe_without_series_says_that_nothing_is_measured(command: Command) -> None:
    for given in ("recipe.compare=null", "~recipe.compare"):
        done = command(*RUN, given, "recipe.stages.magnitude=null", "recipe.stages.random=null")
        assert done.returncode == 0, done.stderr
        assert "nothing is measured or reported" in done.stdout
    assert "nothing is measured" not in command(*RUN).stdout


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("lenet", "did you mean lenet_300_100 or lenet_5?"),
        ("LENET", "did you mean lenet_300_100 or lenet_5?"),
        ("lenet_6", "did you mean lenet_5 or lenet_300_100?"),
        ("300", "did you mean lenet_300_100?"),
        ("q", "known: a, b, c, d, e, f, g, h, i, j, k, l and 2 more (see there)"),
        ("lenet_", "did you mean lenet_300_100 or lenet_5?"),
    ],
)
def test_near_is_what_begins_so_then_what_is_spelt_alike_then_what_holds_it(word: str, words: str) -> None:
    assert nearest(word, [*"abcdefghijkl", "lenet_5", "lenet_300_100"], rest="see there") == words


def test_no_help_shows_marks_of_markup(command: Command) -> None:
    for verb in (
        "list",
        "explain",
        "store",
        "gate",
        "advise",
        "timings",
        "report",
        "export",
        "calibrate",
        "data",
    ):
        done = command(verb, "--help")
        assert done.returncode == 0
        assert "``" not in done.stdout, verb


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 latencies"), (1, "1 latency"), (2, "2 latencies"), (1200, "1,200 latencies")]
)
def test_one_is_one(count: int, text: str) -> None:
    assert counted(count, "latency", "latencies") == text


def test_one_state_keeps_and_breaks_and_is_to_do(command: Command, tmp_path: Path) -> None:
    rows = accuracies("dense", 0, 1.0, {0: 90.0}) + accuracies("ticket", 1, 0.5, {0: 80.0})
    write_jsonl(rows, tmp_path / "records.jsonl")
    assert "the one state keeps to the limits" in command("gate", str(tmp_path), "--max-drop", "11").stdout
    assert "1 of 1 state breaks a limit" in command("gate", str(tmp_path), "--max-drop", "1").stdout
    done = command(
        *RUN, "recipe.stages.magnitude=null", "recipe.stages.random=null", "recipe.compare.series=null"
    )
    assert "to do: 2 states, 1 measurement; " in done.stdout
    assert "1 result " in command("store").stdout


def test_a_target_that_was_not_measured_says_how_it_is(command: Command, tmp_path: Path) -> None:
    write_jsonl(accuracies("dense", 0, 1.0, {0: 90.0}), tmp_path / "records.jsonl")
    for verb, more in (("advise", ()), ("gate", ("--max-latency", "3"))):
        one_line(
            command(verb, str(tmp_path), *more, "--target", "xnnpack"),
            "nothing was measured on 'xnnpack'",
            "+probe@evaluation.probes.targets=targets +target@evaluation.probes.targets.targets.xnnpack=xnnpack",
        )
        one_line(
            command(verb, str(tmp_path), *more, "--target", "phone"),
            "+probe@evaluation.probes.targets=targets",
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("recipe.stages.dense=[1]", "recipe.stages.dense: [1] can't take the place of"),
        ("trust={a: 1}", "trust: {a: 1} can't take the place of"),
        ("dataset=null", "dataset=null: one name is wanted"),
        ("model=5", "model=5: one name is wanted"),
        ("sweep=5", "sweep=5: one name is wanted"),
        ("scale.name=5", "scale.name: 5 is none of smoke, laptop, paper"),
        ("recipe.compare.series={a: 5}", "unknown key 'recipe.compare.series.a'"),
        ("recipe.compare.floor=abc", "recipe.compare.floor: 'abc' is neither true nor false"),
        ("recipe.compare.floor=1", "recipe.compare.floor: 1 is neither true nor false"),
        ("recipe.batch_size=null", "batch_size: null is not a whole number"),
        ("recipe.batch_size=true", "batch_size: true is not a whole number"),
        ("recipe.length=[1ep]", "length: ['1ep'] is not a text"),
        (f"recipe.batch_size=[{'1,' * 500}1]", "… is not a whole number"),
        (
            "+recipe.stages.dense.optimizer.nope=1",
            "optimizer torch.optim.SGD: unknown key 'nope'; known: dampening",
        ),
        ("recipe.name=${recipe.name}", "it refers to itself"),
        ("recipe.name=${oc.env:NOPE}", "Environment variable 'NOPE' not found"),
        ("recipe.name=${nope:1}", "there is no interpolation ${nope:…}"),
        ("recipe.name=${", "is no valid interpolation"),
        ("seed=null", "seed: null is not a whole number"),
        ("+evaluation=5", "one name is wanted"),
        ("evaluation=none,full", "are several names; one is wanted, and -m runs"),
        ("seed=1,2", "are several values; -m runs"),
        ("+seed=1", "+seed: there is one already; without the + it is changed"),
        ("++seed", "its value is missing: ++seed=…"),
    ],
    ids=lambda v: str(v)[:50],
)
def test_values_of_another_form_are_one_line_without_raw_words(
    given: str, words: str, command: Command
) -> None:
    done = command(*(w for w in RUN if w.partition("=")[0] != given.partition("=")[0]), given)
    one_line(done, words)
    for raw in ("object_type", "KeyError", "ValueError", "functools", "Error merging", "search path"):
        assert raw not in done.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--config-name", "nope"), "--config-name: there is no nope.yaml in"),
        (("--config-path", "nope"), "--config-path: leave it out"),
    ],
)
def test_configs_that_are_not_there(given: tuple[str, ...], words: str, command: Command) -> None:
    one_line(command("run", *given, "recipe=one_shot"), words)


BROKEN = {
    "syn": ("def (", "syn.py, line 1: no valid Python: "),
    "zero": ("1 / 0", "can't import zero.Net: ZeroDivisionError: division by zero"),
    "lacks": ("import nothing_like_this", "No module named 'nothing_like_this'"),
    "other": ("from torch import nn", "other has no 'Net'; known: nn"),
}
FAILS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, fail):
        super().__init__()
        self.fail = fail
        if fail == "build":
            {}["key"]
        self.last = nn.Linear(64, 10**11 if fail == "large" else 10)

    def forward(self, x):
        if self.fail == "key":
            {}["key"]
        if self.fail == "asks":
            x.new_zeros(10**13)
        if self.fail == "leaves":
            raise SystemExit(3)
        if self.fail == "says nothing":
            raise RuntimeError
        return self.last(x.flatten(1))
"""


@pytest.mark.parametrize("module", BROKEN)
def test_a_module_that_can_t_be_imported_says_why(module: str, command: Command, tmp_path: Path) -> None:
    text, words = BROKEN[module]
    (tmp_path / f"{module}.py").write_text(text + "\n")
    build = f"+model.build={{_target_: {module}.Net}}"
    one_line(command(*RUN, f"trust=[{module}]", "~model.build", build), words)


@pytest.mark.parametrize(
    ("fail", "code", "words"),
    [
        ("build", 2, "can't build failing.Net: KeyError: 'key'"),
        ("large", 2, "can't build failing.Net: not enough memory for 25,600 GB"),
        ("key", 2, "can't take digits's images (1, 8, 8): KeyError: 'key'"),
        ("asks", 2, "images (1, 8, 8): not enough memory for 40,000 GB"),
        ("says nothing", 2, "images (1, 8, 8): RuntimeError"),
        ("leaves", 1, "code of yours ended the process (SystemExit: 3)"),
    ],
)
def test_a_net_that_fails_says_how(
    fail: str, code: int, words: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "failing.py").write_text(FAILS)
    done = command(
        *RUN, "trust=[failing]", "~model.build", f"+model.build={{_target_: failing.Net, fail: {fail}}}"
    )
    assert done.returncode == code
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr


def test_an_imbalance_beyond_all_numbers_prints_no_warning(recwarn) -> None:
    """10 * 1e308 is more than a float holds: that class bounds nothing, the first one does."""
    import numpy as np

    from compressbench.data.splits import long_tail

    assert long_tail(np.array([10, 10]), 1e308).tolist() == [10, 0]
    assert not recwarn.list
