"""What is read is never trusted: run folders, store files, names, texts. Each test plants what once went through."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from cases_report import full
from compressbench import specs
from compressbench.cli.run import composed
from compressbench.errors import UserError
from compressbench.records import write_csv, write_jsonl
from compressbench.report.page import write_report
from compressbench.runs.experiment import prepare
from compressbench.specs import trust
from compressbench.state import State
from compressbench.store import Store
from conftest import Command

SMALL = ["recipe=one_shot", "scale=smoke", "recipe.fractions=[0.5]", "evaluation=quick"]
HOSTILE = "\x1b]0;owned\x07\x9b31m[/b]\u202e=1+1<script>alert(1)</script>"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def planted(tmp_path: Path, **changes: Any) -> Path:
    """A run's folder with a config of ours in which something was changed, beside an empty store."""
    config = composed([*SMALL, f"outputs={tmp_path}"])
    for name, value in changes.items():
        *way, last = name.split("__")
        place = config
        for step in way:
            place = place[step]
        place[last] = value
    Store(tmp_path / "store")
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return run


def refused(done: Any, words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("compressbench: ")


# --- A 1: a run's folder is data


@pytest.mark.parametrize("verb", ["export", "advise"])
def test_a_run_folder_runs_no_code(command: Command, tmp_path: Path, verb: str) -> None:
    mark = tmp_path / "mark"
    read = {"_target_": "os.system", "command": f"touch {mark}"}
    run = planted(tmp_path, trust=["os"], dataset__read=read)
    write_jsonl([r for r in full(1) if r.moment == "final"], run / "records.jsonl")
    args = (
        ["--state", "dense", "--to", "onnx"]
        if verb == "export"
        else ["--export", "onnx", "--max-bytes", "99999"]
    )
    refused(command(verb, str(run), *args), "target os.system is not allowed")
    assert not mark.exists()


def test_trust_is_given_on_the_command_line_or_in_ones_own_configs(command: Command, tmp_path: Path) -> None:
    (tmp_path / "ownnet.py").write_text(
        "from torch import nn\nfrom os import system\n\n"
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(1, 1)\n"
    )
    run = planted(tmp_path, trust=["ownnet"], model__build={"_target_": "ownnet.Net"})
    export = ("export", str(run), "--state", "dense", "--to", "onnx")
    refused(command(*export), "target ownnet.Net is not allowed")
    refused(
        command(*export, "--trust", "ownnet"), "not in"
    )  # the store is empty: trusted, and nothing is there
    mine = tmp_path / "mine" / "model"
    mine.mkdir(parents=True)
    (mine / "own.yaml").write_text("# @package _global_\ntrust: [ownnet]\nmodel: {name: own}\n")
    refused(command(*export, "--config-dir", str(tmp_path / "mine")), "not in")
    refused(command(*export, "--trust", "os; rm"), "no import prefix")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset__licence": "${oc.env:HOME}"}, "an interpolation"),
        ({"recipe__name": "${oc.env:HOME}"}, "an interpolation"),
        ({"recipe__name": "../../out"}, "is no name"),
        ({"hardware__target": {"_target_": "compressbench.data.idx.digits"}}, "can't stand here"),
        ({"model__build": {"_target_": "compressbench.probes.cost.Cost"}}, "can't stand here"),
        ({"dataset__read": {"_target_": "compressbench.data.download.fetch"}}, "it is a tool"),
        (
            {
                "dataset__read": {
                    "_target_": "compressbench.data.download.fetch",
                    "published": 1,
                    "data_dir": "/",
                    "report": 1,
                }
            },
            "it is a tool",
        ),
        ({"seed": "../x"}, "is not a whole number"),
        ({"hardware": None}, "is no mapping"),
        ({"scale__name": "mine"}, "unknown 'mine'"),
    ],
)
def test_a_run_folder_is_plain_data(command: Command, tmp_path: Path, change: Any, words: str) -> None:
    run = planted(tmp_path, **change)
    refused(command("export", str(run), "--state", "dense", "--to", "onnx"), words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\noutputs: x\nrecipe: {}\n", "holds an alias"),
        ("- 1\n", "not a run's config"),
        ("outputs: [\n", "can't be read"),
        ("!!python/object/apply:os.system ['true']\n", "can't be read"),
        ("recipe: ???\noutputs: x\n", "can't be read"),
    ],
)
def test_a_run_folders_yaml_is_plain(command: Command, tmp_path: Path, text: str, words: str) -> None:
    run = planted(tmp_path)
    (run / "config.yaml").write_text(text)
    refused(command("export", str(run), "--state", "dense", "--to", "onnx"), words)


