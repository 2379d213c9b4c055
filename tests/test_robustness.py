"""Attacks that can't be fooled: linear nets, whose robustness is known exactly, and nets whose gradients mislead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.comparing.fragility import outdone
from compressbench.data.dataset import Dataset, Split
from compressbench.errors import UserError
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.outputs import Outputs
from compressbench.probes import attacked, autoattack
from compressbench.probes.attacked import Attacked, of_reference
from compressbench.probes.natural_adversarial import NaturalAdversarial
from compressbench.probes.robustness import Robustness, masked
from compressbench.probes.robustness_deployed import RobustnessDeployed
from compressbench.probes.square import Square, attacked_rows, searched
from compressbench.records import Metric
from compressbench.state import State
from compressbench.tasks.images import attacks
from compressbench.tasks.images.attacks import Ball
from compressbench.tasks.images.classification import Classification
from compressbench.views import View

SIDE = 4
PIXELS = 3 * SIDE * SIDE
Found = dict[tuple[str, str], Metric]


def linear(classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes))
    with torch.no_grad():
        module[1].bias -= module[1](torch.full((PIXELS,), 0.5))  # so that every class is named
    return module


def bench_of(module: nn.Module, classes: int, n: int = 200) -> Bench:
    """Pictures far from black and white, whose labels are what the module says: all are right, no ball is cut."""
    task = Classification(tuple("abcdefghij"[:classes]), (0.0,) * 3, (1.0,) * 3, (3, SIDE, SIDE))
    images = np.random.default_rng(1).integers(80, 176, (n, 3, SIDE, SIDE), dtype=np.uint8)
    with torch.no_grad():
        labels = module(task.normalised(torch.from_numpy(images))).argmax(1).numpy()
    split = Split.of(images, labels)
    return Bench(Dataset("far", {"train": split, "test": split}, task), seed=0)


def view_of(module: nn.Module, bench: Bench) -> View:
    view = View(State({}, {}), bench)
    view.__dict__["module"] = view.__dict__["fast"] = module.eval()
    return view


def table(rows: Any) -> Found:
    found = list(rows)
    result = {(m.name, m.group): m for m in found}
    assert len(result) == len(found), "a metric is named twice"
    return result


def figure(found: Found, name: str, group: str = "") -> float:
    value = found[name, group].value
    assert value is not None
    return value


def robust_share(module: nn.Module, bench: Bench, eps: float) -> float:
    """Percent of the pictures that no change within eps can turn: of a linear net by arithmetic in numpy."""
    split = bench.dataset.splits["test"]
    layer: Any = module[1]  # type: ignore[index]
    w, b = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    x = split["images"].reshape(len(split.labels), -1) / 255
    logits, y = x @ w.T + b, split.labels
    gap = logits[np.arange(len(y)), y][:, None] - logits
    reach = eps * np.abs(w[y][:, None, :] - w[None]).sum(-1)
    least = np.where(np.arange(len(w)) == y[:, None], np.inf, gap - reach).min(1)
    return 100 * float((least > 0).mean())


SETTINGS = Robustness(steps=9, examples=None, queries=0, doubled=False)


@pytest.mark.parametrize("eps", [0.005, 0.01, 0.02, 0.04])
@pytest.mark.parametrize("drop", [True, False])
def test_of_a_linear_net_the_worst_case_is_known(eps: float, drop: bool) -> None:
    module = linear(2)
    bench = bench_of(module, 2)
    wanted = robust_share(module, bench, eps)
    view = view_of(module, bench)
    found = table(replace(SETTINGS, eps=eps, drop_fallen=drop).measure(view, view, bench))
    assert 0 < wanted < 100
    for name in ("fgsm", "pgd", "pgd_margin", "pgd_transfer", "worst_case"):
        assert figure(found, f"{name}_accuracy") == pytest.approx(wanted), name
    assert figure(found, "clean_accuracy") == 100
    assert figure(found, "noise_accuracy") > wanted
    assert figure(found, "worst_case_low") < wanted < figure(found, "worst_case_high")
    for kind in ("zero", "shattered", "masked"):
        assert figure(found, "gradient_warning", kind) == 0, kind


def test_more_eps_is_never_better() -> None:
    module = linear(5)
    bench = bench_of(module, 5)
    view = view_of(module, bench)
    last = 101.0
    for eps in (0.002, 0.004, 0.008, 0.016, 0.032):
        found = table(replace(SETTINGS, eps=eps, queries=20).measure(view, view, bench))
        worst = figure(found, "worst_case_accuracy")
        assert worst <= last
        assert worst <= min(figure(found, f"{n}_accuracy") for n in ("fgsm", "pgd", "pgd_margin", "square"))
        last = worst
    assert last < 50


def pieces(classes: int = 5, n: int = 60) -> tuple[nn.Module, Tensor, Tensor, Classification]:
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * SIDE**2, classes)
    )
    with torch.no_grad():  # so that every class is named
        noise = torch.rand(200, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
        module[3].bias -= module(noise).mean(0)
    bench = bench_of(module, classes, n)
    task: Any = bench.task
    images = task.normalised(torch.from_numpy(bench.dataset.splits["test"]["images"]))
    return module.eval(), images, torch.from_numpy(bench.dataset.splits["test"].labels), task


@pytest.mark.parametrize("loss", [None, attacks.margin_loss, attacks.dlr_loss])
def test_what_was_traced_is_what_pgd_does(loss: Any) -> None:
    module, images, labels, task = pieces()
    ball = Ball(task.surface(), 0.02)
    start = attacks.random_start(images, ball, torch.Generator().manual_seed(0))
    at_the_fall = []
    for drop in (True, False):
        given = (module, images, labels, loss or task.loss, ball, 6, 0.005, start, drop)
        course, end = attacks.traced(*given), attacks.pgd(*given)
        assert torch.equal(course.end, end)
        with torch.no_grad():
            wrong = module(end).argmax(1) != labels
            said = module(course.images).log_softmax(1)
        torch.testing.assert_close(said, course.log_probs)
        assert torch.equal(course.log_probs.argmax(1) != labels, course.fallen)
        assert 0 < int(course.fallen.sum()) < len(labels)
        if drop:
            assert torch.equal(course.images, end)
            assert torch.equal(course.fallen, wrong)
        assert not (wrong & ~course.fallen).any()
        assert not (course.flat & ~course.fallen).any()  # the ratio is flat where the label is third
        assert float(course.rise.mean()) > 0
        at_the_fall.append(course.images)
    same = (at_the_fall[0] - at_the_fall[1]).abs() < 1e-6  # whatever became of them later
    assert float(same.double().mean()) > 0.99


def test_a_gradient_of_some_pixels_alone_is_one() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]], dim=1)

    task = Classification(("a", "b"), (0.0,) * 3, (1.0,) * 3, (3, SIDE, SIDE))
    images, labels = torch.full((4, 3, SIDE, SIDE), 0.7), torch.zeros(4, dtype=torch.int64)
    course = attacks.traced(First(), images, labels, task.loss, Ball(task.surface(), 0.05), 2, 0.05)
    assert not course.flat.any()
    moved = (course.end - images).flatten(1)
    torch.testing.assert_close(moved[:, 0], torch.full((4,), -0.05))
    assert not moved[:, 1:].any()
    # what it says of 0.65: logits 0.65 and 0.35; before, 0.7 and 0.3
    torch.testing.assert_close(course.rise, torch.full((4,), 0.1))


def test_pgd_without_steps_is_clean() -> None:
    module, images, labels, task = pieces()
    course = attacks.traced(module, images, labels, task.loss, Ball(task.surface(), 0.1), steps=0, step=0.1)
    assert torch.equal(course.images, images)
    assert torch.equal(course.end, images)
    with torch.no_grad():
        torch.testing.assert_close(course.log_probs, module(images).log_softmax(1))
    assert not course.fallen.any()


def test_restarts_are_never_better_and_ask_only_what_stands() -> None:
    module, images, labels, task = pieces()
    ball = Ball(task.surface(), 0.012)
    asked: list[Tensor] = []

    def once(rows: Tensor, number: int) -> attacks.Course:
        asked.append(rows)
        noise = torch.Generator().manual_seed(number)
        start = attacks.random_start(images, ball, noise)
        return attacks.traced(
            module, images[rows], labels[rows], task.loss, ball, steps=2, step=0.004, start=start[rows]
        )

    first = once(torch.arange(len(labels)), 0)
    asked.clear()
    best = attacks.restarted(first, once, 4, labels)
    assert int(best.fallen.sum()) > int(first.fallen.sum())
    assert not (first.fallen & ~best.fallen).any()
    assert torch.equal(asked[0], (~first.fallen).nonzero().squeeze(1))
    assert [len(a) for a in asked] == sorted((len(a) for a in asked), reverse=True)
    with torch.no_grad():
        torch.testing.assert_close(best.log_probs, module(best.images).log_softmax(1))
    before, after = (attacks.margins(c.log_probs, labels) for c in (first, best))
    assert (after[~first.fallen] >= before[~first.fallen]).all()
    assert torch.equal(best.images[first.fallen], first.images[first.fallen])
    assert attacks.restarted(first, once, 1, labels) is first


def test_margins_and_ratio_by_hand() -> None:
    logits = torch.tensor([[5.0, 2.0, 1.0, 0.0], [1.0, 4.0, 3.0, -2.0]])
    labels = torch.tensor([0, 0])
    assert attacks.margins(logits, labels).tolist() == [-3.0, 3.0]
    assert float(attacks.margin_loss(Outputs(logits), labels)) == 0.0
    ratio = (-3 / 4 + 3 / 3) / 2
    assert float(attacks.dlr_loss(Outputs(logits), labels)) == pytest.approx(ratio)
    assert float(attacks.dlr_loss(Outputs(1000 * logits + 7), labels)) == pytest.approx(ratio, rel=1e-4)


def test_corners_are_the_largest_noise() -> None:
    _, images, _, task = pieces()
    moved = attacks.corners(images, Ball(task.surface(), 0.03), torch.Generator().manual_seed(0)) - images
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.03))
    assert 0.45 < float((moved > 0).double().mean()) < 0.55


# Nets whose gradients mislead -------------------------------------------------------------------------------------------


class Flat(torch.autograd.Function):
    """Rounds to 4 bits; the gradient is what rounding really has: none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 15).round() / 15

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.zeros_like(gradients[0])


