"""Contract tests: whatever is there is run, brought back from the store, repeated by kind, and compared.

A new recipe, criterion, stage, probe or YAML is tested by being there.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import yaml

import kinds
from compressbench import specs
from compressbench.checking.criteria import check_criterion
from compressbench.checking.exits import check_exit_criterion, check_exit_head
from compressbench.checking.probes import check_probe, lasting
from compressbench.checking.recipes import Forbidden, check_run, plain, runs_differ
from compressbench.checking.states import states_differ
from compressbench.checking.targets import check_target
from compressbench.checking.tasks import check_dataset
from compressbench.checking.traces import seeded, twice
from compressbench.cli.run import composed
from compressbench.data.dataset import Dataset, fingerprint
from compressbench.data.load import load
from compressbench.declared import declared
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.pruning.unstructured import prune
from compressbench.records import Metric, Record, Records, read_jsonl, write_jsonl
from compressbench.runs.estimate import estimate
from compressbench.runs.execute import MEASURE, Executor, Watcher
from compressbench.runs.experiment import Experiment, execute, prepare
from compressbench.runs.plan import Context, Plan
from compressbench.specs import trust
from compressbench.specs.conf import conf_dir, headline
from compressbench.stages.prune import Prune
from compressbench.stages.shrink import Blocks, Channels
from compressbench.store import Store
from conftest import MLP
from tiny import TINY

CONF = conf_dir()
NAMES = {
    group: sorted(p.stem for p in (CONF / group).glob("*.yaml") if p.stem[0] != "_")
    for group in (
        "recipe",
        "stage/prune",
        "scope",
        "grain",
        "probe",
        "target",
        "exit_criterion",
        "exit_head",
        "evaluation",
        "hardware",
        "model",
        "dataset",
        "sweep",
        "scale",
    )
}
# What is timed at every batch size for seconds, or compiled, is tried by tests of its own.
SLOW_TARGETS = ("cpu_onnxruntime", "cpu_openvino", "cpu_torch_compiled", "cpu_torch_sparse")
FAST = {"cpu_torch": {"batches": [1, 2], "seconds": 0.01}}
QUIET = ["scale=smoke", "hardware=cpu1"]
# What recipes can't be planned or run without, all of the extra lecture.
EXTRAS = {"viola_jones": "cv2", "random_projections": "sklearn"}


def check_declared(metric: str, unit: str) -> None:
    known = declared(metric)
    assert known is not None, f"{metric} is not declared"
    assert known.unit == unit, metric


# Every probe on one recipe; on the others those that are no timing and no attack, and what the recipe itself asks for.
EVALUATION = {
    "one_shot": "standard",
    "lm_quantized": "language",
    "nat_distillation": "parallel_translation",
    "transformer_sparsity": "translation",
}


def overrides(recipe: str) -> list[str]:
    return [f"recipe={recipe}", *QUIET, f"evaluation={EVALUATION.get(recipe, 'quick')}"]


def shortened(recipe: str) -> list[str]:
    """Overrides by which what a recipe counts in epochs takes half of one; the whole is for the slow tests."""
    content = yaml.safe_load((CONF / "recipe" / f"{recipe}.yaml").read_text())
    epochs = re.compile(r"\$\{at_scale:\d+ep,")
    return [f"recipe.{name}=24it" for name, value in content.items() if epochs.match(str(value))]


def folders(recipe: str, scale: str, place: Path) -> list[str]:
    """A model's folder, of which a plan reads the bytes alone, for a recipe that asks for one."""
    if scale == "smoke" or "scaled/bert_" not in (CONF / "recipe" / f"{recipe}.yaml").read_text(
        encoding="utf-8"
    ):
        return []
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (place / name).write_text("{}", encoding="utf-8")
    return [f"model.build.folder={place}"]


def needs_extras(recipe: str) -> None:
    """Skips the test of a recipe whose optional packages aren't installed."""
    if recipe in EXTRAS:
        reason = f"recipe={recipe} needs {EXTRAS[recipe]}: pip install 'compressbench[lecture]'"
        pytest.importorskip(EXTRAS[recipe], reason=reason)


