"""Distillation: the objective against hand-computed gradients, mimicking inside, and a recipe from nothing but YAML."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases_distillation import (  # noqa: F401
    DISTANCES,
    FEATURES,
    L1,
    LABELS,
    RESNET,
    WANTED,
    batch_of,
    by,
    learned,
    some_logits,
    student,
    taught,
    teacher,
    training,
    untrained,
    with_states,
)
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.features.hint import hint
from compressbench.features.pooled import pooled
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.outputs import Outputs, forward, tapped
from compressbench.records import read_jsonl
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.stages.rewind import LearningRate
from compressbench.stages.theseus import Shallower
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.training import distillation
from compressbench.training.objectives import Batch
from compressbench.views import View
from conftest import Command
from short import ADAM, SGD, same

QAT = {"qat": {"_target_": "compressbench.training.reparametrisations.qat.qat", "_partial_": True}}


def augmented(bench: Bench) -> Bench:
    return dataclasses.replace(
        bench,
        dataset=dataclasses.replace(
            bench.dataset, task=dataclasses.replace(bench.task, augment={"pad": 1, "flip": True})
        ),
    )


# The objective --------------------------------------------------------------------------------------------------------


def test_the_share_mixes_teacher_and_labels(taught: Bench, teacher: State) -> None:
    batch = batch_of(taught, some_logits(16, 10)[0].float())
    with torch.no_grad():
        guide = module_of(teacher)(*batch.inputs)
    soft = distillation.softened(batch.outputs.logits, guide, 4.0)
    hard = F.cross_entropy(batch.outputs.logits, batch.labels)
    for share in (0.0, 0.3, 1.0):
        found = distillation.distill(taught, ("teacher",), temperature=4.0, share=share)(batch)
        assert torch.allclose(found, share * soft + (1 - share) * hard, atol=1e-4)


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_is_taken_at_the_temperature(name: str, taught: Bench, teacher: State) -> None:
    batch = batch_of(taught, some_logits(16, 10)[0].float())
    with torch.no_grad():
        guide = module_of(teacher)(*batch.inputs)
    objective = distillation.distill(taught, ("teacher",), 3.0, 1.0, DISTANCES[name])
    wanted = 9 * DISTANCES[name](batch.outputs.logits / 3, guide / 3)
    assert torch.allclose(objective(batch), wanted, atol=1e-3, rtol=1e-3)


def test_cached_logits_are_the_computed_ones(taught: Bench) -> None:
    logits = some_logits(40, 10)[0].float()
    for labels in ("soft", "class_mean"):
        objective = distillation.distill(taught, ("teacher",), labels=LABELS[labels])
        cached, computed = (objective(batch_of(taught, logits, plain)) for plain in (True, False))
        assert torch.allclose(cached, computed, rtol=1e-4, atol=0)
    rows = torch.tensor([899, 0, 450])
    feed = taught.feed("train")
    inputs = taught.task.normalised(feed["images"][rows])
    batches = [
        Batch(Outputs(logits[:3]), (inputs,), feed.labels[rows], rows, plain) for plain in (True, False)
    ]
    assert torch.allclose(*map(objective, batches), rtol=1e-4, atol=0)


class Counted:
    """``forward``, and how many images it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        monkeypatch.setattr(distillation, "forward", self)

    def __call__(self, module: Any, *inputs: Tensor) -> Outputs:
        self.images += len(inputs[0])
        return forward(module, *inputs)


