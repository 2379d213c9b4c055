"""Which split a stage or a probe reads: no stage sees a test image, and validation images train nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from compressbench import specs
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.data.dataset import Dataset, Split
from compressbench.errors import UserError
from compressbench.runs.execute import Executor, Watcher
from compressbench.runs.experiment import prepare
from compressbench.specs.conf import conf_dir
from compressbench.state import State
from compressbench.views import View

SHORT: dict[str, Any] = {"length": "4it", "batch_size": 50, "lr": 0.01, "validate": None}
JOINT = {"_target_": "compressbench.training.exits.joint", "_partial_": True, "power": 0.0, "last": True}
CRITERIA = ("bn_scale", "obd_fisher", "obd_hutchinson", "snip", "taylor", "woodfisher")
PLAIN: dict[str, Any] = {
    "name": "plain",
    "build": {
        "_target_": "compressbench.models.lenet.LeNet300100",
        "shape": "@shape",
        "classes": "@classes",
        "hidden": [16, 8],
    },
    "weights": None,
}
STAGES: list[tuple[str, str, dict[str, Any]]] = [
    ("init/model", "init", {}),
    ("train/sgd", "dense", SHORT),
    ("train/sgd", "other", {**SHORT, "order": "other", "from": "init"}),
    ("train/swa", "averaged", {**SHORT, "from": "init"}),
    ("train/sam", "flat", {**SHORT, "from": "init"}),
    ("train/smoothed", "smoothed", {**SHORT, "from": "init"}),
    *((f"prune/{name}", name, {"fraction": 0.3, "from": "dense"}) for name in CRITERIA if name != "bn_scale"),
    ("prune/bn_scale", "bn_scale", {"fraction": 0.3, "from": "dense", "grain": "row"}),
    ("shrink/channels", "narrow", {"fraction": 0.3, "inside": True, "from": "dense", "criterion": "taylor"}),
    ("shrink/blocks", "fewer", {"fraction": 0.3, "from": "dense"}),
    ("share/kmeans", "shared", {"bits": 3, "from": "dense"}),
    ("train/shared", "centroids", SHORT),
    ("train/distill", "distilled", {**SHORT, "from": "narrow", "objective": {"teacher": "dense"}}),
    (
        "train/patient",
        "patient",
        {**SHORT, "from": "init", "objective": {"teacher": "dense", "points": {"layer1": "layer1"}}},
    ),
    ("data/few", "few", {"labels": 60, "from": "init"}),
    ("train/sgd", "on_few", {**SHORT, "data": "few"}),
    ("data/munge", "munged", {"from": "init"}),
    ("train/distill", "on_munged", {**SHORT, "data": "munged", "objective": {"teacher": "dense"}}),
    ("quantize/ptq", "ptq", {"examples": 50, "from": "dense"}),
    ("train/qat", "qat", SHORT),
    (
        "quantize/adaptive",
        "adaptive",
        {"examples": 50, "from": "dense", "rounding_steps": 3, "bias_correction": True},
    ),
    ("quantize/mixed", "mixed", {"examples": 50, "from": "dense"}),
    ("ensemble/mean", "both", {"members": ["dense", "other"]}),
    ("take/member", "best", {"member": "best"}),
    ("exits/attach", "attached", {"points": ["layer1"], "from": "dense"}),
    ("train/exits", "joint", SHORT),
    ("exits/choose", "chosen", {"budget": 0.9}),
    ("exits/cascade", "cascade", {"members": ["narrow", "dense"]}),
    ("exits/choose", "chosen_cascade", {"accuracy": 50.0}),
    ("theseus/replace", "replacing", {"from": "dense"}),
    ("train/sgd", "replaced", SHORT),
    ("theseus/successor", "successor", {}),
    ("init/other", "plain", {"model": PLAIN}),
    ("train/gradient_descent", "descended", SHORT),
    ("data/distilled", "pictures", {"from": "plain", "length": "2it", "batch_size": 50, "epochs": 1}),
    (
        "train/followed",
        "on_pictures",
        {"from": "plain", "data": "pictures", "length": "1ep", "batch_size": 10, "validate": None},
    ),
    ("data/chosen", "chosen_pictures", {"from": "plain", "draws": 3, "rates": [0.02, 0.5], "epochs": 1}),
    ("data/inducing", "inducing", {"from": "plain", "length": "2it", "batch_size": 50}),
    ("fit/kernel_ridge", "kernel_ridge", {"from": "plain", "data": "inducing"}),
    ("fit/ridge", "ridge", {"from": "plain"}),
    ("fit/forest", "forest", {"trees": 3}),
]
ON_VALIDATION = {"ptq", "qat", "adaptive", "mixed", "chosen", "chosen_cascade", "chosen_pictures", "ridge"}
"""What is chosen on validation images: ranges, roundings, bits and policies."""
MAY_CHOOSE_ALIKE = {"best", "chosen_cascade", "chosen_pictures", "mixed"}


def plan_of(folder: Path) -> Any:
    """A plan of all the stages above on the smallest data set, of a narrow ResNet."""
    defaults = [{f"/stage/{y.partition('/')[0]}@stages.{n}": y.partition("/")[2]} for y, n, _ in STAGES]
    recipe = {
        "defaults": [*defaults, "_self_"],
        "name": "splits",
        "stages": {name: settings for _, name, settings in STAGES if settings},
        "compare": {"reference": "dense", "series": {"end": STAGES[-1][1]}},
    }
    (folder / "recipe").mkdir()
    (folder / "recipe" / "splits.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    small = ["model=resnet14", "+model.build.width=4", "scale=smoke", "evaluation=none", "hardware=cpu1"]
    return prepare(composed(["recipe=splits", *small, f"outputs={folder}"], str(folder)))


def made(ready: Any, bench: Bench) -> dict[str, State]:
    """Each stage's state, without a store."""
    states: dict[str, State] = {}
    for node in ready.plan.nodes:
        own = dataclasses.replace(
            bench, seed=node.seed, name=node.local, references={r: states[r] for r in node.refs}
        )
        states[node.name] = node.stage.apply(states[node.parent] if node.parent else None, own)
    return states


