"""Probes, criteria and stages on a GPU: what they give is what the CPU gives; on a pretended one, and a card."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cases_cuda import gpu, on_gpu  # noqa: F401
from cases_exits import HEAD, RESNET, spec, training
from compressbench import specs
from compressbench.bench import Bench
from compressbench.checking.traces import unchanged
from compressbench.cli.run import composed
from compressbench.declared import is_timing
from compressbench.models import exit_policies
from compressbench.models.draw import drawn
from compressbench.populations import Population
from compressbench.pruning.unstructured import prune, whole_masks
from compressbench.records import Metric
from compressbench.specs.conf import conf_dir
from compressbench.stages.composite import Ensemble
from compressbench.stages.exits import Attach, Choose
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Cast, Mixed, Quantize
from compressbench.stages.share import Share
from compressbench.stages.shrink import Blocks, Channels
from compressbench.stages.theseus import Replace
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.store import Store
from compressbench.views import View
from pretended import Pretended
from short import ADAM, train
from tiny import TINY

CONF = conf_dir()
PROBES = sorted(p.stem for p in (CONF / "probe").glob("*.yaml"))
CRITERIA = sorted(p.stem for p in (CONF / "stage/prune").glob("*.yaml") if p.stem[0] != "_")
METHODS = sorted(p.stem for p in (CONF / "reparametrise").glob("*.yaml"))
MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
FEW = {
    "square": {"queries": 30, "examples": 32},
    "robustness": {"steps": 3, "examples": 32, "queries": 20, "width": None},
    "connectivity": {"points": 3},
}
ELSEWHERE = (
    "deployed",
    "targets",
    "batching",
)  # they ask runtimes, not the GPU: ``test_cuda`` has those that do


def read(folder: str, name: str) -> Any:
    found = yaml.safe_load((CONF / folder / f"{name}.yaml").read_text())
    found.pop("defaults", None)
    return found


@pytest.fixture(scope="module")
def learnt(place: Bench, dense: State) -> State:
    """A net that knows a little, so that its answers are no mere noise."""
    return train("20it", validate=None).apply(dense, dataclasses.replace(place, name="learnt"))


@pytest.fixture(scope="module")
def early(place: Bench) -> State:
    own = exit_policies.with_exits(
        drawn(RESNET, place), dataclasses.replace(place, name="attach"), Attach(("layer1", "layer2"), HEAD)
    )
    own = training("joint", Train).apply(own, dataclasses.replace(place, name="joint"))
    return Choose(spec("margin"), budget=0.7).apply(own, place)


def near(there: float | None, here: float | None, unit: str) -> bool:
    """On a card sums are taken in another order: a share may move by an example or two."""
    if there is None or here is None:
        return there is here
    if math.isnan(there) or math.isnan(here):
        return math.isnan(there) and math.isnan(here)
    slack = {"%": 1.0, "points": 1.0, "queries": 2.0, "bytes": 0.02 * abs(here)}.get(unit, 1e-4)
    return abs(there - here) <= slack + 0.05 * abs(here)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PROBES if n not in ELSEWHERE])
def test_every_probe_measures_what_it_does_on_the_cpu(
    name: str, gpu: Pretended | None, place: Bench, learnt: State, early: State
) -> None:
    content = composed(["scale=smoke", "evaluation=none", f"+probe@evaluation.probes.{name}={name}"])
    probe = specs.build({**content["evaluation"]["probes"][name], **FEW.get(name, {})})
    reference = early if name == "exits" else learnt
    subject = early if name == "exits" else prune(learnt, place, Prune(MAGNITUDE, 0.3))

    def measured(bench: Bench) -> list[Metric]:
        bench = dataclasses.replace(bench, name=f"probe {name}")
        views = View(subject, bench, "pruned"), View(reference, bench, "dense")
        with unchanged(subject=subject, reference=reference):
            if hasattr(probe, "measure_many"):
                return list(probe.measure_many(*(Population.of([view]) for view in views), bench))
            return list(probe.measure(*views, bench))

    here, there = measured(place), measured(on_gpu(place))
    assert here
    assert [(m.name, m.group, m.unit) for m in there] == [(m.name, m.group, m.unit) for m in here]
    apart = [
        (m.name, m.group, m.value, other.value)
        for m, other in zip(here, there, strict=True)
        if not is_timing(m.name, m.unit) and not near(other.value, m.value, m.unit)
    ]
    assert not apart


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_scores_as_on_the_cpu(
    name: str, gpu: Pretended | None, place: Bench, dense: State
) -> None:
    from compressbench.criteria.given import Given, Saliency

    criterion = specs.build(read("stage/prune", name)["criterion"], "criterion")
    other = drawn(TINY, dataclasses.replace(place, name="other"))
    weights = {n: dense.weights[n] for n in dense.facts["prunable"]}
    state = dense.with_groups(movement={n: w * other.weights[n] for n, w in weights.items()})

    def scores(bench: Bench) -> dict[str, torch.Tensor]:
        bench = dataclasses.replace(bench, name="prune", references={"???": other})
        found = criterion(Given(weights, whole_masks(state), state, bench))
        found = found if isinstance(found, Saliency) else Saliency(found)
        return dict(found.scores)

    here, there = scores(place), scores(on_gpu(place))
    assert here.keys() == there.keys()
    for layer, score in here.items():
        assert not there[layer].is_cuda, "scores are of the CPU, where masks are made"
        assert torch.allclose(there[layer], score, rtol=0.02, atol=1e-3 * float(score.abs().max())), layer


STAGES: dict[str, Any] = {
    "8 bits": Quantize(weights=8, inputs=8, examples=64),
    "4 bits, mse, corrected": Quantize(
        weights=4,
        inputs=8,
        examples=64,
        weight_observer=read("observer", "mse"),
        observer=read("observer", "entropy"),
        bias_correction=True,
    ),
    "percentile": Quantize(weights=8, inputs=8, examples=64, observer=read("observer", "percentile")),
    "adaptive rounding": Quantize(weights=4, inputs=8, examples=64, rounding="adaptive", rounding_steps=5),
    "inputs as they come": Quantize(weights=8, inputs=8, examples=64, dynamic=True),
    "mixed": Mixed((8, 4), budget=0.2, inputs=8, examples=64),
    "half": Cast("float16"),
    "shared": Share(bits=3, iterations=5),
    "pruned": Prune(MAGNITUDE, 0.5),
}


def apart(here: State, there: State, limit: float = 1e-3) -> list[str]:
    """Where a state of the GPU is another one than that of the CPU; it lies on the CPU."""
    found = []
    for group, named in here.tensors.items():
        for name, tensor in named.items():
            other = there.tensors[group][name]
            if other.is_cuda or other.dtype != tensor.dtype or other.shape != tensor.shape:
                found.append(f"{group}.{name}: {other.device} {other.dtype} {tuple(other.shape)}")
                continue
            distance = float((other.double() - tensor.double()).abs().max()) if tensor.numel() else 0.0
            if not distance <= limit * max(1.0, float(tensor.double().abs().max() if tensor.numel() else 0)):
                found.append(f"{group}.{name}: {distance:.2g}")
    return found


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_gives_what_it_does_on_the_cpu(
    name: str, gpu: Pretended | None, place: Bench, learnt: State, tmp_path: Path
) -> None:
    here, there = (
        STAGES[name].apply(learnt, dataclasses.replace(bench, name="stage"))
        for bench in (place, on_gpu(place))
    )
    assert there.edits == here.edits
    assert here.tensors.keys() == there.tensors.keys()
    steps = gpu is None and name == "adaptive rounding"  # on a card a weight may be rounded to the other side
    assert not apart(here, there, 0.2 if steps else 1e-3)
    kept(there, place, tmp_path)


def kept(state: State, place: Bench, folder: Path) -> None:
    """A state made on the GPU is stored, loaded and asked on the CPU."""
    store = Store(folder)
    store.save("k" * 16, state, {})
    back = store.load("k" * 16)
    assert back is not None
    for group, named in state.tensors.items():
        for name, tensor in named.items():
            assert torch.equal(back.tensors[group][name], tensor)
    assert View(back, place).log_probs.isfinite().all()


@pytest.mark.parametrize(
    "stage",
    [Channels(MAGNITUDE, fraction=0.3), Blocks(MAGNITUDE, fraction=0.4), Replace()],
    ids=lambda s: type(s).__name__,
)
def test_nets_are_cut_and_rebuilt_on_a_gpu(stage: Any, gpu: Pretended | None, place: Bench) -> None:
    net = drawn({**RESNET, "build": {**RESNET["build"], "depth": 14}}, place)
    here, there = (stage.apply(net, dataclasses.replace(b, name="cut")) for b in (place, on_gpu(place)))
    assert there.edits == here.edits
    assert not apart(here, there)


def test_an_ensemble_and_a_policy_on_a_gpu(
    gpu: Pretended | None, place: Bench, early: State, learnt: State
) -> None:
    for bench in (place, on_gpu(place)):
        both = dataclasses.replace(bench, references={"a": learnt, "b": learnt})
        joined = Ensemble(("a", "b")).apply(None, both)
        assert (View(joined, bench).answers == View(learnt, place).answers).double().mean() > 0.99
        chosen = Choose(spec("margin"), budget=0.7).apply(early, bench)
        assert chosen.policies["exit"]["thresholds"] == pytest.approx(
            early.policies["exit"]["thresholds"], abs=0.02
        )
        assert (View(early, bench).answers == View(early, place).answers).double().mean() > 0.98


# Training. -----------------------------------------------------------------------------------------------------------


def stepped(settings: Train, state: State, bench: Bench) -> State:
    return settings.apply(state, dataclasses.replace(bench, name="train"))


TRAININGS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"optimizer": ADAM, "lr": 0.001},
    "clipped, warm": {"clip": 0.5, "warmup": "2it", "weight_decay": 1e-3},
    "validated": {"validate": "2it"},
    "sam": {"stepper": read("stepper", "sam")},
    "asam": {"stepper": read("stepper", "asam")},
    "swa": {"averager": read("averager", "swa"), "length": "20it"},
    "ema": {"averager": read("averager", "ema")},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_few_steps_end_where_they_do_on_the_cpu(
    name: str, gpu: Pretended | None, place: Bench, dense: State, tmp_path: Path
) -> None:
    settings = train(**{"length": "4it", "validate": None, **TRAININGS[name]})
    pruned = prune(dense, place, Prune(MAGNITUDE, 0.3))
    here, there = stepped(settings, pruned, place), stepped(settings, pruned, on_gpu(place))
    assert not apart(here, there, 0.02 if name == "bf16" else 2e-3)
    assert all(bool((there.weights[n][~m] == 0).all()) for n, m in there.masks.items()), "masks hold"
    kept(there, place, tmp_path)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_a_gpu(name: str, gpu: Pretended | None, place: Bench, dense: State) -> None:
    """Those that draw on the device draw other numbers there: they need only train."""
    method = read("reparametrise", name)
    if name == "shared":
        dense = Share(bits=3, iterations=5).apply(dense, place)
    if name == "qat":
        dense = Quantize(weights=8, inputs=8, examples=64).apply(dense, place)
    if name == "gradual":
        method |= {k: read(k, method[k]) for k in ("scope", "grain")} | {
            "every": "1it",
            "criterion": MAGNITUDE,
        }
    settings = train("3it", validate=None, reparametrise={name: method})
    here, there = stepped(settings, dense, place), stepped(settings, dense, on_gpu(place))
    assert {g: set(t) for g, t in here.tensors.items()} == {g: set(t) for g, t in there.tensors.items()}
    drawing = ("dropout", "l0", "supermask", "targeted_dropout", "variational_dropout")
    if name in ("qat", "shared") or (
        gpu is not None and name not in drawing
    ):  # a rank may flip by a rounding on a card
        assert not apart(here, there, 5e-3)


@pytest.mark.parametrize("objective", ["joint", "self_distilled"])
def test_exits_train_on_a_gpu(objective: str, gpu: Pretended | None, place: Bench, early: State) -> None:
    settings = dataclasses.replace(training(objective, Train), length="4it")
    here, there = stepped(settings, early, place), stepped(settings, early, on_gpu(place))
    assert not apart(here, there, 5e-3)


@pytest.mark.parametrize(
    ("labels", "distance"),
    [
        ("soft", "kl"),
        ("kd_topk", "mse"),
        ("shuffled", "js"),
        ("class_mean", "cross_entropy"),
        ("kd_sim", "kl"),
        ("kd_pt", "cosine"),
        ("hard", "kl"),
    ],
)
def test_distillation_on_a_gpu(
    labels: str, distance: str, gpu: Pretended | None, place: Bench, dense: State, learnt: State
) -> None:
    own = {
        "_target_": "compressbench.training.distillation.distill", "_partial_": True, "teacher": "teacher",
        "labels": read("labels", labels), "distance": read("distance", distance),
    }  # fmt: skip
    settings = train("4it", validate=None, objective=own)
    here, there = (
        stepped(settings, dense, dataclasses.replace(b, references={"teacher": learnt}))
        for b in (place, on_gpu(place))
    )
    assert not apart(here, there, 5e-3)


@pytest.mark.parametrize("feature", ["hint", "attention", "similarity", "pooled"])
def test_mimicking_on_a_gpu(
    feature: str, gpu: Pretended | None, place: Bench, dense: State, learnt: State
) -> None:
    own = {
        "_target_": "compressbench.training.distillation.mimic", "_partial_": True, "teacher": "teacher",
        "labels": read("labels", "soft"), "distance": read("distance", "kl"), "temperature": 4.0, "share": 0.9,
        "points": {"features.3": "features.3"}, "feature": read("feature", feature),
    }  # fmt: skip
    settings = train("4it", validate=None, objective=own)
    here, there = (
        stepped(settings, dense, dataclasses.replace(b, references={"teacher": learnt}))
        for b in (place, on_gpu(place))
    )
    assert not apart(here, there, 5e-3)
