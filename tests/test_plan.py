"""Plans: unrolling, references, keys, and every fault in a recipe as one clear line."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest

from compressbench import specs
from compressbench.errors import UserError
from compressbench.runs.plan import Context, make

CONTEXT = Context("data", "cpu", 1)
PART = {"_partial_": True}
TRAIN = {
    "_target_": "compressbench.stages.train.Train",
    "length": "2ep",
    "batch_size": 10,
    "lr": 0.1,
    "optimizer": {"_target_": "torch.optim.SGD", **PART},
}
PRUNE = {
    "_target_": "compressbench.stages.prune.Prune",
    "criterion": {"_target_": "compressbench.criteria.magnitude.magnitude", **PART},
    "fraction": 0.5,
}
REWIND = {"_target_": "compressbench.stages.rewind.Weights", "to": "warm"}
RECIPE = {
    "stages": {
        "init": {
            "_target_": "compressbench.stages.init.Init",
            "model": {"name": "m", "build": {"_target_": "compressbench.models.lenet.LeNet5"}},
        },
        "warm": {**TRAIN, "stop": "5it"},
        "dense": {**TRAIN, "start": "5it"},
        "level": {
            "_target_": "compressbench.stages.repeat.Repeat",
            "times": 2,
            "stages": {"prune": PRUNE, "rewind": REWIND, "retrain": TRAIN},
        },
        "at": {
            "_target_": "compressbench.stages.repeat.ForEach",
            "from": "dense",
            "values": [0.25, 0.5],
            "set": "prune.fraction",
            "stages": {"prune": PRUNE, "finetune": {**TRAIN, "from": "prune"}},
        },
    },
    "compare": {"reference": "dense", "series": {"ticket": "level*.retrain"}},
}


def changed(path: str, value) -> dict:
    recipe = copy.deepcopy(RECIPE)
    inner = recipe
    *folders, last = path.split("/")
    for step in folders:
        inner = inner[step]
    inner[last] = value
    return recipe


def keys(recipe, seed=0, context=CONTEXT) -> dict[str, str]:
    return {n.name: n.key for n in make(recipe, seed, context).nodes}


def test_names_parents_and_references() -> None:
    plan = make(RECIPE, 0, CONTEXT)
    assert [(n.name, n.parent) for n in plan.nodes] == [
        ("init", None), ("warm", "init"), ("dense", "warm"),
        ("level1.prune", "dense"), ("level1.rewind", "level1.prune"), ("level1.retrain", "level1.rewind"),
        ("level2.prune", "level1.retrain"), ("level2.rewind", "level2.prune"), ("level2.retrain", "level2.rewind"),
        ("at_0p25.prune", "dense"), ("at_0p25.finetune", "at_0p25.prune"),
        ("at_0p5.prune", "dense"), ("at_0p5.finetune", "at_0p5.prune"),
    ]  # fmt: skip
    assert plan.node("level2.rewind").refs == ("warm",)
    assert plan.node("at_0p25.prune").stage.fraction == 0.25
    assert [(m.series, m.state, m.order) for m in plan.measures] == [
        ("dense", "dense", 0), ("ticket", "level1.retrain", 1), ("ticket", "level2.retrain", 2),
    ]  # fmt: skip


def test_a_name_means_the_same_level_first() -> None:
    recipe = changed("stages/level/stages/warm", {**TRAIN, "from": "prune"})
    stages = recipe["stages"]["level"]["stages"]
    recipe["stages"]["level"]["stages"] = {k: stages[k] for k in ("prune", "warm", "rewind", "retrain")}
    assert make(recipe, 0, CONTEXT).node("level2.rewind").refs == ("level2.warm",)


def test_a_container_means_its_last_state() -> None:
    recipe = changed("stages/after", {**TRAIN, "from": "level"})
    assert make(recipe, 0, CONTEXT).node("after").parent == "level2.retrain"
    recipe = changed("stages/after", {**TRAIN, "from": "level1"})
    assert make(recipe, 0, CONTEXT).node("after").parent == "level1.retrain"


def test_more_levels_extend_a_run() -> None:
    short, long = keys(RECIPE), keys(changed("stages/level/times", 3))
    assert short.items() <= long.items()
    assert len(set(long.values())) == len(long)


def test_what_a_key_depends_on() -> None:
    base = keys(RECIPE)
    assert keys(copy.deepcopy(RECIPE)) == base
    for other in (
        keys(RECIPE, seed=1),
        keys(RECIPE, context=Context("other data", "cpu", 1)),
        keys(RECIPE, context=Context("data", "cuda", 1)),
        keys(RECIPE, context=Context("data", "cpu", 2)),
    ):
        assert not set(base.values()) & set(other.values())
    assert keys(RECIPE, context=Context("data", "cuda:0", 1)) == keys(
        RECIPE, context=Context("data", "cuda:1", 1)
    )
    later = keys(changed("stages/warm/lr", 0.2))
    assert later["init"] == base["init"]
    assert all(later[name] != base[name] for name in base if name != "init")
    referred = keys(changed("stages/level/stages/rewind/to", "dense"))
    assert [n for n in base if base[n] == referred[n]] == [
        "init", "warm", "dense", "level1.prune", "at_0p25.prune", "at_0p25.finetune", "at_0p5.prune", "at_0p5.finetune",
    ]  # fmt: skip


def test_the_floor_is_the_same_lineage_of_the_next_seed() -> None:
    recipe = changed("compare/floor", True)
    plan, other = make(recipe, 3, CONTEXT), keys(RECIPE, seed=4)
    floors = {n.local: n.key for n in plan.nodes if "@" in n.name}
    assert floors == {name: other[name] for name in ("init", "warm", "dense")}
    assert plan.node("dense@seed4").parent == "warm@seed4"
    assert [(m.series, m.state, m.reference) for m in plan.measures][1] == ("floor", "dense@seed4", "dense")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("stages/level/stages/rewind/to", "wram", "no state 'wram'; did you mean warm"),
        ("stages/level/stages/rewind/to", "at_0p5.finetune", "comes later"),
        ("stages/level/stages/rewind/to", "retrain", "circular: level1.retrain itself needs level1.rewind"),
        ("stages/level/stages/rewind/to", "rewind", "circular"),
        ("stages/dense/from", "level1.retrain", "circular"),
        ("stages/level/stages/rewind/to", "level*.retrain", "matches no earlier state"),
        ("stages/level/stages/prune/fraction", 1.0, r"level1.prune: fraction: 1.0 is not in \[0, 1\)"),
        ("stages/level/stages/prune/fraction", -0.1, r"not in \[0, 1\)"),
        ("stages/level/stages/prune/fraction", "much", "'much' is not a number"),
        ("stages/level/stages/prune/fractoin", 0.5, "unknown key 'fractoin' for .*; did you mean fraction"),
        ("stages/level/stages/prune/scope", "locale", "there is no 'locale' in scopes"),
        ("stages/level/stages/prune/criterion/_target_", "compressbench.criteria.magnitude.magnitud", "there is no"),
        ("stages/level/stages/prune/criterion/_target_", "os.system", r"target os.system is not allowed.*trust=\[os\]"),
        ("stages/level/stages/prune/criterion/power", 2, "unknown key 'power'"),
        ("stages/level/stages/prune/criterion/_target_", "compressbench.models.external._library", "is private"),
        ("stages/at/values", 5, "is not a list or a mapping"),
        ("stages/at/values", [0.5, 0.5], "two stages have this name"),
        ("stages/warm/lr", float("inf"), "inf is not a finite number"),
        ("stages/level/times", 0, "times: 0 is less than 1"),
        ("stages/at/set", "prun.fraction", "leads nowhere; did you mean prune"),
        ("stages/at/values", [], "at least one"),
        ("stages/warm/length", "5", "write epochs as 4ep or whole iterations as 500it"),
        ("stages/warm/batch_size", 0, "batch_size: 0 is less than 1"),
        ("stages/warm/lr", "fast", "'fast' is not a number"),
        ("stages/warm/precision", "fp8", "precision: unknown 'fp8'"),
        ("stages/warm/_target_", "compressbench.stages.train.Trian", "there is no compressbench.stages.train.Trian"),
        ("stages/warm/_target_", "subprocess.Popen", "not allowed"),
        ("compare/series/ticket", "lvl*.retrain", "matches no state; did you mean"),
        ("compare/reference", "densa", "no state 'densa'; did you mean dense"),
        ("compare/serie", {}, "unknown key 'serie'; did you mean series"),
        ("stages", {}, "at least one stage"),
    ],
)  # fmt: skip
def test_faults_are_one_clear_line(path, value, words) -> None:
    with pytest.raises(UserError, match=words) as error:
        make(changed(path, value), 0, CONTEXT)
    assert "\n" not in str(error.value)


def test_the_first_stage_must_begin() -> None:
    recipe = copy.deepcopy(RECIPE)
    del recipe["stages"]["init"]
    with pytest.raises(UserError, match="begin with an init stage"):
        make(recipe, 0, CONTEXT)


def test_user_code_is_part_of_the_key(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "own_criterion.py"
    module.write_text("def score(given):\n    return given.weights\n")
    recipe = changed("stages/level/stages/prune/criterion", {"_target_": "own_criterion.score", **PART})
    with pytest.raises(UserError, match=r"trust=\[own_criterion\]"):
        make(recipe, 0, CONTEXT)
    trusting = Context("data", "cpu", 1, ("own_criterion",))
    before = keys(recipe, context=trusting)
    assert keys(recipe, context=trusting) == before
    module.write_text("def score(given):\n    return {n: -w for n, w in given.weights.items()}\n")
    after = keys(recipe, context=trusting)
    assert after["dense"] == before["dense"]
    assert after["level1.prune"] != before["level1.prune"]


def test_code_that_user_code_imports_is_part_of_the_key(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("from own_package.net import score\n")
    (package / "net.py").write_text(
        "from . import parts\nimport own_helper\n\ndef score(given):\n    return {}\n"
    )
    (package / "parts.py").write_text("A = 1\n")
    (tmp_path / "own_helper.py").write_text("B = 1\n")
    (tmp_path / "unrelated.py").write_text("C = 1\n")
    spec = {"_target_": "own_package.score"}
    seen = {specs.sources_digest(spec)}
    for name in ("own_package/net.py", "own_package/parts.py", "own_helper.py"):
        path = tmp_path / name
        path.write_text(path.read_text() + "# edited\n")
        seen.add(specs.sources_digest(spec))
    assert len(seen) == 4
    (tmp_path / "unrelated.py").write_text("C = 2\n")
    assert specs.sources_digest(spec) in seen


def test_a_floor_whose_lineage_refers_to_a_state() -> None:
    recipe = changed("compare", {"reference": "level1.retrain", "floor": True})
    plan = make(recipe, 0, CONTEXT)
    node = plan.node("level1.rewind@seed1")
    assert node.refs == ("warm@seed1",)
    assert node.stage.to == "warm@seed1"


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from compressbench.cli.run import composed\n"
        "from compressbench.runs.experiment import prepare\n"
        "import tempfile\n"
        "config = composed(['scale=smoke', 'outputs=' + tempfile.mkdtemp()])\n"
        "assert len(prepare(config).plan.nodes) > 20\n"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_signatures_are_read_without_import() -> None:
    seen = specs.signature("compressbench.stages.rewind.Weights")
    assert seen is not None
    assert seen.parameters["to"].annotation == "Ref"
    assert seen.parameters["to"].required
    assert specs.signature("torch.nn.Linear") is None
