"""Hostile configs: any leaf replaced, odd folders of YAML, wrong recipes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from cases_fuzz import RUN, VALUES, YAMLS, _home, change, check, drawn, leaves, line, one_of, prepared, ran  # noqa: F401
from compressbench.cli.run import composed

pytestmark = pytest.mark.slow
RECIPES = (
    "bits_sweep",
    "cascade",
    "deep_compression",
    "distill_resnet",
    "dnw",
    "early_exit_resnet",
    "edge_popup",
    "ensemble_to_one",
    "exit_criteria",
    "faster",
    "gradual_vs_oneshot",
    "granularity",
    "iterative_finetune",
    "kd_ablation",
    "lth_rewind",
    "msdnet",
    "nm_2_4",
    "obd_lenet",
    "one_shot",
    "online_distillation",
    "qat_resnet",
    "state_of_sparsity",
    "structured_resnet",
    "train_flat_then_prune",
    "which_hardware",
)


def harmless(path: tuple[Any, ...]) -> bool:
    return path[0] not in ("hydra", "sweep") and path != ("outputs",)


def test_leaves() -> None:
    """Any leaf or branch of any shipped recipe's config, replaced or deleted."""
    rng = drawn("leaves")
    cases = []
    for recipe in rng.sample(RECIPES, 12):
        config = composed([f"recipe={recipe}", "scale=smoke"])
        places = [p for p in leaves(config) if harmless(p)]
        for _ in range(14):
            path = one_of(rng, places)
            value = one_of(rng, VALUES) if rng.random() < 0.93 else ...
            changed = change(config, path, value)
            cases.append(prepared(changed, f"recipe={recipe}: {path} = {value!r}"))
    check(cases, 160)