def test_nothing_nested_in_a_probe_fetches_or_writes(command: Command, tmp_path: Path) -> None:
    source, goal = tmp_path / "payload", tmp_path / "goal"
    source.write_text("x")
    of = "compressbench.data.published."
    fetch = {
        "_target_": "compressbench.data.download.fetch",
        "published": {
            "_target_": f"{of}Published",
            "name": "x",
            "licence": "x",
            "files": [{"_target_": f"{of}Content", "name": "zz", "md5": "0"}],
            "folders": [str(goal)],
            "downloads": [
                {
                    "_target_": f"{of}Download",
                    "url": f"file://{source}",
                    "md5": md5(b"x").hexdigest(),
                    "content": "zz",
                }
            ],
        },
        "data_dir": "/",
        "report": {"_target_": f"{of}Download", "_partial_": True},
    }
    probe = {"_target_": "compressbench.probes.targets.Targets", "targets": {"x": fetch}}
    run = planted(tmp_path, evaluation__probes={"t": probe})
    refused(command("export", str(run), "--state", "dense", "--to", "onnx"), "fetch is not allowed")
    assert not goal.exists()


def test_a_config_dir_around_or_in_a_run_doesnt_let_the_run_trust_itself(
    command: Command, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    read = {"_target_": "subprocess.check_output", "args": f"touch {mark}", "shell": True}
    run = planted(tmp_path, trust=["subprocess"], dataset__read=read)
    (run / "model").mkdir()
    (run / "model" / "own.yaml").write_text("trust: [subprocess]\n")
    (run / ".hydra").mkdir()
    (run / ".hydra" / "config.yaml").write_text("trust: [subprocess]\n")
    export = ("export", str(run), "--state", "dense", "--to", "onnx", "--config-dir")
    for around in (tmp_path, tmp_path / "runs"):
        refused(command(*export, str(around)), "subprocess.check_output is not allowed")
    for inside in (run, run / "model"):
        refused(command(*export, str(inside)), "trusts nobody")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["states", "results", "checkpoints", "plans", "locks", "aside"])
