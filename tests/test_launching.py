"""Ways to launch an iteration: a recording that is replayed is the training itself, bit by bit."""

from __future__ import annotations

import dataclasses
import functools
import types

import pytest
import torch

import short
from compressbench import specs
from compressbench.errors import Diverged, UserError
from compressbench.masks import masked
from compressbench.models.draw import drawn
from compressbench.training import lanes, launching, optimising
from conftest import MLP
from recorded import Cuda
from short import ADAM, SGD, same
from test_train import RESNET

train = functools.partial(
    short.train,
    length="16it",
    weight_decay=1e-2,
    lr=0.02,
    validate=None,
    schedule={"_target_": "compressbench.training.schedules.cosine", "_partial_": True},
)


@pytest.fixture
def cuda(monkeypatch) -> Cuda:
    """Iterations are recorded and replayed as on a GPU, on the CPU."""
    fake = Cuda()
    real = optimising.made

    def made(*args):
        optimizer = real(*args)
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]))
        return optimizer

    monkeypatch.setattr(optimising, "made", made)
    monkeypatch.setattr(launching, "torch", types.SimpleNamespace(**{**vars(torch), "cuda": fake}))
    return fake


@pytest.fixture
def recording(cuda, monkeypatch) -> Cuda:
    monkeypatch.setattr(launching, "launched", lambda iteration, bench: launching.Recorded(iteration, bench))
    return cuda


TEACHER = {
    "_target_": "compressbench.training.distillation.distill", "_partial_": True, "teacher": "t", "share": 0.5,
}  # fmt: skip
SAM = {"_target_": "compressbench.training.sam.sam", "_partial_": True, "rho": 0.1}
GRADUAL = {
    "gradual": {
        "_target_": "compressbench.training.reparametrisations.gradual.gradual",
        "criterion": "magnitude",
        "scope": "global",
        "grain": "weight",
        "final": 0.6,
        "start": 0.2,
        "stop": 1.0,
        "every": "4it",
    }
}
EDGE_POPUP = {"edge_popup": {"_target_": "compressbench.training.reparametrisations.edge_popup.edge_popup"}}
CASES = {
    "sgd": {},
    "adam": {"optimizer": ADAM, "lr": 0.002},
    "masks": {},
    "sam": {"stepper": SAM},
    "kd": {"objective": specs.expand(TEACHER)},
    "clip": {"clip": 0.3},
    "augmented": {},
    "gradual": {"reparametrise": specs.expand(GRADUAL)},
    "edge_popup": {"reparametrise": specs.expand(EDGE_POPUP)},
}


def augmented(bench):
    task = dataclasses.replace(bench.task, augment={"pad": 1, "flip": True})
    return dataclasses.replace(bench, dataset=dataclasses.replace(bench.dataset, task=task), feeds={})


@pytest.mark.parametrize("case", CASES)
def test_a_replayed_iteration_is_the_iteration(bench, recording, monkeypatch, case) -> None:
    bench = dataclasses.replace(bench, references={"t": drawn(MLP, dataclasses.replace(bench, seed=9))})
    start = drawn(RESNET if case in ("sgd", "sam") else MLP, bench)
    if case == "augmented":
        bench = augmented(bench)
    if case == "masks":
        start = masked(start, {n: start.weights[n].abs() > 0.05 for n in start.facts["prunable"]})
    stage = train(
        optimizer=CASES[case].get("optimizer", SGD),
        **{k: v for k, v in CASES[case].items() if k != "optimizer"},
    )
    said: list[str] = []
    replayed = stage.apply(start, dataclasses.replace(bench, say=said.append))
    assert not said
    assert recording.graphs
    assert sum(graph.replays for graph in recording.graphs) >= 16 - launching.FIRST
    monkeypatch.setattr(launching, "launched", lambda iteration, bench: iteration)
    plain = stage.apply(start, bench)
    assert same(plain.weights, replayed.weights)
    assert not same(start.weights, plain.weights) or case == "edge_popup"
    assert same(plain.masks, replayed.masks)


def test_lanes_are_recorded_too(bench, recording, monkeypatch) -> None:
    own = [dataclasses.replace(augmented(bench), seed=seed) for seed in (1, 2)]
    states = [drawn(RESNET, b) for b in own]
    replayed = lanes.train(states, own, [train()] * 2, 3)
    assert recording.graphs[-1].replays >= 16 - launching.FIRST
    monkeypatch.setattr(launching, "launched", lambda iteration, bench: iteration)
    for one, other in zip(lanes.train(states, own, [train()] * 2, 3), replayed, strict=True):
        assert same(one.weights, other.weights)


