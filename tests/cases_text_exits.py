"""A small bench on texts, and an encoder on it whose layers have exits."""

from __future__ import annotations

import dataclasses

import pytest

from cases_exits import build, training
from compressbench.bench import Bench
from compressbench.data.load import load
from compressbench.models.draw import drawn
from compressbench.stages.exits import Attach
from compressbench.state import State

GLOSSES = {
    "name": "glosses",
    "read": {"_target_": "compressbench.data.texts.glosses"},
    "task": {
        "_target_": "compressbench.tasks.text.classification.text_classification",
        "length": 16,
        "vocabulary": 400,
    },
    "train_size": 600,
    "test_size": 200,
    "validation": 0.2,
}
ENCODER = {
    "name": "encoder",
    "build": {
        "_target_": "compressbench.models.encoder.TextEncoder",
        "vocabulary": "@vocabulary", "classes": "@classes", "length": "@length", "segments": "@segments",
        "dim": 16, "depth": 3, "heads": 2, "mlp": 32, "dropout": 0.0,
    },
}  # fmt: skip
POINTS = ("layers.0", "layers.1")
MASKED = {"_target_": "compressbench.exit_heads.masked_mean.masked_mean", "_partial_": True}
FIRST = {"_target_": "compressbench.exit_heads.first_token.first_token", "_partial_": True}


@pytest.fixture(scope="module")
def bench() -> Bench:
    pytest.importorskip("tokenizers")
    return Bench(load(GLOSSES), seed=0, name="init", say=lambda _: None)


def attached(
    bench: Bench, head: dict = MASKED, model: dict = ENCODER, points: tuple[str, ...] = POINTS
) -> State:
    return Attach(points, head).apply(drawn(model, bench), dataclasses.replace(bench, name="attach"))


@pytest.fixture(scope="module")
def exits(bench: Bench) -> State:
    """Trained a little, so that it is of different minds about different texts."""
    from compressbench.stages.train import Train

    return training("joint", Train).apply(attached(bench), dataclasses.replace(bench, name="joint"))


__all__ = ["attached", "bench", "build", "exits"]
