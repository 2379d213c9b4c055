"""Calibration on texts: little is padded, and the loss of sequences is a mean over their tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compressbench.bench import Bench
from compressbench.data.dataset import Dataset
from compressbench.data.load import load
from compressbench.models.language_model import LanguageModel
from compressbench.outputs import forward
from compressbench.quantizing import calibration

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load(
        {
            "name": "glosses_lm",
            "read": {"_target_": "compressbench.data.texts.glosses"},
            "task": {
                "_target_": "compressbench.tasks.text.next_token.next_token",
                "length": 64,
                "vocabulary": 400,
            },
            "train_size": 300,
            "test_size": 20,
            "validation": 150,
        }
    )


def test_batches_are_of_like_length_and_hold_each_text_once(data: Dataset) -> None:
    bench = Bench(data, 0, "init")
    drawn = calibration.drawn(bench, "validation", 140)
    task = bench.task
    widths = [task.encode(batch)[0].shape[1] for batch in drawn.batches(task)]
    lengths = [k for batch in drawn.batches(task) for k in task.lengths(batch).tolist()]  # type: ignore[attr-defined]
    assert sorted(task.lengths(drawn.examples).tolist()) == lengths  # type: ignore[attr-defined]
    assert widths == [max(lengths[at : at + 64]) for at in (0, 64, 128)]
    assert widths[0] < widths[-1]


def test_the_loss_of_sequences_is_over_their_tokens(data: Dataset) -> None:
    bench = Bench(data, 0, "init")
    drawn = calibration.drawn(bench, "validation", 140)
    torch.manual_seed(0)
    net = LanguageModel(400, 64, dim=16, depth=1, heads=2, mlp=16).eval()
    for part in net.parameters():
        part.data *= 20
    nats: list[float] = []
    with torch.no_grad():
        for row in range(len(drawn)):
            one = drawn.examples.take([row])
            logits = forward(net, *bench.task.encode(one)).logits[0].double().numpy()
            labels = one.labels[0].numpy()
            logs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            logs -= logits.max(1, keepdims=True)
            nats += [-logs[place, label] for place, label in enumerate(labels[: len(logs)]) if label >= 0]
    assert len(nats) > 140
    assert calibration.mean_loss(net, bench, drawn) == pytest.approx(math.fsum(nats) / len(nats), rel=1e-5)
