"""Ensembles and nets that teach each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases_distillation import (  # noqa: F401
    L1,
    STUDENTS,
    batch_of,
    by,
    learned,
    other_classes,
    some_logits,
    student,
    students,
    teacher,
    three,
    training,
    untrained,
    with_states,
)
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.composite import STUDENT, Ensemble, Online
from compressbench.models.draw import drawn
from compressbench.outputs import Outputs, forward, tapped
from compressbench.stages.composite import Ensemble as Together
from compressbench.stages.composite import Take
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.stages.shrink import Channels
from compressbench.stages.theseus import Shallower
from compressbench.state import State
from compressbench.training import distillation
from compressbench.training.objectives import Batch
from compressbench.training.online import online
from compressbench.views import View
from short import same

# Ensembles ------------------------------------------------------------------------------------------------------------


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


# Online ---------------------------------------------------------------------------------------------------------------


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
