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
from compressbench.specs.overrides import company
from compressbench.training import lanes
from conftest import MLP, Bomb, Killed
from short import ADAM, SGD, same
from test_lanes import CASES, CLOSE, SEEDS, benches, both, starts, way

train = functools.partial(short.train, length="12it", weight_decay=1e-2, lr=0.002, validate=None)


class Odd(nn.Module):
    """One number as a parameter, tied weights, a layer that isn't reached, statistics, buffers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight
        self.beside = nn.Linear(3, 4)
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.norm = nn.BatchNorm1d(64, momentum=0.3)
        self.register_buffer("ones", torch.ones(64), persistent=False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen.add_(1)
        return self.out(self.norm(self.b(self.a(x.flatten(1) * self.ones).relu()) * self.alpha).relu())


class Double(nn.Module):
    """A net in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 32).double(), nn.Linear(32, 10).double()

    def forward(self, x):
        return self.b(self.a(x.flatten(1).double()).relu())


class Replacing(nn.Module):
    """A net whose forward replaces a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen = self.seen + 1
        return self.a(x.flatten(1)) / (1 + self.seen)


def own(net: type[nn.Module]):
    return {"name": "own", "build": {"_target_": f"test_lanes_odd.{net.__name__}"}}


def changes(case: str):
    found = dict(CASES[case])
    return {k: specs.expand(v) if k == "reparametrise" else v for k, v in found.items()}


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("net", [Odd, Double])
def test_odd_nets_go_in_lanes_in_two_halves_too(bench, net, optimizer) -> None:
    states = starts(own(net), bench)
    alone, at_once = both(train(optimizer=optimizer), states, bench)
    for state, one, lane in zip(states, alone, at_once, strict=True):
        assert {n: (t.shape, t.dtype) for n, t in one.weights.items()} == {
            n: (t.shape, t.dtype) for n, t in lane.weights.items()
        }
        assert way(one.weights, lane.weights) < CLOSE * way(state.weights, one.weights)
    first = lanes.train(states, benches(bench), [train(optimizer=optimizer, stop="5it")] * 3, 4)
    second = lanes.train(first, benches(bench), [train(optimizer=optimizer, start="5it")] * 3, 4)
    for one, other in zip(at_once, second, strict=True):
        assert same(one.weights, other.weights)


def test_a_forward_that_replaces_a_buffer_is_refused(bench) -> None:
    with pytest.raises(UserError, match=r"buffer seen becomes another one in lanes, by 1 of 1; .*lanes=1$"):
        lanes.train(starts(own(Replacing), bench), benches(bench), [train()] * 3, 3)


@pytest.mark.parametrize("case", ["gradual", "edge_popup", "sam", "clip", "ema"])
def test_a_lane_that_diverges_harms_no_other_whatever_the_method(bench, case) -> None:
    states, stage = starts(MLP, bench), train(**{"lr": 0.02, **changes(case), "validate": "3it"})
    wild = {n: w * (1e30 if n.endswith("weight") else 1) for n, w in states[0].weights.items()}
    found = lanes.train([states[0].with_groups(weights=wild), *states[1:]], benches(bench), [stage] * 3, 4)
    sane = lanes.train(states, benches(bench), [stage] * 3, 4)
    assert isinstance(found[0], Diverged)
    for one, other in zip(found[1:], sane[1:], strict=True):
        assert same(one.weights, other.weights)
        assert same(one.masks, other.masks)


@pytest.mark.parametrize("case", ["gradual", "edge_popup", "sam", "ema"])
def test_lanes_that_were_killed_apart_end_as_if_nothing_was(bench, tmp_path, case) -> None:
    """A run killed while it wrote checkpoints leaves one lane behind the others."""
    states = starts(own(Odd) if case == "ema" else MLP, bench)
    stage = train(length="20it", **{"lr": 0.02, **changes(case), "validate": "3it"})
    mine = [
        dataclasses.replace(b, checkpoints=tmp_path / str(b.seed), checkpoint_seconds=0.0)
        for b in benches(bench)
    ]
    behind = tmp_path / str(SEEDS[1]) / "checkpoint.safetensors"
    kept = []
    for at in (9, 13):
        with pytest.raises(Killed):
            lanes.train(states, [dataclasses.replace(b, progress=Bomb(at)) for b in mine], [stage] * 3, 4)
        kept.append(behind.read_bytes())
    behind.write_bytes(kept[0])
    whole = lanes.train(states, benches(bench), [stage] * 3, 4)
    for one, other in zip(whole, lanes.train(states, mine, [stage] * 3, 4), strict=True):
        assert same(one.weights, other.weights)
        assert same(one.masks, other.masks)
        assert one.facts["curve"] == other.facts["curve"]


def test_an_average_in_lanes_has_its_own_statistics(bench) -> None:
    swa = {"_target_": "compressbench.training.averagers.swa", "_partial_": True}
    states = starts(own(Odd), bench)
    alone, at_once = both(train(length="20it", averager=swa, validate="3it"), states, bench)
    for state, one, lane in zip(states, alone, at_once, strict=True):
        assert way(one.weights, lane.weights) < CLOSE * way(state.weights, one.weights)
        for name in ("norm.running_mean", "norm.running_var"):
            torch.testing.assert_close(lane.weights[name], one.weights[name], rtol=0.01, atol=0.01)
        assert [point["step"] for point in lane.facts["curve"]] == [3, 6, 9, 12, 15, 18, 20]
        assert one.facts["macs"] == lane.facts["macs"]


@pytest.mark.parametrize(
    ("given", "beside"),
    [
        (["seed=0,1,2", "hardware.lanes=4"], ["beside=[0,1,2]"]),
        (["++hardware.lanes=4", "seed=range(0,4)"], ["beside=[0,1,2,3]"]),
        (["seed=0,1", "hardware.lanes=1"], []),
        (["seed=0,1"], []),
        (["seed=3", "hardware.lanes=4"], []),
        (["hardware.lanes=4"], []),
        (["seed=0,1", "hardware.lanes=2", "beside=[7]"], []),
        (["seed=0,1", "hardware.lanes=1,2"], []),
        (["seed=0,1", "hardware.lanes=x"], []),
        (["seed=0,,1", "hardware.lanes=2"], []),
        (["seed=interval(0,9)", "hardware.lanes=2"], []),
        (["seed=glob(*)", "hardware.lanes=2"], []),
    ],
)
def test_the_seeds_of_a_sweep_are_company_where_there_are_lanes(given, beside) -> None:
    assert company(given) == beside