def same(one: State, other: State) -> bool:
    """Whether two states hold the same tensors, the same edits and the same policies."""
    return (
        one.edits == other.edits
        and one.policies == other.policies
        and one.tensors.keys() == other.tensors.keys()
        and all(
            one.tensors[g].keys() == other.tensors[g].keys()
            and all(torch.equal(t, other.tensors[g][n]) for n, t in one.tensors[g].items())
            for g in one.tensors
        )
    )


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return plan_of(tmp_path_factory.mktemp("splits"))


def bench_of(ready: Any, dataset: Dataset) -> Bench:
    base = Executor(ready.plan, ready.store, ready.setting, Watcher()).bench()
    return dataclasses.replace(base, dataset=dataset, feeds={}, say=lambda text: None)


@pytest.fixture(scope="module")
def as_it_is(ready: Any) -> dict[str, State]:
    """All states, made without a test split: whoever asks for one gets an error."""
    data = ready.dataset
    blind = dataclasses.replace(data, splits={k: v for k, v in data.splits.items() if k != "test"})
    with pytest.raises(UserError, match="has no split 'test'"):
        bench_of(ready, blind).feed("test")
    return made(ready, bench_of(ready, blind))


def test_no_stage_reads_a_test_image(as_it_is: dict[str, State]) -> None:
    assert as_it_is.keys() == {name for _, name, _ in STAGES}
    shipped = {str(p.relative_to(conf_dir() / "stage").with_suffix("")) for p in _stage_files()}
    # Stages that read no image at all, of the one class of another above, or that need what this bench hasn't.
    others = {
        "data/pictures", "boost/attentional", "boost/first", "boost/matched", "boost/monolithic", "boost/published",
        "for_each/values", "repeat/levels", "shrink/shallower",
        "rewind/weights", "rewind/learning_rate", "rewind/reinit", "rewind/random_mask",
        "quantize/bf16", "quantize/fp16", "quantize/dynamic", "quantize/weight_only",
        "prune/magnitude", "prune/magnitude_increase", "prune/large_final_same_sign", "prune/small_final",
        "prune/random", "prune/obs", "prune/obd_recursion", "prune/movement",
        "train/adam", "train/adamw", "train/asam", "train/distill_adam", "train/mimic", "train/online",
        "train/exits_distilled", "train/sgd_cosine",
        "data/translated", "shrink/heads", "shrink/feed_forward", "shrink/layers", "shrink/first_blocks",
        "train/finetune", "train/finetune_distill", "train/finetune_patient", "train/finetune_qat",
        "train/exits_adam", "train/exits_distilled_adam", "train/parallel",
    }  # fmt: skip
    assert shipped - {y for y, _, _ in STAGES} == others, "a new stage belongs into one of the two lists"


