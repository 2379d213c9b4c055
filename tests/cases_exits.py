"""What several files of tests on exits have together."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from compressbench.bench import Bench
from compressbench.exit_criteria.policy import (
    Policy,
)
from compressbench.models import early
from compressbench.models.draw import drawn
from compressbench.stages.exits import Attach
from compressbench.state import State
from short import SGD

POINTS = ("layer1", "layer2")
HEAD = {"_target_": "compressbench.exit_heads.pooled.pooled", "_partial_": True}


def spec(name: str) -> dict:
    return {"_target_": f"compressbench.exit_criteria.{name}.{name}", "_partial_": True}


def build(name: str, **settings) -> dict:
    return {"name": name, "build": {"_target_": name, "shape": "@shape", "classes": "@classes", **settings}}


RESNET = build("compressbench.models.resnet.CifarResNet", depth=8, width=4)


@pytest.fixture(scope="module")
def bench(digits) -> Bench:
    return Bench(digits, seed=0, name="init", say=lambda _: None)


@pytest.fixture(scope="module")
def exits(bench: Bench) -> State:
    """A ResNet-8 with two exits, trained a little, so that it is of different minds about different images."""
    from compressbench.stages.train import Train

    state = early.attached(
        drawn(RESNET, bench), dataclasses.replace(bench, name="attach"), Attach(POINTS, HEAD)
    )
    return training("joint", Train).apply(state, dataclasses.replace(bench, name="joint"))


def training(objective: str, stage, only: str | None = None, **settings):
    own = {"_target_": f"compressbench.training.exits.{objective}", "_partial_": True, **settings}
    return stage(
        length="30it", batch_size=32, lr=0.05, optimizer=SGD, objective=own, validate=None, only=only
    )


def three_of(bench: Bench) -> tuple[Tensor, ...]:
    return bench.task.drawn(3, torch.Generator().manual_seed(0))


def images(bench: Bench, count: int = 97) -> Tensor:
    return bench.task.normalised(bench.feed("test")["images"][:count])


def policy(criterion, *thresholds: float) -> Policy:
    return Policy(criterion, thresholds, (1.0,) * len(thresholds))


def middle(sure: Tensor) -> float:
    """Between two scores: a batch of another size may round the last bit otherwise."""
    ordered = sure.double().sort().values
    half = len(ordered) // 2
    gap = int((ordered[half:] - ordered[half - 1 : -1]).argmax()) + half
    return float(ordered[gap - 1 : gap + 1].mean())
