"""The one loop: exact continuation, masks that hold, lengths, schedules, divergence, decay."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

import short
from compressbench.errors import Diverged, UserError
from compressbench.masks import masked
from compressbench.models.build import module_of
from compressbench.models.draw import drawn, redrawn
from compressbench.pruning.unstructured import whole_masks
from compressbench.specs.length import steps
from compressbench.stages.prune import Prune
from compressbench.stages.rewind import LearningRate, RandomMask, Reinit, Weights
from compressbench.training import schedules
from compressbench.training.loop import Run, rate
from conftest import MLP, kill
from short import ADAM, SGD, same

RESNET = {
    "name": "resnet8",
    "build": {
        "_target_": "compressbench.models.resnet.CifarResNet",
        "depth": 8,
        "shape": "@shape",
        "classes": "@classes",
    },
}


train = functools.partial(short.train, length="40it", weight_decay=1e-2)


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("model", [MLP, RESNET], ids=["mlp", "resnet"])
def test_two_halves_are_one_training(bench, model, optimizer) -> None:
    start = drawn(model, bench)
    bench.name = "whole"
    whole = train(optimizer=optimizer, lr=0.01).apply(start, bench)
    bench.name = "first"
    first = train(optimizer=optimizer, lr=0.01, stop="23it").apply(start, bench)
    bench.name = "second"
    second = train(optimizer=optimizer, lr=0.01, start="23it").apply(first, bench)
    assert same(whole.weights, second.weights)
    assert not same(first.weights, second.weights)
    assert first.group("optimizer")
    assert not second.group("optimizer")
    assert whole.facts["examples"] == second.facts["examples"] == 40 * 50
    assert whole.facts["macs"] == second.facts["macs"] == 3 * 40 * 50 * start.facts["forward_macs"]


def test_a_checkpoint_continues_bit_by_bit(bench, tmp_path) -> None:
    start = drawn(RESNET, bench)
    whole = train().apply(start, bench)

    kill(train(), start, bench, tmp_path, at=25)
    assert (tmp_path / "checkpoint.safetensors").is_file()
    seen = []

    class Count:
        def step(self, done, total, **figures):
            seen.append(done)

    resumed = train().apply(start, dataclasses.replace(bench, checkpoints=tmp_path, progress=Count()))
    assert same(whole.weights, resumed.weights)
    assert seen == [40] or seen[0] > 25
    path = tmp_path / "checkpoint.safetensors"
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    for bad in (b"half a file", bytes(flipped), good[: len(good) // 2]):
        path.write_bytes(bad)
        said: list[str] = []
        again = train().apply(start, dataclasses.replace(bench, checkpoints=tmp_path, say=said.append))
        assert same(whole.weights, again.weights)
        assert "checkpoint is damaged" in said[0]


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
def test_masks_hold_through_momentum_and_decay(bench, optimizer) -> None:
    start = train(optimizer=optimizer).apply(drawn(MLP, bench), bench)
    pruned = Prune({"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}, 0.7).apply(
        start, bench
    )
    trained = train(optimizer=optimizer, decay="all").apply(pruned, bench)
    for name, mask in pruned.masks.items():
        assert not trained.weights[name][~mask].any()
        assert (trained.weights[name][mask] != pruned.weights[name][mask]).any()
    assert same(pruned.masks, trained.masks)


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = (
            torch.nn.Linear(64, 64),
            torch.nn.Linear(64, 64),
            torch.nn.Linear(64, 10),
        )
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.out(self.b(self.a(x.flatten(1)).relu()).relu())


def test_tied_weights_are_pruned_under_all_their_names(bench) -> None:
    state = drawn({"build": {"_target_": "test_train.Tied"}}, bench)
    pruned = Prune({"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}, 0.9).apply(
        state, bench
    )
    module = module_of(pruned)
    kept = sum(int((w != 0).sum()) for w in (module.a.weight, module.out.weight))
    assert kept == sum(int(m.sum()) for m in pruned.masks.values()) < 0.11 * (64 * 64 + 640)
    assert not module.b.weight[~pruned.masks["a.weight"]].any()


def test_another_optimizer_in_mid_training_is_refused(bench) -> None:
    first = train(stop="10it").apply(drawn(MLP, bench), bench)
    with pytest.raises(UserError, match=r"left by torch.optim.SGD, this stage goes on with torch.optim.Adam"):
        train(start="10it", optimizer=ADAM).apply(first, bench)
    kept = LearningRate().apply(first, bench)
    assert train(start="10it", optimizer=ADAM).apply(kept, bench).facts["optimizer"] == "torch.optim.Adam"


def test_whole_masks_change_nothing(bench) -> None:
    start = drawn(RESNET, bench)
    plain = train().apply(start, bench)
    under = train().apply(masked(start, whole_masks(start)), bench)
    assert same(plain.weights, under.weights)


def test_decay_spares_norms_and_biases(bench) -> None:
    start = drawn(RESNET, bench)
    frozen = {"_target_": "torch.optim.SGD", "_partial_": True}
    strong = train(optimizer=frozen, lr=1e-6, weight_decay=1e5, length="1it").apply(start, bench)
    for name, parameter in module_of(start).named_parameters():
        shrunk = strong.weights[name].norm() < 0.95 * parameter.norm()
        assert bool(shrunk) == (parameter.ndim > 1), name


def test_a_long_gradient_is_scaled_down(bench) -> None:
    start, plain = drawn(MLP, bench), {"_target_": "torch.optim.SGD", "_partial_": True}

    def moved(clip):
        after = train(length="1it", optimizer=plain, weight_decay=0.0, clip=clip).apply(start, bench)
        return torch.cat([(after.weights[n] - w).flatten() for n, w in start.weights.items()])

    free, held = moved(None), moved(1e-2)
    assert torch.equal(free, moved(1e6))
    assert float(held.norm()) == pytest.approx(0.05 * 1e-2, rel=1e-3)
    assert float(torch.cosine_similarity(free, held, 0)) == pytest.approx(1, abs=1e-4)


def test_divergence_names_iteration_and_rate(bench) -> None:
    with pytest.raises(Diverged, match=r"iteration \d+ of 40 with learning rate 1e\+20"):
        train(lr=1e20).apply(drawn(MLP, bench), bench)


def test_rewinding_arms(bench) -> None:
    init = drawn(MLP, bench)
    dense = train().apply(init, bench)
    pruned = Prune({"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}, 0.5).apply(
        dense, bench
    )
    back = Weights("init").apply(pruned, dataclasses.replace(bench, references={"init": init}))
    for name, weight in init.weights.items():
        mask = pruned.masks.get(name)
        assert torch.equal(back.weights[name], weight if mask is None else weight * mask)
    assert same(LearningRate().apply(pruned, bench).weights, pruned.weights)
    bench.name = "level1.reinit"
    fresh = Reinit().apply(pruned, bench)
    assert same(fresh.masks, pruned.masks)
    assert all(not torch.equal(fresh.weights[name], back.weights[name]) for name in fresh.masks)
    assert not same(redrawn(init, bench), init.weights)
    placed = RandomMask("p").apply(init, dataclasses.replace(bench, references={"p": pruned}))
    assert {n: int(m.sum()) for n, m in placed.masks.items()} == {
        n: int(m.sum()) for n, m in pruned.masks.items()
    }
    assert placed.facts["density"] == pruned.facts["density"] == pytest.approx(0.5, abs=1e-4)
    assert placed.facts["macs"] == 0 < pruned.facts["macs"]


def test_lengths() -> None:
    assert steps("160ep", 351) == 56160
    assert steps("500it", 351) == 500
    assert steps("0.5ep", 351) == 175
    for wrong in ("500", "5 ep", "-1ep", 500):
        with pytest.raises(UserError, match="is no length"):
            steps(wrong, 10)


def test_schedules() -> None:
    marks = [0.5, 0.75]
    assert [round(schedules.step(d, marks), 6) for d in (0, 0.49, 0.5, 0.74, 0.75)] == [1, 1, 0.1, 0.1, 0.01]
    assert schedules.cosine(0.5) == pytest.approx(0.5)
    assert (schedules.cosine(0), schedules.linear(0.25)) == (1, 0.75)
    assert schedules.cosine(1) == pytest.approx(0)
    run = Run(0, 100, 100, 10, 1, 0.4, None, schedules.constant, 4, "train", {}, False, 0)
    assert [rate(run, s) for s in (0, 1, 3, 4, 99)] == pytest.approx([0.1, 0.2, 0.4, 0.4, 0.4])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": "30it", "stop": "20it"}, "must not decrease"),
        ({"stop": "41it"}, "must not decrease"),
        ({"batch_size": 5000}, "more than the 900 training examples"),
        ({"optimizer": {**SGD, "momentun": 0.9}}, "momentun"),
    ],
)
def test_bad_settings(bench, changes, words) -> None:
    with pytest.raises(UserError, match=words):
        train(**changes).apply(drawn(MLP, bench), bench)


def test_bf16_is_reported(bench) -> None:
    start = drawn(RESNET, bench)
    low, full = train(precision="bf16").apply(start, bench), train().apply(start, bench)
    assert (low.facts["dtype"], full.facts["dtype"]) == ("bf16", "fp32")
    assert not same(low.weights, full.weights)
    assert all(t.dtype == full.weights[n].dtype for n, t in low.weights.items())


@pytest.mark.parametrize("dampening", [0.0, 0.3])
def test_a_first_gradient_may_come_late(dampening) -> None:
    """Theseus draws which blocks run: fused SGD gives what the plain one gives, whichever had no gradient at first."""
    from compressbench.training.loop import _late_comers

    def trained(fused: bool) -> torch.Tensor:
        one, late = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        optimizer = torch.optim.SGD([one, late], lr=0.1, momentum=0.9, dampening=dampening, fused=fused)
        if fused:
            optimizer.register_step_pre_hook(_late_comers)
        for step in range(4):
            optimizer.zero_grad()
            ((one**2).sum() + ((late**3).sum() if step else 0)).backward()
            optimizer.step()
        return torch.cat([one, late]).detach()

    torch.testing.assert_close(trained(True), trained(False))