def test_a_loss_that_is_not_finite_is_found_at_its_iteration(bench, recording, monkeypatch) -> None:
    stage = train(schedule={"_target_": "test_launching.late", "_partial_": True})
    start = drawn(MLP, bench)
    with pytest.raises(Diverged) as replayed:
        stage.apply(start, bench)
    monkeypatch.setattr(launching, "launched", lambda iteration, bench: iteration)
    with pytest.raises(Diverged) as plain:
        stage.apply(start, bench)
    assert str(replayed.value) == str(plain.value)
    assert "at iteration 9 of 16" in str(plain.value)


def test_what_reads_a_number_from_the_device_is_not_recorded(bench, recording, monkeypatch) -> None:
    said: list[str] = []
    stage = train(objective={"_target_": "test_launching.looks", "_partial_": True})
    start = drawn(RESNET, bench)
    told = stage.apply(start, dataclasses.replace(bench, say=said.append))
    assert said == [
        "init: not recorded as a CUDA graph, operation not permitted when stream is capturing: "
        "aten._local_scalar_dense.default"
    ]
    monkeypatch.setattr(launching, "launched", lambda iteration, bench: iteration)
    assert same(told.weights, stage.apply(start, bench).weights)


def test_a_recording_that_goes_elsewhere_is_dropped(bench, recording, monkeypatch) -> None:
    said: list[str] = []
    stage = train(objective={"_target_": "test_launching.counts", "_partial_": True})
    start = drawn(MLP, bench)
    replayed = stage.apply(start, dataclasses.replace(bench, say=said.append))
    assert len(said) == 1
    assert "it moves the weights elsewhere" in said[0]
    monkeypatch.setattr(launching, "launched", lambda iteration, bench: iteration)
    assert not same(replayed.weights, start.weights)


def late(done):
    """A schedule that breaks the training after half of it."""
    return 1.0 if done < 0.5 else 1e30


def looks(bench):
    """An objective that waits for the device."""
    return lambda batch: (
        bench.task.loss(batch.outputs, batch.labels) * (1 if batch.labels[0].item() >= 0 else 2)
    )


def counts(bench):
    """An objective whose loss depends on how often Python asked for it."""
    asked = []

    def loss(batch):
        asked.append(1)
        return bench.task.loss(batch.outputs, batch.labels) * len(asked) ** 2

    return loss


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"objective": {"_target_": "test_launching.counts", "_partial_": True}},
            "objective test_launching.counts may do",
        ),
        (
            {"optimizer": {"_target_": "torch.optim.Adagrad", "_partial_": True}},
            "Adagrad isn't one of SGD, Adam and AdamW",
        ),
        (
            {
                "reparametrise": specs.expand(
                    {"l0": {"_target_": "compressbench.training.reparametrisations.l0.l0"}}
                )
            },
            "reparametrise.l0 may do something else",
        ),
    ],
)
def test_what_cannot_be_recorded_says_why(bench, cuda, changes, why) -> None:
    said: list[str] = []
    real = launching.launched
    # as on a GPU, which is asked for by name
    there = types.SimpleNamespace(launch="graph", device="cuda", name="here", say=said.append)
    launching_there = lambda iteration, bench: real(iteration, there)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "launched", launching_there)
        train(**changes).apply(drawn(MLP, bench), bench)
    assert len(said) == 1
    assert said[0].startswith("here: not recorded as a CUDA graph, ")
    assert why in said[0]


@pytest.mark.slow
def test_compiled_is_the_same_training_but_for_rounding(bench) -> None:
    start = drawn(MLP, bench)
    plain = train().apply(start, bench)
    fast = train().apply(start, dataclasses.replace(bench, launch="compiled"))
    far, way = (
        sum(float((a - other.weights[n]).norm()) for n, a in plain.weights.items()) for other in (fast, start)
    )
    assert far < 0.01 * way


def test_a_graph_wants_a_gpu(bench) -> None:
    with pytest.raises(UserError, match="a graph is recorded on a GPU, the device is cpu"):
        train().apply(drawn(MLP, bench), dataclasses.replace(bench, launch="graph"))
