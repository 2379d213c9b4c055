"""Training and evaluating on texts: batches of like length, results in the split's order, whatever the company."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from compressbench.bench import Bench
from compressbench.checking.tasks import check_task
from compressbench.checking.traces import Unfit
from compressbench.data.dataset import Dataset
from compressbench.data.load import load
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.seeds import derive_seed
from compressbench.state import State
from compressbench.training import lanes, launching
from compressbench.training.batches import WINDOW, Batches
from compressbench.views import View
from compressbench.walking import put_back, walk
from conftest import kill
from short import ADAM, equal, train

pytest.importorskip("tokenizers")
ENCODER = {
    "name": "encoder",
    "build": {
        "_target_": "compressbench.models.encoder.TextEncoder", "dim": 16, "depth": 2, "heads": 2, "mlp": 32,
        "vocabulary": "@vocabulary", "classes": "@classes", "length": "@length", "segments": "@segments",
    },
}  # fmt: skip
GLOSSES = {
    "name": "glosses",
    "read": {"_target_": "compressbench.data.texts.glosses"},
    "train_size": 700,
    "test_size": 150,
    "validation": 100,
    "task": {
        "_target_": "compressbench.tasks.text.classification.text_classification",
        "length": 24,
        "vocabulary": 500,
    },
}


@pytest.fixture(scope="module")
def glosses() -> Dataset:
    return load(GLOSSES)


@pytest.fixture
def texts(glosses: Dataset) -> Bench:
    return Bench(glosses, seed=0, name="init", say=lambda text: None)


@pytest.fixture(scope="module")
def untrained(glosses: Dataset) -> State:
    return drawn(ENCODER, Bench(glosses, seed=0, name="init", say=lambda text: None))


@dataclasses.dataclass
class Told:
    """What ``Batches`` reads of a ``Run``."""

    per_epoch: int
    batch_size: int
    order: str = "shuffle"
    varies: bool = False
    stop: int = 10**9
    rates: tuple[float, ...] = ()


def batches(lengths: torch.Tensor | None, count: int, size: int, seeds: tuple[int, ...] = (3,)) -> Batches:
    return Batches(Told(count // size, size), None, seeds, count, "cpu", lengths)  # type: ignore[arg-type]


def test_batches_are_of_like_length_and_cover_an_epoch() -> None:
    count, size = 1003, 4
    lengths = torch.from_numpy(np.random.RandomState(0).randint(1, 40, count))
    made = batches(lengths, count, size)
    epochs = [[made.at(step)[0] for step in range(250 * e, 250 * (e + 1))] for e in range(2)]
    # by numpy, from the order that trainings without lengths have
    for epoch, found in enumerate(epochs):
        seed = derive_seed(3, "shuffle", epoch)
        whole = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()[:1000]
        assert sorted(torch.cat(found).tolist()) == sorted(whole.tolist())
        wanted = set()
        for start in range(0, 1000, WINDOW * size):
            window = whole[start : start + WINDOW * size]
            ordered = window[np.argsort(lengths.numpy()[window], kind="stable")]
            wanted |= {tuple(part) for part in ordered.reshape(-1, size)}
        assert {tuple(rows.tolist()) for rows in found} == wanted
        longest = [int(lengths[rows].max()) for rows in found]
        assert longest[:WINDOW] != sorted(longest[:WINDOW])  # the short ones don't come first
    assert [r.tolist() for r in epochs[0]] != [r.tolist() for r in epochs[1]]
    taken_up = batches(lengths, count, size)
    assert torch.equal(taken_up.at(321)[0], epochs[1][71])
    assert not torch.equal(batches(lengths, count, size, (4,)).at(0)[0], epochs[0][0])


def test_batches_of_tasks_without_lengths_are_as_ever() -> None:
    found = torch.stack([batches(None, 103, 10, (3, 5)).at(step)[0] for step in range(10)])
    for place, seed in enumerate((3, 5)):
        drawn_ = torch.Generator().manual_seed(derive_seed(seed, "shuffle", 0))
        wanted = torch.randperm(103, generator=drawn_)[:100].view(10, 10)
        assert torch.equal(found[:, 10 * place : 10 * place + 10], wanted)


def test_a_walk_goes_from_the_shortest_on_and_is_put_back(glosses: Dataset) -> None:
    test = glosses.split("test").to("cpu")
    sizes = np.diff(glosses.split("test")["ids"].starts)
    parts = list(walk(glosses.task, test, 32))
    rows = torch.cat([r for r, _ in parts])
    assert rows.tolist() == np.argsort(sizes, kind="stable").tolist()
    widths = [glosses.task.encode(batch)[0].shape[1] for _, batch in parts]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] == 24
    labels = put_back([r for r, _ in parts], [b.labels for _, b in parts])
    assert torch.equal(labels, test.labels)
    some = [r for r, _ in walk(glosses.task, test, 32, 40)]
    assert sorted(torch.cat(some).tolist()) == list(range(40))


def test_a_view_answers_in_the_order_of_the_split(texts: Bench, untrained: State) -> None:
    view = View(untrained, texts)
    test, task = texts.feed("test"), texts.task
    with torch.no_grad():
        one = torch.cat([view.module(*task.encode(test.take([i]))) for i in range(len(test))])
    assert torch.allclose(view.log_probs, one.log_softmax(1), atol=1e-5)
    assert torch.equal(view.said_of, torch.arange(len(test)))
    assert torch.equal(view.wanted, test.labels)
    assert torch.equal(view.answers, one.argmax(1))
    with torch.no_grad():
        some = texts.feed("train").take(torch.arange(70))
        known = view.module(*task.encode(some)).log_softmax(1)
    assert torch.allclose(view.log_probs_of("train", 70), known, atol=1e-5)


def test_several_pieces_of_an_example_stay_together(texts: Bench, untrained: State) -> None:
    """Of an example that is several pieces, as a sentence is tokens, these come one after the other."""

    class Twice:
        def __getattr__(self, name: str) -> Any:
            return getattr(texts.task, name)

        def log_probs(self, outputs: Any, labels: Any) -> Any:
            found = texts.task.log_probs(outputs, labels)
            first = torch.arange(len(labels))
            return dataclasses.replace(
                found,
                log_probs=torch.cat([found.log_probs] * 2),
                owners=torch.cat([first] * 2),
                labels=torch.cat([labels] * 2),
            )

    both = dataclasses.replace(texts, dataset=dataclasses.replace(texts.dataset, task=Twice()))
    view, plain = View(untrained, both), View(untrained, texts)
    assert torch.equal(view.said_of, torch.arange(150).repeat_interleave(2))
    assert torch.equal(view.log_probs, plain.log_probs.repeat_interleave(2, 0))


def test_a_killed_training_goes_on_bit_by_bit(texts: Bench, untrained: State, tmp_path: Path) -> None:
    stage = train("60it", optimizer=ADAM, lr=0.003, batch_size=16, validate="30it")
    whole = stage.apply(untrained, texts)
    assert not equal(whole, untrained)
    texts = dataclasses.replace(texts, checkpoints=tmp_path, checkpoint_seconds=0.0)
    kill(stage, untrained, texts, tmp_path, 50)
    again = stage.apply(untrained, texts)
    assert equal(again, whole)
    halves = dataclasses.replace(stage, stop="31it").apply(untrained, texts)
    assert equal(dataclasses.replace(stage, start="31it").apply(halves, texts), whole)


def test_no_graph_is_recorded_and_no_lanes_are_taken(texts: Bench, untrained: State) -> None:
    said: list[str] = []
    device = dataclasses.replace(texts, device="cuda", launch="auto", say=said.append, name="dense")
    team = SimpleNamespace(jobs=[SimpleNamespace(bench=texts)])
    iteration: Any = SimpleNamespace(team=team)
    assert launching.launched(iteration, device) is iteration
    assert said == ["dense: not recorded as a CUDA graph, its batches are of unlike length"]
    with pytest.raises(UserError, match=r"unlike length.*hardware\.lanes=1"):
        lanes.train([untrained] * 2, [texts] * 2, [train("4it")] * 2, 2)


def test_a_tasks_lengths_are_checked(glosses: Dataset) -> None:
    check_task(glosses)

    class Wrong:
        def __init__(self, lengths: Callable[..., Any]) -> None:
            self.lengths = lengths

        def __getattr__(self, name: str) -> Any:
            return getattr(glosses.task, name)

    own = glosses.task.lengths  # type: ignore[attr-defined]
    for lengths, said in (
        (lambda e: own(e).float(), "lengths gives torch.float32"),
        (lambda e: own(e)[:1], r"lengths gives torch.int64 \(1,\) for 16"),
        (lambda e: own(e) - 30, "a length is 0 or more"),
        (lambda e: own(e).max().expand(len(e)), "is the example's own"),
    ):
        with pytest.raises(Unfit, match=said):
            check_task(dataclasses.replace(glosses, task=Wrong(lengths)))