def _stage_files() -> list[Path]:
    return [p for p in (conf_dir() / "stage").rglob("*.yaml") if not p.name.startswith("_")]


def test_validation_images_train_nothing(ready: Any, as_it_is: dict[str, State]) -> None:
    """Other validation images, other labels: ranges, roundings, bits and policies change; no trained weight does."""
    data = ready.dataset
    held = data.splits["validation"]
    turned = Split.of((held["images"] // 2).astype(np.uint8), (held.labels + 1) % 10)
    other = dataclasses.replace(data, splits={**data.splits, "validation": turned})
    found = made(ready, bench_of(ready, other))
    differ = {name for name, state in found.items() if not same(state, as_it_is[name])}
    assert differ - MAY_CHOOSE_ALIKE == ON_VALIDATION - MAY_CHOOSE_ALIKE


FLAT = {"sharpness", "hessian", "flat_region", "loss_increase"}
ON_TEST = {"accuracy", "corruptions", "forgetting", "loyalty", "robustness", "shifted", "square"}
SETTINGS: Mapping[str, dict[str, Any]] = {
    "robustness": {"examples": 16, "steps": 2, "width": None},
    "square": {"examples": 16, "queries": 5},
    "corruptions": {"kinds": ["contrast", "fog"], "severities": [3]},
    "loss_increase": {"examples": 50},
    "sharpness": {"examples": 50, "steps": 2},
    "flat_region": {"examples": 50, "directions": 1},
    "hessian": {"examples": 50, "products": 4, "samples": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FLAT | ON_TEST))
def test_a_probe_reads_its_own_split_alone(name: str, ready: Any, as_it_is: dict[str, State]) -> None:
    """Figures of flatness are of training images, all others of test images; those of the rest change nothing."""
    content = yaml.safe_load((conf_dir() / "probe" / f"{name}.yaml").read_text())
    content = {
        k: v for k, v in content.items() if not str(v).startswith("${")
    }  # a scale's: the class has defaults
    probe = specs.build({**content, **SETTINGS.get(name, {})}, name)
    data = ready.dataset
    subject, reference = as_it_is["taylor"], as_it_is["dense"]

    def figures(darker: str) -> list[Any]:
        splits = {
            part: Split.of((s["images"] // 2).astype(np.uint8), (s.labels + 1) % 10) if part == darker else s
            for part, s in data.splits.items()
        }
        bench = bench_of(ready, dataclasses.replace(data, splits=splits))
        views = View(subject, bench, "taylor"), View(reference, bench, "dense")
        named = dataclasses.replace(bench, name=f"probe {name}")
        found = probe.measure(*views, named)
        return [
            (m.name, m.group, m.value) for m in found if m.name != "generalisation_gap"
        ]  # test minus train

    own = "train" if name in FLAT else "test"
    as_is = figures("")
    assert any(value is not None for _, _, value in as_is)
    for part in ("train", "validation", "test"):
        assert (figures(part) != as_is) is (part == own), part
