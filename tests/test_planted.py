"""Mistakes that were planted once and that no test saw: exact figures, counted by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor, nn

import test_exits_report
from cases_quantize import train
from cases_report import accuracies
from compressbench.bench import Bench
from compressbench.data.dataset import Split
from compressbench.data.examples import order as draw_order
from compressbench.exit_criteria.policy import Policy, compacted, policy_of, waiting
from compressbench.models.build import module_of
from compressbench.models.cheap import CheapBlock, Shift
from compressbench.models.counting import count, of_exits
from compressbench.models.exit_policies import within_loss
from compressbench.models.exits import parts_of
from compressbench.probes.attacked import Attacked
from compressbench.probes.batching import _spent
from compressbench.probes.exits import _classes, _controls
from compressbench.probes.landscape import lanczos, landscape_of, random_direction, trace
from compressbench.probes.robustness import Robustness
from compressbench.probes.square import Square
from compressbench.records import Records
from compressbench.report.findings import summary
from compressbench.report.numbers import number
from compressbench.report.panels import panels
from compressbench.seeds import derive_seed
from compressbench.specs import build
from compressbench.stages.exits import Attach
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.state import State
from compressbench.tasks.images.classification import Classification
from compressbench.views import View
from test_models import built
from tiny import blank

ENTROPY = {"_target_": "compressbench.observers.entropy.entropy", "_partial_": True}
NAMES = ("first", "second", "last")
COSTS = torch.tensor([1.0, 4.0, 10.0], dtype=torch.float64)
RIGHT = torch.tensor(
    [
        [True, False, True],
        [False, True, False],
        [False, False, False],
        [False, False, True],
        [True, True, True],
    ]
)
WHERE = torch.tensor([0, 1, 1, 2, 2])
LABELS = torch.tensor([0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.12345, "nats", "0.123"),
        (3.14159, "bits", "3.142"),
        (5.0, "1", "5"),
        (99_999.0, "1", "99\u202f999"),
        (100_000.0, "1", "100\u202fk"),
        (1_000_000.0, "x", "1.00\u202fM"),
        (999_999.0, "x", "999\u202f999.00"),
        (1_000.0, "bytes", "1.00\u202fk"),
        (999.0, "bytes", "999"),
    ],
)
def test_numbers_at_their_edges(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def told(losses: dict[float, float]) -> str:
    """The summary of one series that loses so many points at each density."""
    rows = accuracies("dense", 0, 1.0, {0: 90.0})
    for order, (density, loss) in enumerate(losses.items(), 1):
        rows += accuracies("ticket", order, density, {0: 90.0 - loss})
    (panel,) = panels(Records(rows))
    return " ".join(summary(panel)).replace("\u202f", " ").replace("\u00a0", " ")


def test_within_a_point_is_neither_two_nor_less() -> None:
    text = told({0.5: 1.5, 0.25: 1.0, 0.125: 1.25})
    assert "on average no more than one point below dense is 25.0 %: −1.0 points" in text
    assert "it is further below at 1 higher density." in text
    assert "At its lowest density, 12.5 %, it is −1.2 points" in text
    assert "further below" not in told({0.5: 1.0, 0.25: 1.0})
    assert "At every density ticket is on average more than one point below dense." in told({0.5: 1.25})


def test_an_exit_policy_within_a_point_is_neither_two_nor_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(policies: dict[str, tuple[float, float, float, float]]) -> str:
        monkeypatch.setattr(test_exits_report, "POLICIES", policies)
        (panel,) = panels(test_exits_report.found())
        return " ".join(summary(panel)).replace("\u202f", " ").replace("\u00a0", " ")

    policies = {
        "of_joint_0p3.choose": (88.5, 30.0, 3.0, 2.5),
        "of_joint_0p6.choose": (89.0, 60.0, 6.0, 1.25),
        "of_joint_0p8.choose": (89.8, 80.0, 8.0, 1.1),
    }
    text = of(policies)
    assert (
        "its cheapest exit policy no more than one point below dense: at 60 % of its MACs −1.0 ± 0.0" in text
    )
    assert "cheapest, at 30 % of its MACs −1.5 ± 0.0" in text
    none = of({"of_joint_0p3.choose": policies["of_joint_0p3.choose"]})
    assert "more than one point below dense by every exit policy; at 30 % of its MACs −1.5 ± 0.0" in none


def test_controls_of_exits_counted_by_hand() -> None:
    """Five examples at exits of 1, 4 and 10 MACs; no exit is right about the third, which goes to the last."""
    share = torch.tensor([0.2, 0.4, 0.4], dtype=torch.float64)
    found = {m.name: m.value for m in _controls(RIGHT, COSTS, WHERE, share)}
    assert found == pytest.approx(
        {
            "expected_macs": 5.8,  # (1 + 4 + 4 + 10 + 10) / 5
            "expected_cost": 58.0,
            "mean_exit": 2.2,  # (1 + 2 + 2 + 3 + 3) / 5
            "exits_top1": 80.0,
            "last_top1": 60.0,
            "random_top1": 48.0,  # 0.2 x 2/5 + 0.4 x 2/5 + 0.4 x 3/5
            "oracle_top1": 80.0,
            "oracle_cost": 52.0,  # (1 + 4 + 10 + 10 + 1) / 5 of 10
            "overthinking": 20.0,
        }
    )


def test_classes_at_exits_counted_by_hand() -> None:
    metrics = _classes(("cat", "dog"), NAMES, LABELS, RIGHT, COSTS, WHERE)
    found = {(m.name, m.group): m.value for m in metrics}
    assert found == pytest.approx(
        {
            ("class_exit_share", "first/cat"): 50.0,
            ("class_exit_share", "second/cat"): 50.0,
            ("class_exit_share", "last/cat"): 0.0,
            ("class_cost", "cat"): 25.0,  # (1 + 4) / 2 of 10
            ("class_change", "cat"): 50.0,  # both right, the last exit about one
            ("class_exit_share", "first/dog"): 0.0,
            ("class_exit_share", "second/dog"): 100 / 3,
            ("class_exit_share", "last/dog"): 200 / 3,
            ("class_cost", "dog"): 80.0,  # (4 + 10 + 10) / 3 of 10
            ("class_change", "dog"): 0.0,
        }
    )


@pytest.mark.parametrize(("points", "threshold"), [(0.0, 0.8), (24.9, 0.8), (25.0, 0.6)])
def test_a_policy_within_a_loss_counted_by_hand(points: float, threshold: float) -> None:
    """The last exit is right about three of four; from 0.8 on two leave, rightly; from 0.6 on all, two wrongly."""
    sure = torch.tensor([[0.9], [0.8], [0.7], [0.6]], dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.int64)
    answers = [[0, 0, 1, 1], [0, 0, 0, 1]]
    logits = [torch.nn.functional.one_hot(torch.tensor(a), 2).float() for a in answers]
    assert within_loss(sure, logits, labels, (1.0, 10.0), points) == (threshold,)


# Splits that differ: what looks at the wrong one shows. Each split of this bench has its own kind of pictures.


def split_bench(place: Bench, **images: float) -> Bench:
    """A bench whose named splits have pixels times a factor, and labels moved by one where that isn't 1."""
    splits = {}
    for name, split in place.dataset.splits.items():
        factor = images.get(name, 1.0)
        pixels = (split["images"] * factor).clip(0, 255).astype(np.uint8)
        splits[name] = Split.of(pixels, split.labels if factor == 1 else (split.labels + 1) % 10)
    return dataclasses.replace(place, dataset=dataclasses.replace(place.dataset, splits=splits), feeds={})