@functools.cache
def short_config(recipe: str) -> dict:
    return composed([*overrides(recipe), *shortened(recipe)])


def begun(recipe: str, outputs: Path) -> Experiment:
    return prepare({**short_config(recipe), "outputs": str(outputs)})


def once(recipe: str, outputs: Path) -> tuple[Experiment, Records]:
    experiment = begun(recipe, outputs)
    return experiment, execute(experiment, Watcher(), [])


class Told(Watcher):
    """Keeps what was really done: a state's name and, of a measurement, the probe's."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    def working(self, name: str, words: str):
        self.done.append((name, words.removeprefix(MEASURE) if words.startswith(MEASURE) else ""))
        return super().working(name, words)


def check_whole(experiment: Experiment, records: Records, recipe: str, place: Path) -> None:
    """What a recipe's run and its records must be; and all of it comes back from the store, nothing made again."""
    plan = experiment.plan
    for row in records:
        check_declared(row.metric, row.unit)
    check_plan(plan, experiment.config, recipe)
    check_series(plan, records)
    check_run(experiment, records)
    write_jsonl(records, place / "records.jsonl")
    assert list(read_jsonl(place / "records.jsonl")) == list(records)
    warm = prepare(experiment.config)
    assert [n.key for n in warm.plan.nodes] == [n.key for n in plan.nodes]
    assert list(execute(warm, Forbidden(), [])) == list(records)


@pytest.mark.parametrize("recipe", kinds.covering((CONF / "recipe").glob("[!_]*.yaml")))
def test_recipes_from_the_store_and_each_kind_of_work_again(
    recipe: str, first: Callable[[str], bool], tmp_path: Path
) -> None:
    """Of recipes that use all groups there are: run once, then brought back; then each kind of stage and probe that no
    recipe has repeated yet is repeated: alone, on states from the store, under other seeds of the global generators.
    """
    needs_extras(recipe)
    with seeded(1):
        experiment, records = once(recipe, tmp_path)
    plan, store = experiment.plan, experiment.store
    states = {n.key: store.load(n.key) for n in plan.nodes}
    check_whole(experiment, records, recipe, tmp_path)

    executor = Executor(plan, store, experiment.setting, Watcher())
    again = {(node.name, "") for kind, node in kinds.stages(plan) if first(kind)}
    for node in plan.nodes:
        if (node.name, "") in again:
            store.discard(node.key)
    for kind, measure, probe in kinds.probes(executor):
        if first(kind):
            again.add((measure.state, probe))
            store.discard_result(executor._result_key(measure, probe))
    told = Told()
    with seeded(2):
        repeated = execute(experiment, told, [])
    assert set(told.done) == again
    assert [plain(r) for r in lasting(repeated)] == [plain(r) for r in lasting(records)]
    for key, state in states.items():
        found = store.load(key)
        assert state is not None
        assert found is not None
        assert states_differ(state, found) == "", key


@pytest.mark.slow
@pytest.mark.parametrize("recipe", NAMES["recipe"])
def test_every_recipe_twice(recipe: str, tmp_path: Path) -> None:
    """Each recipe, and all of it at its full length: the quick test takes some of them, shortens trainings, and repeats
    one of each kind of work."""
    needs_extras(recipe)
    config = composed(overrides(recipe))
    folders = iter((tmp_path / "a", tmp_path / "b"))

    def run() -> tuple[Experiment, Records]:
        ready = prepare({**config, "outputs": str(next(folders))})
        return ready, execute(ready, Watcher(), [])

    experiment, records = twice(run, "", runs_differ)
    check_whole(experiment, records, recipe, tmp_path)


def check_plan(plan: Plan, config: Mapping, recipe: str) -> None:
    assert len(plan.nodes) > 3
    assert all(hasattr(n.stage, "describe") for n in plan.nodes)
    assert config["recipe"]["name"] == recipe