@pytest.mark.parametrize("labels", ["soft", "class_mean", "shuffled"])
def test_the_teacher_is_asked_once_for_the_whole_set(
    labels: str, taught: Bench, student: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    training("3ep", batch_size=300, **by("distill", labels=labels)).apply(student, taught)
    assert counted.images == len(taught.feed("train")) + 8, "and for eight, before the training begins"


def test_with_augmentation_the_teacher_sees_what_the_student_sees(
    taught: Bench, student: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = augmented(taught)
    counted = Counted(monkeypatch)
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(module: Any, inputs: Tensor) -> Outputs:
        seen.append((inputs, forward(module, inputs).logits))
        return counted(module, inputs)

    monkeypatch.setattr(distillation, "forward", watched)
    given: list[Batch] = []
    whole = distillation._Distilled.__call__

    def noted(self: Any, batch: Batch) -> Tensor:
        given.append(batch)
        return whole(self, batch)

    monkeypatch.setattr(distillation._Distilled, "__call__", noted)
    training("2ep", batch_size=300, **by("distill")).apply(student, bench)
    assert counted.images == 6 * 300 + 8
    assert all(
        torch.equal(batch.inputs[0], inputs) for batch, (inputs, _) in zip(given, seen[1:], strict=True)
    )
    raw = bench.task.normalised(bench.feed("train")["images"][given[0].rows])
    assert not torch.equal(raw, given[0].inputs[0])
    assert not any(batch.plain for batch in given)
    counted.images = 0
    training("2ep", batch_size=300, augment=False, **by("distill")).apply(student, bench)
    assert counted.images == 900 + 8


def test_an_estimate_does_not_ask_the_teacher_for_the_whole_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressbench.cli.run import composed
    from compressbench.runs.estimate import estimate
    from compressbench.runs.execute import Executor, Watcher
    from compressbench.runs.experiment import prepare

    ready = prepare(
        composed(
            [
                "recipe=loyalty_table",
                *("scale=smoke", "hardware=cpu1"),
                "recipe.finetune=4ep",
                f"outputs={tmp_path}",
            ]
        )
    )
    counted = Counted(monkeypatch)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    assert "about" in estimate(ready, executor, ["ptq_kd"], [])
    batch = ready.plan.node("ptq_kd").stage.batch_size
    assert counted.images == 2 * (8 + 2 * batch), "two trials of the stage, each on two batches"


@pytest.mark.parametrize("objective", ["distill", "mimic"])
def test_the_teacher_never_changes(objective: str, taught: Bench, teacher: State, student: State) -> None:
    before = {n: t.clone() for n, t in teacher.weights.items()}
    settings = {} if objective == "distill" else {"points": {"layer1": "layer1"}}
    loss = getattr(distillation, objective)(taught, ("teacher",), **settings)
    held = getattr(loss, "base", loss).module
    module = module_of(student).train()
    with tapped(module, getattr(loss, "taps", ())) as compute:
        for _ in range(2):
            batch = batch_of(taught, torch.zeros(8, 10))
            loss(dataclasses.replace(batch, outputs=compute(*batch.inputs))).backward()
    assert learned(module)
    assert not learned(held)
    assert not held.training
    assert all(torch.equal(t, before[n]) for n, t in held.state_dict().items()), "not even its running means"
    training("3it", **by(objective, **settings)).apply(student, augmented(taught))
    assert same(teacher.weights, before)
    assert not any(m._forward_hooks for m in held.modules())


LOUD = ("cosine", "l1", "mse", "reverse_kl")  # infinite, or no number, at a label of probability 0


@pytest.mark.slow
@pytest.mark.parametrize("labels", LABELS)
def test_every_label_with_every_distance(labels: str, taught: Bench, student: State) -> None:
    function = f"compressbench.labels.{labels}.{labels}"
    spec = {"_target_": function, "_partial_": True, **WANTED.get(labels, {})}
    refused = []
    for distance in DISTANCES:
        stage = training("2it", **by("distill", labels=spec, distance=distance))
        if (said := refusal(stage, student, taught)) is not None:
            refused.append(distance)
            assert "\n" not in said
            assert said.startswith(
                "distance: it is infinite where the labels give a class no probability at all;"
            )
            continue
        found = stage.apply(student, taught)
        assert not same(found.weights, student.weights)
        assert all(torch.isfinite(t).all() for t in found.weights.values())
    assert refused == (sorted(LOUD) if labels == "hard" else [])


def refusal(stage: Train, state: State, bench: Bench) -> str | None:
    try:
        stage.built("objective")(bench)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("objective", ["distill", "mimic"])
@pytest.mark.parametrize("cached", [True, False])
def test_distillation_goes_with_masks_rounding_and_bf16(
    objective: str, cached: bool, taught: Bench, student: State
) -> None:
    bench = taught if cached else augmented(taught)
    settings = {} if objective == "distill" else {"points": {"layer1": "layer1"}, "regressor": True}
    pruned = Prune(L1, 0.6).apply(student, bench)
    found = training("3it", **by(objective, **settings)).apply(pruned, bench)
    assert same(found.masks, pruned.masks)
    for name, mask in pruned.masks.items():
        assert not found.weights[name][~mask].any()
    assert not same(found.weights, pruned.weights)
    rounded = Quantize().apply(student, bench)
    aware = training("3it", lr=0.01, reparametrise=QAT, **by(objective, **settings)).apply(rounded, bench)
    assert aware.group("scales").keys() == rounded.group("scales").keys()
    assert not same(aware.group("scales"), rounded.group("scales"))
    low = training("3it", precision="bf16", **by(objective, **settings)).apply(student, bench)
    full = training("3it", **by(objective, **settings)).apply(student, bench)
    assert (low.facts["dtype"], full.facts["dtype"]) == ("bf16", "fp32")
    assert not same(low.weights, full.weights)
    for name, weight in full.weights.items():
        assert torch.allclose(low.weights[name].float(), weight.float(), atol=0.1)


def test_a_quantized_or_pruned_teacher_answers_as_it_is(place: Bench, teacher: State) -> None:
    for changed in (Quantize(weights=3).apply(teacher, place), Prune(L1, 0.8).apply(teacher, place)):
        bench = with_states(place, teacher=changed)
        batch = batch_of(bench, torch.zeros(16, 10))
        with torch.no_grad():
            wanted, whole = (module_of(s)(*batch.inputs) for s in (changed, teacher))
        objective = distillation.distill(bench, ("teacher",), share=1.0)
        assert torch.allclose(
            objective(batch), distillation.softened(batch.outputs.logits, wanted, 4.0), rtol=1e-3
        )
        assert not torch.allclose(wanted, whole, atol=0.1)


def test_a_bf16_training_is_taught_in_full_precision(taught: Bench) -> None:
    batch = batch_of(taught, torch.zeros(16, 10))
    distil = distillation.distill(taught, ("teacher",))
    mimic = distillation.mimic(taught, ("teacher",), {"layer1": "layer1"})
    for ask in (lambda: distil.answers(batch), lambda: mimic._wanted(batch.inputs).logits):  # type: ignore[attr-defined]
        plain = ask()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ask(), plain)


def test_a_distilled_student_is_more_loyal(taught: Bench, teacher: State) -> None:
    student = Shallower().apply(teacher, taught)
    reference = View(teacher, taught).log_probs.argmax(1)

    def loyalty(state: State) -> float:
        return float((View(state, taught).log_probs.argmax(1) == reference).float().mean())

    before = loyalty(student)
    for objective in (by("distill"), by("mimic", points={"layer1": "layer1", "layer2": "layer2"})):
        found = training("40it", **objective).apply(student, taught)
        assert loyalty(found) > max(before, 0.7)
        assert same(found.weights, training("40it", **objective).apply(student, taught).weights)


# Mimicking ------------------------------------------------------------------------------------------------------------


def test_taps_watch_a_module_and_leave_no_hook(teacher: State, place: Bench) -> None:
    module = module_of(teacher)
    inputs = place.task.normalised(place.feed("train")["images"][:3])
    with tapped(module, ("layer1", "layer3.1.conv2")) as compute:
        found = compute(inputs)
    assert torch.equal(found.logits, module(inputs))
    assert found.taps["layer1"].shape[:2] == (3, 4)
    assert found.taps["layer3.1.conv2"].shape[:2] == (3, 16)
    assert not any(m._forward_hooks for m in module.modules())
    with pytest.raises(UserError, match=r"no module 'layer9'.*layer3"), tapped(module, ("layer9",)):
        pass


def test_patient_distillation_by_hand(taught: Bench, teacher: State) -> None:
    points = {"a": "layer1", "b": "layer2"}
    objective = distillation.mimic(taught, ("teacher",), points, feature=pooled, share=0.0, beta=3.0)
    assert objective.taps == ("a", "b")  # type: ignore[attr-defined]
    torch.manual_seed(0)
    batch = batch_of(taught, torch.randn(5, 10))
    with torch.no_grad(), tapped(module_of(teacher), ("layer1", "layer2")) as compute:
        wanted = compute(*batch.inputs).taps
    own = {"a": torch.rand(5, 4, 8, 8), "b": torch.rand(5, 8, 4, 4)}
    batch = dataclasses.replace(batch, outputs=Outputs(batch.outputs.logits, own))
    far = []
    for mine, other in (("a", "layer1"), ("b", "layer2")):
        h, t = own[mine].mean((2, 3)), wanted[other].mean((2, 3))
        h, t = h / h.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
        far.append((h - t).square().sum(1).mean())
    hard = F.cross_entropy(batch.outputs.logits, batch.labels)
    assert torch.allclose(objective(batch), hard + 3 * (far[0] + far[1]) / 2, atol=1e-4)
    alone = distillation.mimic(taught, ("teacher",), points, feature=pooled, beta=3.0, alone=True)
    assert torch.allclose(alone(batch), 3 * (far[0] + far[1]) / 2, atol=1e-4)
    agreeing = Outputs(batch.outputs.logits, {"a": wanted["layer1"], "b": wanted["layer2"]})
    assert torch.allclose(objective(dataclasses.replace(batch, outputs=agreeing)), hard, atol=1e-4)


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_pulls_the_student_to_the_teacher(name: str, taught: Bench, student: State) -> None:
    beta = 3000.0 if name == "similarity" else 10.0
    settings = by("mimic", points={"layer1": "layer1"}, feature=name, beta=beta, alone=True)
    found = training("60it", **settings).apply(student, taught)
    images = taught.task.normalised(taught.feed("test")["images"][:64])

    def at_layer1(state: State) -> Tensor:
        with torch.no_grad(), tapped(module_of(state), ("layer1",)) as compute:
            return compute(images).taps["layer1"]

    wanted = at_layer1(taught.references["teacher"])
    before, after = (float(FEATURES[name](at_layer1(state), wanted)) for state in (student, found))
    assert after < 0.8 * before
    assert torch.equal(found.weights["fc.weight"], student.weights["fc.weight"]), "nothing asked it to change"


MAPPED: dict[str, Any] = {"points": {"layer2": "layer2"}, "feature": "hint", "regressor": True, "beta": 2.0}


def test_a_regressor_maps_the_channels(place: Bench, student: State) -> None:
    wide = {"name": "wide", "build": {**RESNET["build"], "width": 6}}
    bench = with_states(place, teacher=drawn(wide, place))
    points = {"layer1": "layer1", "layer3": "layer3"}
    objective: Any = distillation.mimic(
        bench, ("teacher",), points, feature=hint, regressor=True, alone=True, beta=1.0
    )
    own = objective.begin(module_of(student))
    assert {n: tuple(p.shape) for n, p in own.items()} == {
        "regressor0.weight": (6, 4, 1, 1),
        "regressor0.bias": (6,),
        "regressor1.weight": (24, 16, 1, 1),
        "regressor1.bias": (24,),
    }
    again: Any = distillation.mimic(bench, ("teacher",), points, feature=hint, regressor=True)
    torch.manual_seed(9)
    assert same(own, again.begin(module_of(student)))
    batch = batch_of(bench, torch.zeros(4, 10))
    with torch.no_grad():
        with tapped(module_of(student), tuple(points)) as compute:
            taps = compute(*batch.inputs).taps
        with tapped(module_of(bench.references["teacher"]), tuple(points)) as compute:
            wanted = compute(*batch.inputs).taps
    far = []
    for number, point in enumerate(points):
        mapped = F.conv2d(taps[point], own[f"regressor{number}.weight"], own[f"regressor{number}.bias"])
        far.append((mapped - wanted[point]).square().mean() / 2)
    loss = objective(dataclasses.replace(batch, outputs=Outputs(batch.outputs.logits, taps)))
    assert torch.allclose(loss, (far[0] + far[1]) / 2, rtol=1e-4)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own.values())
    with pytest.raises(
        UserError, match=r"\(4, 8, 8\).*\(6, 8, 8\); regressor: true maps the channels \(layer1 to"
    ):
        distillation.mimic(bench, ("teacher",), points, feature=hint).begin(module_of(student))  # type: ignore[attr-defined]


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
def test_a_regressor_is_trained_and_left_behind(taught: Bench, student: State, optimizer: dict) -> None:
    settings = {"optimizer": optimizer, "lr": 0.01, "weight_decay": 1e-3, **by("mimic", **MAPPED)}
    begun = training("20it", stop="0it", **settings).apply(student, taught)
    first = training("20it", stop="9it", **settings).apply(student, taught)
    whole = training("20it", **settings).apply(student, taught)
    second = training("20it", start="9it", **settings).apply(first, taught)
    own = first.group("objective")
    assert own.keys() == {"objective.regressor0.weight", "objective.regressor0.bias"}
    assert not any(torch.equal(t, begun.group("objective")[n]) for n, t in own.items())
    assert any("regressor0" in name for name in first.group("optimizer"))
    assert same(whole.weights, second.weights)
    assert not same(first.weights, second.weights)
    for done in (whole, second):
        assert not done.group("objective")
        assert not done.group("optimizer")
        assert done.weights.keys() == student.weights.keys()
        assert done.facts["prunable"] == student.facts["prunable"]


