"""Pictures to teach with: MUNGE, few labels."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cases_distillation import (  # noqa: F401
    L1,
    batch_of,
    by,
    seeded,
    some_logits,
    student,
    table,
    teacher,
    training,
    untrained,
    with_states,
)
from compressbench.bench import Bench
from compressbench.data.munge import munge, neighbours
from compressbench.data.splits import seats
from compressbench.errors import UserError
from compressbench.stages.prune import Prune
from compressbench.stages.shrink import Channels
from compressbench.stages.transfer import Few, Munge
from compressbench.state import State
from compressbench.training import distillation
from short import same


def test_munge_without_exchange_is_the_table_itself() -> None:
    t = table()
    assert torch.equal(munge(t, 1, 0.0, 4.0, seeded()), t)
    assert torch.equal(munge(t, 3, 0.0, 4.0, seeded()), t.repeat(3, 1))
    assert munge(t, 0, 0.5, 4.0, seeded()).shape == (0, 4)
    assert torch.equal(munge(t[:1], 2, 1.0, 4.0, seeded()), t[:1].repeat(2, 1)), "alone it has no neighbour"


def test_munge_is_the_same_from_the_same_generator() -> None:
    t = table()
    kept = t.clone()
    first, again, other = (munge(t, 2, 0.5, 2.0, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:30], first[30:]), "each copy is drawn for itself"
    assert torch.equal(t, kept)


def test_a_nominal_swap_keeps_the_column() -> None:
    t = torch.randint(0, 4, (40, 3), generator=seeded(3)).float()
    nominal = torch.tensor([True, True, True])
    found = munge(t, 1, 0.7, 4.0, seeded(), nominal)
    assert not torch.equal(found, t)
    assert torch.equal(found.sort(0).values, t.sort(0).values)
    mixed = munge(t, 1, 1.0, 1.0, seeded(), torch.tensor([True, False, True]))
    assert torch.equal(mixed[:, [0, 2]].sort(0).values, t[:, [0, 2]].sort(0).values)
    assert not torch.equal(mixed[:, 1].sort().values, t[:, 1].sort().values)


def test_with_a_large_s_values_become_the_neighbours_own() -> None:
    t = table()
    exact = t.clone()
    for own, other in enumerate(neighbours(t, torch.zeros(4, dtype=torch.bool)).tolist()):
        exact[[own, other]] = exact[[other, own]]
    assert torch.equal(munge(t, 1, 1.0, math.inf, seeded()), exact)
    near, far = (float((munge(t, 1, 1.0, s, seeded()) - exact).abs().mean()) for s in (1e6, 1.0))
    assert near < 1e-4 < far


def test_the_spread_is_the_difference_over_s() -> None:
    """Two rows, each the other's neighbour: 0 and 6 become N(6, 2) and N(0, 2), then each is drawn from the other."""
    pair = torch.tensor([[0.0], [6.0]])
    found = torch.stack([munge(pair, 1, 1.0, 3.0, seeded(k)) for k in range(4000)])[:, :, 0]
    assert found.mean(0).tolist() == pytest.approx([0, 6], abs=0.2)
    expected_square = 6**2 + 2**2 + 2**2
    assert found.var(0).tolist() == pytest.approx([2**2 + expected_square / 3**2] * 2, rel=0.1)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0])
