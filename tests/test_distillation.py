"""Distillation: distances, labels, features, ensembles, online students, transfer sets, and the loop around them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench import specs
from compressbench.bench import Bench
from compressbench.data.munge import munge, neighbours
from compressbench.data.splits import seats
from compressbench.errors import UserError
from compressbench.features.attention import attention
from compressbench.features.hint import hint
from compressbench.features.pooled import pooled
from compressbench.features.similarity import similarity
from compressbench.labels.kd_rel import relations
from compressbench.labels.lesson import Lesson
from compressbench.models.build import module_of
from compressbench.models.composite import STUDENT, Ensemble, Online
from compressbench.models.draw import drawn
from compressbench.outputs import Outputs, forward, tapped
from compressbench.records import read_jsonl
from compressbench.specs import trust
from compressbench.stages.composite import Ensemble as Together
from compressbench.stages.composite import Take
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.stages.rewind import LearningRate
from compressbench.stages.shrink import Channels
from compressbench.stages.theseus import Shallower
from compressbench.stages.train import Train
from compressbench.stages.transfer import Few, Munge, Pictures
from compressbench.state import State
from compressbench.training import distillation, loop
from compressbench.training.objectives import Batch, smoothed, task_loss
from compressbench.training.online import online
from compressbench.views import View
from conftest import Command
from tiny import TINY

OWN = Path(specs.__file__).parents[1]
SIZED = {"width": 4, "shape": "@shape", "classes": "@classes"}
RESNET = {
    "name": "resnet14",
    "build": {"_target_": "compressbench.models.resnet.CifarResNet", "depth": 14, **SIZED},
}
SMALL = {
    "name": "resnet8",
    "build": {"_target_": "compressbench.models.resnet.CifarResNet", "depth": 8, **SIZED},
}
STUDENTS = {
    "name": "online",
    "build": {
        "_target_": "compressbench.models.composite.Online",
        "members": [TINY["build"], SMALL["build"]],
        "at": ["features", "layer3"],
        "shape": "@shape",
        "classes": "@classes",
    },
}
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9}
L1 = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
QAT = {"qat": {"_target_": "compressbench.training.reparametrisations.qat.qat", "_partial_": True}}


def everything(folder: str) -> dict[str, Callable[..., Tensor]]:
    """All that a word may name in one of the folders: what is put there is tested by being there."""
    names = [p.stem for p in sorted((OWN / folder).glob("*.py"))]
    targets = {n: f"compressbench.{folder}.{n}.{n}" for n in names}
    return {n.rstrip("_"): trust.locate(t) for n, t in targets.items() if specs.signature(t) is not None}


DISTANCES = everything("distances")
LABELS = everything("labels")
FEATURES = everything("features")
# Settings that have no default.
WANTED: dict[str, dict[str, Any]] = {"kd_rel": {"groups": [["3", "5", "8"], ["1", "7"]]}}
OF_PROBABILITIES = ("cross_entropy", "js", "kl", "reverse_kl")
SAME_FOR_A_CLASS = ("class_mean", "kd_rel", "kd_sim")


def labelling(name: str, **settings: Any) -> Callable[[Lesson], Tensor]:
    return functools.partial(LABELS[name], **{**WANTED.get(name, {}), **settings})


@pytest.fixture(scope="module")
def untrained(place: Bench) -> State:
    return drawn(RESNET, place)


@pytest.fixture(scope="module")
def teacher(place: Bench, untrained: State) -> State:
    """So far trained that it is right mostly, not always."""
    return training("30it").apply(untrained, place)


@pytest.fixture(scope="module")
def student(place: Bench) -> State:
    return drawn(SMALL, dataclasses.replace(place, name="student"))


@pytest.fixture
def taught(place: Bench, teacher: State) -> Bench:
    return with_states(place, teacher=teacher)


def with_states(bench: Bench, **states: State) -> Bench:
    return dataclasses.replace(bench, references=states)


def augmented(bench: Bench) -> Bench:
    return dataclasses.replace(
        bench,
        dataset=dataclasses.replace(
            bench.dataset, task=dataclasses.replace(bench.task, augment={"pad": 1, "flip": True})
        ),
    )


def training(length: str, **settings: Any) -> Train:
    return Train(
        **{
            "length": length,
            "batch_size": 32,
            "lr": 0.05,
            "optimizer": SGD,
            "validate": None,
            "clip": 5.0,
            **settings,
        }
    )


def by(objective: str, **settings: Any) -> dict[str, Any]:
    module = "online" if objective == "online" else "distillation"
    own = {} if objective == "online" else {"teacher": ("teacher",)}
    spec = {
        "_target_": f"compressbench.training.{module}.{objective}",
        "_partial_": True,
        **own,
        **settings,
    }
    return {"objective": specs.expand(spec, "objective")}


def batch_of(bench: Bench, logits: Tensor, plain: bool = False, **taps: Tensor) -> Batch:
    feed, n = bench.feed("train"), len(logits)
    inputs = bench.task.normalised(feed["images"][:n])
    return Batch(Outputs(logits, taps), (inputs,), feed.labels[:n], torch.arange(n), plain)


def learned(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def some_logits(n: int = 6, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, v = (3 * torch.randn(2, n, classes, generator=generator, dtype=torch.float64)).unbind(0)
    return z, v


# Distances ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1, (0.038, -0.426, 0.387)), (4, (0.129, -0.724, 0.595)), (1000, (0.1665, -0.8330, 0.6664))],
)
def test_the_soft_gradient_of_hinton(temperature: float, expected: tuple[float, ...]) -> None:
    z = torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[0.5, 0.5, -1.0]], dtype=torch.float64)
    distillation.softened(z, v, temperature).backward()
    assert z.grad is not None
    assert z.grad[0].tolist() == pytest.approx(expected, abs=6e-4)
    q, p = (z.detach() / temperature).softmax(1), (v / temperature).softmax(1)
    assert torch.allclose(z.grad, temperature * (q - p))


def test_hot_kl_is_half_the_squared_distance_of_logits() -> None:
    z, v = (x - x.mean(1, keepdim=True) for x in some_logits())
    half = float(DISTANCES["mse"](z, v)) / 2
    far = [abs(float(distillation.softened(z, v, t)) / half - 1) for t in (10.0, 100.0, 1000.0)]
    assert far[0] > far[1] > far[2]
    assert far[2] < 5e-3
    z.requires_grad_()
    distillation.softened(z, v, 1e5).backward()
    assert z.grad is not None
    assert torch.allclose(z.grad, (z.detach() - v) / z.numel(), atol=1e-5), "(z_i - v_i) / N of FACTS 10b"


def test_kl_is_the_mean_over_examples_alone() -> None:
    z, v = some_logits(8, 10)
    by_default = F.kl_div(F.log_softmax(z, 1), F.softmax(v, 1), reduction="none").mean()
    assert float(DISTANCES["kl"](z, v) / by_default) == pytest.approx(10)
    p, q = v.softmax(1), z.softmax(1)
    assert torch.allclose(DISTANCES["kl"](z, v), (p * (p / q).log()).sum(1).mean())


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_is_least_where_both_agree(name: str) -> None:
    distance = DISTANCES[name]
    z, v = some_logits()
    p = v.softmax(1)
    least = float((-p * p.log()).sum(1).mean()) if name == "cross_entropy" else 0.0
    assert float(distance(v, v)) == pytest.approx(least, abs=1e-9)
    for seed in range(5):
        z, _ = some_logits(seed=seed + 1)
        assert float(distance(z, v)) > least + 1e-3
        between = [float(distance(v + share * (z - v), v)) for share in (0.0, 0.01)]
        assert between[1] > between[0]


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_is_a_mean_over_examples(name: str) -> None:
    distance = DISTANCES[name]
    z, v = some_logits()
    whole = distance(z, v)
    assert whole.shape == ()
    assert torch.allclose(distance(torch.cat((z, z, z)), torch.cat((v, v, v))), whole)
    single = torch.stack([distance(z[k : k + 1], v[k : k + 1]) for k in range(len(z))])
    assert torch.allclose(single.mean(), whole)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("size", [1.0, 30.0, 400.0])
def test_a_distance_has_a_finite_gradient(name: str, size: float) -> None:
    z, v = (size * x.float() for x in some_logits(16, 10))
    z.requires_grad_()
    found = DISTANCES[name](z, v)
    found.backward()
    assert torch.isfinite(found)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    if size == 1:
        assert z.grad.abs().sum() > 0
        assert torch.autograd.gradcheck(DISTANCES[name], tuple(x.requires_grad_() for x in some_logits(2, 3)))


@pytest.mark.parametrize("name", DISTANCES)
def test_who_notices_a_constant_added_to_all_logits(name: str) -> None:
    distance = DISTANCES[name]
    z, v = some_logits()
    moved, still = float(distance(z + 5, v - 2)), float(distance(z, v))
    if name in OF_PROBABILITIES:
        assert moved == pytest.approx(still)
    elif name in ("mse", "l1"):
        assert abs(moved - still) > 1


def test_js_is_symmetric_and_bounded() -> None:
    js = DISTANCES["js"]
    z, v = some_logits()
    assert torch.allclose(js(z, v), js(v, z))
    p, q = z.softmax(1), v.softmax(1)
    m = (p + q) / 2
    by_hand = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2
    assert torch.allclose(js(z, v), by_hand.mean())
    apart = 400 * torch.eye(2, dtype=torch.float64)
    assert float(js(apart, apart.flip(1))) == pytest.approx(math.log(2))
    for size in (1, 10, 100):
        assert float(js(size * z, size * v)) <= math.log(2) + 1e-9
    hard = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    far = torch.tensor([[-300.0, 0.0, 300.0]], requires_grad=True)
    js(far, hard).backward()
    assert float(js(far.detach(), hard)) == pytest.approx(math.log(2))
    assert far.grad is not None
    assert torch.isfinite(far.grad).all()


def test_what_the_others_are() -> None:
    z, v = some_logits()
    p, q = v.softmax(1), z.softmax(1)
    assert torch.allclose(DISTANCES["reverse_kl"](z, v), (q * (q / p).log()).sum(1).mean())
    assert torch.allclose(DISTANCES["reverse_kl"](z, v), DISTANCES["kl"](v, z))
    entropy = (-p * p.log()).sum(1).mean()
    assert torch.allclose(DISTANCES["cross_entropy"](z, v), DISTANCES["kl"](z, v) + entropy)
    assert torch.allclose(DISTANCES["mse"](z, v), (z - v).square().mean())
    assert torch.allclose(DISTANCES["l1"](z, v), (z - v).abs().mean())
    angle = (z * v).sum(1) / (z.norm(dim=1) * v.norm(dim=1))
    assert torch.allclose(DISTANCES["cosine"](z, v), (1 - angle).mean())
    assert torch.allclose(DISTANCES["cosine"](3 * z, 0.1 * v), DISTANCES["cosine"](z, v))
    assert float(DISTANCES["cosine"](-z, z)) == pytest.approx(2)


# Labels ------------------------------------------------------------------------------------------------------------


def lesson(
    bench: Bench, teacher: State, rows: Sequence[int], temperature: float = 4.0, **changes: Any
) -> Lesson:
    feed, module = bench.feed("train"), module_of(teacher)

    def answers(images: Tensor) -> Tensor:
        with torch.no_grad():
            return forward(module, bench.task.normalised(images)).logits

    at = torch.tensor(rows)
    return Lesson(
        **{
            "logits": answers(feed["images"][at]),
            "known": feed.labels[at],
            "rows": at,
            "temperature": temperature,
            "bench": bench,
            "teacher": module,
            "whole": lambda: answers(feed["images"]),
            "kept": {},
            **changes,
        }
    )


def says(labels: Callable[[Lesson], Tensor], given: Lesson) -> Tensor:
    return (labels(given) / given.temperature).softmax(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("name", LABELS)
def test_labels_are_probabilities_and_the_same_twice(
    name: str, temperature: float, place: Bench, teacher: State
) -> None:
    given = lesson(place, teacher, range(40), temperature)
    before = given.logits.clone()
    torch.manual_seed(1)
    first = labelling(name)(given)
    torch.manual_seed(2)
    again = labelling(name)(lesson(place, teacher, range(40), temperature))
    assert first.shape == given.logits.shape
    assert torch.equal(first, again)
    assert torch.equal(given.logits, before), "the teacher's answer itself is left alone"
    p = (first / temperature).softmax(1)
    assert torch.allclose(p.sum(1), torch.ones(40), atol=1e-6)
    assert (p >= 0).all()
    part = labelling(name)(lesson(place, teacher, [7, 30, 3], temperature))
    assert torch.allclose((part / temperature).softmax(1), p[[7, 30, 3]], atol=1e-5), (
        "whatever else is in the batch"
    )
    assert torch.equal(labelling(name)(given), first), "also with what it kept"


@pytest.mark.parametrize("name", LABELS)
def test_without_a_label_the_teachers_own_class_counts(name: str, place: Bench, teacher: State) -> None:
    base = lesson(place, teacher, range(60))
    said = base.logits.argmax(1)
    assert (said != base.known).any()
    unknown = dataclasses.replace(base, known=torch.full_like(base.known, -1))
    believed = dataclasses.replace(base, known=said, kept={})
    assert torch.equal(labelling(name)(unknown), labelling(name)(believed))


def test_soft_and_hard(place: Bench, teacher: State) -> None:
    given = lesson(place, teacher, range(50))
    assert torch.equal(LABELS["soft"](given), given.logits)
    one_hot = F.one_hot(given.logits.argmax(1), 10).float()
    assert torch.equal(says(LABELS["hard"], given), one_hot)


def test_kd_pt_keeps_how_sure_the_teacher_is(place: Bench, teacher: State) -> None:
    given = lesson(place, teacher, range(50))
    found, soft = says(LABELS["kd_pt"], given), given.probabilities
    for row, target in enumerate(given.known.tolist()):
        assert float(found[row, target]) == pytest.approx(float(soft[row, target]), abs=1e-6)
        others = [c for c in range(10) if c != target]
        assert found[row, others].tolist() == pytest.approx(
            [(1 - float(soft[row, target])) / 9] * 9, abs=1e-6
        )


@pytest.mark.parametrize("name", ["kd_pt", "kd_topk"])
def test_a_teacher_that_is_sure_leaves_no_zero(name: str, place: Bench, teacher: State) -> None:
    """1 - p_t is 0 in float32 from a margin of 17 on: the label would be minus infinity, and so the loss of most."""
    logits = torch.zeros(4, 10)
    logits[:, 0] = 40.0
    given = lesson(place, teacher, range(4), 1.0, logits=logits, known=torch.zeros(4, dtype=torch.int64))
    found = labelling(name)(given)
    assert torch.isfinite(found).all()
    assert float((found[:, 0] - found[:, -1]).mean()) == pytest.approx(40, abs=1e-3)


def test_shuffled_destroys_the_relations_alone(place: Bench, teacher: State) -> None:
    rows = list(range(40))
    given = lesson(place, teacher, rows)
    found, soft = says(LABELS["shuffled"], given), given.probabilities
    others = torch.ones(40, 10, dtype=torch.bool).scatter(1, given.known.unsqueeze(1), False)
    at = given.known.unsqueeze(1)
    assert torch.allclose(found.gather(1, at), soft.gather(1, at), atol=1e-6)
    wrong = [x[others].view(40, 9).sort(1).values for x in (found, soft)]
    assert torch.allclose(*wrong, atol=1e-6)
    moved = (found - soft).abs().amax(1) > 1e-5
    assert int(moved.sum()) >= 38

    # numbers that tell where each went, the same class for all: the permutation itself
    marks = torch.arange(10.0).repeat(40, 1)
    marked = dataclasses.replace(given, logits=marks, known=torch.zeros_like(given.known))
    order = LABELS["shuffled"](marked).argsort(1)
    assert len({tuple(r) for r in order.tolist()}) == 40, "every example has a permutation of its own"
    mixed = dataclasses.replace(
        marked, logits=marks[:3], known=marked.known[:3], rows=torch.tensor([39, 0, 17]), kept={}
    )
    assert torch.equal(LABELS["shuffled"](mixed).argsort(1), order[[39, 0, 17]])
    elsewhere = dataclasses.replace(marked, bench=dataclasses.replace(place, seed=1), kept={})
    assert not torch.equal(LABELS["shuffled"](elsewhere).argsort(1), order)


@pytest.mark.parametrize("k", [1, 2, 9])
def test_kd_topk_levels_the_tail(k: int, place: Bench, teacher: State) -> None:
    given = lesson(place, teacher, range(30))
    found, soft = says(labelling("kd_topk", k=k), given), given.probabilities
    for row in range(30):
        ranked = soft[row].argsort(descending=True)
        assert torch.allclose(found[row, ranked[:k]], soft[row, ranked[:k]], atol=1e-6)
        tail = found[row, ranked[k:]]
        assert torch.allclose(tail, (1 - soft[row, ranked[:k]].sum()).expand(10 - k) / (10 - k), atol=1e-6)


def test_all_of_the_classes_is_the_whole_answer(place: Bench, teacher: State) -> None:
    given = lesson(place, teacher, range(30))
    assert torch.allclose(says(labelling("kd_topk", k=10), given), given.probabilities, atol=1e-6)
    for k in (0, 11, True, 2.5, "three"):
        with pytest.raises(UserError, match=r"labels: k .* is not from 1 to the 10 classes"):
            labelling("kd_topk", k=k)(given)


@pytest.mark.parametrize("name", SAME_FOR_A_CLASS)
def test_some_labels_know_the_class_alone(name: str, place: Bench, teacher: State) -> None:
    given = lesson(place, teacher, range(100))
    found = says(labelling(name), given)
    for c in range(10):
        rows = found[given.known == c]
        assert len(rows) > 1
        assert torch.equal(rows, rows[:1].expand_as(rows))
    assert len(found.unique(dim=0)) == 10


def test_class_mean_by_hand(place: Bench, teacher: State) -> None:
    given = lesson(place, teacher, range(20))
    every = (given.whole() / 4).softmax(1)
    labels = place.feed("train").labels
    wanted = torch.stack([every[labels == c].mean(0) for c in given.known.tolist()])
    assert torch.allclose(says(LABELS["class_mean"], given), wanted, atol=1e-5)
    asked: list[int] = []

    def whole() -> Tensor:
        asked.append(1)
        return given.whole()

    once = dataclasses.replace(given, whole=whole, kept={})
    assert torch.equal(LABELS["class_mean"](once), LABELS["class_mean"](once))
    assert len(asked) == 1


def test_kd_sim_by_hand(place: Bench, teacher: State) -> None:
    given = lesson(place, teacher, range(20))
    rows = F.normalize(teacher.weights["fc.weight"], dim=1)
    for sharpness in (0.3, 1.0):
        wanted = ((rows @ rows.T) / sharpness).softmax(1)[given.known]
        assert torch.allclose(says(labelling("kd_sim", sharpness=sharpness), given), wanted, atol=1e-5)
    headless = dataclasses.replace(given, teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), kept={})
    with pytest.raises(UserError, match="no single layer of Sequential gives its logits; class_mean"):
        labelling("kd_sim")(headless)
    with pytest.raises(UserError, match=r"labels.sharpness: 0 is not a number above 0"):
        labelling("kd_sim", sharpness=0)(given)


def test_kd_rel_shares_out_what_one_knows() -> None:
    names = ["a", "b", "c", "d", "e"]
    table = relations(names, [["a", "b", "c"], ["d"]], 0.8, 0.15)
    assert table[0].tolist() == pytest.approx([0.8, 0.075, 0.075, 0.025, 0.025])
    assert table[3].tolist() == pytest.approx([0.05, 0.05, 0.05, 0.8, 0.05]), "alone in its group"
    assert table[4].tolist() == pytest.approx([0.05, 0.05, 0.05, 0.05, 0.8]), "in none"
    assert relations(names, [names], 0.8, 0.1)[1].tolist() == pytest.approx([0.05, 0.8, 0.05, 0.05, 0.05])
    assert torch.allclose(table.sum(1), torch.ones(5))
    with pytest.raises(UserError, match="no class 'f'"):
        relations(names, [["a", "f"]], 0.8, 0.1)
    with pytest.raises(UserError, match="class 'a' is in two groups"):
        relations(names, [["a"], ["b", "a"]], 0.8, 0.1)


@pytest.mark.parametrize(("top", "siblings"), [(0.0, 0.1), (0.9, 0.2), (0.5, -0.1), (float("nan"), 0.1)])
def test_kd_rel_refuses_what_is_no_probability(
    top: float, siblings: float, place: Bench, teacher: State
) -> None:
    with pytest.raises(UserError, match="come to 1 at most"):
        labelling("kd_rel", top=top, siblings=siblings)(lesson(place, teacher, range(3)))


def test_label_smoothing_is_torchs(place: Bench) -> None:
    batch = batch_of(place, some_logits(16, 10)[0])
    for share in (0.0, 0.1, 0.5):
        wanted = F.cross_entropy(batch.outputs.logits.float(), batch.labels, label_smoothing=share)
        assert torch.equal(smoothed(place, share)(batch), wanted)
    assert torch.allclose(smoothed(place, 0.0)(batch), task_loss(place)(batch).float())
    for wrong in (-0.1, 1.0, True, float("nan")):
        with pytest.raises(UserError, match=r"smoothing: .* is not in \[0, 1\)"):
            smoothed(place, wrong)


# Features ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_zero_where_both_agree(name: str) -> None:
    torch.manual_seed(0)
    own, other = (torch.randn(5, 4, 3, 3, dtype=torch.float64) for _ in range(2))
    assert float(FEATURES[name](other, other)) == pytest.approx(0, abs=1e-12)
    own.requires_grad_()
    far = FEATURES[name](own, other)
    far.backward()
    assert float(far.detach()) > 0
    assert own.grad is not None
    assert torch.isfinite(own.grad).all()
    zero = torch.zeros(5, 4, 3, 3, requires_grad=True)
    FEATURES[name](zero, other.float()).backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()


def test_features_by_hand() -> None:
    torch.manual_seed(0)
    own, other = torch.randn(3, 2, 2, 2), torch.randn(3, 2, 2, 2)
    assert torch.allclose(hint(own, other), (own - other).square().mean() / 2)
    maps = []
    for features in (own, other):
        q = features.square().mean(1).flatten(1)
        maps.append(q / q.norm(dim=1, keepdim=True))
    assert torch.allclose(attention(own, other), (maps[0] - maps[1]).square().mean())
    wide = torch.cat((other, other), 1)
    assert torch.allclose(attention(own, wide), attention(own, other), atol=1e-6), "channels may differ"
    vectors = []
    for features in (own, other):
        h = features.mean((2, 3))
        vectors.append(h / h.norm(dim=1, keepdim=True))
    assert torch.allclose(pooled(own, other), (vectors[0] - vectors[1]).square().sum(1).mean())
    assert torch.allclose(pooled(5 * own, other), pooled(own, other), atol=1e-6)
    tokens = torch.randn(3, 7, 2), torch.randn(3, 5, 2)
    assert torch.allclose(pooled(*tokens), pooled(*(t[:, 0] for t in tokens)))
    grams = []
    for features in (own, other):
        g = features.flatten(1) @ features.flatten(1).T
        grams.append(g / g.norm(dim=1, keepdim=True))
    assert torch.allclose(similarity(own, other), (grams[0] - grams[1]).square().sum() / 9)
    assert float(similarity(own, torch.randn(3, 9))) > 0, "any shapes"


# MUNGE and few labels ----------------------------------------------------------------------------------------------


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(n: int = 30, width: int = 4) -> Tensor:
    return torch.rand(n, width, generator=seeded(5))


def test_munge_without_exchange_is_the_table_itself() -> None:
    t = table()
    assert torch.equal(munge(t, 1, 0.0, 4.0, seeded()), t)
    assert torch.equal(munge(t, 3, 0.0, 4.0, seeded()), t.repeat(3, 1))
    assert munge(t, 0, 0.5, 4.0, seeded()).shape == (0, 4)
    assert torch.equal(munge(t[:1], 2, 1.0, 4.0, seeded()), t[:1].repeat(2, 1)), "alone it has no neighbour"


def test_munge_is_the_same_from_the_same_generator() -> None:
    t = table()
    kept = t.clone()
    first, again, other = (munge(t, 2, 0.5, 2.0, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:30], first[30:]), "each copy is drawn for itself"
    assert torch.equal(t, kept)


def test_a_nominal_swap_keeps_the_column() -> None:
    t = torch.randint(0, 4, (40, 3), generator=seeded(3)).float()
    nominal = torch.tensor([True, True, True])
    found = munge(t, 1, 0.7, 4.0, seeded(), nominal)
    assert not torch.equal(found, t)
    assert torch.equal(found.sort(0).values, t.sort(0).values)
    mixed = munge(t, 1, 1.0, 1.0, seeded(), torch.tensor([True, False, True]))
    assert torch.equal(mixed[:, [0, 2]].sort(0).values, t[:, [0, 2]].sort(0).values)
    assert not torch.equal(mixed[:, 1].sort().values, t[:, 1].sort().values)


def test_with_a_large_s_values_become_the_neighbours_own() -> None:
    t = table()
    exact = t.clone()
    for own, other in enumerate(neighbours(t, torch.zeros(4, dtype=torch.bool)).tolist()):
        exact[[own, other]] = exact[[other, own]]
    assert torch.equal(munge(t, 1, 1.0, math.inf, seeded()), exact)
    near, far = (float((munge(t, 1, 1.0, s, seeded()) - exact).abs().mean()) for s in (1e6, 1.0))
    assert near < 1e-4 < far


def test_the_spread_is_the_difference_over_s() -> None:
    """Two rows, each the other's neighbour: 0 and 6 become N(6, 2) and N(0, 2), then each is drawn from the other."""
    pair = torch.tensor([[0.0], [6.0]])
    found = torch.stack([munge(pair, 1, 1.0, 3.0, seeded(k)) for k in range(4000)])[:, :, 0]
    assert found.mean(0).tolist() == pytest.approx([0, 6], abs=0.2)
    expected_square = 6**2 + 2**2 + 2**2
    assert found.var(0).tolist() == pytest.approx([2**2 + expected_square / 3**2] * 2, rel=0.1)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0])