def test_a_regressors_checkpoint_continues_bit_by_bit(taught: Bench, student: State, tmp_path: Path) -> None:
    stage = training("40it", **by("mimic", **MAPPED))
    whole = stage.apply(student, taught)

    class Killed(Exception):
        pass

    class Bomb:
        def step(self, done: int, total: int, **figures: float) -> None:
            if done == 25:
                raise Killed

    broken = dataclasses.replace(taught, checkpoints=tmp_path, checkpoint_seconds=0.0, progress=Bomb())
    with pytest.raises(Killed):
        stage.apply(student, broken)
    from safetensors import safe_open

    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert json.loads(file.metadata()["note"])["body"]["header"]["step"] in (24, 25)
    assert {
        "own/objective.regressor0.weight",
        "optimizer/objective.regressor0.weight|momentum_buffer",
    } <= names
    seen: list[int] = []

    class Count:
        def step(self, done: int, total: int, **figures: float) -> None:
            seen.append(done)

    resumed = stage.apply(student, dataclasses.replace(taught, checkpoints=tmp_path, progress=Count()))
    assert same(whole.weights, resumed.weights)
    assert seen == [40]


def test_another_objective_in_mid_training_is_one_line(taught: Bench, student: State) -> None:
    first = training("20it", stop="9it", **by("mimic", **MAPPED)).apply(student, taught)
    other = by("mimic", **{**MAPPED, "points": {"layer1": "layer1"}})
    for second in ({}, by("distill"), other):
        with pytest.raises(
            UserError, match=r"left by an objective with objective\.regressor0\.weight"
        ) as told:
            training("20it", start="9it", **second).apply(first, taught)
        assert "\n" not in str(told.value)
    kept = LearningRate().apply(first, taught)
    assert training("20it", start="9it").apply(kept, taught).facts["examples"] == 20 * 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": {"layer1": "layer7"}}, "no module 'layer7'; did you mean"),
        ({"points": {"nowhere": "layer1"}}, "no module 'nowhere'"),
        (
            {"points": {"layer1": "layer3"}},
            r"\(4, 8, 8\).*\(16, 2, 2\); points of equal height.*layer1 to .*layer3",
        ),
        ({"points": {"layer2": "layer3"}, "feature": "attention"}, r"\(8, 4, 4\).*\(16, 2, 2\)"),
        (
            {"points": {"fc": "layer3"}, "feature": "attention"},
            r"wants maps .*student's features are \(10,\)",
        ),
        ({"points": {"layer1": "fc"}, "regressor": True}, "points: the student's features are"),
        ({"points": {"layer1": "layer3"}, "regressor": True}, r"points of equal height"),
        ({"points": {}}, "points: at least one"),
        ({"points": {"layer1": "layer1"}, "beta": -1}, "beta: -1 is not a number of 0 or more"),
        ({"points": {"layer1": "layer1"}, "beta": 0, "alone": True}, "beta: with alone: true"),
    ],
)
def test_points_that_do_not_fit_are_one_line(
    taught: Bench, student: State, settings: dict, message: str
) -> None:
    stage = training("2it", **by("mimic", **{"feature": "hint", **settings}))
    with pytest.raises(UserError, match=message) as told:
        stage.apply(student, taught)
    assert "\n" not in str(told.value)