def check_series(plan: Plan, records: Records) -> None:
    """Density falls along each series, masks and records agree, the dense net stands beside all."""
    main = next(r.metric for r in records if r.probe == "accuracy")
    top = records.where(probe="accuracy", metric=main, moment="final")
    assert {r.series for r in top} == {m.series for m in plan.measures if m.moment == "final"}
    assert {"dense", "floor"} <= {r.series for r in top}
    for series in {r.series for r in top}:
        points = sorted(top.where(series=series), key=lambda r: r.order)
        assert all(a.density >= b.density for a, b in itertools.pairwise(points))
        assert all(0 < r.density <= 1 for r in points)
        assert all(r.value is not None and r.value >= 0 for r in points)
        assert main == "perplexity" or all((r.value or 0) <= 100 for r in points)
    assert top.where(series="dense")[0].density == 1
    if any(isinstance(n.stage, Prune | Channels | Blocks) for n in plan.nodes):
        assert any("random" in r.series for r in top), "every pruning recipe has its random arm"
    loyal = records.where(probe="loyalty", metric="label_loyalty", series="dense", group="", moment="final")
    assert [r.value for r in loyal] == [100.0]


@pytest.mark.parametrize("recipe", NAMES["recipe"])
@pytest.mark.parametrize("scale", [name for name in NAMES["scale"] if name != "smoke"])
def test_every_recipe_plans_at_the_scales_that_are_not_run(recipe: str, scale: str, tmp_path: Path) -> None:
    from compressbench.runs.plan import make

    needs_extras(recipe)
    config = composed([f"recipe={recipe}", f"scale={scale}", *folders(recipe, scale, tmp_path)])
    plan = make(config["recipe"], 0, Context("", "cpu", 1))
    check_plan(plan, config, recipe)


@pytest.mark.parametrize("recipe", NAMES["recipe"])
def test_a_run_stopped_anywhere_can_say_how_long_it_still_takes(
    recipe: str, first: Callable[[str], bool], tmp_path: Path
) -> None:
    needs_extras(recipe)
    ready = begun(recipe, tmp_path)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    for node in [node for kind, node in kinds.trainings(ready.plan) if first(kind)]:
        said = estimate(ready, executor, [node.name], [])
        assert said.startswith("to do: 1 state, 0 measurements; about "), node.name


@pytest.mark.parametrize("recipe", NAMES["recipe"])
def test_a_recipe_opens_with_claim_source_command_and_result(recipe: str) -> None:
    head = [x for x in (CONF / "recipe" / f"{recipe}.yaml").read_text().splitlines() if x.startswith("#")]
    for word in ("Claim", "Source", "Run", "Measured"):
        assert any(line.startswith(f"# {word} ") for line in head), word


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF)))
def test_every_yaml_has_a_line_for_the_list_and_known_targets(path: Path) -> None:
    if path.stem[0] != "_" and path.parent.name != "scaled":
        assert headline(path)[1], "the first line must be '# NAME: what it is'"
    content = yaml.safe_load(path.read_text())
    for place, spec in specs.walk(content):
        target = spec["_target_"]
        if "cli.run" not in target:
            trust.check_target(target, (), place)
        assert trust.source_of(target) is not None, target


@pytest.fixture(scope="module")
def small(digits):
    from compressbench.bench import Bench

    bench = Bench(digits, seed=0, name="init")
    return bench, drawn(MLP, bench)


@pytest.mark.parametrize("name", NAMES["stage/prune"])
def test_every_criterion(name: str, small) -> None:
    bench, _ = small
    state = drawn(TINY, bench)
    text = (CONF / "stage/prune" / f"{name}.yaml").read_text()
    criterion = yaml.safe_load(text)["criterion"]
    other = drawn(TINY, dataclasses.replace(bench, name="other"))
    bench = dataclasses.replace(bench, name="prune", references={"???": other})
    weights = {n: state.weights[n] for n in state.facts["prunable"]}
    state = state.with_groups(movement={n: w * other.weights[n] for n, w in weights.items()})
    check_criterion(criterion, state, bench)