def test_neighbours_by_brute_force(offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressbench.data.munge.ROWS", 16)
    nominal = torch.tensor([False, True, False, True])
    values = torch.randn(50, 4, generator=seeded(4)) * 0.5 + offset
    values[:, nominal] = torch.randint(0, 3, (50, 2), generator=seeded(6)).float()
    exact = values.double()
    found = neighbours(values, nominal).tolist()
    for own in range(50):
        far = (exact[:, ~nominal] - exact[own, ~nominal]).square().sum(1).sqrt()
        far = far + (exact[:, nominal] != exact[own, nominal]).sum(1)
        far[own] = math.inf
        assert found[own] == int(far.argmin())
    twins = torch.tensor([[1.0], [1.0], [1.0]])
    assert neighbours(twins, torch.tensor([False])).tolist() == [1, 0, 0], "the first of equals"


def test_munged_pictures(place: Bench, student: State) -> None:
    bench = dataclasses.replace(place, name="munge")
    split = place.dataset.split("train")
    made = Munge(copies=2, p=0.5, s=2.0).apply(student, bench)
    images, labels = made.group("data")["images"], made.group("data")["labels"]
    n = len(split)
    assert images.dtype == torch.uint8
    assert images.shape == (3 * n, 1, 8, 8)
    assert torch.equal(images[:n], torch.from_numpy(split["images"]))
    assert torch.equal(labels[:n], torch.from_numpy(split.labels))
    assert (labels[n:] == -1).all()
    flat = torch.from_numpy(split["images"]).flatten(1).float()
    wanted = munge(flat, 2, 0.5, 2.0, bench.generator("munge")).round().clamp(0, 255)
    assert torch.equal(images[n:].flatten(1).float(), wanted)
    assert same(made.weights, student.weights)
    alone = Munge(copies=1, keep=False).apply(student, bench)
    assert len(alone.group("data")["labels"]) == n
    assert same(Munge(copies=2, p=0.5, s=2.0).apply(student, bench).group("data"), made.group("data"))
    untouched = Munge(copies=1, p=0.0, keep=False).apply(student, bench).group("data")["images"]
    assert torch.equal(untouched, torch.from_numpy(split["images"]))


def test_few_labels_of_each_class(place: Bench, student: State) -> None:
    bench = dataclasses.replace(place, name="few")
    split = place.dataset.split("train")
    every = torch.from_numpy(split["images"])
    before: set[bytes] = set()
    for size in (1, 9, 10, 11, 50, 300, len(split)):
        data = Few(size).apply(student, bench).group("data")
        shares = seats(np.bincount(split.labels, minlength=10), size)
        assert torch.bincount(data["labels"], minlength=10).tolist() == shares.tolist()
        now = {image.numpy().tobytes() for image in data["images"]}
        assert before <= now
        before = now
        kept = Few(size, unlabelled=True).apply(student, bench).group("data")
        assert torch.equal(kept["images"], every)
        known = kept["labels"] >= 0
        assert int(known.sum()) == size
        assert torch.equal(kept["labels"][known], torch.from_numpy(split.labels)[known])
        assert torch.equal(kept["images"][known], data["images"])
    none = Few(0, unlabelled=True).apply(student, bench).group("data")
    assert (none["labels"] == -1).all()


def test_seats_never_go_back() -> None:
    """Three classes of 5, 3 and 1 examples … by the largest remainder a class can lose an example as the set grows."""
    random = np.random.RandomState(0)
    for _ in range(40):
        counts = random.randint(0, 60, 5)
        before = counts * 0
        for size in range(counts.sum() + 1):
            now = seats(counts, size)
            assert now.sum() == size
            assert (before <= now).all()
            assert (now <= counts).all()
            before = now
    assert seats(np.array([20, 10, 10]), 8).tolist() == [4, 2, 2]
    assert seats(np.array([5, 5, 5]), 4).tolist() == [2, 1, 1], "ties go to the lower label"


def test_data_sets_are_made_of_each_other(place: Bench, student: State) -> None:
    few = Few(30).apply(student, dataclasses.replace(place, name="few"))
    bench = with_states(dataclasses.replace(place, name="munge"), few=few)
    more = Munge(copies=2, data="few").apply(student, bench).group("data")
    assert len(more["labels"]) == 90
    assert int((more["labels"] >= 0).sum()) == 30
    assert torch.equal(more["images"][:30], few.group("data")["images"])
    again = with_states(place, more=few.with_groups(data=more))
    with pytest.raises(UserError, match="labels: 31 is more than the 30 examples with a label"):
        Few(31, data="more").apply(student, again)
    assert len(Few(20, data="more").apply(student, again).group("data")["labels"]) == 20


def test_a_data_set_survives_what_comes_between(place: Bench, student: State) -> None:
    few = Few(40).apply(student, dataclasses.replace(place, name="few"))
    for stage in (Prune(L1, 0.5), Channels(L1, fraction=0.25, inside=True)):
        assert same(stage.apply(few, place).group("data"), few.group("data"))
    trained = training("2it", batch_size=20, data="few").apply(few, with_states(place, few=few))
    assert not trained.group("data"), "left behind when a training ends"
    assert trained.facts["examples"] == 40


def test_training_on_it_sees_no_other_example(place: Bench, teacher: State, student: State) -> None:
    few = Few(32).apply(student, dataclasses.replace(place, name="few"))
    bench = with_states(place, few=few, teacher=teacher)
    split = place.dataset.split("train")
    rows = {image.tobytes(): k for k, image in enumerate(split["images"])}
    chosen = [rows[image.numpy().tobytes()] for image in few.group("data")["images"]]
    alone = dataclasses.replace(
        with_states(place, teacher=teacher),
        feeds={"train": split.to("cpu").take(chosen)},
    )
    for objective in (
        {},
        by("distill"),
        by("distill", labels="class_mean"),
        by("distill", labels="shuffled"),
    ):
        found = training("3it", data="few", **objective).apply(student, bench)
        assert same(found.weights, training("3it", **objective).apply(student, alone).weights)


def test_the_labels_count_where_there_are_some(place: Bench, teacher: State) -> None:
    feed = place.feed("train")
    labels = feed.labels.clone()
    labels[1::2] = -1
    bench = dataclasses.replace(
        with_states(place, teacher=teacher),
        feeds={"train": dataclasses.replace(feed, labels=labels)},
    )
    batch = batch_of(bench, some_logits(16, 10)[0].float())
    found = distillation.distill(bench, ("teacher",), share=0.0)(batch)
    assert torch.allclose(found, F.cross_entropy(batch.outputs.logits[::2], batch.labels[::2]))
    unknown = dataclasses.replace(batch, labels=torch.full_like(batch.labels, -1))
    assert float(distillation.distill(bench, ("teacher",), share=0.0)(unknown)) == 0
    soft = distillation.distill(bench, ("teacher",), share=1.0)
    assert torch.allclose(soft(unknown), soft(batch))


# The objective -----------------------------------------------------------------------------------------------------


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
        composed(["recipe=loyalty_table", "scale=smoke", "recipe.finetune=4ep", f"outputs={tmp_path}"])
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


# Mimicking ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "optimizer", [SGD, {"_target_": "torch.optim.Adam", "_partial_": True}], ids=["sgd", "adam"]
)
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


