"""Lanes: trainings that go at once are those that go alone, but for rounding, whoever is beside them."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest
import torch
from torch import nn

import short
from compressbench import specs
from compressbench.errors import Diverged, UserError
from compressbench.masks import masked
from compressbench.models.draw import drawn
from compressbench.training import lanes
from conftest import MLP, Bomb, Killed
from short import ADAM, SGD, same
from test_train import RESNET

train = functools.partial(short.train, length="12it", weight_decay=1e-2, lr=0.02)
SEEDS = (3, 4, 5)
CLOSE = 0.01
"""Distance to the training by itself, as a share of the way that it went."""


def benches(bench, name="stage"):
    return [dataclasses.replace(bench, seed=seed, name=name) for seed in SEEDS]


def starts(model, bench):
    return [drawn(model, each) for each in benches(bench, "init")]


def way(one, other) -> float:
    """The distance between two nets' parameters and statistics."""
    return float(torch.stack([(a.float() - other[n].float()).norm() for n, a in one.items()]).norm())


def both(stage, states, bench, width=4):
    alone = [stage.apply(s, b) for s, b in zip(states, benches(bench), strict=True)]
    return alone, lanes.train(states, benches(bench), [stage] * len(states), width)


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("model", [MLP, RESNET], ids=["mlp", "resnet"])
def test_a_lane_is_the_training_by_itself_but_for_rounding(bench, model, optimizer) -> None:
    states = starts(model, bench)
    alone, at_once = both(train(optimizer=optimizer, lr=0.002), states, bench)
    for state, one, lane in zip(states, alone, at_once, strict=True):
        assert way(one.weights, lane.weights) < CLOSE * way(state.weights, one.weights)
        assert lane.facts["lanes"] == 4
        for fact in ("macs", "examples", "dtype", "optimizer"):
            assert lane.facts[fact] == one.facts[fact]
        for told, wanted in zip(lane.facts["curve"], one.facts["curve"], strict=True):
            assert told["validation_loss"] == pytest.approx(wanted["validation_loss"], rel=1e-2)
    assert way(at_once[0].weights, at_once[1].weights) > way(states[0].weights, at_once[0].weights)


def test_a_lane_does_not_depend_on_who_is_beside_it(bench) -> None:
    states, stage = starts(RESNET, bench), train()
    own = benches(bench)
    three = lanes.train(states, own, [stage] * 3, 4)
    turned = lanes.train(states[::-1], own[::-1], [stage] * 3, 4)[::-1]
    alone = [lanes.train([s], [b], [stage], 4)[0] for s, b in zip(states, own, strict=True)]
    for one, other, third in zip(three, turned, alone, strict=True):
        assert same(one.weights, other.weights)
        assert same(one.weights, third.weights)


CASES = {
    "sam": {"stepper": {"_target_": "compressbench.training.sam.sam", "_partial_": True, "rho": 0.2}},
    "asam": {"stepper": {"_target_": "compressbench.training.sam.asam", "_partial_": True, "rho": 1.0}},
    "clip": {"clip": 0.5},
    "bf16": {"precision": "bf16"},
    "ema": {
        "averager": {"_target_": "compressbench.training.averagers.ema", "_partial_": True, "decay": 0.5}
    },
    "only": {"only": "fc.*"},
    "edge_popup": {
        "reparametrise": {
            "edge_popup": {"_target_": "compressbench.training.reparametrisations.edge_popup.edge_popup"}
        }
    },
    "gradual": {
        "reparametrise": {
            "gradual": {
                "_target_": "compressbench.training.reparametrisations.gradual.gradual",
                "criterion": "magnitude",
                "scope": "global",
                "grain": "weight",
                "final": 0.6,
                "start": 0.0,
                "stop": 1.0,
                "every": "3it",
            }
        }
    },
}


@pytest.mark.parametrize("case", CASES)
def test_methods_in_lanes_are_those_alone(bench, case) -> None:
    states = [
        masked(
            s,
            {
                n: torch.rand(s.weights[n].shape, generator=bench.generator(n, k)) < 0.7
                for n in list(s.facts["prunable"])[k:]
            },
        )
        for k, s in enumerate(starts(MLP, bench))
    ]
    stage = train(
        lr=0.05,
        validate=None,
        **{
            **CASES[case],
            **(
                {"reparametrise": specs.expand(CASES[case]["reparametrise"])}
                if "reparametrise" in CASES[case]
                else {}
            ),
        },
    )
    alone, at_once = both(stage, states, bench)
    for state, one, lane in zip(states, alone, at_once, strict=True):
        assert way(one.weights, lane.weights) < (0.05 if case == "bf16" else CLOSE) * way(
            state.weights, one.weights
        )
        assert one.masks.keys() == lane.masks.keys()
        assert sum(int((m != lane.masks[n]).sum()) for n, m in one.masks.items()) <= 2
        for name, mask in lane.masks.items():
            assert not lane.weights[name][~mask].any()
        for fact in ("macs", "examples", "dtype"):
            assert lane.facts[fact] == one.facts[fact]