def test_a_store_whose_folder_is_a_link_is_refused(command: Command, tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    Store(tmp_path / "o" / "store")
    place = tmp_path / "o" / "store" / name
    place.rmdir()
    place.symlink_to(precious)
    refused(command("store", "--prune", "--older-than", "0", "--outputs", str(tmp_path / "o")), "is a link")
    refused(command("run", *SMALL, f"outputs={tmp_path / 'o'}"), "is a link")
    assert (precious / "file").read_text() == "x"


def test_links_in_a_store_lead_nothing_outside(tmp_path: Path) -> None:
    import torch

    from compressbench.store import save_checkpoint

    store = Store(tmp_path / "store")
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("precious")
    folder.mkdir()
    (store.root / "locks" / "k").symlink_to(victim)
    with store.lock("k"):
        assert victim.read_text() == "precious"
    (store.root / "checkpoints" / "k").symlink_to(folder)
    save_checkpoint(store.checkpoints("k"), {"weights/a": torch.ones(2)}, {"step": 1})
    (store.root / "plans" / "folder").mkdir()
    for name in ("aside", "plans", "locks", "states", "results"):
        (store.root / name / "link").symlink_to(folder)
    store.prune(0)
    assert list(folder.iterdir()) == []
    assert folder.is_dir()
    assert list((store.root / "plans").iterdir()) == []


def test_a_run_folder_leads_nowhere_by_links(command: Command, tmp_path: Path) -> None:
    secret = tmp_path / "secret.yml"
    secret.write_text("recipe: gho_SECRET\noutputs: x\n- gho_SECRET\n")
    rows = [r for r in full(1) if r.moment == "final"]
    runs = [planted(tmp_path / n) for n in ("a", "b")]
    for run in runs:
        write_jsonl([replace(r, seed=runs.index(run)) for r in rows], run / "records.jsonl")
        (run / "config.yaml").unlink()
        (run / "config.yaml").symlink_to(secret)
        (run / ".hydra").mkdir()
        (run / ".hydra" / "overrides.yaml").symlink_to(secret)
    assert command("report", str(runs[0])).returncode == 0
    assert command("report", *map(str, runs), "--output", str(tmp_path / "joint")).returncode == 0
    for page in (runs[0] / "report.html", tmp_path / "joint" / "report.html"):
        assert "gho_SECRET" not in page.read_text(encoding="utf-8")
    (runs[0] / ".hydra" / "overrides.yaml").unlink()
    import os

    os.mkfifo(runs[0] / ".hydra" / "overrides.yaml")  # reading it would never end
    assert command("report", *map(str, runs), "--output", str(tmp_path / "joint")).returncode == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = planted(tmp_path / "c")
    for name in ("export", "timings"):
        (run / name).symlink_to(elsewhere)
    write_jsonl(rows, run / "records.jsonl")
    (tmp_path / "t.csv").write_text("state,batch,ms\ndense,1,2.5\n")
    refused(
        command("timings", "import", str(tmp_path / "t.csv"), "--run", str(run), "--device", "phone"),
        "is a link",
    )
    refused(command("export", str(run), "--state", "dense", "--to", "onnx"), "")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("https://creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/licenses/by/4.0/"),
        ("50 / 10 / 2 %", "50 / 10 / 2 %"),
        ("docs/records.md, ../x/y, 3/4", "docs/records.md, ../x/y, 3/4"),
        ("/home/jane doe/my net.pt", "…/my net.pt"),
        ("outputs=/home/jane/o", "outputs=…/o"),
        ("-I/home/bob/inc |/home/bob/x ;/home/bob/y @/home/bob/k “/home/bob/z” <b>/home/bob/w",
         "-I…/inc |…/x ;…/y @…/k “…/z” <b>…/w"),
        ("\\\\srv\\bob\\x", "…/x"),
        ("~/data", "…"),
        ("see ~jane/nets/a.pt", "see …/a.pt"),
        ("file:///home/bob/x", "…/x"),
        ("take the weights of /root/a/b.pt", "take the weights of …/b.pt"),
    ],
)  # fmt: skip
def test_paths_are_left_out_and_nothing_else(text: str, published: str) -> None:
    from compressbench.paths import nameless

    assert nameless({"a": [text]}) == {"a": [published]}


def test_a_card_is_text(tmp_path: Path) -> None:
    from compressbench.deploying.card import _line

    assert _line("[a](javascript:b) ![p](&#47;x) <i> `c` *d* one_shot\n# x") == (
        "\\[a\\](javascript:b) \\!\\[p\\](\\&#47;x) &lt;i> \\`c\\` \\*d\\* one_shot\\\\n# x"
    )


def test_a_run_folder_names_no_store_elsewhere(command: Command, tmp_path: Path) -> None:
    run = planted(tmp_path / "here", outputs=str(tmp_path / "there"))
    shutil.rmtree(tmp_path / "here" / "store")
    refused(command("export", str(run), "--state", "dense", "--to", "onnx"), "no store in a folder above it")
    assert not (tmp_path / "there").exists()


# --- A 1, 2: the gate