def scales_on(bench: Bench, state: State, **settings) -> dict[str, Tensor]:
    quantized = Quantize(examples=100, **settings).apply(state, bench)
    return {n: t for n, t in quantized.group("scales").items() if ".input|scale" in n}


@pytest.mark.parametrize("settings", [{}, {"observer": ENTROPY}, {"split": "train"}])
def test_calibration_sees_no_test_image(settings: dict, place: Bench, dense: State) -> None:
    """Layers read at most what their own split holds: ranges of pixels twice as dark are others."""
    own = settings.get("split", "validation")
    as_is = scales_on(place, dense, **settings)
    for name, differs in (("test", False), (own, True), ("train" if own != "train" else "validation", False)):
        found = scales_on(split_bench(place, **{name: 0.5}), dense, **settings)
        assert any(not torch.equal(found[n], t) for n, t in as_is.items()) is differs, name


def test_range_of_the_first_input_by_hand(place: Bench, dense: State) -> None:
    """min_max over all validation images: the first layer's scale is their encoded range over 255 steps."""
    found = Quantize(examples=10_000).apply(dense, place).group("scales")["features.0.input|scale"]
    pixels = place.dataset.splits["validation"]["images"].astype(np.float64) / 255
    encoded = (pixels - place.dataset.task.mean[0]) / place.dataset.task.std[0]
    low, high = min(encoded.min(), 0.0), max(encoded.max(), 0.0)
    assert float(found) == pytest.approx((high - low) / 255, rel=1e-5)


