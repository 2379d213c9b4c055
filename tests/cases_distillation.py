"""What several files of tests on distillation have together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import short
from compressbench import specs
from compressbench.bench import Bench
from compressbench.models.draw import drawn
from compressbench.outputs import Outputs
from compressbench.specs import trust
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.training.objectives import Batch
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
L1 = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}


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


def training(length: str, **settings: Any) -> Train:
    return short.train(length, **{"batch_size": 32, "validate": None, "clip": 5.0, **settings})


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


def some_logits(n: int = 6, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, v = (3 * torch.randn(2, n, classes, generator=generator, dtype=torch.float64)).unbind(0)
    return z, v


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(n: int = 30, width: int = 4) -> Tensor:
    return torch.rand(n, width, generator=seeded(5))


@pytest.fixture(scope="module")
def three(place: Bench, teacher: State, student: State) -> dict[str, State]:
    trained = training("20it").apply(student, place)
    return {"a": teacher, "b": trained, "c": training("20it").apply(drawn(TINY, place), place)}


def other_classes(bench: Bench) -> State:
    task = dataclasses.replace(bench.task, classes=bench.task.classes[:7])
    fewer = dataclasses.replace(bench.dataset, task=task)
    return drawn(SMALL, dataclasses.replace(bench, dataset=fewer))


@pytest.fixture(scope="module")
def students(place: Bench) -> State:
    return drawn(STUDENTS, dataclasses.replace(place, name="online"))