# Ensembles ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(place: Bench, teacher: State, student: State) -> dict[str, State]:
    trained = training("20it").apply(student, place)
    return {"a": teacher, "b": trained, "c": training("20it").apply(drawn(TINY, place), place)}


def test_an_ensemble_is_the_mean_of_probabilities(place: Bench, three: dict[str, State]) -> None:
    state = Together(("a", "b", "c")).apply(None, with_states(place, **three))
    inputs = place.task.normalised(place.feed("test")["images"][:50])
    with torch.no_grad():
        found = module_of(state)(inputs)
        single = torch.stack([module_of(s)(inputs).double().softmax(1) for s in three.values()])
        assert torch.allclose(found.double().exp(), single.mean(0), atol=1e-6)
        alone = module_of(Together(("b",)).apply(None, with_states(place, **three)))(inputs)
        assert torch.equal(alone, module_of(three["b"])(inputs).log_softmax(1))
        twice = module_of(Together(("b", "b")).apply(None, with_states(place, **three)))(inputs)
        assert torch.allclose(twice, alone, atol=1e-5)
    for fact in ("forward_macs", "whole", "whole_parameters", "examples", "macs"):
        assert state.facts[fact] == sum(s.facts[fact] for s in three.values()), fact
    assert state.facts["density"] == 1
    with torch.no_grad():
        sure = Ensemble([Fixed(1000.0), Fixed(-1000.0)])(torch.zeros(1, 1))
    assert torch.isfinite(sure).all()
    assert sure.exp()[0].tolist() == pytest.approx([0.5, 0.5])