def test_students_in_lanes_learn_from_their_own_teachers(bench) -> None:
    teachers = starts(MLP, bench)
    own = [dataclasses.replace(b, references={"t": t}) for b, t in zip(benches(bench), teachers, strict=True)]
    students = [drawn(MLP, dataclasses.replace(b, name="other")) for b in own]
    objective = {
        "_target_": "compressbench.training.distillation.distill", "_partial_": True, "teacher": "t", "share": 1.0,
    }  # fmt: skip
    stage = train(objective=specs.expand(objective), validate=None, length="30it", lr=0.02)
    alone = [stage.apply(s, b) for s, b in zip(students, own, strict=True)]
    at_once = lanes.train(students, own, [stage] * 3, 3)
    for start, one, lane in zip(students, alone, at_once, strict=True):
        assert way(one.weights, lane.weights) < CLOSE * way(start.weights, one.weights)


def test_a_killed_run_goes_on_lane_by_lane(bench, tmp_path) -> None:
    states, stage = starts(RESNET, bench), train(length="20it")
    own = [
        dataclasses.replace(b, checkpoints=tmp_path / str(b.seed), checkpoint_seconds=0.0)
        for b in benches(bench)
    ]
    whole = lanes.train(states, benches(bench), [stage] * 3, 4)
    broken = [dataclasses.replace(b, progress=Bomb(9)) for b in own]
    with pytest.raises(Killed):
        lanes.train(states, broken, [stage] * 3, 4)
    assert all(list((tmp_path / str(seed)).iterdir()) for seed in SEEDS)
    for one, other in zip(whole, lanes.train(states, own, [stage] * 3, 4), strict=True):
        assert same(one.weights, other.weights)


def test_two_halves_in_lanes_are_one_training_in_lanes(bench) -> None:
    states = starts(MLP, bench)
    whole = lanes.train(states, benches(bench), [train(optimizer=ADAM)] * 3, 3)
    first = lanes.train(states, benches(bench), [train(optimizer=ADAM, stop="5it")] * 3, 3)
    second = lanes.train(first, benches(bench), [train(optimizer=ADAM, start="5it")] * 3, 3)
    for one, other in zip(whole, second, strict=True):
        assert same(one.weights, other.weights)


def test_a_lane_that_diverges_harms_no_other(bench) -> None:
    states, stage = starts(MLP, bench), train()
    wild = {n: w * (1e30 if n.endswith("weight") else 1) for n, w in states[1].weights.items()}
    mixed = [states[0], states[1].with_groups(weights=wild), states[2]]
    found = lanes.train(mixed, benches(bench), [stage] * 3, 3)
    sane = lanes.train(states, benches(bench), [stage] * 3, 3)
    assert isinstance(found[1], Diverged)
    assert "at iteration 0 of 12" in str(found[1])
    assert same(found[0].weights, sane[0].weights)
    assert same(found[2].weights, sane[2].weights)


def test_what_cannot_go_in_lanes_is_said(bench, monkeypatch) -> None:
    states, own = starts(MLP, bench), benches(bench)
    with pytest.raises(UserError, match="3 trainings in 2 lanes"):
        lanes.train(states, own, [train()] * 3, 2)
    with pytest.raises(UserError, match="not of one shape"):
        lanes.train(states[:2], own[:2], [train(), train(lr=0.5)], 2)
    drops = {
        "name": "drops",
        "build": {"_target_": "test_lanes.Drops", "shape": "@shape", "classes": "@classes"},
    }
    with pytest.raises(UserError, match=r"it draws random numbers; train it by itself: hardware\.lanes=1"):
        lanes.train([drawn(drops, b) for b in own], own, [train()] * 3, 3)
    real = lanes._batched

    def turned(*args):
        forward = real(*args)
        return lambda inputs, instead: (forward(inputs, instead)[0].flip(0), {})

    monkeypatch.setattr(lanes, "_batched", turned)
    with pytest.raises(UserError, match="stage answers otherwise in lanes, by"):
        lanes.train(states, own, [train()] * 3, 3)


