"""Every stage that is not of pictures alone, on an encoder: pruned, rounded, shared, distilled, several as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from compressbench.cli.run import composed
from compressbench.errors import UserError
from compressbench.runs.execute import Executor, Watcher
from compressbench.runs.experiment import prepare
from compressbench.state import State
from compressbench.views import View

pytest.importorskip("tokenizers")
TRAIN = {"length": "5ep", "batch_size": 32, "lr": 0.005, "validate": None}
SHORT = {**TRAIN, "length": "8it", "lr": 0.001}
SGD = {**SHORT, "lr": 0.01, "clip": 1.0}
HALF = {"fraction": 0.5, "of": "whole", "from": "dense"}
Told = tuple[str, dict[str, Any], dict[str, str]]
"""A stage's YAML, its settings, and what else stands in the defaults list: place in the stage -> group/option."""


def pruned(by_what: str, **settings: Any) -> Told:
    return f"prune/{by_what}", {**HALF, **settings}, {}


def by(method: str, **settings: Any) -> Told:
    given = {"reparametrise": {method: settings}} if settings else {}
    start = {"from": "dense"} if method not in ("edge_popup", "supermask", "dnw") else {"from": "init"}
    return "train/adamw", {**SHORT, **start, **given}, {f"reparametrise.{method}": f"reparametrise/{method}"}


FEW = {"examples": 32, "split": "train"}
STAGES: dict[str, Told] = {
    "init": ("init/model", {}, {}),
    "dense": ("train/adamw", {**TRAIN, "from": "init"}, {}),
    "init2": ("init/model", {}, {}),
    "other": ("train/adamw", {**TRAIN, "from": "init2", "order": "second"}, {}),
    "magnitude": pruned("magnitude"),
    "random": pruned("random"),
    "small_final": pruned("small_final"),
    "taylor": pruned("taylor"),
    "obs": pruned("obs", criterion={"examples": 16}),
    "obd_fisher": pruned("obd_fisher"),
    "obd_hutchinson": pruned("obd_hutchinson", criterion={"examples": 16}),
    "woodfisher": pruned("woodfisher", criterion={"examples": 16}),
    "snip": pruned("snip"),
    "grown": pruned("magnitude_increase", criterion={"since": "init"}),
    "same_sign": pruned("large_final_same_sign", criterion={"since": "init"}),
    "n_m": ("prune/magnitude", {"from": "dense", "fraction": None, "rates": {"@output": 0.0}}, {"scope": "scope/n_m"}),
    "rows": ("prune/magnitude", HALF, {"grain": "grain/row"}),
    "columns": ("prune/magnitude", HALF, {"grain": "grain/column"}),
    "blocks": ("prune/magnitude", HALF, {"grain": "grain/block"}),
    "by_layer": ("prune/magnitude", HALF, {"scope": "scope/layer"}),
    "erk": ("prune/magnitude", HALF, {"scope": "scope/erk"}),
    "tuned": ("train/adamw", {**SHORT, "from": "magnitude"}, {}),
    "moved": by("movement"),
    "movement": ("prune/movement", {**HALF, "from": "moved"}, {}),
    "gradual": by("gradual", every="2it", final=0.5, start=0.0, stop=0.8),
    "l0": by("l0"),
    "variational": by("variational_dropout"),
    "edge_popup": by("edge_popup"),
    "supermask": by("supermask"),
    "dnw": by("dnw", keep=0.5),
    "targeted": by("targeted_dropout"),
    "dropped": by("dropout"),
    "ptq": ("quantize/ptq", {"from": "dense", **FEW}, {}),
    "dynamic": ("quantize/dynamic", {"from": "dense"}, {}),
    "weight_only": ("quantize/weight_only", {"from": "dense"}, {}),
    "adaptive": ("quantize/adaptive", {"from": "dense", "rounding_steps": 5, **FEW}, {}),
    "mixed": ("quantize/mixed", {"from": "dense", **FEW}, {}),
    "bf16": ("quantize/bf16", {"from": "dense"}, {}),
    "fp16": ("quantize/fp16", {"from": "dense"}, {}),
    "qat": ("train/qat", {**SGD, "from": "ptq"}, {}),
    "kmeans": ("share/kmeans", {"from": "dense"}, {}),
    "shared": ("train/shared", {**SGD, "from": "kmeans"}, {}),
    "autocast": ("train/adamw", {**SHORT, "from": "dense", "precision": "bf16"}, {}),
    "distilled": (
        "train/distill_adam", {**TRAIN, "length": "2ep", "from": "init", "objective": {"teacher": "dense"}}, {}
    ),
    "mimicked": (
        "train/mimic",
        {**SGD, "from": "init", "objective": {"teacher": "dense", "points": {"layers.0": "layers.1"}}},
        {},
    ),
    "sam": ("train/sam", {**SGD, "from": "dense"}, {}),
    "asam": ("train/asam", {**SGD, "from": "dense"}, {}),
    "swa": ("train/swa", {**SGD, "from": "dense"}, {}),
    "smoothed": ("train/smoothed", {**SGD, "from": "dense"}, {}),
    "ensemble": ("ensemble/mean", {"members": ["dense", "other"]}, {}),
    "member": ("take/member", {"from": "ensemble", "member": 1}, {}),
    "few": ("data/few", {"from": "dense", "labels": 40}, {}),
    "of_few": ("train/adamw", {**SHORT, "length": "2it", "from": "init", "data": "few"}, {}),
    "begun": ("train/adamw", {**TRAIN, "from": "init", "stop": "4it"}, {}),
    "rewound": ("rewind/weights", {"from": "magnitude", "to": "begun"}, {}),
    "ticket": ("train/adamw", {**TRAIN, "start": "4it"}, {}),
    "reinit": ("rewind/reinit", {"from": "magnitude"}, {}),
    "shuffled": ("rewind/random_mask", {"from": "init", "like": "magnitude"}, {}),
}  # fmt: skip
REFUSED: dict[str, tuple[Told, str]] = {
    "munge": (
        ("data/munge", {"from": "init"}, {}),
        "data/munge makes pictures, and the examples hold text, ids",
    ),
    "pictures": (
        ("data/pictures", {"from": "init", "root": "."}, {}),
        "data/pictures makes pictures, and the examples hold text",
    ),
    "bn_scale": (
        pruned("bn_scale", **{"from": "init"}),
        "no batch norm follows a convolution or linear layer",
    ),
}