class Fixed(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[self.value, 0.0]]).expand(len(x), -1)


def test_several_teachers_are_the_ensemble_as_teacher(place: Bench, three: dict[str, State]) -> None:
    whole = Together(("a", "b", "c")).apply(None, with_states(place, **three))
    bench = with_states(place, whole=whole, **three)
    batch = batch_of(bench, some_logits(16, 10)[0].float())
    losses = [distillation.distill(bench, names)(batch) for names in (("a", "b", "c"), ("whole",))]
    assert torch.equal(*losses)
    single = [distillation.distill(bench, (name,))(batch) for name in "abc"]
    assert all(abs(float(s - losses[0])) > 1e-3 for s in single)
    assert torch.allclose(distillation.distill(bench, ("b", "b"))(batch), single[1], atol=1e-4)
    trained = [
        training("3it", objective={**by("distill")["objective"], "teacher": names}).apply(three["c"], bench)
        for names in (("a", "b", "c"), ("whole",))
    ]
    assert same(trained[0].weights, trained[1].weights)


def test_take_gives_back_what_was_put_in(place: Bench, three: dict[str, State]) -> None:
    bench = with_states(place, **three)
    whole = Together(("a", "b", "c")).apply(None, bench)
    for member, state in enumerate(three.values()):
        back = Take(member).apply(whole, bench)
        assert back.model == state.model
        assert back.edits == state.edits
        assert same(back.weights, state.weights)
        for fact in ("prunable", "drawn", "whole", "whole_parameters", "forward_macs", "density"):
            assert back.facts[fact] == state.facts[fact], fact
    assert back.facts["examples"] == whole.facts["examples"]
    nested = Together(("e", "a")).apply(None, with_states(place, e=whole, a=three["a"]))
    assert same(Take(2).apply(Take(0).apply(nested, bench), bench).weights, three["c"].weights)
    feed = bench.feed("validation")
    with torch.no_grad():
        named = [
            module_of(state)(bench.task.normalised(feed["images"])).argmax(1) for state in three.values()
        ]
    right = [int((classes == feed.labels).sum()) for classes in named]
    assert len(set(right)) > 1
    best = list(three.values())[right.index(max(right))]
    assert same(Take("best").apply(whole, bench).weights, best.weights)


