"""Iterations recorded as a CUDA graph, and lanes, on a GPU: a pretended one, and a card where there is one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from cases_cuda import gpu, on_gpu  # noqa: F401
from cases_exits import RESNET
from compressbench.bench import Bench
from compressbench.masks import masked
from compressbench.models.draw import drawn
from compressbench.state import State
from compressbench.training import lanes
from compressbench.training.launching import Recorded
from pretended import Pretended
from short import ADAM, same, train
from test_lanes import way

STEP = {"length": "12it", "validate": None, "lr": 0.02, "weight_decay": 1e-3}
WAYS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"optimizer": ADAM, "lr": 0.002},
    "nesterov": {"optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9, "nesterov": True}},
    "clip": {"clip": 0.5},
    "rate that falls": {
        "warmup": "4it", "schedule": {"_target_": "compressbench.training.schedules.cosine", "_partial_": True},
    },
    "sam": {"stepper": {"_target_": "compressbench.training.sam.sam", "_partial_": True, "rho": 0.2}},
    "asam": {"stepper": {"_target_": "compressbench.training.sam.asam", "_partial_": True, "rho": 1.0}},
    "ema": {"averager": {"_target_": "compressbench.training.averagers.ema", "_partial_": True, "decay": 0.5}},
    "bf16": {"precision": "bf16"},
    "tf32": {"precision": "tf32"},
    "kd": {"objective": {
        "_target_": "compressbench.training.distillation.distill", "_partial_": True, "teacher": "teacher", "share": 0.9,
    }},
}  # fmt: skip


@pytest.fixture(scope="module")
def start(place: Bench) -> State:
    """A ResNet-8 with masks on all but its first layer."""
    state = drawn(RESNET, place)
    draw = torch.Generator().manual_seed(0)
    names = list(state.facts["prunable"])[1:]
    return masked(state, {n: torch.rand(state.weights[n].shape, generator=draw) < 0.7 for n in names})


@pytest.fixture(scope="module")
def teacher(place: Bench) -> State:
    return drawn(RESNET, dataclasses.replace(place, name="teacher"))


def bench_of(place: Bench, teacher: State, launch: str, said: list[str]) -> Bench:
    made = dataclasses.replace(on_gpu(place), name="train", launch=launch, references={"teacher": teacher})
    return dataclasses.replace(made, say=said.append)


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_a_recorded_iteration_is_the_one_that_python_says(
    name: str,
    gpu: Pretended | None,
    place: Bench,
    start: State,
    teacher: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replayed = []
    real = Recorded._replay
    monkeypatch.setattr(Recorded, "_replay", lambda self, *given: (replayed.append(1), real(self, *given))[1])
    stage, said = train(**{**STEP, **WAYS[name]}), []  # type: ignore[var-annotated]
    plain = stage.apply(start, bench_of(place, teacher, "eager", said))
    recorded = stage.apply(start, bench_of(place, teacher, "graph", said))
    assert said == [], "nothing was refused"
    assert len(replayed) == 12 - 4, "but for those before the recording, and the one recorded"
    gone = way(plain.weights, start.weights)
    assert gone > 0
    assert way(recorded.weights, plain.weights) < (0.02 if name == "bf16" else 1e-3) * gone
    for layer, mask in recorded.masks.items():
        assert not recorded.weights[layer][~mask].any()


def test_a_recorded_training_ends_as_on_the_cpu(
    gpu: Pretended | None, place: Bench, start: State, teacher: State
) -> None:
    stage = train(**{**STEP, "length": "8it"})
    here = stage.apply(start, dataclasses.replace(place, name="train"))
    there = stage.apply(start, bench_of(place, teacher, "graph", []))
    assert way(there.weights, here.weights) < 1e-2 * way(here.weights, start.weights)


def test_nothing_waits_for_the_gpu_within_an_epoch(
    gpu: Pretended | None, place: Bench, start: State, teacher: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second iteration on: the first one sends an epoch's numbers, the fourth records."""
    from compressbench.training import loop

    calls = []
    real = loop.launching.launched

    def watched(*given: Any) -> Any:
        launch = real(*given)

        def run(*batch: Any) -> Any:
            calls.append(1)
            steady = len(calls) > 6
            torch.cuda.set_sync_debug_mode("error" if steady else "default")
            try:
                return launch(*batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    monkeypatch.setattr(loop.launching, "launched", watched)
    for launch in ("eager", "graph"):
        calls.clear()
        train(**STEP).apply(start, bench_of(place, teacher, launch, []))
        assert len(calls) == 12


@pytest.mark.parametrize("launch", ["eager", "graph"])
def test_lanes_on_a_gpu_are_lanes_on_the_cpu(
    launch: str, gpu: Pretended | None, place: Bench, start: State
) -> None:
    seeds, stage, said = (3, 4), train(**{**STEP, "length": "8it"}), []  # type: ignore[var-annotated]

    def benches(bench: Bench) -> list[Bench]:
        return [dataclasses.replace(bench, seed=seed, name="train") for seed in seeds]

    there = dataclasses.replace(on_gpu(place), launch=launch, say=said.append)
    one = lanes.train([start] * 2, benches(place), [stage] * 2, 3)
    other = lanes.train([start] * 2, benches(there), [stage] * 2, 3)
    assert said == []
    for here, found in zip(one, other, strict=True):
        assert isinstance(here, State)
        assert isinstance(found, State)
        assert way(found.weights, here.weights) < 1e-2 * way(here.weights, start.weights)
        assert not any(t.is_cuda for group in found.tensors.values() for t in group.values())
    assert not same(one[0].weights, one[1].weights)  # type: ignore[union-attr]