def test_the_validation_curve_is_of_the_validation_split(place: Bench, dense: State) -> None:
    def curve(bench: Bench) -> list[tuple[float, float]]:
        stage = train("6it", lr=0.05, validate="3it")
        trained = stage.apply(dense, dataclasses.replace(bench, name="train"))
        return [(p["validation_loss"], p["validation_top1"]) for p in trained.facts["curve"]]

    as_is = curve(place)
    assert len(as_is) == 2
    assert curve(split_bench(place, test=0.5)) == as_is
    assert all(a != b for a, b in zip(curve(split_bench(place, validation=0.5)), as_is, strict=True))
    last = train("6it", lr=0.05).apply(dense, dataclasses.replace(place, name="train"))
    split = place.dataset.splits["validation"]
    with torch.no_grad():
        logits = module_of(last)(place.task.normalised(torch.from_numpy(split["images"]))).double().numpy()
    wrong = logsumexp(logits, axis=1) - logits[np.arange(len(logits)), split.labels]
    assert as_is[-1][0] == pytest.approx(wrong.mean(), rel=1e-5)
    assert as_is[-1][1] == pytest.approx(100 * (logits.argmax(1) == split.labels).mean())


def test_the_hessian_of_a_pruned_net_is_that_of_what_is_left() -> None:
    """Softmax regression, whose Hessian numpy has in closed form, restricted to weights that a mask keeps."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(40, 4)), rng.normal(size=(3, 4))
    y, mask = rng.integers(0, 3, 40), rng.random((3, 4)) > 0.4
    w = w * mask
    z = x @ w.T
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    inner = np.stack([np.diag(q) - np.outer(q, q) for q in p])
    whole = np.einsum("nab,ni,nj->aibj", inner, x, x).reshape(12, 12) / len(x)
    kept = mask.reshape(-1)
    module = nn.Linear(4, 3, bias=False)
    module.weight.data = torch.tensor(w, dtype=torch.float32)
    batches = [((torch.tensor(x, dtype=torch.float32),), torch.tensor(y))]
    task = Classification(("a", "b", "c"), (0.0,), (1.0,))
    place = landscape_of(module, {"weight": torch.tensor(mask)}, batches, task)
    columns = torch.stack([place.product(torch.eye(12)[k]) for k in range(12)], 1).numpy()
    wanted = np.where(np.outer(kept, kept), whole, 0.0)
    np.testing.assert_allclose(columns, wanted, atol=1e-6)
    top = lanczos(place.product, random_direction(place, torch.Generator().manual_seed(0)), 1e-6, 40)
    assert top.value == pytest.approx(np.linalg.eigvalsh(whole[np.ix_(kept, kept)]).max(), rel=1e-4)
    assert top.value < 0.999 * np.linalg.eigvalsh(whole).max(), "the masks matter here"
    estimates = trace(place, torch.Generator().manual_seed(0), 400)
    assert np.mean(estimates) == pytest.approx(np.trace(whole[np.ix_(kept, kept)]), rel=0.1)


def test_images_that_are_wrong_already_are_not_attacked(place: Bench, dense: State) -> None:
    view = View(train("20it", lr=0.05).apply(dense, dataclasses.replace(place, name="train")), place)
    made = Attacked.make(view, Robustness(eps=0.2, steps=2, examples=64))
    rows = draw_order(len(place.feed("test")), derive_seed("robustness", "examples"))[:64].sort().values
    images, labels = (
        place.task.normalised(place.feed("test")["images"][rows]),
        place.feed("test").labels[rows],
    )
    with torch.no_grad():
        wrong = view.module(images).argmax(1) != labels
    assert 0 < int(wrong.sum()) < 64
    for bad in (made.fgsm.images, made.pgd.images):
        moved = (bad != images).flatten(1).any(1)
        assert not bool(moved[wrong].any())
        assert bool(moved[~wrong].all())
    found = {m.name: m for m in Square(eps=0.2, queries=20, examples=64).measure(view, view, place)}
    assert found["square_queries"].n == int((~wrong).sum()), "no query is counted where it was wrong before"


# Of the facts that were checked elsewhere.


@pytest.mark.parametrize(
    ("name", "macs"),
    [("resnet56_group16", 24_232_576), ("resnet56_depthwise", 20_472_448), ("resnet56_shift", 15_385_216)],
)
def test_true_macs_of_the_published_cheap_nets(name: str, macs: int) -> None:
    """Xie et al.'s code strides in the second 1 x 1 convolution, so that its second spatial op runs at full size."""
    module = built(name)
    for block in module.modules():
        if isinstance(block, CheapBlock) and not isinstance(block.downsample, nn.Identity):
            stride = block.downsample[0].stride
            if max(stride) > 1:
                block.spatial2.stride = 1 if isinstance(block.spatial2, Shift) else (1, 1)
                block.conv2.stride = stride
    assert count(module, blank((3, 32, 32))).macs == macs