@pytest.mark.parametrize(
    "target",
    [
        "compressbench.hardware.torch_integers.import_module",
        "compressbench.hardware.target.os",
        "compressbench.training.loop.json",
        "compressbench.models.build.specs",
        "compressbench.models.external.importlib",
        "compressbench.specs.build",
        "compressbench.cli.main.run",
        "compressbench.models.nowhere.Net",
        "compressbench.data.download.fetch",
        "compressbench.data.published.Published",
        "compressbench.data.published.Download",
        "compressbench.data.cifar.unpack",
        "compressbench.models.checkpoint.read_weights",
        "compressbench.hardware.memory.peak_bytes",
        "compressbench.hardware.energy.joules_of",
        "compressbench.hardware.openvino_cpu.compile_model",
        "torch.nn.modules.module.warnings",
        "torch.nn.functional.importlib",
        "torch.nn.functional.boolean_dispatch",
        "torch.nn.functional.Tensor",
        "torch.nn.parallel.distributed.os",
        "torch.nn.init.torch",
        "torch.nn.utils.parametrize.copyreg",
        "torch.optim.lr_scheduler.StepLR",
        "torch.optim.optimizer.defaultdict",
        "torch.hub.load",
        "torch.load",
        "os.system",
        "system",
        "compressbench..x",
        "torch.nn._reduction.warnings",
        "",
    ],
)
def test_the_gate_lets_nothing_through_that_is_only_imported_there(target: str) -> None:
    with pytest.raises(UserError):
        trust.locate(target)
    with pytest.raises(UserError):
        specs.build({"_target_": target, "name": "x"})


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.Linear",
        "torch.nn.modules.linear.Linear",
        "torch.nn.init.xavier_uniform_",
        "torch.nn.functional.gelu",
        "torch.nn.functional.relu",
        "torch.nn.functional.max_pool2d",
        "torch.optim.SGD",
        "compressbench.criteria.magnitude.magnitude",
    ],
)
def test_the_gate_lets_through_what_a_config_is_made_of(target: str) -> None:
    assert callable(trust.locate(target))


def test_every_target_that_ships_passes_the_gate() -> None:
    found = set()
    for path in trust.Path(__file__).parents[1].joinpath("conf").rglob("*.yaml"):
        found |= set(re.findall(r"_target_: *([\w.]+)", path.read_text(encoding="utf-8")))
    found -= {"compressbench.cli.run.JointReport"}  # Hydra's own callback
    assert len(found) > 100
    for target in found:
        trust.check_target(target)


def test_below_a_trusted_prefix_only_what_is_defined_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "trustedpack"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from trustedpack.inner import own\nimport os\nfrom os import system\n"
    )
    (package / "inner.py").write_text(
        "import functools\n\ndef own():\n    return 7\n\nbound = functools.partial(own)\n"
    )
    for target in ("trustedpack.own", "trustedpack.inner.own"):
        trust.check_target(target, ["trustedpack"])
        assert trust.locate(target)() == 7
    for target in (
        "trustedpack.system",
        "trustedpack.os",
        "trustedpack.inner.functools",
        "trustedpack.inner.bound",
    ):
        trust.check_target(target, ["trustedpack"])
        with pytest.raises(UserError, match=r"defined in|no function or class"):
            trust.locate(target)
    trust.check_target("trustedpack.own", ["trustedpack"])
    with pytest.raises(UserError, match="not allowed"):
        trust.check_target("trustedpackage.own", ["trustedpack"])
    with pytest.raises(UserError, match="not allowed"):  # what no gate let pass isn't even imported
        trust.locate("antigravity.webbrowser")
    for wrong in ("os", ["a b"], ["a."], [""], 3):
        with pytest.raises(UserError, match="trust"):
            trust.prefixes(wrong)


@pytest.mark.parametrize(
    "name",
    ["hf.folder", "hub.files_of", "hub.config_of", "hub.offline", "unpacking.main", "unpacking.archive"],
)
def test_a_state_names_nothing_that_works_on_folders(name: str) -> None:
    with pytest.raises(UserError, match=r"can't stand in a state|no part of a recipe"):
        trust.check_target(f"compressbench.models.{name}", parts=trust.IN_A_STATE)
    trust.check_target("compressbench.models.hf.HuggingFace", parts=trust.IN_A_STATE)
    trust.check_target("compressbench.models.hf.folder")