def recipe(stages: Mapping[str, Told], reference: str) -> dict[str, Any]:
    defaults: list[Any] = []
    for name, (told, _, more) in stages.items():
        group, _, option = told.partition("/")
        defaults.append({f"/stage/{group}@stages.{name}": option})
        for place, choice in more.items():
            group, _, option = choice.partition("/")
            defaults.append({f"/{group}@stages.{name}.{place}": option})
    return {
        "defaults": [*defaults, "_self_"],
        "name": "tried",
        "stages": {name: settings for name, (_, settings, _) in stages.items() if settings},
        "compare": {"reference": reference, "series": {}, "floor": False},
    }


def made_ready(folder: Path, stages: Mapping[str, Told], reference: str = "dense") -> Executor:
    path = folder / "mine" / "recipe" / "tried.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(recipe(stages, reference), sort_keys=False))
    given = [
        "recipe=tried", "scale=smoke", "evaluation=none", "hardware=cpu1", f"outputs={folder / 'o'}", "dataset=glosses",
        "dataset.train_size=1500", "dataset.test_size=120", "dataset.validation=60", "dataset.task.vocabulary=1500",
        "dataset.task.length=24", "model=encoder", "model.build.dim=16", "model.build.depth=2", "model.build.heads=2",
        "model.build.mlp=32",
    ]  # fmt: skip
    ready = prepare(composed(given, str(folder / "mine")))
    return Executor(ready.plan, ready.store, ready.setting, Watcher())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Executor:
    return made_ready(tmp_path_factory.mktemp("texts"), STAGES)


def view(made: Executor, name: str) -> View:
    return View(made.state(name), made.bench(), name)


def kept(state: State) -> dict[str, np.ndarray]:
    """What stands in the layers that pruning is of: all linear ones."""
    return {name: state.weights[name].numpy() for name in state.facts["prunable"]}


def share(state: State) -> float:
    """Of their weights, those that are not zero."""
    weights = kept(state).values()
    return sum(np.count_nonzero(w) for w in weights) / sum(w.size for w in weights)