def as_override(value: Any) -> str:
    """A value as Hydra's grammar has it."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{as_override(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_override, value)) + "]"
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, int | float) or isinstance(value, bool)
        else str(value)
    )


def test_whole_runs(ran: Path) -> None:
    """One leaf of a recipe that takes no time, replaced; what passes the checks is run to the end."""
    rng = drawn("whole")
    base = (*RUN, "--config-dir", str(ran / "mine"), "hydra.run.dir=outputs/runs/one")
    config = composed([*RUN[1:]], str(ran / "mine"))
    places = [p for p in leaves(config) if p[0] in ("recipe", "model", "dataset", "hardware", "evaluation")]
    places = [p for p in places if all(isinstance(n, str) and re.fullmatch(r"\w+", n) for n in p)]
    cases = []
    while len(cases) < 40:
        path, value = one_of(rng, places), one_of(rng, VALUES)
        shown = ".".join(path)
        way = rng.choice(("", "", "++"))
        cases.append(line(*base, f"{way}{shown}={as_override(value)}"))
    check(cases, 40)


GROUPS = {
    "recipe": ("recipe=odd",),
    "model": ("model=odd",),
    "dataset": ("dataset=odd",),
    "hardware": ("hardware=odd",),
    "evaluation": ("evaluation=odd",),
    "scale": ("scale=odd",),
    "sweep": ("+sweep=odd",),
    "probe": ("+probe@evaluation.probes.odd=odd",),
    "stage/prune": ("stage/prune@recipe.stages.pruned=odd",),
}


def test_config_folders(ran: Path) -> None:
    """A ``--config-dir`` with one broken file, by every verb that takes one."""
    rng = drawn("folders")
    cases = []
    for number, (name, content) in enumerate(YAMLS.items()):
        group, words = one_of(rng, GROUPS.items())
        folder = Path(f"conf{number}")
        shutil.copytree(ran / "mine", folder)
        (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / group / "odd.yaml").write_bytes(content)
        cases.append(line(*RUN, "--config-dir", folder, *words, words=f"{name} as {group}: "))
        other = one_of(
            rng,
            (
                ("data", "odd", "--config-dir", folder),
                ("explain", "recipe=odd", "--config-dir", folder),
                ("list", "--config-dir", folder),
                (
                    "export",
                    next((ran / "outputs/runs").iterdir()),
                    "--state",
                    "nothing",
                    "--to",
                    "onnx",
                    "--config-dir",
                    folder,
                ),
            ),
        )
        if other[0] in ("data", "explain"):
            kind = "dataset" if other[0] == "data" else "recipe"
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / "odd.yaml").write_bytes(content)
        allowed = (0, 1, 2) if other[0] == "data" else (0, 2)
        cases.append(line(*other, words=f"{name} in {group}: ", allowed=allowed))
    check(cases, 90)


def stage(target: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"compressbench.stages.{target}", **settings}


def test_wrong_recipes(ran: Path) -> None:
    """Recipes that are none: no stages, circles, later references, stages that are none, wrong parts, wrong compare."""
    rng = drawn("recipes")
    config = composed([*RUN[1:]], str(ran / "mine"))
    good = config["recipe"]["stages"]
    init, train = good["init"], good["dense"]
    repeat = stage("repeat.Repeat", times=2, stages={"x": train})
    sets: list[Any] = [
        {},
        None,
        [],
        "dense",
        {"init": None},
        {"init": {}},
        {"init": "model"},
        {"init": [init]},
        {"dense": train},
        {"init": init, "dense": {**train, "from": "dense"}},
        {"init": init, "a": {**train, "from": "b"}, "b": {**train, "from": "a"}},
        {"init": init, "a": {**train, "from": "nothing"}},
        {"init": init, "a": {**train, "from": []}},
        {"init": init, "a": {**train, "from": {"x": 1}}},
        {"init": init, "a": {**train, "from": 1}},
        {"init": init, "a": {**train, "from": "*"}},
        {"init": init, "a": {**train, "data": "init"}},
        {"init": init, "a": {**train, "data": ["init", "a"]}},
        {"init": init, "a": {**train, "only": 1}},
        {"init": init, "a/b": train},
        {"init": init, "": train},
        {"init": init, 1: train},
        {"init": init, None: train},
        {"init": init, "a@seed1": train},
        {"init": init, "\x1b[31m": train},
        {"init": init, "x" * 5000: train},
        {"init": {**init, "model": {}}},
        {"init": {**init, "model": None}},
        {"init": {**init, "model": {"build": None}}},
        {"init": {**init, "model": {"build": {"_target_": "torch.nn.Linear"}}}},
        {"init": {**init, "model": {"build": {"_target_": "compressbench.stages.train.Train"}}}},
        {"init": init, "a": {"_target_": "compressbench.probes.accuracy.Accuracy"}},
        {"init": init, "a": {"_target_": "torch.nn.ReLU"}},
        {"init": init, "a": {"_target_": 1}},
        {"init": init, "a": {"_target_": "compressbench.stages.prune"}},
        {"init": init, "a": {**train, "_partial_": True}},
        {"init": init, "a": {**train, "objective": {**init}}},
        {
            "init": init,
            "a": {**train, "objective": {"_target_": "compressbench.training.objectives.nothing"}},
        },
        {"init": init, "a": {**train, "reparametrise": {"x": train}}},
        {"init": init, "a": {**train, "reparametrise": [1]}},
        {"init": init, "a": {**train, "reparametrise": {1: 2}}},
        {"init": init, "a": {**train, "optimizer": {"_target_": "torch.nn.Linear", "_partial_": True}}},
        {"init": init, "a": {**train, "checkpoint": "/dev/zero"}},
        {"init": init, "a": {**train, "checkpoint": ["x"]}},
        {"init": init, "a": {**train, "checkpoint": "."}},
        {"init": init, "a": {**repeat, "times": -1}},
        {"init": init, "a": {**repeat, "times": 10**9}},
        {"init": init, "a": {**repeat, "times": "x"}},
        {"init": init, "a": {**repeat, "stages": {}}},
        {"init": init, "a": {**repeat, "stages": None}},
        {"init": init, "a": {**repeat, "stages": [1]}},
        {"init": init, "a": {**repeat, "stages": {"x": None}}},
        {"init": init, "a": {**repeat, "stages": {"x": {"_target_": 1}}}},
        {"init": init, "a": stage("repeat.ForEach", values=[], set="x.lr", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=[1, 1], set="x.lr", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=1, set="x.lr", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=[1], set="y.lr", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=[1], set="x", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=[1], set=None, stages={"x": train})},
        {
            "init": init,
            "a": stage("repeat.ForEach", values=[{"a": []}, None], set="x.lr", stages={"x": train}),
        },
        {"init": init, "a": stage("repeat.ForEach", values=[1], set="x.lr.y.z", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values={"a": 1}, set="x.lr", stages={"x": train})},
    ]
    compares: list[Any] = [
        None,
        1,
        [],
        {"reference": None},
        {"reference": ["dense"]},
        {"reference": "nothing"},
        {"reference": "dense", "series": 1},
        {"reference": "dense", "series": ["pruned"]},
        {"reference": "dense", "series": {"dense": "pruned"}},
        {"reference": "dense", "series": {"x": None}},
        {"reference": "dense", "series": {"x": 1}},
        {"reference": "dense", "series": {"x": []}},
        {"reference": "dense", "series": {"x": {"a": 1}}},
        {"reference": "dense", "series": {"": "pruned"}},
        {"reference": "dense", "series": {"\x1b[31m": "pruned"}},
        {"reference": "dense", "series": {"\ud800": "pruned"}},
        {"reference": "dense", "series": {1: "pruned"}},
        {"reference": "dense", "floor": "x"},
        {"reference": "dense", "floor": [1]},
        {"reference": "dense", "moments": 1},
        {"reference": "dense", "moments": ["early"]},
        {"reference": "dense", "moments": {"early": 1}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": 1}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": "accuracy"}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": [None]}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": [["x"]]}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": {"a": 1}}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "series": {"x": ["pruned", 1]}}}},
        {"reference": "dense", "published": 1},
        {"reference": "dense", "published": [1]},
        {"reference": "dense", "published": [{"a": 1}]},
        {"reference": "dense", "published": {"a": {"b": 1}}},
    ]
    cases = [prepared(change(config, ("recipe", "stages"), s), f"recipe.stages = {s!r}") for s in sets]
    cases += [prepared(change(config, ("recipe", "compare"), c), f"recipe.compare = {c!r}") for c in compares]
    for key in ("recipe", "model", "dataset", "hardware", "evaluation", "scale", "trust", "seed", "data_dir"):
        for value in rng.sample(VALUES, 4):
            cases.append(prepared(change(config, (key,), value), f"{key} = {value!r}"))
    check(cases, 120)