def test_what_moved_is_found_where_it_is_now_and_keeps_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "compressbench.criteria.first.magnitude", "compressbench.criteria.magnitude.magnitude"
    with pytest.raises(UserError):
        trust.locate(old)
    monkeypatch.setattr(trust, "MOVED", {old: new})
    trust.check_target(old)
    assert trust.locate(old) is trust.locate(new)
    spec = {"stages": [{"_target_": new, "_partial_": True, "note": new}]}
    assert trust.as_first_named(spec) == {"stages": [{"_target_": old, "_partial_": True, "note": new}]}
    monkeypatch.setattr(trust, "MOVED", {"compressbench.models.old.Net": "os.system"})
    with pytest.raises(UserError, match="not allowed"):
        trust.check_target("compressbench.models.old.Net")


@pytest.mark.parametrize(
    "target",
    [
        "compressbench.hardware.torch_integers.import_module",
        "compressbench.probes.cost.Cost",
        "compressbench.hardware.memory.peak_bytes",
        "os.system",
        "torch.nn.functional.importlib",
    ],
)
@pytest.mark.parametrize("part", ["model", "edits", "policies"])
def test_a_store_file_runs_no_code(command: Command, tmp_path: Path, target: str, part: str) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').write('x')\n")
    run = planted(tmp_path)
    ready = prepare(composed([*SMALL, f"outputs={tmp_path}"]))
    node = ready.plan.node("dense")
    hostile: Any = {"_target_": target, "name": "evil", "command": f"touch {tmp_path / 'mark'}"}
    state = State({"_target_": "torch.nn.Identity"}, {"weights": {}}, facts={"density": 1.0, "macs": 0})
    state = replace(
        state, **{part: hostile if part == "model" else (hostile,) if part == "edits" else {"exit": hostile}}
    )
    ready.store.save(node.key, state, {"name": "dense", "seed": 0, "parent": ready.plan.node("init").key})
    done = command("export", str(run), "--state", "dense", "--to", "safetensors")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "mark").exists()


# --- A 3: nothing is written outside


@pytest.mark.parametrize(
    "given",
    ["recipe.name='../../../x'", "recipe.name=null", "recipe.name=''", "recipe.name=[a]", "recipe.name='a\nb'",
     "recipe.name='.hidden'", "recipe.name=5", "outputs=", "outputs=null", "outputs=[a]", "seed=../../x", "seed=-1"],
)  # fmt: skip
def test_names_are_names(command: Command, tmp_path: Path, given: str) -> None:
    refused(command("run", *SMALL, given), given.partition("=")[0])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_environment_variable_is_no_folder(command: Command, tmp_path: Path) -> None:
    refused(command("run", *SMALL, COMPRESSBENCH_OUTPUTS=""), "COMPRESSBENCH_OUTPUTS")
    refused(command("store", COMPRESSBENCH_OUTPUTS=""), "COMPRESSBENCH_OUTPUTS")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_run_leaves_no_folder(command: Command, tmp_path: Path) -> None:
    refused(command("run", *SMALL, "recipe.stages.dense.lr=-1"), "lr")
    assert not (tmp_path / "outputs" / "runs").exists()


# --- A 4: terminals, pages, spreadsheets


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every name is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [
        replace(
            r,
            recipe=r.recipe + HOSTILE,
            model=r.model + HOSTILE,
            series=r.series if r.series in ("dense", "floor") else r.series + HOSTILE,
            state=r.state + HOSTILE,
            group=r.group and r.group + HOSTILE,
            hardware=r.hardware + HOSTILE,
            note=r.note and r.note + HOSTILE,
            machine=r.machine + HOSTILE,
        )
        for r in full(1)
    ]
    write_jsonl(rows, folder / "records.jsonl")
    return folder


@pytest.mark.parametrize(
    "args",
    [("gate", "--max-drop", "1"), ("report",), ("advise",), ("gate", "--max-drop", "1", "--state", HOSTILE)],
)
def test_nothing_steers_the_terminal(
    command: Command, hostile: Path, tmp_path: Path, args: tuple[str, ...]
) -> None:
    more = ("--output", str(tmp_path / "report")) if args[0] == "report" else ()
    done = command(args[0], str(hostile), *args[1:], *more)
    assert done.returncode in (0, 1, 2)
    assert "a fault in compressbench" not in done.stderr
    assert not STEERING.search(done.stdout + done.stderr)
    assert "\\x1b" in done.stdout + done.stderr
    assert "[/b]" in done.stdout + done.stderr