def test_masks_hold_under_momentum_and_decay(place: Bench, dense: State) -> None:
    """Momentum 0.9 and weight decay 0.01 on all: what was pruned stays exactly zero; pruned again, nothing more goes."""
    magnitude = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    warm = train("4it", lr=0.1).apply(dense, dataclasses.replace(place, name="warm"))
    prune = Prune(criterion=magnitude, fraction=0.5, of="whole")
    pruned = prune.apply(warm, place)
    after = train("5it", lr=0.1, weight_decay=0.01, decay="all").apply(
        pruned, dataclasses.replace(place, name="t")
    )
    assert sum(int((~m).sum()) for m in pruned.masks.values()) == round(0.5 * pruned.facts["whole"])
    for name, mask in pruned.masks.items():
        assert not bool(after.weights[name][~mask].any())
        assert bool((after.weights[name] != warm.weights[name])[mask].any())
    again = prune.apply(after, place)
    assert all(torch.equal(again.masks[n], m) for n, m in pruned.masks.items())


def test_costs_until_each_exit_and_of_batches_that_wait_by_hand(place: Bench, dense: State) -> None:
    """A net of two convolutions with one exit between them; what batches of 4 cost that wait for their slowest row."""
    head = {"_target_": "compressbench.exit_heads.pooled.pooled", "_partial_": True}
    state = Attach(points=("features.3",), head=head).apply(dense, dataclasses.replace(place, name="put"))
    first = 4 * 1 * 9 * 8 * 8 + 4 * 10  # a convolution 1 -> 4 at 8 x 8, a head 4 -> 10
    last = first + 6 * 4 * 9 * 4 * 4 + 24 * 10  # a convolution 4 -> 6 at 4 x 4, a linear layer 24 -> 10
    assert of_exits(parts_of(module_of(state)), blank((1, 8, 8))) == [first, last]
    sure = {"_target_": "compressbench.exit_criteria.max_probability.max_probability", "_partial_": True}
    view = View(state, place)
    inputs = place.task.normalised(place.feed("test")["images"][:32])
    with torch.no_grad():
        early = view.parts[0](inputs)[0].softmax(1).amax(1)
    threshold = float(early.median())
    policy = policy_of(Policy(build(sure, "c"), (threshold,), (1.0,)).spec(sure))
    assert policy is not None
    stays = (early < threshold).tolist()
    wanted = sum(4 * (last if any(stays[k : k + 4]) else first) for k in range(0, 32, 4))
    with torch.no_grad():
        waited = [waiting(view.parts, policy, part) for part in inputs.split(4)]
        gathered = [compacted(view.parts, policy, part) for part in inputs.split(4)]
    assert _spent(waited, [first, last]) == wanted
    assert _spent(gathered, [first, last]) == sum(last if stay else first for stay in stays)
