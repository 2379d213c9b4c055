"""Probe confidence against scikit-learn's and scipy's figures; loyalty by group, unlabelled, and over populations."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from compressbench.comparing.probabilities import loyalties
from compressbench.data.dataset import Dataset, Split
from compressbench.data.examples import Examples
from compressbench.errors import UserError
from compressbench.populations import Member, Population
from compressbench.probes.confidence import NO_VALIDATION, Confidence
from compressbench.probes.forgetting import Forgetting
from compressbench.probes.loyalty import Loyalty, _told_of
from compressbench.tasks.images.classification import Classification
from test_probes import bench_of, net, oracle, table

CLASSES = tuple("abcd")
TASK = Classification(CLASSES, (0.0,), (1.0,), (1, 8, 8))


def logits(seed: int, n: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Such as scikit-learn was given for the figures below."""
    rng, labels = np.random.RandomState(seed), np.arange(n) % 4
    z = rng.randint(-40, 41, (n, 4)) / 20.0
    z[np.arange(n), labels] += 1.0
    return scale * z, labels


class Told:
    """A view that says what it is told to."""

    streams = False

    def __init__(
        self, bench, z: np.ndarray, validation: np.ndarray | None = None, label: str = "net"
    ) -> None:
        self.bench, self.label = bench, label
        self.log_probs = torch.as_tensor(z, dtype=torch.float64).log_softmax(1)
        self.labels = self.wanted = torch.as_tensor(bench.feed("test").labels)
        self.answers = self.log_probs.argmax(1).masked_fill(self.log_probs.isnan().any(1), -1)
        self.right = self.answers == self.labels
        self.unanswered = int((self.answers < 0).sum())
        self._validation = validation
        self.state = SimpleNamespace(key="")

    def log_probs_of(self, split: str) -> torch.Tensor:
        assert split == "validation", "a temperature is fitted on nothing else"
        return torch.as_tensor(self._validation, dtype=torch.float64).log_softmax(1)


def place(n: int = 60, held: int = 40, groups: dict[str, np.ndarray] | None = None):
    def split(count: int) -> Examples:
        images = np.random.RandomState(0).randint(0, 256, (count, 1, 8, 8)).astype(np.uint8)
        return Split.of(images, np.arange(count) % 4)

    splits = {"train": split(8), "test": split(n)} | ({"validation": split(held)} if held else {})
    names = {}
    if groups:
        splits["test"] = replace(splits["test"], groupings=groups)
        names = {"light": ("dark", "bright")}
    return replace(bench_of(8), dataset=Dataset("told", splits, TASK, names), feeds={})


@pytest.fixture
def figures():
    bench = place()
    own = Told(bench, logits(1, 60, 3.0)[0], logits(2, 40, 3.0)[0])
    dense = Told(bench, logits(3, 60, 1.5)[0], logits(4, 40, 1.5)[0])
    return table(Confidence().measure(own, dense, bench))


def test_figures_of_scikit_learn_and_scipy(figures) -> None:
    # scikit-learn 1.9.1: brier_score_loss(scale_by_half=False), log_loss; scipy 1.17: minimize_scalar of validation's
    known = {
        ("brier", ""): 0.8073417430403079,
        ("temperature", ""): 3.9500632730723146,
        ("nll_tempered", ""): 1.1750129665821771,
        ("ece_tempered", ""): 17.251359331399936,
        ("ece_adaptive", ""): 34.345507128297726,  # numpy.array_split of the sorted confidences
        ("selective_top1", "at 90 % coverage"): 51.85185185185185,
        ("selective_top1", "at 80 % coverage"): 54.166666666666664,
        ("selective_top1", "at 50 % coverage"): 63.33333333333333,
        ("coverage", "confidence 0.5"): 96.66666666666667,
        ("error_above", "confidence 0.5"): 50.0,
        ("coverage_change", "confidence 0.5"): 18.333333333333336,
        ("coverage", "confidence 0.95"): 30.0,
        ("error_above", "confidence 0.95"): 38.88888888888889,
        ("coverage_change", "confidence 0.95"): 25.0,
    }
    for where, value in known.items():
        assert figures[where].value == pytest.approx(value, rel=1e-6), where
    assert figures["temperature", ""].note == "fitted on 40 validation examples"
    assert (figures["brier", ""].n, figures["error_above", "confidence 0.5"].n) == (60, 58)
    for at in (0.5, 0.8, 0.9, 0.95):
        group = f"confidence {at}"
        low, value, high = (figures[f"coverage_change{e}", group].value for e in ("_low", "", "_high"))
        assert low < value < high