def test_take_after_the_composite_was_pruned(place: Bench, three: dict[str, State]) -> None:
    bench = with_states(dataclasses.replace(place, name="prune"), **three)
    whole = Together(("a", "b", "c")).apply(None, bench)
    pruned = Prune(L1, 0.7).apply(whole, bench)
    densities = []
    for member, state in enumerate(three.values()):
        back = Take(member).apply(pruned, bench)
        prefix = f"members.{member}."
        assert back.masks.keys() == state.facts["prunable"].keys()
        kept = 0
        for name, mask in back.masks.items():
            assert torch.equal(mask, pruned.masks[prefix + name])
            assert torch.equal(back.weights[name], state.weights[name] * mask)
            kept += int(mask.sum())
        densities.append(back.facts["density"])
        assert back.facts["density"] == kept / state.facts["whole"]
        assert same(module_of(back).state_dict(), back.weights)
    assert len(set(densities)) == 3
    weights = [s.facts["whole"] for s in three.values()]
    mean = sum(d * w for d, w in zip(densities, weights, strict=True)) / sum(weights)
    assert mean == pytest.approx(pruned.facts["density"])
    own = Prune(L1, 0.5).apply(three["b"], bench)
    again = Together(("a", "b")).apply(None, with_states(place, a=three["a"], b=own))
    assert again.facts["density"] < 1
    assert same(Take(1).apply(again, bench).masks, own.masks)
    assert not Take(0).apply(again, bench).masks
    assert Take(0).apply(again, bench).facts["density"] == 1