def test_neighbours_by_brute_force(offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressbench.data.munge.ROWS", 16)
    nominal = torch.tensor([False, True, False, True])
    values = torch.randn(50, 4, generator=seeded(4)) * 0.5 + offset
    values[:, nominal] = torch.randint(0, 3, (50, 2), generator=seeded(6)).float()
    exact = values.double()
    found = neighbours(values, nominal).tolist()
    for own in range(50):
        far = (exact[:, ~nominal] - exact[own, ~nominal]).square().sum(1).sqrt()
        far = far + (exact[:, nominal] != exact[own, nominal]).sum(1)
        far[own] = math.inf
        assert found[own] == int(far.argmin())
    twins = torch.tensor([[1.0], [1.0], [1.0]])
    assert neighbours(twins, torch.tensor([False])).tolist() == [1, 0, 0], "the first of equals"


def test_munged_pictures(place: Bench, student: State) -> None:
    bench = dataclasses.replace(place, name="munge")
    split = place.dataset.split("train")
    made = Munge(copies=2, p=0.5, s=2.0).apply(student, bench)
    images, labels = made.group("data")["images"], made.group("data")["labels"]
    n = len(split)
    assert images.dtype == torch.uint8
    assert images.shape == (3 * n, 1, 8, 8)
    assert torch.equal(images[:n], torch.from_numpy(split["images"]))
    assert torch.equal(labels[:n], torch.from_numpy(split.labels))
    assert (labels[n:] == -1).all()
    flat = torch.from_numpy(split["images"]).flatten(1).float()
    wanted = munge(flat, 2, 0.5, 2.0, bench.generator("munge")).round().clamp(0, 255)
    assert torch.equal(images[n:].flatten(1).float(), wanted)
    assert same(made.weights, student.weights)
    alone = Munge(copies=1, keep=False).apply(student, bench)
    assert len(alone.group("data")["labels"]) == n
    assert same(Munge(copies=2, p=0.5, s=2.0).apply(student, bench).group("data"), made.group("data"))
    untouched = Munge(copies=1, p=0.0, keep=False).apply(student, bench).group("data")["images"]
    assert torch.equal(untouched, torch.from_numpy(split["images"]))


def test_few_labels_of_each_class(place: Bench, student: State) -> None:
    bench = dataclasses.replace(place, name="few")
    split = place.dataset.split("train")
    every = torch.from_numpy(split["images"])
    before: set[bytes] = set()
    for size in (1, 9, 10, 11, 50, 300, len(split)):
        data = Few(size).apply(student, bench).group("data")
        shares = seats(np.bincount(split.labels, minlength=10), size)
        assert torch.bincount(data["labels"], minlength=10).tolist() == shares.tolist()
        now = {image.numpy().tobytes() for image in data["images"]}
        assert before <= now
        before = now
        kept = Few(size, unlabelled=True).apply(student, bench).group("data")
        assert torch.equal(kept["images"], every)
        known = kept["labels"] >= 0
        assert int(known.sum()) == size
        assert torch.equal(kept["labels"][known], torch.from_numpy(split.labels)[known])
        assert torch.equal(kept["images"][known], data["images"])
    none = Few(0, unlabelled=True).apply(student, bench).group("data")
    assert (none["labels"] == -1).all()


def test_seats_never_go_back() -> None:
    """Three classes of 5, 3 and 1 examples … by the largest remainder a class can lose an example as the set grows."""
    random = np.random.RandomState(0)
    for _ in range(40):
        counts = random.randint(0, 60, 5)
        before = counts * 0
        for size in range(counts.sum() + 1):
            now = seats(counts, size)
            assert now.sum() == size
            assert (before <= now).all()
            assert (now <= counts).all()
            before = now
    assert seats(np.array([20, 10, 10]), 8).tolist() == [4, 2, 2]
    assert seats(np.array([5, 5, 5]), 4).tolist() == [2, 1, 1], "ties go to the lower label"


def test_data_sets_are_made_of_each_other(place: Bench, student: State) -> None:
    few = Few(30).apply(student, dataclasses.replace(place, name="few"))
    bench = with_states(dataclasses.replace(place, name="munge"), few=few)
    more = Munge(copies=2, data="few").apply(student, bench).group("data")
    assert len(more["labels"]) == 90
    assert int((more["labels"] >= 0).sum()) == 30
    assert torch.equal(more["images"][:30], few.group("data")["images"])
    again = with_states(place, more=few.with_groups(data=more))
    with pytest.raises(UserError, match="labels: 31 is more than the 30 examples with a label"):
        Few(31, data="more").apply(student, again)
    assert len(Few(20, data="more").apply(student, again).group("data")["labels"]) == 20


def test_a_data_set_survives_what_comes_between(place: Bench, student: State) -> None:
    few = Few(40).apply(student, dataclasses.replace(place, name="few"))
    for stage in (Prune(L1, 0.5), Channels(L1, fraction=0.25, inside=True)):
        assert same(stage.apply(few, place).group("data"), few.group("data"))
    trained = training("2it", batch_size=20, data="few").apply(few, with_states(place, few=few))
    assert not trained.group("data"), "left behind when a training ends"
    assert trained.facts["examples"] == 40


def test_training_on_it_sees_no_other_example(place: Bench, teacher: State, student: State) -> None:
    few = Few(32).apply(student, dataclasses.replace(place, name="few"))
    bench = with_states(place, few=few, teacher=teacher)
    split = place.dataset.split("train")
    rows = {image.tobytes(): k for k, image in enumerate(split["images"])}
    chosen = [rows[image.numpy().tobytes()] for image in few.group("data")["images"]]
    alone = dataclasses.replace(
        with_states(place, teacher=teacher),
        feeds={"train": split.to("cpu").take(chosen)},
    )
    for objective in (
        {},
        by("distill"),
        by("distill", labels="class_mean"),
        by("distill", labels="shuffled"),
    ):
        found = training("3it", data="few", **objective).apply(student, bench)
        assert same(found.weights, training("3it", **objective).apply(student, alone).weights)


def test_the_labels_count_where_there_are_some(place: Bench, teacher: State) -> None:
    feed = place.feed("train")
    labels = feed.labels.clone()
    labels[1::2] = -1
    bench = dataclasses.replace(
        with_states(place, teacher=teacher),
        feeds={"train": dataclasses.replace(feed, labels=labels)},
    )
    batch = batch_of(bench, some_logits(16, 10)[0].float())
    found = distillation.distill(bench, ("teacher",), share=0.0)(batch)
    assert torch.allclose(found, F.cross_entropy(batch.outputs.logits[::2], batch.labels[::2]))
    unknown = dataclasses.replace(batch, labels=torch.full_like(batch.labels, -1))
    assert float(distillation.distill(bench, ("teacher",), share=0.0)(unknown)) == 0
    soft = distillation.distill(bench, ("teacher",), share=1.0)
    assert torch.allclose(soft(unknown), soft(batch))