def test_without_validation_no_temperature() -> None:
    bench = place(held=0)
    own = Told(bench, logits(1, 60, 3.0)[0])
    found = table(Confidence().measure(own, own, bench))
    for name in ("temperature", "ece_tempered", "nll_tempered"):
        assert found[name, ""].value is None
        assert found[name, ""].note == NO_VALIDATION
    assert found["coverage_change", "confidence 0.9"].value == 0
    assert found["brier", ""].value == pytest.approx(0.8073417430403079)


def test_answers_that_are_no_numbers_are_left_out_and_never_answered() -> None:
    bench = place()
    z = logits(1, 60, 3.0)[0]
    z[:30] = np.nan
    own = Told(bench, z, logits(2, 40, 3.0)[0])
    found = table(Confidence().measure(own, Told(bench, logits(3, 60, 1.5)[0]), bench))
    assert found["brier", ""].n == 30
    assert "30 of 60 answers are no numbers" in found["brier", ""].note
    assert found["coverage", "confidence 0.5"].value <= 50
    assert found["coverage", "confidence 0.5"].n == 60
    z[:] = np.nan
    none = table(Confidence().measure(Told(bench, z, z[:40]), own, bench))
    assert all(m.note for m in none.values() if m.value is None)
    assert none["brier", ""].value is None
    assert none["coverage", "confidence 0.5"].value == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bins": 0}, "bins is 0"),
        ({"thresholds": (0.5, 1.5)}, "thresholds are"),
        ({"thresholds": (0.5, 0.5)}, "different numbers"),
        ({"coverages": (0.0,)}, "above 0 and at most 100"),
    ],
)
def test_settings_out_of_range(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Confidence(**settings)


def pair(bench):
    return Told(bench, logits(1, 60, 3.0)[0]), Told(bench, logits(3, 60, 1.5)[0])


def test_loyalty_by_class_and_sub_group() -> None:
    light = np.arange(60) // 30
    bench = place(groups={"light": torch.as_tensor(light)})
    own, dense = pair(bench)
    found = table(Loyalty().measure(own, dense, bench))
    p, q = (v.log_probs.exp().numpy() for v in (own, dense))
    close, same = 1 - jensenshannon(p, q, axis=1), p.argmax(1) == q.argmax(1)
    groups = {name: np.arange(60) % 4 == k for k, name in enumerate(CLASSES)}
    groups |= {"light=dark": light == 0, "light=bright": light == 1, "": np.ones(60, bool)}
    for name, rows in groups.items():
        assert found["label_loyalty", name].value == pytest.approx(100 * same[rows].mean())
        assert found["probability_loyalty", name].value == pytest.approx(100 * close[rows].mean())
        assert found["label_loyalty", name].n == rows.sum()
    # scipy's literals, lest both sides be wrong alike
    assert found["label_loyalty", "b"].value == pytest.approx(13.333333333333334)
    assert found["probability_loyalty", "b"].value == pytest.approx(35.333656905192115)
    apart = entropy(q, p, axis=1)
    assert found["kl", ""].value == pytest.approx(apart.mean()) == pytest.approx(3.0392014125707942)
    assert found["kl_50", ""].value == pytest.approx(np.median(apart)) == pytest.approx(2.1691301186485394)
    assert ("kl_99", "") not in found, "60 examples don't tell it"


def test_an_unlabelled_example_is_of_the_class_that_the_reference_names() -> None:
    bench = place()
    own, dense = pair(bench)
    for view in (own, dense):
        view.labels = view.wanted = torch.full((60,), -1)
    found = table(Loyalty().measure(own, dense, bench))
    said = dense.answers.numpy()
    for k, name in enumerate(CLASSES):
        assert found["label_loyalty", name].n == (said == k).sum()
        assert found["label_loyalty", name].value == pytest.approx(
            100 * (own.answers.numpy()[said == k] == k).mean()
        )


def pictures(folder: Path, count: int = 9) -> Path:
    folder.mkdir()
    rng = np.random.RandomState(5)
    for k in range(count):
        pixels = rng.randint(0, 256, (16, 16, 3)).astype(np.uint8)
        pixels[0, 0] = k % 7
        Image.fromarray(pixels).save(folder / f"{k}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_loyalty_on_pictures_without_labels(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "new")
    bench = bench_of(20)
    right, wrong = oracle(bench), oracle(bench, wrong=(2, 3))
    probe = Loyalty(unlabelled=str(folder))
    found = table(probe.measure(wrong, right, bench))
    # pictures 2 and 3 are of the classes that it gets wrong; 9 pictures: 0 1 2 3 4 5 6 0 1
    assert found["unlabelled_label_loyalty", ""].value == pytest.approx(100 * 7 / 9)
    assert found["unlabelled_label_loyalty", ""].n == 9
    assert table(probe.measure(right, right, bench))["unlabelled_label_loyalty", ""].value == 100
    assert len(_told_of(right, str(folder))) == 9
    assert {Path(p).name for p in probe.files()} == {f"{k}.png" for k in range(9)}
    assert not Loyalty().files()


def test_bad_folders_of_unlabelled_pictures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        Loyalty(unlabelled=str(tmp_path / "none")).files()
    with pytest.raises(UserError, match="holds no picture"):
        Loyalty(unlabelled=str(tmp_path)).files()
    (tmp_path / "a.png").write_text("no picture")
    bench = bench_of(8)
    view = oracle(bench)
    with pytest.raises(UserError, match=r"^loyalty: unlabelled: .*a\.png"):
        list(Loyalty(unlabelled=str(tmp_path)).measure(view, view, bench))


def population(seeds: dict[int, np.ndarray]) -> Population:
    def member(seed: int, z: np.ndarray) -> Member:
        told = torch.as_tensor(z).log_softmax(1)
        return Member(f"net@{seed}", seed, lambda: told.argmax(1), lambda: told.half())

    return Population([member(seed, z) for seed, z in seeds.items()])


def test_the_floor_is_over_all_pairs_of_dense_nets() -> None:
    bench = place()
    dense = {seed: logits(10 + seed, 60, 1.5)[0] for seed in range(4)}
    nets = {seed: z + 0.3 * logits(50 + seed, 60, 1.0)[0] for seed, z in dense.items()}
    found = table(Loyalty().measure_many(population(nets), population(dense), bench))

    def soft(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    def label(a: np.ndarray, b: np.ndarray) -> float:
        return 100 * float((a.argmax(1) == b.argmax(1)).mean())

    def close(a: np.ndarray, b: np.ndarray) -> float:
        return 100 * float((1 - jensenshannon(soft(a), soft(b), axis=1)).mean())

    for what, of in (("label", label), ("probability", close)):
        floor = [of(dense[a], dense[b]) for a, b in itertools.combinations(range(4), 2)]
        own = [of(nets[s], dense[s]) for s in range(4)]
        wanted = {"": np.mean(floor), "_sd": np.std(floor, ddof=1), "_low": min(floor), "_high": max(floor)}
        for end, value in wanted.items():
            assert found[f"floor_{what}_loyalty{end}", ""].value == pytest.approx(value, abs=0.05), (
                what,
                end,
            )
        assert found[f"population_{what}_loyalty", ""].value == pytest.approx(np.mean(own), abs=0.05)
        assert found[f"floor_{what}_loyalty", ""].n == 4, "nets, not pairs"
        assert "6 pairs of 4 dense nets" in found[f"floor_{what}_loyalty", ""].note


def test_nets_are_held_against_the_dense_net_of_their_own_seed() -> None:
    bench = place()
    dense = {seed: logits(seed, 60, 2.0)[0] for seed in (3, 5)}
    found = table(Loyalty().measure_many(population({5: dense[5], 9: dense[3]}), population(dense), bench))
    assert found["population_label_loyalty", ""].value == 100
    assert found["population_label_loyalty", ""].n == 1
    assert "1 of 2 nets have no dense net of their seed" in found["population_label_loyalty", ""].note
    one = table(Loyalty().measure_many(population({3: dense[3]}), population({3: dense[3]}), bench))
    assert one["floor_label_loyalty", ""].value is None
    assert one["floor_label_loyalty", ""].note


def test_what_sixteen_bits_do_to_probability_loyalty() -> None:
    """The note says less than 0.01 points."""
    for seed, scale in itertools.product(range(3), (0.5, 3.0, 10.0)):
        one, other = (torch.as_tensor(logits(s, 2000, scale)[0]).log_softmax(1) for s in (seed, seed + 9))
        near = [(one + step * (other - one)).log_softmax(1) for step in (0.01, 1e-4)]
        for a, b in ((one, other), *((one, x) for x in near)):
            apart = jensenshannon(
                a.exp().numpy(), b.exp().numpy(), axis=1
            )  # NaN, not 0, where it rounds below
            whole = 100 * float((1 - np.nan_to_num(apart)).mean())
            (kept,) = loyalties([a.half().numpy(), b.half().numpy()], [(0, 1)])
            assert abs(kept - whole) < 0.01
    assert loyalties([one.numpy(), one.numpy()], [(0, 1)]) == [100.0]
    assert loyalties([], []) == []


def test_forgotten_examples_are_those_of_which_both_are_surest() -> None:
    bench = bench_of(40)
    right, wrong = oracle(bench), oracle(bench, wrong=(2,))
    wrong.label = "pruned"
    found = [m for m in Forgetting(shown=3).measure(wrong, right, bench) if m.name == "forgotten_example"]
    labels = bench.feed("test").labels.numpy()
    assert [m.value for m in found] == list(np.flatnonzero(labels == 2)[:3]), "all are as sure: by row"
    assert [m.group for m in found] == ["1", "2", "3"]
    for m in found:
        assert m.note == "true c · dense c 1.00 · this net d 1.00"
        assert m.artefact.startswith("data:image/png;base64,")
    assert not [m for m in Forgetting().measure(right, right, bench) if m.name == "forgotten_example"]
    assert not [m for m in Forgetting(shown=0).measure(wrong, right, bench) if m.name == "forgotten_example"]
    with pytest.raises(UserError, match="shown is -1"):
        Forgetting(shown=-1)


def test_the_surest_are_shown_first_by_their_row_in_the_source() -> None:
    bench = place(n=20)
    before = np.full((20, 4), 0.0)
    before[np.arange(20), np.arange(20) % 4] = np.linspace(1, 5, 20)
    after = np.roll(before, 1, axis=1)
    after[1::2] = before[1::2]
    dense, own = Told(bench, before), Told(bench, after)
    found = [m for m in Forgetting(shown=2).measure(own, dense, bench) if m.name == "forgotten_example"]
    assert [m.value for m in found] == [18, 16]
    moved = bench.feed("test").rows + 1000
    bench.feeds["test"] = replace(bench.feed("test"), rows=moved)
    again = [m for m in Forgetting(shown=2).measure(own, dense, bench) if m.name == "forgotten_example"]
    assert [m.value for m in again] == [1018, 1016]


def test_probes_yield_each_metric_once_of_a_real_net() -> None:
    bench = bench_of(50)
    dense, pruned = net(bench), net(bench, keep=0.3)
    for probe in (Confidence(), Loyalty(), Forgetting()):
        assert table(probe.measure(pruned, dense, bench))