def differ(one: State, other: State) -> bool:
    return any(not torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_on_an_encoder_of_texts(name: str, made: Executor) -> None:
    found = view(made, name)
    assert torch.isfinite(found.log_probs).all()
    assert found.log_probs.shape == (120, 10)
    told, settings, _ = STAGES[name]
    start = made.state(settings["from"]) if "from" in settings else None
    if settings.get("fraction", 0) == 0.5:
        assert share(found.state) == pytest.approx(0.5, abs=0.01)
    if told.startswith("train/") and start is not None:
        assert differ(found.state, start) or name in ("edge_popup", "supermask"), "nothing was learned"
        for layer, mask in start.masks.items():
            assert not found.state.weights[layer][~mask].any(), "what was cut grows again"
    if name in HELPED:
        assert float(found.right.float().mean()) > 0.3  # of ten classes as frequent


HELPED = (
    "dense", "other", "tuned", "moved", "gradual", "ptq", "dynamic", "weight_only", "adaptive", "mixed", "bf16", "fp16",
    "qat", "kmeans", "shared", "autocast", "sam", "asam", "swa", "smoothed", "ensemble", "member", "targeted", "obs",
)  # fmt: skip


def test_two_of_four_inputs_stay(made: Executor) -> None:
    state = made.state("n_m")
    for name, weight in kept(state).items():
        groups = np.count_nonzero(weight.reshape(weight.shape[0], -1, 4), axis=2)
        assert (groups == (4 if name == "fc.weight" else 2)).all(), name
        whole = np.abs(made.state("dense").weights[name].numpy()).reshape(*groups.shape, 4)
        left = np.abs(weight).reshape(whole.shape)
        if name != "fc.weight":  # the largest two
            assert np.allclose(np.sort(whole, 2)[..., 2:].sum(2), left.sum(2))


def test_magnitude_takes_the_smallest_of_all_linear_layers(made: Executor) -> None:
    dense, cut = kept(made.state("dense")), kept(made.state("magnitude"))
    flat = np.concatenate([np.abs(dense[name]).ravel() for name in dense])
    gone = np.concatenate([cut[name].ravel() == 0 for name in dense])
    assert flat[gone].max() <= flat[~gone].min()
    for name in ("tokens.weight", "positions.weight"):
        assert torch.equal(made.state("magnitude").weights[name], made.state("dense").weights[name])


def test_rounded_and_shared_weights_take_few_values(made: Executor) -> None:
    dense = view(made, "dense")
    for name in ("ptq", "weight_only", "dynamic"):
        found = view(made, name)
        modules = dict(found.module.named_modules())
        layer = modules["layers.0.mlp.0"]
        weight = layer.weight if isinstance(layer, nn.Linear) else layer.rounded()
        assert max(len(np.unique(row)) for row in weight.detach().numpy()) <= 256
        assert (found.answers == dense.answers).float().mean() > 0.9
    for weight in kept(made.state("kmeans")).values():
        assert len(np.unique(weight)) <= 2**5
    assert differ(made.state("shared"), made.state("kmeans"))
    for weight in kept(made.state("shared")).values():
        assert len(np.unique(weight)) <= 2**5


def test_an_ensemble_answers_the_mean_and_gives_its_members_back(made: Executor) -> None:
    one, other = (view(made, name).log_probs.numpy().astype(float) for name in ("dense", "other"))
    assert np.abs(one - other).max() > 0.1
    both = view(made, "ensemble").log_probs.numpy()
    assert np.allclose(np.exp(both), (np.exp(one) + np.exp(other)) / 2, atol=1e-5)
    assert np.allclose(view(made, "member").log_probs.numpy(), other, atol=1e-5)


def test_a_student_comes_nearer_to_its_teacher(made: Executor) -> None:
    def far(name: str) -> float:
        teacher, own = view(made, "dense").log_probs, view(made, name).log_probs
        return float((teacher.exp() * (teacher - own)).sum(1).mean())

    assert far("distilled") < 0.8 * far("init")


def test_few_labels_and_a_rewound_ticket(made: Executor) -> None:
    labels = made.state("few").group("data")["labels"]
    assert len(labels) == 40
    assert torch.bincount(labels, minlength=10).tolist() == [4] * 10
    begun, rewound, masks = made.state("begun"), made.state("rewound"), made.state("magnitude").masks
    for name, weight in rewound.weights.items():
        wanted = begun.weights[name] * masks[name] if name in masks else begun.weights[name]
        assert torch.equal(weight, wanted), name
    ticket = made.state("ticket")
    assert all(not ticket.weights[name][~mask].any() for name, mask in masks.items())
    assert differ(made.state("reinit"), made.state("magnitude"))
    assert share(made.state("shuffled")) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_of_pictures_alone_says_so_in_a_line(name: str, tmp_path: Path) -> None:
    told, said = REFUSED[name]
    made = made_ready(tmp_path, {"init": STAGES["init"], name: told}, "init")
    with pytest.raises(UserError, match=said) as refused:
        made.state(name)
    assert "\n" not in str(refused.value)
