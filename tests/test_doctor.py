"""The doctor finds planted preparations and numberings, of a small trained net, and says nothing of honest ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressbench.artefacts.artefact import Input, Wanted
from compressbench.artefacts.function import Function
from compressbench.artefacts.predictions import Answers, Predictions
from compressbench.artefacts.preparation import CAFFE, IMAGENET, Preparation, fitted
from compressbench.comparing.answers import answers
from compressbench.comparing.asking import asked
from compressbench.comparing.doctor import apart, differing, doctored, doctored_other, renumbered
from compressbench.comparing.material import Material, of_dataset
from compressbench.comparing.searching import CIFAR, changes, difference, undone
from compressbench.comparing.sources import Stacked
from compressbench.errors import UserError

CLASSES, SIDE = 10, 12
RIGHT = Preparation(mean=IMAGENET[0], std=IMAGENET[1])
MOST = 1150
Call = Callable[[Tensor], Tensor]
TURNED: list[dict[str, Any]] = [
    {"mean": IMAGENET[0], "std": IMAGENET[1]},
    {"order": "BGR", "mean": IMAGENET[0][::-1], "std": IMAGENET[1][::-1]},
]


def toy(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares of ten colours somewhere on noise; uint8 (n, h, w, 3)."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, CLASSES, n)
    colours = np.random.RandomState(5).randint(30, 226, (CLASSES, 3))
    images = random.randint(0, 64, (n, SIDE, SIDE, 3)) + 60.0
    for image, label in zip(images, labels, strict=True):
        top, left = random.randint(0, SIDE // 2, 2)
        image[top : top + SIDE // 2, left : left + SIDE // 2] = colours[label]
    return (images + 25 * random.randn(*images.shape)).clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def trained(x: np.ndarray, y: np.ndarray, steps: int = 200, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(x.shape[1], 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, CLASSES),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
        optimiser.step()
    return net.eval().requires_grad_(False)


@dataclass
class Counted:
    """A net asked with arrays, that counts the examples."""

    net: Call
    count: int = 0

    def __call__(self, x: np.ndarray) -> Tensor:
        self.count += len(x)
        return self.net(torch.from_numpy(x))


def artefact(net: Call, classes: int = CLASSES, channels: int = 3, side: int = SIDE) -> Function:
    return Function(Counted(net), "net", Wanted((Input("x", (None, channels, side, side)),), classes))


def count(function: Function) -> int:
    return function.call.count  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def material() -> Material:
    x, y = toy(600, 1)
    names = tuple("abcdefghij")
    return Material(
        "toy", np.arange(600).astype(str), y, names, source=Stacked(x, "NHWC"), rows=np.arange(600)
    )


@pytest.fixture(scope="module")
def net() -> nn.Module:
    x, y = toy(1500, 0)
    return trained(RIGHT.apply(x), y)


def given(preparation: Preparation) -> Preparation:
    return fitted(preparation, artefact(lambda x: x).wants)


def test_it_keeps_quiet_where_the_given_one_is_right(net: nn.Module, material: Material) -> None:
    asked_net = artefact(net)
    found = doctored(asked_net, material, given(RIGHT))
    assert not found.better
    assert found.preparation == given(RIGHT)
    assert count(asked_net) == 500, "nothing else was tried"
    scores = asked(artefact(net), material, given(RIGHT)).scores
    hits = 100 * float((scores.argmax(1) == material.labels).mean())
    assert found.given.right.value == pytest.approx(hits, abs=2)
    assert found.words.endswith(
        f"of 500 examples are right, and none of {found.tried - 1} others is clearly better"
    )
    known = artefact(net)
    assert doctored(known, material, given(RIGHT), known=scores) == found
    assert count(known) == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Preparation(), "with ImageNet's mean and std instead of pixels 0-1: "),
        (Preparation(span=(0.0, 255.0)), "with ImageNet's mean and std instead of pixels 0-255: "),
        (replace(RIGHT, order="BGR"), "with RGB instead of BGR, means as they are: "),
        (
            replace(RIGHT, resize=32, crop=(SIDE, SIDE)),
            "with resized to 12 x 12 (bilinear) instead of shorter side",
        ),
        (
            Preparation(span=(0.0, 255.0), order="BGR"),
            "with ImageNet's mean and std instead of pixels 0-255 and RGB",
        ),
    ],
)
def test_planted_preparations(net: nn.Module, material: Material, wrong: Preparation, words: str) -> None:
    asked_net = artefact(net)
    found = doctored(asked_net, material, given(wrong))
    assert found.better
    assert found.words.startswith(words)
    assert found.best.right.value > 90
    assert found.gain.low > 0
    right, own = (
        asked(artefact(net), material, p).scores.argmax(1) for p in (found.preparation, given(wrong))
    )
    assert (right == material.labels).mean() > (own == material.labels).mean() + 0.02
    assert count(asked_net) < 3000


def test_a_layout_that_no_shape_tells(net: nn.Module, material: Material) -> None:
    free = Function(
        lambda x: net(
            torch.from_numpy(x).movedim(-1, 1) if x.shape[-1] == 3 else torch.zeros(len(x), 3, SIDE, SIDE)
        ),
        "free",
    )
    found = doctored(free, material, replace(RIGHT, resize=(SIDE, SIDE)))
    assert found.better
    assert found.words.startswith("with NHWC instead of NCHW: ")


def test_a_range_on_digits() -> None:
    """A net on our digits, trained on 0-1, asked with 0-255."""
    train, test = (
        of_dataset(["dataset=digits", f"split={s}", "dataset.validation=0"]) for s in ("train", "test")
    )
    assert train.labels is not None
    assert train.pictures is not None
    x = Preparation().apply(train.pictures(np.arange(train.n)))
    net = trained(x, train.labels, steps=300)
    asked_net = artefact(net, channels=1, side=8)
    quiet = doctored(asked_net, test, fitted(Preparation(), asked_net.wants))
    assert not quiet.better
    wrong = Preparation(mean=(0.9,), std=(0.1,))
    found = doctored(asked_net, test, fitted(wrong, asked_net.wants))
    assert found.words.startswith("with pixels 0-1 instead of pixels 0-1 minus (0.9) over (0.1): ")


def test_honest_nets_are_left_alone(material: Material) -> None:
    x, y = toy(1500, 0)
    for seed, steps in enumerate((15, 30, 60)):
        asked_net = artefact(trained(RIGHT.apply(x), y, steps, seed))
        found = doctored(asked_net, material, given(RIGHT))
        assert not found.better, found.words
        assert count(asked_net) < MOST


@pytest.mark.parametrize("shift", [1, -1])
def test_numberings_one_off(net: nn.Module, material: Material, shift: int) -> None:
    def padded(x: Tensor) -> Tensor:
        z = net(x)
        none = torch.full((len(z), 1), -50.0)
        return torch.cat([none, z] if shift > 0 else [z[:, 1:], none, z[:, :1]], 1)

    classes = CLASSES + 1
    found = doctored(artefact(padded, classes), material, given(RIGHT))
    assert found.better
    word = "further on" if shift > 0 else "further back"
    assert f"classes numbered one {word}" in found.words
    assert found.preparation == given(RIGHT)
    moved = renumbered(material, found.best.numbering)
    assert moved.labels is not None
    assert material.labels is not None
    np.testing.assert_array_equal(moved.labels, (material.labels + shift) % classes)
    assert moved.classes is not None
    assert moved.classes[(4 + shift) % classes] == "e"
    again = doctored(artefact(padded, classes), moved, given(RIGHT))
    assert not again.better


def test_numberings_by_names(net: nn.Module, material: Material) -> None:
    """Folders 10, 11, … 8, 9 as texts are sorted, and outputs by number; then outputs with names of their own."""
    assert material.labels is not None
    names = tuple(sorted(str(k) for k in range(2, 12)))
    place = np.array([names.index(str(k + 2)) for k in range(CLASSES)])
    shuffled = replace(material, labels=place[material.labels], classes=names)
    eleven = artefact(lambda x: torch.cat([torch.full((len(x), 2), -9.0), net(x)], 1), 12)
    found = doctored(eleven, shuffled, given(RIGHT))
    assert "classes numbered by the numbers that their names are" in found.words
    called = tuple("jihgfedcba")
    turned = artefact(lambda x: net(x).flip(1))
    assert "by the outputs' names" in doctored(turned, material, given(RIGHT), names=called).words
    assert not doctored(turned, material, given(RIGHT)).better


def test_of_predictions_the_numbering_alone(net: nn.Module, material: Material) -> None:
    scores = asked(artefact(net), material, given(RIGHT)).scores
    file = Predictions(Path("p.npz"), ".npz", Answers(np.roll(scores, 1, axis=1), "logits"))
    found = doctored(file, material)
    assert "one further on" in found.words
    with pytest.raises(UserError, match="labels are needed"):
        doctored(file, material.unlabelled())


def test_a_constant_net_is_no_matter_of_numbering(material: Material) -> None:
    assert material.labels is not None
    skewed = replace(material, labels=np.where(np.arange(600) % 3 == 0, material.labels, 3))
    constant = artefact(lambda x: torch.eye(CLASSES)[2].expand(len(x), -1))
    assert not doctored(constant, skewed, given(RIGHT)).better


def test_a_preparation_that_makes_a_net_constant_is_no_better(material: Material) -> None:
    """Most labels are 3; fed with 0-255 it always answers 3, else by chance."""
    assert material.labels is not None
    random = np.random.RandomState(0)
    skewed = replace(material, labels=np.where(np.arange(600) % 3 == 0, material.labels, 3))
    call = artefact(
        lambda x: torch.eye(CLASSES)[3 if x.max() > 9 else random.randint(0, CLASSES, len(x))].expand(
            len(x), -1
        )
    )
    assert not doctored(call, skewed, given(Preparation())).better


@pytest.mark.parametrize(("share", "better"), [(0.45, False), (0.50, True)])
def test_a_bad_net_that_gains_a_little_is_left_alone(share: float, better: bool) -> None:
    """500 examples, the first 200 right as given; of the 300 others 25, then 50 more with 0-255: a tenth is asked for."""
    n = 500
    labels = np.arange(n) % CLASSES
    pixels = np.zeros((n, SIDE, SIDE, 3), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 1, 0], pixels[:, 0, 2, 0] = labels, np.arange(n) // 2, 255
    pixels[:, 0, 1, 0][pixels[:, 0, 1, 0] == 0] = 1

    def call(x: Tensor) -> Tensor:
        scale = x[:, 0, 0, 2].max()
        label, place = ((x[:, 0, 0, k] / scale * 255).round() for k in (0, 1))
        right = place < n / 2 * (share if scale == 255 else 0.4)
        return torch.eye(CLASSES)[((label + 3 * (~right).float()).round() % CLASSES).long()]

    material = Material(
        "m", np.arange(n).astype(str), labels, None, source=Stacked(pixels, "NHWC"), rows=np.arange(n)
    )
    found = doctored(artefact(call), material, given(Preparation()))
    assert found.given.right.value == 40
    assert found.better is better
    assert found.best.right.value == (100 * share if better else 40)


def others(net: nn.Module) -> dict[str, tuple[Call, str]]:
    """Planted ones, and what is said of them."""
    mean, std, cifar_mean, cifar_std = (torch.tensor(v).view(1, 3, 1, 1) for v in (*IMAGENET, *CIFAR))
    return {
        "bgr": (lambda x: net(x.flip(1)), "with BGR instead of RGB, means with their colours: "),
        "0-1": (lambda x: net((x - mean) / std), "with pixels 0-1 instead of ImageNet's mean and std: "),
        "0-255": (lambda x: net((x / 255 - mean) / std), "with pixels 0-255 instead of ImageNet's"),
        "mean": (
            lambda x: net((x * std + mean - cifar_mean) / cifar_std * 1.0),
            "as if it used CIFAR-10's mean and std inside, where the given one was meant: ",
        ),
    }


@pytest.mark.parametrize("name", ["bgr", "0-1", "0-255", "mean"])
def test_the_other_wants_another_preparation(net: nn.Module, material: Material, name: str) -> None:
    call, words = others(net)[name]
    reference = asked(artefact(net), material, given(RIGHT)).scores
    found = doctored_other(artefact(call), material.unlabelled(), given(RIGHT), reference)
    assert found.better
    assert found.words.startswith(words)
    (finding,) = differing(found, given(RIGHT), "small.onnx")
    assert finding.kind == "preprocessing"
    assert finding.severity == 2
    assert finding.words.startswith(f"small.onnx wants its pictures prepared in another way: {words}")
    best = asked(artefact(call), material, found.preparation).scores
    assert (answers(best).labels == answers(reference).labels).mean() > 0.99


def test_the_other_is_fed_in_another_way(net: nn.Module, material: Material) -> None:
    """Its own file says another mean than the reference's, which the usual ones don't hold."""
    x, y = toy(1500, 0)
    own = Preparation(mean=(0.3, 0.35, 0.4), std=(0.15, 0.2, 0.25))
    mine = trained(own.apply(x), y)
    reference = asked(artefact(mine), material, given(own)).scores
    wrong = given(replace(own, mean=(0.6, 0.5, 0.3), std=(0.4, 0.4, 0.4)))
    found = doctored_other(artefact(mine), material, wrong, reference, theirs=given(own))
    assert found.preparation == given(own)
    (finding,) = differing(found, given(own))
    assert "is fed in another way than the reference, and would answer as it does fed alike" in finding.words


def test_honest_others_are_left_alone(net: nn.Module, material: Material) -> None:
    reference = asked(artefact(net), material, given(RIGHT)).scores
    x, y = toy(1500, 0)
    honest: list[Call] = [trained(RIGHT.apply(x), y, seed=seed) for seed in (1, 2)]
    for share in (0.3, 0.5, 0.7):
        pruned = copy.deepcopy(net)
        for p in pruned.parameters():
            if p.ndim > 1:
                p.data[p.abs() < p.abs().flatten().quantile(share)] = 0
        honest.append(pruned)
    half = copy.deepcopy(net).half().float()
    honest += [half, lambda x: net(x) * 3, lambda x: torch.softmax(net(x), 1)]
    for call in honest:
        found = doctored_other(artefact(call), material, given(RIGHT), reference)
        assert not found.better, found.words
        assert differing(found, given(RIGHT)) == ()
    quick = artefact(half)
    doctored_other(quick, material, given(RIGHT), reference)
    assert count(quick) == 500


def test_distances_by_numpy() -> None:
    random = np.random.RandomState(0)
    x, y = random.randn(2, 6, 5)
    wanted = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(apart(x, y), wanted)
    np.testing.assert_allclose(apart(x, 3 * x + 1), 0, atol=1e-12)
    shares = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(apart(x, shares), 0, atol=1e-9)
    assert apart(np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]])).tolist() == [2.0]
    assert apart(np.ones((1, 3)), x[:1, :3]).tolist() == [2.0]


def test_what_is_undone_by_hand() -> None:
    """Fed 0-1 to a model that takes ImageNet's off where CIFAR-10's was meant: x' = s_i (x - m_c) / s_c + m_i."""
    found = undone(Preparation())
    words = "as if it used ImageNet's mean and std inside, where CIFAR-10's mean and std was meant"
    (one,) = [p for p, said in found.items() if said == words]
    pixel = np.array([[[[51, 102, 204]]]], np.uint8)
    got = one.apply(pixel)[0, :, 0, 0]
    x = np.array([0.2, 0.4, 0.8])
    (mi, si), (mc, sc) = (tuple(np.array(v) for v in pair) for pair in (IMAGENET, CIFAR))
    np.testing.assert_allclose(got, si * (x - mc) / sc + mi, atol=1e-5)


@pytest.mark.parametrize(
    ("one", "two", "wanted"),
    [
        ({}, {}, 0),
        ({}, {"order": "BGR"}, 1),
        (TURNED[0], TURNED[1], 1),
        ({}, {"order": "BGR", "span": (0.0, 255.0), "mean": CAFFE[0], "std": CAFFE[1]}, 2),
        ({}, {"resize": 9, "crop": (8, 8), "layout": "NHWC"}, 2),
    ],
)  # fmt: skip
def test_changes_are_counted(one: dict[str, Any], two: dict[str, Any], wanted: int) -> None:
    assert changes(Preparation(**one), Preparation(**two)) == wanted
    assert bool(difference(Preparation(**one), Preparation(**two))) == bool(wanted)