@pytest.mark.parametrize("name", NAMES["exit_criterion"])
def test_every_exit_criterion(name: str) -> None:
    check_exit_criterion(yaml.safe_load((CONF / "exit_criterion" / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", NAMES["exit_head"])
def test_every_exit_head(name: str) -> None:
    check_exit_head(yaml.safe_load((CONF / "exit_head" / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("grain", NAMES["grain"])
@pytest.mark.parametrize("scope", NAMES["scope"])
def test_every_scope_with_every_grain(scope: str, grain: str, digits) -> None:
    from compressbench.bench import Bench

    bench = Bench(digits, seed=0, name="init")
    build = {
        "_target_": "compressbench.models.conv.ConvN",
        "depth": 2,
        "shape": "@shape",
        "classes": "@classes",
    }
    state = drawn({"name": "conv_2", "build": build}, bench)
    parts = {
        group: yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
        for group, name in (("scope", scope), ("grain", grain))
    }
    criterion = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    if scope == "count":
        parts["scope"]["keep"] = sum(state.facts["prunable"].values()) // 2
    settings = Prune(criterion, None if scope in ("n_m", "count") else 0.5, rates={"@input": 0.0}, **parts)
    assert scope in settings.describe()
    if scope == "n_m" and grain != "weight":
        with pytest.raises(UserError, match="set grain=weight"):
            prune(state, bench, settings)
        return
    first, again = prune(state, bench, settings), prune(state, bench, settings)
    whole = sum(state.facts["prunable"].values())
    assert first.facts["density"] == sum(int(m.sum()) for m in first.masks.values()) / whole
    assert 0 < first.facts["density"] <= 1
    assert first.masks[next(iter(first.masks))].all(), "the first layer has the rate 0"
    for n, mask in first.masks.items():
        assert torch.equal(mask, again.masks[n])
        assert torch.equal(first.weights[n], state.weights[n] * mask)
    if grain != "layer":
        assert first.facts["density"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", NAMES["probe"])
def test_every_probe(name: str, small, tmp_path: Path) -> None:
    bench, state = small
    config = composed([*QUIET, "evaluation=none", f"+probe@evaluation.probes.{name}={name}"])
    probe = specs.build(config["evaluation"]["probes"][name])
    target = specs.build(config["hardware"]["target"])
    bench = dataclasses.replace(bench, name=f"probe {name}", target=target)
    other = prune(
        state,
        bench,
        Prune({"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}, 0.9),
    )
    found = check_probe(probe, other, state, bench)
    for one in found:
        check_declared(one.name, one.unit)
    store = Store(tmp_path)
    store.save_result("k", {"metrics": [dataclasses.asdict(m) for m in found]})
    back = store.load_result("k")
    assert back is not None
    assert [Metric(**m) for m in back["metrics"]] == found


@pytest.mark.parametrize("name", [n for n in NAMES["target"] if n not in SLOW_TARGETS])
def test_every_target(name: str, small) -> None:
    bench, state = small
    spec = composed([*QUIET, "evaluation=none", f"+target@tried={name}"])["tried"]
    target = specs.build({**spec, **FAST.get(name, {})})
    assert check_target(target, state, state, bench)


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_every_embedded_data_set(name: str) -> None:
    config = composed([*QUIET, f"dataset={name}"])["dataset"]
    assert len(check_dataset(lambda: load(config)).classes) == 10


@pytest.mark.parametrize("name", NAMES["evaluation"])
def test_every_evaluation_names_probes_that_exist(name: str) -> None:
    probes = composed(["scale=smoke", f"evaluation={name}"])["evaluation"]["probes"]
    for place, spec in probes.items():
        specs.check(spec, place)


def test_the_fingerprint_sees_every_part(digits: Dataset) -> None:
    base = fingerprint(digits)
    assert base == digits.fingerprint
    assert (
        fingerprint(dataclasses.replace(digits, task=dataclasses.replace(digits.task, augment={"pad": 1})))
        != base
    )
    assert (
        fingerprint(dataclasses.replace(digits, task=dataclasses.replace(digits.task, mean=(0.4,)))) != base
    )
    split = digits.splits["test"]
    images = split["images"].copy()
    images[0, 0, 0, 0] ^= 1
    changed = {**digits.splits, "test": split.with_column("images", images)}
    assert fingerprint(dataclasses.replace(digits, splits=changed)) != base


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Records]:
    """Outputs of a whole run, to be copied, and its records."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, once("iterative_finetune", folder)[1]


@pytest.mark.parametrize("harm", ["tensors", "json", "result"])
def test_a_damaged_entry_is_said_and_made_again(
    harm: str, finished: tuple[Path, Records], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    experiment, records = begun("iterative_finetune", tmp_path), finished[1]
    node = experiment.plan.node("level1.prune")
    folder = experiment.store.state_folder(node.key)
    victim = {
        "tensors": folder / "tensors.safetensors",
        "json": folder / "state.json",
        "result": min((tmp_path / "store" / "results").iterdir()),
    }[harm]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    said: list[str] = []

    class Listening(Watcher):
        def say(self, text: str) -> None:
            said.append(text)

    fresh = begun("iterative_finetune", tmp_path)
    again = execute(fresh, Listening(), [])
    assert [plain(r) for r in lasting(again)] == [plain(r) for r in lasting(records)]
    assert any("damaged and will be made again" in s for s in said)
    assert bytes(content) != victim.read_bytes()


def test_a_diverging_stage_keeps_all_before_it(tmp_path: Path) -> None:
    config = composed(
        [
            "recipe=iterative_finetune",
            *QUIET,
            f"outputs={tmp_path}",
            "recipe.stages.level.stages.finetune.lr=1e25",
            "recipe.compare.floor=false",
        ]
    )
    experiment = prepare(config)
    done: list[Record] = []
    with pytest.raises(
        UserError, match=r"stage level1.finetune: loss is (nan|inf) at iteration \d+ .*rate 1e\+25"
    ):
        execute(experiment, Watcher(), done)
    assert {r.series for r in done} == {"dense"}
    executor = Executor(experiment.plan, experiment.store, experiment.setting, Watcher())
    missing = [n.name for n in executor.missing_states()]
    assert missing[0] == "level1.finetune"
    assert "dense" not in missing


def test_an_emptied_layer_is_flagged(tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Watcher):
        def say(self, text: str) -> None:
            said.append(text)

    config = composed(
        [
            "recipe=one_shot",
            *QUIET,
            f"outputs={tmp_path}",
            "recipe.fractions=[0.9995]",
            "recipe.compare.floor=false",
        ]
    )
    records = execute(prepare(config), Listening(), [])
    empty = [r for r in records.where(metric="empty_layers") if r.value]
    assert empty
    assert any("is empty, nothing is left" in s for s in said)
    assert json.loads(json.dumps(records.dicts()))


def test_a_store_file_may_name_no_more_than_a_config(finished: tuple[Path, Records], tmp_path: Path) -> None:
    from compressbench.store import digest

    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    experiment = begun("iterative_finetune", tmp_path)
    path = experiment.store.state_folder(experiment.plan.node("dense").key) / "state.json"
    meta = json.loads(path.read_text())
    meta["body"]["model"] = {"_target_": "os.system", "command": f"touch {tmp_path / 'harm'}"}
    path.write_text(json.dumps({"digest": digest(meta["body"]), "body": meta["body"]}))
    changes = [*shortened("iterative_finetune"), "recipe.stages.level.times=3", f"outputs={tmp_path}"]
    more = prepare(composed([*overrides("iterative_finetune"), *changes]))
    for result in (tmp_path / "store" / "results").iterdir():
        result.unlink()
    with pytest.raises(UserError, match=r"os\.system is not allowed"):
        execute(more, Watcher(), [])
    assert not (tmp_path / "harm").exists()