def test_take_after_members_were_cut(place: Bench, three: dict[str, State]) -> None:
    bench = with_states(dataclasses.replace(place, name="cut"), **three)
    cut = Channels(L1, fraction=0.25, inside=True).apply(three["a"], bench)
    shallow = Shallower().apply(cut, bench)
    for member in (cut, shallow):
        assert member.edits
        whole = Together(("b", "a")).apply(None, with_states(place, a=member, b=three["b"]))
        back = Take(1).apply(whole, bench)
        assert [dict(e) for e in back.edits] == [dict(e) for e in member.edits]
        assert same(back.weights, member.weights)
        assert back.facts["density"] == member.facts["density"] < 1
        assert back.facts["forward_macs"] == member.facts["forward_macs"]
        assert not Take(0).apply(whole, bench).edits
        inputs = place.task.normalised(place.feed("test")["images"][:20])
        with torch.no_grad():
            single = [module_of(s)(inputs).softmax(1) for s in (three["b"], member)]
            assert torch.allclose(module_of(whole)(inputs).exp(), (single[0] + single[1]) / 2, atol=1e-6)
    rounded = Quantize().apply(three["a"], bench)
    whole = Together(("b", "a")).apply(None, with_states(place, a=rounded, b=three["b"]))
    back = Take(1).apply(whole, bench)
    assert same(back.group("scales"), rounded.group("scales"))
    assert same(back.weights, rounded.weights)


def test_composites_refuse_in_one_line(place: Bench, three: dict[str, State], untrained: State) -> None:
    bench = with_states(place, **three)
    whole = Together(("a", "b")).apply(None, bench)
    with pytest.raises(UserError, match="members: the ensemble is empty"):
        Together(())
    with pytest.raises(UserError, match="members: the ensemble is empty"):
        Ensemble([])
    with pytest.raises(UserError, match="teacher: the ensemble is empty"):
        distillation.distill(bench, ())
    with pytest.raises(UserError, match="there is nothing to take: the net has no members"):
        Take(0).apply(untrained, bench)
    with pytest.raises(UserError, match="there is nothing to take: the net has no members"):
        Take("best").apply(untrained, bench)
    with pytest.raises(UserError, match="member: 2 is not from 0 to 1"):
        Take(2).apply(whole, bench)
    with pytest.raises(UserError, match="member: -1 is below 0"):
        Take(-1)
    with pytest.raises(UserError, match="member: 'worst' is neither a place"):
        Take("worst")
    seven = other_classes(place)
    with pytest.raises(UserError, match="members: they have 7, 10 outputs; the same classes are wanted"):
        Together(("a", "seven")).apply(None, with_states(place, a=three["a"], seven=seven))
    without = {n: s for n, s in place.dataset.splits.items() if n != "validation"}
    unheld = dataclasses.replace(bench, dataset=dataclasses.replace(place.dataset, splits=without), feeds={})
    with pytest.raises(
        UserError, match="member: the best is chosen on the validation split, and none was held out"
    ):
        Take("best").apply(whole, unheld)