# in runs --------------------------------------------------------------------------------------------------------------


def waves(monkeypatch) -> list[list[tuple[str, int]]]:
    """Which trainings went at once, by state and seed, as runs make them."""
    seen: list[list[tuple[str, int]]] = []
    real = lanes.train

    def spy(states, benches, settings, width):
        seen.append([(b.name, b.seed) for b in benches])
        return real(states, benches, settings, width)

    monkeypatch.setattr(lanes, "train", spy)
    return seen


RUN = (
    "run", "recipe=population", "scale=smoke", "recipe.length=2it", "recipe.finetune=1it", "recipe.seeds=3", "model=mlp",
    "evaluation.probes=null", "checkpoint_seconds=0",
)  # fmt: skip


def states_of(folder) -> list[str]:
    """The states in a store, by name and seed, sorted."""
    made = [
        json.loads(path.read_text())["body"]["provenance"]
        for path in (folder / "outputs" / "store" / "states").rglob("state.json")
    ]
    return sorted(f"{m['name'].partition('@')[0]} {m['seed']}" for m in made)


def test_a_run_takes_trainings_of_its_plan_along(command, monkeypatch, tmp_path) -> None:
    seen = waves(monkeypatch)
    assert command(*RUN, "hardware.lanes=2").returncode == 0
    assert [("dense", 0), ("dense", 1)] in seen
    assert sorted(name for wave in seen for name in wave) == [
        (name, seed) for name in ("dense", "pruned", "random") for seed in (0, 1, 2)
    ]
    assert max(map(len, seen)) == 2
    at_once = states_of(tmp_path)
    assert len(at_once) == len(set(at_once)) == 18
    seen.clear()
    assert command(*RUN, "hardware.lanes=2").returncode == 0
    assert not seen
    assert command(*RUN).returncode == 0
    assert states_of(tmp_path) == sorted([*at_once, *(n for n in at_once if not n.startswith("init"))])


@pytest.mark.slow
def test_a_sweep_over_seeds_goes_in_lanes(command, monkeypatch, tmp_path) -> None:
    seen = waves(monkeypatch)
    told = command(
        "run", "-m", "recipe=one_shot", "scale=smoke", "recipe.length=2it", "recipe.finetune=1it", "model=mlp",
        "seed=0,1,2", "hardware.lanes=4", "recipe.compare.floor=false", "evaluation=quick",
    )  # fmt: skip
    assert told.returncode == 0
    assert seen[0] == [("dense", 0), ("dense", 1), ("dense", 2)]
    names = [name for wave in seen for name in wave]
    assert len(names) == len(set(names))
    (table,) = tmp_path.glob("outputs/sweeps/*/records.csv")
    assert "beside" not in table.read_text()


@pytest.mark.slow
def test_other_nets_with_the_same_settings_leave_the_lanes_free(command, monkeypatch) -> None:
    seen = waves(monkeypatch)
    short = (
        "recipe.length=1it",
        "recipe.teacher_length=1it",
        "recipe.few_length=1it",
        "evaluation.probes=null",
    )
    told = command(
        "run", "-m", "recipe=distill_resnet", "scale=smoke", *short, "seed=0,1", "hardware.lanes=2",
        "recipe.compare.floor=false",
    )  # fmt: skip
    assert told.returncode == 0
    assert [("teacher", 0), ("teacher", 1)] in seen
    assert all(len(wave) == 2 for wave in seen)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("hardware.lanes=0", "hardware.lanes: 0 is not a whole number from 1 to 64"),
        ("hardware.lanes=2.5", "hardware.lanes: 2.5 is not a whole number from 1 to 64"),
        ("hardware.launch=fast", "hardware.launch: unknown 'fast'"),
        ("hardware.launch=graph", "a graph is recorded on a GPU, and the device is cpu"),
        ("beside=[1]", "set hardware.lanes to 2 or more as well"),
        ("beside=3", "beside: 3 is no list of seeds"),
    ],
)
def test_settings_that_mean_nothing_are_one_line(command, given, said) -> None:
    told = command("run", "recipe=one_shot", "scale=smoke", given)
    assert told.returncode == 2
    assert said in told.stderr
    assert told.stderr.count("\n") == 1


class Drops(nn.Module):
    """A net with dropout."""

    def __init__(self, shape, classes) -> None:
        super().__init__()
        self.fc = nn.Linear(shape[1] * shape[2], classes)

    def forward(self, x):
        return self.fc(nn.functional.dropout(x.flatten(1), 0.5, self.training))