# From nothing but YAML ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prune_distill_take_and_prune_again_is_one_recipe(command: Command) -> None:
    done = command(
        "run", "--config-dir", str(Path(__file__).parent / "conf"), "recipe=chain", "scale=smoke",
        "hardware=cpu1", "evaluation=quick",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = read_jsonl(next(Path("outputs/runs").iterdir()) / "records.jsonl")
    density = {r.series: r.value for r in records.where(metric="density")}
    assert density["taken"] == pytest.approx(50, abs=2)
    assert density["pruned again"] == pytest.approx(density["taken"] / 2, abs=0.02)
    macs = {r.series: r.compute for r in records}
    assert macs["pruned again"] > macs["taken"] > 0


def test_a_teachers_forwards_count_as_training_cost(place: Bench, teacher: State, student: State) -> None:
    bench = dataclasses.replace(place, references={"teacher": teacher})
    spec = {
        "_target_": "compressbench.training.distillation.distill",
        "_partial_": True,
        "teacher": "teacher",
    }
    plain = training("4it").apply(student, bench).facts["macs"]
    cached = training("4it", objective=spec).apply(student, bench).facts["macs"]
    assert cached - plain == teacher.facts["forward_macs"] * len(bench.feed("train"))
    points = {**spec, "_target_": "compressbench.training.distillation.mimic", "points": {"layer1": "layer1"}}
    points["regressor"] = True
    seen = training("4it", objective=points).apply(student, bench).facts["macs"]
    assert seen - plain == teacher.facts["forward_macs"] * 4 * 32