def other_classes(bench: Bench) -> State:
    task = dataclasses.replace(bench.task, classes=bench.task.classes[:7])
    fewer = dataclasses.replace(bench.dataset, task=task)
    return drawn(SMALL, dataclasses.replace(bench, dataset=fewer))


# Online ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def students(place: Bench) -> State:
    return drawn(STUDENTS, dataclasses.replace(place, name="online"))


def test_online_students_and_their_head(place: Bench, students: State) -> None:
    module = module_of(students)
    assert isinstance(module, Online)
    inputs = place.task.normalised(place.feed("train")["images"][:20])
    with torch.no_grad():
        head = module(inputs)
        assert isinstance(head, Tensor), "in evaluation the head alone answers"
        maps = []
        for member, at in zip(module.members, module.at, strict=True):
            with tapped(member, (at,)) as compute:
                maps.append(compute(inputs).taps[at])
        joined = module.norm(torch.cat(maps, 1)).relu().mean((2, 3))
        assert torch.allclose(head, module.fc(joined), atol=1e-5)
        found = module.train()(inputs)
    assert isinstance(found, Outputs)
    assert list(found.taps) == [f"{STUDENT}0", f"{STUDENT}1"]
    for place_, name in enumerate(("features.0.weight", "conv1.weight")):
        single = Take(place_).apply(students, place)
        assert torch.equal(single.weights[name], students.weights[f"members.{place_}.{name}"])
        assert single.facts["density"] == 1
        assert single.facts["forward_macs"] < students.facts["forward_macs"]
        with torch.no_grad():
            own = module_of(single).train()(inputs)
        assert torch.allclose(own, found.taps[f"{STUDENT}{place_}"], atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_the_online_loss_by_hand(temperature: float, weight: float, place: Bench) -> None:
    head, first = some_logits(12, 10)
    second, _ = some_logits(12, 10, seed=1)
    batch = batch_of(place, head, **{f"{STUDENT}0": first, f"{STUDENT}1": second, "features": first})
    p = (head / temperature).softmax(1)
    wanted = F.cross_entropy(head, batch.labels)
    for logits in (first, second):
        q = (logits / temperature).softmax(1)
        kl = (p * (p / q).log()).sum(1).mean()
        wanted = wanted + F.cross_entropy(logits, batch.labels) + weight * temperature**2 * kl
    found = online(place, temperature, weight)(batch)
    assert torch.allclose(found.double(), wanted, rtol=1e-5)
    assert torch.allclose(online(place, temperature, weight, detach=True)(batch), found)


def test_detach_spares_the_head(place: Bench) -> None:
    logits = some_logits(12, 10)[0].float()

    def gradients(**settings: Any) -> tuple[Tensor, Tensor]:
        head, own = (x.float().requires_grad_() for x in some_logits(12, 10))
        online(place, **settings)(batch_of(place, head, **{f"{STUDENT}0": own})).backward()
        assert head.grad is not None
        assert own.grad is not None
        return head.grad, own.grad

    alone = logits.clone().requires_grad_()
    F.cross_entropy(alone, place.feed("train").labels[:12]).backward()
    assert alone.grad is not None
    apart, mutual, without = gradients(detach=True), gradients(), gradients(weight=0.0)
    assert torch.allclose(apart[0], alone.grad)
    assert torch.allclose(without[0], alone.grad)
    assert not torch.allclose(mutual[0], alone.grad, atol=1e-3)
    assert torch.allclose(apart[1], mutual[1])
    assert not torch.allclose(apart[1], without[1], atol=1e-3)


def test_without_the_kl_students_learn_as_each_alone(place: Bench, students: State) -> None:
    """But for the head, whose own loss reaches their features: what is left of each gradient is that of it alone."""
    module = module_of(students).train()
    feed = place.feed("train")
    inputs, labels = place.task.normalised(feed["images"][:32]), feed.labels[:32]
    found = module(inputs)
    batch = Batch(found, (inputs,), labels, torch.arange(32))
    loss = online(place, weight=0.0)(batch) - F.cross_entropy(found.logits, labels)
    loss.backward()
    assert module.fc.weight.grad is None or not module.fc.weight.grad.any()
    for k in range(2):
        alone = module_of(Take(k).apply(students, place)).train()
        F.cross_entropy(forward(alone, inputs).logits, labels).backward()
        grads = {n: p.grad for n, p in module.members[k].named_parameters()}
        assert grads.keys() == learned(alone).keys()
        for name, grad in learned(alone).items():
            assert torch.allclose(grads[name], grad, atol=1e-6), name


def test_online_training_then_one_of_them(place: Bench, students: State) -> None:
    trained = training("40it", **by("online")).apply(students, place)
    head = View(trained, place).log_probs.argmax(1)
    labels = place.feed("test").labels
    right = float((head == labels).float().mean())
    assert right > 0.6
    scores = []
    for k in range(2):
        single = Take(k).apply(trained, place)
        assert single.facts["examples"] == trained.facts["examples"] == 40 * 32
        scores.append(float((View(single, place).log_probs.argmax(1) == labels).float().mean()))
    assert min(scores) > 0.5
    assert same(training("40it", **by("online")).apply(students, place).weights, trained.weights)
    best = Take("best").apply(trained, place)
    assert any(same(best.weights, Take(k).apply(trained, place).weights) for k in range(2))
    first = training("40it", stop="15it", **by("online")).apply(students, place)
    assert same(training("40it", start="15it", **by("online")).apply(first, place).weights, trained.weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": []}, "members: the ensemble is empty"),
        ({"at": ["features"]}, "at: 1 paths for 2 students"),
        (
            {"at": ["features", "layer1"]},
            r"at: the students' features are \(6, 2, 2\), \(4, 8, 8\); equal height",
        ),
        ({"at": ["features", "layer9"]}, "no module 'layer9'"),
    ],
)
def test_students_that_do_not_fit_are_one_line(place: Bench, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        drawn({"name": "online", "build": {**STUDENTS["build"], **change}}, place)
    assert "\n" not in str(told.value)


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature: 0 is not a number above 0"),
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"temperature": "4"}, "temperature: '4'"),
        ({"share": 1.5}, r"share: 1.5 is not in \[0, 1\]"),
        ({"share": -0.1}, "share: -0.1"),
        ({"share": True}, "share: True"),
    ],
)
def test_settings_out_of_range_are_one_line(taught: Bench, settings: dict, message: str) -> None:
    for build in (
        lambda: distillation.distill(taught, ("teacher",), **settings),
        lambda: distillation.mimic(taught, ("teacher",), {"layer1": "layer1"}, **settings),
    ):
        with pytest.raises(UserError, match=message) as told:
            build()
        assert "\n" not in str(told.value)