def test_pages_and_charts_are_well_formed(hostile: Path, tmp_path: Path) -> None:
    from compressbench.report.joint import gather

    write_report(gather([hostile]).drawn, tmp_path, HOSTILE, HOSTILE)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)
    drawn = list(tmp_path.glob("*.svg"))
    assert len(drawn) > 3
    for chart in drawn:
        ElementTree.fromstring(chart.read_text(encoding="utf-8"))


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    rows = [replace(r, series="=1+1", note="-2+3", group="+x", state="@a", value=-1.5) for r in full(1)[:3]]
    write_csv(rows, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [(r["series"], r["note"], r["group"], r["state"], r["value"]) for r in read] == [
        ("'=1+1", "'-2+3", "'+x", "'@a", "-1.5")
    ] * 3


def test_what_is_published_names_no_folder_of_the_machine(command: Command, tmp_path: Path) -> None:
    pictures = tmp_path / "jane" / "secret"
    quick = (
        "model=lenet_300_100",
        "recipe.length=2it",
        "recipe.finetune=1it",
        "evaluation=none",
        "+probe@evaluation.probes.accuracy=accuracy",
        "recipe.compare.floor=false",
    )
    done = command("run", *SMALL, *quick, f"outputs={pictures}", "data_dir=/home/jane/data")
    assert done.returncode == 0, done.stderr
    (run,) = (pictures / "runs").iterdir()
    for form in ("torch_export", "onnx", "safetensors"):
        done = command("export", str(run), "--state", "dense", "--to", form)
        assert done.returncode == 0, done.stderr
    here = str(Path(trust.__file__).parents[2])
    published = [run / "report.html", run / "records.jsonl", *(run / "export").iterdir()]
    assert len(published) == 8
    for path in published:
        content = path.read_bytes()
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                content += b"".join(archive.read(name) for name in archive.namelist())
        for word in ("jane", here, "site-packages", str(tmp_path)):
            assert word.encode() not in content, f"{path.name} holds {word}"


# --- B 3: nothing is lost for a character


def test_a_class_whose_name_is_no_text_is_refused_when_it_is_read(command: Command, tmp_path: Path) -> None:
    from PIL import Image

    for part in ("train", "test"):
        for name in (b"caf\xe9", b"tea"):
            folder = Path(str(tmp_path / part)) / name.decode("utf-8", "surrogateescape")
            folder.mkdir(parents=True)
            for k in range(4):
                Image.new("RGB", (8, 8), (40 * k, 90, 7)).save(folder / f"{k}.png")
    data = {"_target_": "compressbench.data.folder.image_folder", "root": str(tmp_path), "size": 8}
    text = json.dumps(data).replace('"', "'").replace(": ", ":")
    done = command("run", "recipe=one_shot", "scale=smoke", f"+dataset.read={text}")
    assert done.returncode == 2
    done = command(
        "run", "recipe=one_shot", "scale=smoke", "dataset=image_folder", f"dataset.read.root={tmp_path}"
    )
    refused(done, "is not valid UTF-8")


def test_output_never_fails_for_an_encoding() -> None:
    import io

    from compressbench.console import console, readable

    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    readable(stream)
    stream.write("12\u202f345 ± 1 × “a” 猫\ud800\n")
    console(file=stream).print("12\u202f345 → [/b] é")
    stream.flush()
    assert raw.getvalue() == b'12 345 +- 1 x "a" \\u732b\\ud800\n12 345 -> [/b] \\xe9\n'


def test_all_output_goes_one_way() -> None:
    """A direct ``print`` or ``Console`` would bypass the cleaning."""
    source = Path(trust.__file__).parents[1]
    for path in source.rglob("*.py"):
        if path.name == "console.py":
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.\"'])Console\(", text), path
        for line in text.splitlines():
            if re.search(r"(?<![\w.\"'=])print\(", line):
                assert path.name in ("completion.py", "main.py", "memory.py"), f"{path}: {line}"