class Noisy(torch.autograd.Function):
    """Rounds to 4 bits; the gradient is noise that has nothing to do with the loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 15).round() / 15

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        noise = torch.Generator().manual_seed(0)
        return torch.randn(gradients[0].shape, generator=noise)


class Planted(nn.Module):
    def __init__(self, inner: nn.Module, rounds: Any = None, factor: float = 1.0) -> None:
        super().__init__()
        self.inner, self.rounds, self.factor = inner, rounds, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.inner(x if self.rounds is None else self.rounds.apply(x))


HARD = Robustness(eps=0.06, steps=8, examples=None, queries=100)


def planted(attack: Robustness = HARD, **settings: Any) -> Found:
    dense = linear(5)
    bench = bench_of(dense, 5, 150)
    return table(attack.measure(view_of(Planted(dense, **settings), bench), view_of(dense, bench), bench))


def warned(found: Found) -> set[str]:
    return {group for (name, group), m in found.items() if name == "gradient_warning" and m.value}


def test_an_honest_net_is_not_warned_of() -> None:
    for seed in range(4):
        dense = linear(5, seed)
        bench = bench_of(dense, 5, 150)
        view = view_of(dense, bench)
        for eps in (0.003, 0.01, 0.03):
            found = table(replace(HARD, eps=eps).measure(view, view, bench))
            assert warned(found) == set(), (seed, eps)
            assert found["gradient_warning", "no effect of eps"].value == 0


def test_rounding_without_gradient_is_found_out() -> None:
    found = planted(rounds=Flat)
    assert {"zero", "masked"} <= warned(found)
    assert figure(found, "pgd_accuracy") > 60
    assert figure(found, "square_accuracy") < 30
    assert figure(found, "pgd_transfer_accuracy") < 10
    assert figure(found, "worst_case_accuracy") <= figure(found, "pgd_transfer_accuracy")
    assert "exactly 0 at" in found["gradient_warning", "zero"].note


def test_a_saturated_softmax_is_found_out_and_the_margin_isnt_fooled() -> None:
    found = planted(factor=5000.0)
    assert "zero" in warned(found)
    assert figure(found, "pgd_accuracy") > 60
    assert figure(found, "pgd_margin_accuracy") < 5
    assert figure(found, "worst_case_accuracy") <= figure(found, "pgd_margin_accuracy")


def test_a_gradient_of_noise_is_found_out() -> None:
    found = planted(rounds=Noisy)
    assert {"masked", "no effect of eps"} <= warned(found)
    assert "zero" not in warned(found)
    assert figure(found, "pgd_accuracy") > 40
    assert figure(found, "worst_case_accuracy") < 20


def test_the_same_rounding_with_its_gradient_passed_through_is_not_warned_of() -> None:
    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return (x * 15).round() / 15

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0]

    found = planted(rounds=Straight)
    assert warned(found) == set()
    assert figure(found, "pgd_accuracy") < 20


def test_a_net_without_gradient_is_attacked_by_the_others() -> None:
    class Step(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).detach()

    dense = linear(5)
    bench = bench_of(dense, 5, 100)
    found = table(HARD.measure(view_of(Step(dense), bench), view_of(dense, bench), bench))
    assert found["pgd_accuracy", ""].value is None
    assert "passes no gradient" in found["pgd_accuracy", ""].note
    assert figure(found, "gradient_warning", "zero") == 1
    assert figure(found, "worst_case_accuracy") <= figure(found, "pgd_transfer_accuracy") < 10


def test_a_net_that_is_right_of_nothing_has_nothing_to_fall() -> None:
    class Wrong(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return -self.inner(x)

    dense = linear(5)
    bench = bench_of(dense, 5, 30)
    found = table(HARD.measure(view_of(Wrong(dense), bench), view_of(dense, bench), bench))
    for name in ("clean", "pgd", "pgd_margin", "worst_case", "square"):
        assert figure(found, f"{name}_accuracy") == 0, name
    assert found["gradient_warning", "zero"].value is None
    assert found["square_queries", ""].value is None


def test_what_was_made_on_the_dense_net_counts_in_the_worst_case() -> None:
    found = planted(replace(HARD, queries=0), rounds=Flat)
    transfer = figure(found, "pgd_transfer_accuracy")
    assert figure(found, "worst_case_accuracy") <= transfer < figure(found, "pgd_accuracy")
    assert "masked" in warned(found)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        (
            {"pgd": 90, "pgd_margin": 88, "pgd_transfer": 80, "square": 10},
            "leave 88 % right, Square only 10 %",
        ),
        ({"pgd": 90, "pgd_transfer": 20, "square": 80}, "PGD on the dense model only 20 %"),
        ({"pgd": 90, "pgd_margin": 12, "pgd_transfer": 80, "square": 10}, ""),
        ({"pgd": 90}, ""),
        ({"square": 10}, ""),
    ],
)
def test_masked_names_what_found_more(shares: dict[str, int], words: str) -> None:
    under = {name: torch.arange(100) < share for name, share in shares.items()}
    assert words in masked(under)
    assert bool(masked(under)) == bool(words)


def test_outdone_is_more_than_chance_and_five_points() -> None:
    assert not outdone(0.5, 0.5, 100)
    assert outdone(0.9, 0.1, 100)
    assert not outdone(0.54, 0.50, 100_000)
    assert outdone(0.56, 0.50, 100_000)
    error = (0.6 * 0.4 * 2 / 50) ** 0.5  # of n = 50 shares around 0.6: 0.098
    assert not outdone(0.6 + 1.4 * error, 0.6 - 1.4 * error, 50)


# Which images, and how often the nets are asked -------------------------------------------------------------------------


def test_as_many_images_as_the_reference_wants_and_the_same_for_all() -> None:
    dense, other = linear(5), linear(5, seed=1)
    bench = bench_of(dense, 5, 400)
    settings = replace(SETTINGS, eps=0.01, examples=40, width=12.0)
    reference, subject = view_of(dense, bench), view_of(other, bench)
    own, its = (table(settings.measure(v, reference, bench)) for v in (reference, subject))
    n = own["worst_case_accuracy", ""].n
    assert 40 < n < 400
    assert n % 40 == 0
    assert {m.n for m in (*own.values(), *its.values()) if m.name.endswith("_accuracy")} == {n}
    p, z = figure(own, "worst_case_accuracy") / 100, 1.959964  # Wilson's width in its own words
    width = 2 * z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert figure(own, "worst_case_high") - figure(own, "worst_case_low") == pytest.approx(
        100 * width, abs=1e-3
    )
    assert 100 * width <= 12
    parts = of_reference(reference, settings)
    before = ~torch.cat([part.fallen for part in parts[:-1]])
    q, m = float(before.double().mean()), len(before)
    assert 2 * z / (1 + z * z / m) * (q * (1 - q) / m + z * z / (4 * m * m)) ** 0.5 > 0.12
    rows = torch.cat([part.rows for part in parts])
    assert sorted(rows.tolist()) == sorted(attacked_rows(400, n).tolist())
    capped = table(replace(settings, most=50).measure(reference, reference, bench))
    assert capped["worst_case_accuracy", ""].n == 50
    assert "wider than 12 points" in capped["worst_case_accuracy", ""].note
    short = table(replace(settings, width=None).measure(reference, reference, bench))
    assert short["worst_case_accuracy", ""].n == 40
    few = table(replace(settings, width=1.0).measure(reference, reference, bench))
    assert "these are all images there are" in few["worst_case_accuracy", ""].note


class Counted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        self.backwards += len(x) * x.requires_grad
        return self.inner(x)


def test_no_net_is_asked_more_often_than_its_settings_need() -> None:
    """With an eps that fells nothing every count is known: v images are attacked, of n in the test split."""
    dense = linear(5)
    bench = bench_of(dense, 5, 100)
    subject, reference = Counted(linear(5, seed=1)), Counted(dense)
    ours, theirs = view_of(subject, bench), view_of(reference, bench)
    settings = Robustness(eps=1e-7, steps=7, examples=30, queries=11)
    list(settings.measure(ours, theirs, bench))
    rows = attacked_rows(100, 30)
    v, v_ref = int(ours.right[rows].sum()), int(theirs.right[rows].sum())
    assert 0 < v < v_ref == 30
    # noise twice; FGSM there and at its end; two PGD, one more with twice the eps, and at their ends; Square
    on_own = lambda v: 2 * v + 2 * v + 3 * (7 + 1) * v + 11 * v  # noqa: E731
    assert subject.backwards == v + 3 * 7 * v
    assert subject.forwards == 100 + on_own(v) + v_ref  # all images once, and what was made on the reference
    assert reference.backwards == v_ref + 3 * 7 * v_ref
    assert reference.forwards == 100 + on_own(v_ref) + 2 * v  # its loyalty under FGSM and PGD
    list(Square(eps=1e-7, queries=11, examples=30).measure(ours, theirs, bench))
    assert subject.forwards == 100 + on_own(v) + v_ref, "the same Square attack was made already"


def test_square_of_both_probes_is_one() -> None:
    dense = linear(5)
    bench = bench_of(dense, 5, 100)
    view = view_of(dense, bench)
    found = table(replace(SETTINGS, eps=0.02, queries=25, examples=40).measure(view, view, bench))
    alone = table(Square(eps=0.02, queries=25, examples=40).measure(view_of(dense, bench), view, bench))
    for name in ("square_accuracy", "square_queries"):
        assert figure(found, name) == figure(alone, name)
    part = Attacked.make(view, replace(SETTINGS, eps=0.02, queries=25, examples=40))
    assert part.square is not None
    assert 0 < int(part.square[0].sum()) < 40
    fallen, _ = searched(view, 0.02, 25, 0.8, 0, 40)
    by_row = dict(zip(attacked_rows(100, 40).tolist(), fallen.tolist(), strict=True))
    assert part.rows.tolist() == sorted(by_row)
    assert part.square[0].tolist() == [by_row[row] for row in part.rows.tolist()]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": 0}, "eps is 0"),
        ({"eps": "9/8"}, "at most 1"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 2, "random_start": False}, "all starts would be the same"),
        ({"margin": "dlx"}, "margin is 'dlx'"),
        ({"queries": -1}, "queries is -1"),
        ({"width": 0}, "width is 0"),
        ({"most": 0}, "most is 0"),
    ],
)
def test_refused_in_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Robustness(**settings)
    assert "\n" not in str(caught.value)


def test_dlr_of_two_classes_is_said_and_not_made() -> None:
    module = linear(2)
    bench = bench_of(module, 2, 30)
    view = view_of(module, bench)
    found = table(replace(SETTINGS, margin="dlr").measure(view, view, bench))
    assert found["pgd_margin_accuracy", ""].value is None
    assert "more than 2 classes" in found["pgd_margin_accuracy", ""].note


# What a target executes -------------------------------------------------------------------------------------------------


class Target:
    batches = (1,)

    def __init__(self, run: Callable[[Tensor], Tensor] | None) -> None:
        self.run = run

    def lower(self, view: View) -> Lowered | Unsupported:
        if self.run is None:
            return Unsupported("not here")
        return Lowered(self.run, (torch.zeros(1, 3, SIDE, SIDE),), "pretended")


def deployed(runs: dict[str, Any], attack: Robustness) -> tuple[Found, Found]:
    dense, other = linear(5), linear(5, seed=1)
    bench = bench_of(dense, 5, 100)
    ours, theirs = view_of(other, bench), view_of(dense, bench)
    probe: Any = RobustnessDeployed({name: Target(run) for name, run in runs.items()}, attack)  # type: ignore[arg-type]
    return table(attack.measure(ours, theirs, bench)), table(probe.measure(ours, theirs, bench))


def test_a_runtime_that_computes_the_same_falls_the_same() -> None:
    attack = replace(SETTINGS, eps=0.02, queries=20, examples=30, width=25.0)
    other = linear(5, seed=1)
    simulated, found = deployed({"same": lambda x: other(x), "none": None}, attack)
    for (name, group), metric in simulated.items():
        if name.endswith("_accuracy") or name in ("square_queries", "worst_case_low"):
            place = ", ".join(x for x in ("same", group) if x)
            assert found[name, place].value == pytest.approx(metric.value), (name, group)
            assert found[name, place].n == metric.n
    assert found["worst_case_accuracy", "none"].note == "not here"
    assert found["worst_case_accuracy", "none"].value is None


def test_a_runtime_is_attacked_by_its_own_scores() -> None:
    """It computes another net than its simulation: what was made on this hardly counts, Square finds what falls."""
    attack = replace(SETTINGS, eps=0.1, queries=60, examples=60)
    dense, other = linear(5), linear(5, seed=1)
    _, found = deployed({"own": lambda x: dense(x)}, attack)
    bench = bench_of(dense, 5, 100)
    view = view_of(dense, bench)
    alone = table(Square(eps=0.1, queries=60, examples=60).measure(view, view, bench))
    assert figure(found, "clean_accuracy", "own") == 100
    assert figure(found, "square_accuracy", "own") == figure(alone, "square_accuracy") < 30
    assert figure(found, "pgd_accuracy", "own") > figure(found, "square_accuracy", "own")
    assert figure(found, "worst_case_accuracy", "own") <= figure(found, "square_accuracy", "own")
    assert other is not dense


# AutoAttack -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.004, 0.01])
def test_autoattack_finds_all_that_falls_in_a_linear_net(eps: float) -> None:
    pytest.importorskip("pyautoattack", reason="the extra robust isn't installed")
    module = linear(5)
    bench = bench_of(module, 5, 24)
    view = view_of(module, bench)
    state = torch.get_rng_state()
    found = table(autoattack.Autoattack(eps=eps, examples=None).measure(view, view, bench))
    assert torch.equal(torch.get_rng_state(), state), "the library seeds torch; others must not feel it"
    wanted = robust_share(module, bench, eps)
    assert 0 < wanted < 100
    assert figure(found, "autoattack_accuracy") == pytest.approx(wanted)
    assert "4 target classes instead of 9" in found["autoattack_accuracy", ""].note
    again = table(autoattack.Autoattack(eps=eps, examples=None).measure(view, view, bench))
    assert again == found


@pytest.mark.slow
def test_autoattack_is_what_its_parts_do_one_after_the_other() -> None:
    library = pytest.importorskip("pyautoattack", reason="the extra robust isn't installed")
    module, images, labels, task = pieces(n=24)
    surface = task.surface()
    eps, seed = 0.012, 5
    standing, _ = autoattack.stood(module, labels, images, surface, eps, seed)
    left = torch.ones(len(labels), dtype=torch.bool)
    for part in ("apgd-ce", "apgd-t", "fab-t", "square"):
        whole = library.AutoAttack(
            autoattack.on_pixels(module, surface), attacks=[part], version="custom", eps=eps, seed=seed
        )
        whole.apgd.n_restarts = whole.fab.n_restarts = 1
        whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = 4
        _, named = whole.run_standard_evaluation(images[left], labels[left], batch_size=64)
        left[left.clone()] = named == labels[left]
    assert 0 < int(left.sum()) < len(labels)
    assert torch.equal(standing, left)


def test_autoattack_wants_four_classes_and_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    module = linear(3)
    bench = bench_of(module, 3, 10)
    view = view_of(module, bench)
    found = table(autoattack.Autoattack().measure(view, view, bench))
    assert "needs 4 classes, this data set has 3" in found["autoattack_accuracy", ""].note
    monkeypatch.setitem(__import__("sys").modules, "pyautoattack", None)
    module = linear(4)
    bench = bench_of(module, 4, 10)
    view = view_of(module, bench)
    with pytest.raises(UserError, match=r"pip install 'compressbench\[robust\]'") as caught:
        list(autoattack.Autoattack().measure(view, view, bench))
    assert "\n" not in str(caught.value)
    for eps in (0, 1.5, "x"):
        with pytest.raises(UserError, match="autoattack: eps"):
            autoattack.Autoattack(eps=eps)


# Natural adversarial pictures -------------------------------------------------------------------------------------------


def written(root: Path, folders: dict[str, Sequence[np.ndarray]]) -> str:
    for name, pictures in folders.items():
        (root / name).mkdir(parents=True)
        for k, picture in enumerate(pictures):
            Image.fromarray(picture).save(root / name / f"{k}.png")
    return str(root)


def test_natural_pictures_are_asked_among_their_own_classes(tmp_path: Path) -> None:
    dense, other = linear(5), linear(5, seed=1)
    bench = bench_of(dense, 5, 100)
    pictures = np.random.default_rng(2).integers(0, 256, (20, SIDE, SIDE, 3), dtype=np.uint8)
    root = written(tmp_path / "a", {"b": pictures[:12], "n01": pictures[12:]})
    probe = NaturalAdversarial(root, {"n01": "d"})
    order = [0, 1, 10, 11, *range(2, 10)]  # files by name: 0, 1, 10, 11, 2 …
    truth = np.array([1] * 12 + [3] * 8)
    split = bench.dataset.splits["test"]
    own = np.isin(split.labels, [1, 3])
    shares = {}
    for name, module in (("dense", dense), ("other", other)):
        x = torch.from_numpy(
            np.concatenate([pictures[order], pictures[12:]]).transpose(0, 3, 1, 2) / 255
        ).float()
        logits = module(x).detach().numpy()[:, [1, 3]]
        clean = module(torch.from_numpy(split["images"][own] / 255).float()).detach().numpy()[:, [1, 3]]
        shares[name] = (
            100 * float((np.array([1, 3])[logits.argmax(1)] == truth).mean()),
            100 * float((np.array([1, 3])[clean.argmax(1)] == split.labels[own]).mean()),
        )
    reference, subject = view_of(dense, bench), view_of(other, bench)
    found = table(probe.measure(subject, reference, bench))
    hard, clean_share = shares["other"]
    assert figure(found, "natural_adversarial_top1") == pytest.approx(hard)
    assert figure(found, "natural_adversarial_clean_top1") == pytest.approx(clean_share)
    before = shares["dense"][0] / shares["dense"][1]
    assert figure(found, "natural_adversarial_relative_change") == pytest.approx(
        100 * (hard / clean_share / before - 1)
    )
    assert found["natural_adversarial_top1", ""].n == 20
    same = table(probe.measure(reference, reference, bench))
    assert figure(same, "natural_adversarial_relative_change") == 0


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({}, "class 'n01', which the data set has not"),
        ({"n01": "zebra"}, "class 'zebra', which the data set has not"),
    ],
)
def test_a_folder_that_is_no_class_is_said_in_one_line(
    tmp_path: Path, classes: dict[str, str], words: str
) -> None:
    bench = bench_of(linear(5), 5, 20)
    view = view_of(linear(5), bench)
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    root = written(tmp_path / "a", {"b": [picture], "n01": [picture]})
    with pytest.raises(UserError, match=words) as caught:
        list(NaturalAdversarial(root, classes).measure(view, view, bench))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="natural_adversarial: there is no folder"):
        list(NaturalAdversarial(str(tmp_path / "b")).measure(view, view, bench))
    with pytest.raises(UserError, match="or null for none"):
        NaturalAdversarial("")


def test_bad_examples_of_few_states_are_kept() -> None:
    module = linear(2)
    bench = bench_of(module, 2, 20)
    views = [view_of(module, bench) for _ in range(attacked.KEPT + 3)]
    for view in views:
        list(SETTINGS.measure(view, view, bench))
    assert len(attacked._known) == attacked.KEPT
    assert views[-1] in attacked._known