def test_online_refuses_in_one_line(place: Bench, student: State) -> None:
    with pytest.raises(UserError, match="temperature: 0 is not a number above 0"):
        online(place, temperature=0)
    with pytest.raises(UserError, match="weight: -1 is not a number of 0 or more"):
        online(place, weight=-1)
    with pytest.raises(UserError, match="objective: online distillation wants a model of several students"):
        training("1it", **by("online")).apply(student, place)


def test_a_teacher_with_other_classes_is_one_line(place: Bench, student: State) -> None:
    bench = with_states(place, teacher=other_classes(place))
    for objective in (by("distill"), by("mimic", points={"layer1": "layer1"}), by("distill", share=0.0)):
        with pytest.raises(UserError, match="teacher: it has 7 outputs an example, the student 10"):
            training("1it", **objective).apply(student, bench)


def test_examples_without_a_label_need_a_teacher(place: Bench, student: State, students: State) -> None:
    few = Few(10, unlabelled=True).apply(student, dataclasses.replace(place, name="few"))
    bench = with_states(place, few=few)
    smoothing = {"_target_": "compressbench.training.objectives.smoothed", "_partial_": True}
    for state, objective in ((student, {}), (student, {"objective": smoothing}), (students, by("online"))):
        with pytest.raises(
            UserError, match="objective: 890 of the 900 examples have no label; a teacher can"
        ):
            training("1it", data="few", **objective).apply(state, bench)
    with pytest.raises(UserError, match="data: other carries no data set; a stage such as data/few"):
        training("1it", data="other").apply(student, with_states(place, other=student))
    with pytest.raises(UserError, match="data: other carries no data set"):
        Munge(data="other").apply(student, with_states(place, other=student))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Few(0), "labels: 0 leaves nothing to train on"),
        (lambda: Few(-1, unlabelled=True), "labels: -1"),
        (lambda: Munge(p=1.1), r"p: 1.1 is not in \[0, 1\]"),
        (lambda: Munge(p=float("nan")), "p: nan"),
        (lambda: Munge(s=0), "s: 0 is not above 0"),
        (lambda: Munge(s=float("nan")), "s: nan"),
        (lambda: Munge(copies=-1), "copies: -1 leaves no example"),
        (lambda: Munge(copies=0, keep=False), "copies: 0 leaves no example"),
        (lambda: Pictures("/nowhere/at/all").files(), "root: there is no folder /nowhere/at/all"),
    ],
)
def test_transfer_stages_refuse_in_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        make()
    assert "\n" not in str(told.value)


def test_more_labels_than_there_are_is_one_line(place: Bench, student: State) -> None:
    with pytest.raises(UserError, match="labels: 901 is more than the 900 examples with a label"):
        Few(901).apply(student, place)


STAGE = "compressbench.stages"


def added(stage: str, settings: str) -> str:
    """An override that puts one more stage at the end of a recipe."""
    return f"+recipe.stages.x={{_target_:{STAGE}.{stage},{settings}}}"


KD, PKD = "recipe.stages.prune_kd", "recipe.stages.pkd"
PLANNED = [
    (f"{KD}.objective.temperature=0", f"{KD}.objective.temperature: 0 is not a number above 0"),
    (f"{KD}.objective.temperature=nan", f"{KD}.objective.temperature: nan"),
    (f"{KD}.objective.share=1.5", f"{KD}.objective.share: 1.5 is not in [0, 1]"),
    (f"{KD}.objective.teacher=[]", f"{KD}.objective.teacher: at least one state is wanted"),
    (
        f"{KD}.objective.teacher=[dense,desne]",
        f"{KD}.objective.teacher: there is no state 'desne'; did you mean dense",
    ),
    (
        f"{KD}.objective.distance=kll",
        f"{KD}.objective.distance: there is no 'kll' in distances; did you mean kl",
    ),
    (
        f"{KD}.objective.labels=shufled",
        f"{KD}.objective.labels: there is no 'shufled' in labels; did you mean shuffled",
    ),
    (
        f"{KD}.objective.labels=kd_rel",
        f"{KD}.objective.labels: compressbench.labels.kd_rel.kd_rel needs groups",
    ),
    (f"{PKD}.objective.feature=atention", "there is no 'atention' in features; did you mean attention"),
    (f"{PKD}.objective.beta=-1", f"{PKD}.objective.beta: -1 is not a number of 0 or more"),
    (f"++{PKD}.objective.point=layer1", f"{PKD}.objective: unknown key 'point'"),
    (f"{KD}.data=few", f"{KD}.data: there is no state 'few'"),
    (added("composite.Ensemble", "members:[]"), "recipe.stages.x.members: at least one state is wanted"),
    (added("composite.Take", "member:-1"), "recipe.stages.x: member: -1 is below 0"),
    (added("transfer.Munge", "p:2"), "recipe.stages.x: p: 2 is not in [0, 1]"),
    (added("transfer.Few", "labels:0"), "recipe.stages.x: labels: 0 leaves nothing to train on"),
]


@pytest.mark.parametrize(
    ("override", "words"), PLANNED, ids=[o.replace("recipe.stages.", "") for o, _ in PLANNED]
)
def test_bad_input_is_found_before_anything_is_trained(
    override: str, words: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("something was trained first")

    monkeypatch.setattr(loop, "train", forbidden)
    done = command("run", "recipe=loyalty_table", "scale=smoke", override)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert "recipe.stages." in lines[0]


def test_a_recipe_that_distils_is_planned_with_all_its_teachers() -> None:
    """The key of a student hangs on every teacher's, and on the data set's."""
    from compressbench.cli.run import composed
    from compressbench.runs.plan import Context, make

    few = f"+recipe.stages.few={{_target_:{STAGE}.transfer.Few,from:init,labels:90}}"
    student = (
        "+recipe.stages.student={_target_:compressbench.stages.train.Train,from:init,length:2it,batch_size:8,lr:0.1,"
        "data:few,optimizer:{_target_:torch.optim.SGD,_partial_:true},"
        "objective:{_target_:compressbench.training.distillation.distill,_partial_:true,teacher:[dense,longer]}}"
    )

    def key(*more: str) -> tuple[str, tuple[str, ...]]:
        config = composed(["recipe=loyalty_table", "scale=smoke", few, student, *more])
        node = make(config["recipe"], 0, Context("", "cpu", 1)).node("student")
        return node.key, node.refs

    first, refs = key()
    assert set(refs) == {"dense", "longer", "few"}
    changes = ("recipe.stages.longer.lr=0.003", "recipe.stages.few.labels=91", "recipe.stages.dense.lr=0.09")
    assert len({first, *(key(c)[0] for c in changes)}) == 4
    assert key()[0] == first


def test_words_and_yaml_files_are_the_same() -> None:
    conf = OWN.parent / "conf"
    for folder, group in (("distances", "distance"), ("labels", "labels"), ("features", "feature")):
        words = {p.stem for p in (conf / group).glob("*.yaml")}
        assert words == set(everything(folder)), group


# From nothing but YAML ------------------------------------------------------------------------------------------------


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
