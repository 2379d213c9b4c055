"""What a teacher is asked for: distances, labels, features."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases_distillation import (  # noqa: F401
    DISTANCES,
    FEATURES,
    LABELS,
    WANTED,
    batch_of,
    some_logits,
    student,
    table,
    teacher,
    three,
    untrained,
)
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.features.attention import attention
from compressbench.features.hint import hint
from compressbench.features.pooled import pooled
from compressbench.features.similarity import similarity
from compressbench.labels.kd_rel import relations
from compressbench.labels.lesson import Lesson
from compressbench.models.build import module_of
from compressbench.outputs import forward
from compressbench.state import State
from compressbench.training import distillation
from compressbench.training.objectives import smoothed, task_loss

OF_PROBABILITIES = ("cross_entropy", "js", "kl", "reverse_kl")
SAME_FOR_A_CLASS = ("class_mean", "kd_rel", "kd_sim")


def labelling(name: str, **settings: Any) -> Callable[[Lesson], Tensor]:
    return functools.partial(LABELS[name], **{**WANTED.get(name, {}), **settings})


# Distances ------------------------------------------------------------------------------------------------------------


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


# Labels ---------------------------------------------------------------------------------------------------------------


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


# Features -------------------------------------------------------------------------------------------------------------


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
