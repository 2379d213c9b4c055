"""A training that diverges in lanes, in runs: nobody else loses anything by it."""

from __future__ import annotations

import csv

import pytest

from compressbench.errors import Diverged
from compressbench.training import lanes
from test_lanes import RUN, states_of

SWEEP = (
    "run", "-m", "recipe=one_shot", "scale=smoke", "recipe.length=2it", "recipe.finetune=1it", "model=mlp",
    "hardware.lanes=4", "recipe.compare.floor=false", "evaluation.probes=null",
    "+evaluation.probes.accuracy._target_=compressbench.probes.accuracy.Accuracy",
)  # fmt: skip


@pytest.fixture
def trained(monkeypatch) -> list[tuple[str, int]]:
    """Trainings in lanes, by state and seed; the dense one of seed 1 diverges."""
    seen: list[tuple[str, int]] = []
    real = lanes.train

    def train(states, benches, settings, width):
        ends = real(states, benches, settings, width)
        seen.extend((b.name, b.seed) for b in benches)
        lost = [(b.name, b.seed) == ("dense", 1) for b in benches]
        return [Diverged("loss is nan") if so else end for so, end in zip(lost, ends, strict=True)]

    monkeypatch.setattr(lanes, "train", train)
    return seen


@pytest.mark.slow
def test_a_seed_that_diverges_costs_a_sweep_that_seed_alone(command, trained, tmp_path) -> None:
    told = command(*SWEEP, "seed=0,1,2")
    assert told.returncode == 1
    assert "job 1: stage dense: loss is nan" in told.stderr
    assert "job 0" not in told.stderr
    assert "job 2" not in told.stderr
    assert not [name for name in states_of(tmp_path) if name.endswith(" 1") and name != "init 1"]
    (table,) = tmp_path.glob("outputs/sweeps/*/records.csv")
    with table.open() as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"0", "2"}


def test_a_member_that_diverged_is_not_trained_again(command, trained, tmp_path) -> None:
    told = command(*RUN, "hardware.lanes=3")
    assert told.returncode == 1
    assert told.stderr.endswith("compressbench: stage dense@seed1: loss is nan\n")
    assert trained.count(("dense", 1)) == 1
    assert {"dense 0", "dense 2", "pruned 0", "pruned 2"} <= set(states_of(tmp_path))
