"""Lanes of nets and trainings that are out of the ordinary."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import nn

import short
from compressbench import specs
from compressbench.errors import Diverged, UserError
from compressbench.models.draw import drawn
from compressbench.training import lanes
from conftest import MLP, Bomb, Killed
from short import ADAM, SGD, same
from test_lanes import CASES, CLOSE, benches, both, starts, way
from test_launching import GRADUAL

train = functools.partial(short.train, length="12it", weight_decay=1e-2, lr=0.02, validate=None)


def own(name):
    return {"name": name, "build": {"_target_": f"test_lanes_odd.{name}"}}


class Scaled(nn.Module):
    """A net with a single number among its parameters, and one in double precision beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 10)
        self.alpha = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.b(self.a(x.flatten(1)).relu() * self.alpha)


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 32).double(), nn.Linear(32, 10).double()

    def forward(self, x):
        return self.b(self.a(x.flatten(1).double()).relu())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.out(self.b(self.a(x.flatten(1)).relu()).relu())


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(64, 32), nn.BatchNorm1d(32, momentum=0.3), nn.Linear(32, 10)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("hidden", torch.ones(64), persistent=False)

    def forward(self, x):
        return self.b(self.norm(self.a(x.flatten(1) * self.hidden)).relu()) * self.scale


class Frozen(nn.Module):
    """A parameter that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 32), nn.Linear(32, 10), nn.Linear(3, 4)

    def forward(self, x):
        return self.b(self.a(x.flatten(1)).relu())


class Branch(nn.Module):
    """Does what a user's net may do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(64, 10)

    def forward(self, x):
        y = self.a(x.flatten(1))
        return y if float(y.sum()) > 0 else y * 2


class Local(nn.Module):
    """Batch-norm without statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(64, 32), nn.BatchNorm1d(32, track_running_stats=False), nn.Linear(32, 10)

    def forward(self, x):
        return self.b(self.norm(self.a(x.flatten(1))).relu())

class Moving(nn.Module):
    """A buffer that is replaced in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen = self.seen + 1
        return self.a(x.flatten(1)) * (1 + self.seen * 0.01)

@pytest.mark.parametrize("optimizer", [SGD, ADAM, {"_target_": "torch.optim.AdamW", "_partial_": True}], ids=["sgd", "adam", "adamw"])
@pytest.mark.parametrize("net", ["Scaled", "Double", "Tied", "Buffered", "Frozen", "Local", "Moving"])
def test_odd_nets(bench, net, optimizer) -> None:
    states = starts(own(net), bench)
    stage = train(optimizer=optimizer, lr=0.002)
    alone, at_once = both(stage, states, bench)
    for state, one, lane in zip(states, alone, at_once, strict=True):
        assert one.weights.keys() == lane.weights.keys()
        for n, w in one.weights.items():
            assert w.dtype == lane.weights[n].dtype and w.shape == lane.weights[n].shape, n
        assert way(one.weights, lane.weights) < CLOSE * way(state.weights, one.weights)
    first = lanes.train(states, benches(bench), [train(optimizer=optimizer, lr=0.002, stop="5it")] * 3, 4)
    second = lanes.train(first, benches(bench), [train(optimizer=optimizer, lr=0.002, start="5it")] * 3, 4)
    for one, other in zip(at_once, second, strict=True):
        assert same(one.weights, other.weights)


def test_branch(bench):
    states = starts(own("Branch"), bench)
    with pytest.raises(UserError) as e:
        lanes.train(states, benches(bench), [train()] * 3, 4)
    print(e.value)
    assert "\n" not in str(e.value)


def test_gradual_lane_lost(bench):
    states = starts(MLP, bench)
    stage = train(reparametrise=specs.expand(GRADUAL), length="16it")
    wild = {n: w * (1e30 if n.endswith("weight") else 1) for n, w in states[1].weights.items()}
    mixed = [states[0], states[1].with_groups(weights=wild), states[2]]
    found = lanes.train(mixed, benches(bench), [stage] * 3, 3)
    sane = lanes.train(states, benches(bench), [stage] * 3, 3)
    assert isinstance(found[1], Diverged)
    assert same(found[0].weights, sane[0].weights)
    assert same(found[2].weights, sane[2].weights)


@pytest.mark.parametrize("case", ["sam", "ema", "edge_popup", "clip"])
def test_lane_lost(bench, case):
    states = starts(MLP, bench)
    changes = dict(CASES[case])
    if "reparametrise" in changes:
        changes["reparametrise"] = specs.expand(changes["reparametrise"])
    stage = train(length="16it", **{**changes, "validate": "3it"})
    wild = {n: w * (1e30 if n.endswith("weight") else 1) for n, w in states[0].weights.items()}
    mixed = [states[0].with_groups(weights=wild), states[1], states[2]]
    found = lanes.train(mixed, benches(bench), [stage] * 3, 4)
    sane = lanes.train(states, benches(bench), [stage] * 3, 4)
    assert isinstance(found[0], Diverged)
    assert same(found[1].weights, sane[1].weights)
    assert same(found[2].weights, sane[2].weights)


@pytest.mark.parametrize("case", ["ema", "gradual", "edge_popup", "sam"])
def test_killed_apart(bench, tmp_path, case):
    """Killed while the checkpoints of lanes were written: one is further on than the others."""
    model = {"ema": own("Buffered")}.get(case, MLP)
    states = starts(model, bench)
    changes = dict(CASES[case])
    if "reparametrise" in changes:
        changes["reparametrise"] = specs.expand(changes["reparametrise"])
    stage = train(length="20it", **changes)
    mine = [dataclasses.replace(b, checkpoints=tmp_path / str(b.seed), checkpoint_seconds=0.0) for b in benches(bench)]
    whole = lanes.train(states, benches(bench), [stage] * 3, 4)
    broken = [dataclasses.replace(b, progress=Bomb(9)) for b in mine]
    with pytest.raises(Killed):
        lanes.train(states, broken, [stage] * 3, 4)
    kept = (tmp_path / "4" / "checkpoint.safetensors").read_bytes()
    broken = [dataclasses.replace(b, progress=Bomb(13)) for b in mine]
    with pytest.raises(Killed):
        lanes.train(states, broken, [stage] * 3, 4)
    (tmp_path / "4" / "checkpoint.safetensors").write_bytes(kept)
    for one, other in zip(whole, lanes.train(states, mine, [stage] * 3, 4), strict=True):
        assert same(one.weights, other.weights)
        assert same(one.masks, other.masks)
        assert one.facts["curve"] == other.facts["curve"]


def test_swa_and_validation(bench):
    swa = {"_target_": "compressbench.training.averagers.swa", "_partial_": True}
    states = starts(own("Buffered"), bench)
    stage = train(length="20it", averager=swa, validate="3it")
    alone, at_once = both(stage, states, bench)
    for state, one, lane in zip(states, alone, at_once, strict=True):
        assert way(one.weights, lane.weights) < CLOSE * way(state.weights, one.weights)
        assert [c["step"] for c in one.facts["curve"]] == [c["step"] for c in lane.facts["curve"]] == [3, 6, 9, 12, 15, 18, 20]
        assert one.facts["macs"] == lane.facts["macs"]


def test_compiled_lanes(bench):
    states = starts(MLP, bench)
    b = [dataclasses.replace(x, launch="compiled") for x in benches(bench)]
    at_once = lanes.train(states, benches(bench), [train()] * 3, 4)
    for state, one, lane in zip(states, at_once, lanes.train(states, b, [train()] * 3, 4), strict=True):
        assert way(one.weights, lane.weights) < CLOSE * way(state.weights, one.weights)
