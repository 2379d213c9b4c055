"""Few pictures in place of many: distilled through training, by kernel ridge regression, and their controls."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.bench import Bench
from compressbench.condensing import distilled as distilling
from compressbench.condensing import memory
from compressbench.condensing.chosen import chosen
from compressbench.condensing.outer import learned
from compressbench.condensing.starts import RATES, TARGETS, begun
from compressbench.condensing.unrolled import saved_bytes, trained
from compressbench.errors import Diverged, UserError
from compressbench.models import kernels
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.kernel_ridge import between, coefficients, ridge_answers
from compressbench.stages.condense import Chosen, Distilled, Inducing
from compressbench.stages.fit import KernelRidge
from compressbench.stages.transfer import Few
from compressbench.state import State
from conftest import kill
from short import PLAIN, same, train
from tiny import TINY

LENET = {
    "name": "mlp",
    "build": {
        "_target_": "compressbench.models.lenet.LeNet300100",
        "shape": "@shape",
        "classes": "@classes",
        "hidden": [12],
    },
}
NTK = {"_target_": "compressbench.models.kernels.ntk", "_partial_": True, "depth": 2}
RBF = {"_target_": "compressbench.models.kernels.rbf", "_partial_": True, "gamma": 0.5}


@pytest.fixture(scope="module")
def net(place: Bench) -> State:
    return drawn(LENET, place)


def distill(**changes: Any) -> Distilled:
    return Distilled(
        **{"length": "6it", "batch_size": 100, "epochs": 2, "halve": None, "begin": "real", **changes}
    )


def follow(length: str, **changes: Any) -> Any:
    given = {
        "batch_size": 10,
        "lr": 1.0,
        "optimizer": PLAIN,
        "validate": None,
        "augment": False,
        "in_order": True,
    }
    return train(length, **{**given, "data": "made", **changes})


def beside(place: Bench, made: State) -> Bench:
    return dataclasses.replace(place, references={"made": made}, feeds=dict(place.feeds))


# --- the gradient through training


def linear(weights: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(inputs @ weights["w"] + weights["b"], labels)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unrolled_by_hand(
    pictures: np.ndarray, rates: np.ndarray, labels: np.ndarray, real: Any, start: Any
) -> float:
    """The loss on real examples of a linear model after its steps, in numpy, with the gradient written out."""
    w, b = (a.copy() for a in start)
    for of_pass in rates:
        for x, y, rate in zip(pictures, labels, of_pass, strict=True):
            z = x @ w + b
            p = np.exp(z - z.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[np.arange(len(y)), y] -= 1
            w, b = w - rate * x.T @ p / len(y), b - rate * p.mean(0)
    z = real[0] @ w + b
    z = z - z.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), real[1]]))


def test_the_gradient_through_training_is_that_of_finite_differences() -> None:
    pictures, rates = seeded(2, 3, 4), seeded(3, 2, seed=1).abs() * 0.3
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]])
    start = {"w": seeded(4, 3, seed=2), "b": seeded(3, seed=3)}
    real = seeded(20, 4, seed=4), torch.arange(20) % 3
    x, r = pictures.clone().requires_grad_(), rates.clone().requires_grad_()
    sets = list(zip(x.unbind(), labels.unbind(), strict=True))
    loss = linear(trained(linear, start, sets, r), *real)

    def by_hand(pictures: np.ndarray, rates: np.ndarray) -> float:
        known = [start["w"].detach().numpy(), start["b"].detach().numpy()]
        return unrolled_by_hand(pictures, rates, labels.numpy(), [t.numpy() for t in real], known)

    assert float(loss.detach()) == pytest.approx(by_hand(pictures.numpy(), rates.numpy()), rel=1e-12)
    found = torch.autograd.grad(loss, (x, r))
    step = 1e-6
    for place, (given, gradient) in enumerate(zip((pictures, rates), found, strict=True)):
        wanted = np.zeros(given.shape)
        for at in np.ndindex(*given.shape):
            ends = []
            for sign in (1, -1):
                both = [pictures.numpy().copy(), rates.numpy().copy()]
                both[place][at] += sign * step
                ends.append(by_hand(*both))
            wanted[at] = (ends[0] - ends[1]) / (2 * step)
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(gradient.numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_without_a_graph_training_ends_alike_and_holds_nothing() -> None:
    start, x, y = {"w": seeded(4, 3), "b": seeded(3)}, seeded(3, 4, seed=1).requires_grad_(), torch.arange(3)
    rates = torch.full((5, 1), 0.2, dtype=torch.float64)
    with_graph, without = (trained(linear, start, [(x, y)], rates, graph=g) for g in (True, False))
    assert same({n: w.detach() for n, w in with_graph.items()}, {n: w.detach() for n, w in without.items()})
    assert with_graph["w"].grad_fn is not None
    assert all(w.grad_fn is None for w in without.values())


def test_bytes_that_are_kept_are_counted_once() -> None:
    x, w = torch.randn(50, 20), torch.randn(20, 30, requires_grad=True)
    kept = (
        x.nbytes + 50 * 30 * 4
    )  # x for w's gradient; what tanh gave for its own and, the same memory, for the square's
    assert saved_bytes(lambda: torch.tanh(x @ w).square().sum()) == kept


# --- distilled pictures as a stage


def test_zero_outer_steps_are_the_baseline(place: Bench, net: State) -> None:
    """Training on pictures that nobody learned is, to the bit, training on the real pictures at the first step size."""
    made = distill(length="0it", rate=0.25).apply(net, place)
    data = made.group("data")
    assert data[RATES].shape == (10, 2)
    real = place.dataset.split("train")
    rows = {image.tobytes(): k for k, image in enumerate(real["images"])}
    as_bytes = data["images"].to(torch.uint8)
    assert torch.equal(as_bytes.float(), data["images"]), "they are real pictures still"
    at = [rows[image.numpy().tobytes()] for image in as_bytes]
    assert torch.equal(torch.from_numpy(real.labels)[at], data["labels"])
    assert data["labels"].tolist() == list(range(10))
    found = follow("2ep").apply(net, beside(place, made))
    plain = dataclasses.replace(place, feeds={"train": real.to("cpu").take(at)})
    lr = float(data[RATES][0, 0])
    assert lr == pytest.approx(0.25, rel=1e-6)
    wanted = train("2it", batch_size=10, lr=lr, optimizer=PLAIN, validate=None, augment=False)
    inputs, labels = module_inputs(plain)
    by_hand = {n: p.detach().requires_grad_() for n, p in module_of(net).named_parameters()}
    module = module_of(net)
    for _ in range(2):
        loss = F.cross_entropy(torch.func.functional_call(module, by_hand, (inputs,)), labels)
        gradients = torch.autograd.grad(loss, list(by_hand.values()))
        by_hand = {
            n: (p - lr * g).detach().requires_grad_()
            for (n, p), g in zip(by_hand.items(), gradients, strict=True)
        }
    for name, weight in by_hand.items():
        torch.testing.assert_close(found.weights[name], weight.detach(), rtol=1e-5, atol=1e-6)
    shuffled = wanted.apply(
        net, plain
    )  # a batch is all of them: another order sums otherwise, by rounding alone
    for name in by_hand:
        torch.testing.assert_close(found.weights[name], shuffled.weights[name], rtol=1e-5, atol=1e-6)
    few = made.with_groups(data={**data, "images": as_bytes})
    assert same(follow("2ep").apply(net, beside(place, few)).weights, found.weights), (
        "float or uint8, bit by bit"
    )


def module_inputs(bench: Bench) -> tuple[Tensor, Tensor]:
    feed = bench.feed("train")
    return bench.task.encode(feed)[0], feed.labels


def test_learned_pictures_and_step_sizes_teach_more(place: Bench, net: State) -> None:
    bench = dataclasses.replace(place, name="distilled")
    settings = {"epochs": 2, "lr": 0.1, "rate": 0.1, "begin": "noise", "batch_size": 200}
    before, after = (distill(length=length, **settings).apply(net, bench) for length in ("0it", "60it"))
    curve = after.facts["condensed"]
    assert curve[-1]["step"] == 60
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    rates = after.group("data")[RATES]
    assert rates.shape == (10, 2)
    assert torch.equal(rates, rates[:1].expand_as(rates)), "one step size a pass for all pictures of a set"
    assert (rates > 0).all()
    assert not torch.allclose(rates[0], torch.tensor(0.1))
    assert same(after.weights, net.weights)
    losses = []
    for made in (before, after):
        state = follow("2ep").apply(net, beside(place, made))
        inputs, labels = module_inputs(place)
        with torch.no_grad():
            losses.append(float(F.cross_entropy(module_of(state)(inputs), labels)))
    assert losses[1] < 0.5 * losses[0]
    assert losses[1] == pytest.approx(curve[-1]["loss"], rel=0.25), "followed, they teach what was learned"
    spent = 60 * (9 * 2 * 10 + 3 * 200) * net.facts["forward_macs"]
    assert after.facts["macs"] == spent
    again = distill(length="60it", **settings).apply(net, bench)
    assert same(again.group("data"), after.group("data"))


def test_several_sets_are_taken_in_their_order(place: Bench, net: State) -> None:
    made = distill(steps=3, length="3it", random_inits=True, nets=2, lr=0.3).apply(net, place)
    data = made.group("data")
    assert data["labels"].tolist() == list(range(10)) * 3
    assert data[RATES].shape == (30, 2)
    wanted = {n: p.detach().requires_grad_() for n, p in module_of(net).named_parameters()}
    feed = beside(place, made)
    inputs = place.task.normalised(data["images"])
    sets = list(zip(inputs.chunk(3), data["labels"].chunk(3), strict=True))
    loss = distilling.OfTask(module_of(net), place.task)
    wanted = trained(loss, wanted, sets, data[RATES][::10].t(), graph=False)
    found = follow("2ep").apply(net, feed)
    for name, weight in wanted.items():
        torch.testing.assert_close(found.weights[name], weight.detach(), rtol=1e-4, atol=1e-5)
    first = follow("3it").apply(net, feed)
    assert not same(first.weights, found.weights)


def test_a_killed_distillation_goes_on_as_it_was(place: Bench, net: State, tmp_path: Path) -> None:
    bench = dataclasses.replace(place, name="killed")
    for stage in (distill(length="25it", random_inits=True), Inducing(NTK, "25it", batch_size=100)):
        folder = tmp_path / type(stage).__name__
        whole = stage.apply(net, bench)
        kill(stage, net, bench, folder, 12)
        rest = dataclasses.replace(bench, checkpoints=folder, checkpoint_seconds=1e9)
        steps: list[int] = []

        @dataclasses.dataclass
        class Listening:
            told: list[int]

            def step(self, done: int, total: int, **figures: float) -> None:
                self.told.append(done)

        found = stage.apply(net, dataclasses.replace(rest, progress=Listening(steps)))
        assert min(steps) > 12
        assert same(found.group("data"), whole.group("data"))
        assert found.facts["condensed"] == whole.facts["condensed"], "points don't depend on checkpoints"
        assert [point["step"] for point in whole.facts["condensed"]] == [10, 20, 25]


def test_real_examples_come_once_an_epoch_in_an_order_of_their_own(place: Bench) -> None:
    leaf, seen = torch.zeros(1, requires_grad=True), []

    def gradient(step: int, real: Any) -> Tensor:
        assert step == len(seen)
        seen.append(real.rows.tolist())
        leaf.grad = torch.ones(1)
        return torch.tensor(float(step))

    count = len(place.feed("train"))
    settings = distill(length="2ep", batch_size=count // 4, lr=0.5, halve="1ep", betas=(0.0, 0.0))
    curve, _ = learned(place, settings, {"leaf": leaf}, gradient)
    assert len(seen) == 8
    first, second = ([row for rows in seen[k : k + 4] for row in rows] for k in (0, 4))
    assert len(set(first)) == len(set(second)) == 4 * (count // 4)
    assert first != second
    assert float(leaf.detach()) == pytest.approx(-(4 * 0.5 + 4 * 0.25)), (
        "of Adam without memory a step is its rate"
    )
    assert curve == [{"step": 8, "loss": 3.5, "lr": 0.25}]
    again: list[list[int]] = []
    learned(
        place,
        settings,
        {"leaf": leaf},
        lambda step, real: again.append(real.rows.tolist()) or gradient_of(leaf),
    )
    assert again == seen


def gradient_of(leaf: Tensor) -> Tensor:
    leaf.grad = torch.ones(1)
    return torch.zeros(())


def test_random_inits_are_other_nets_each_time(place: Bench, net: State) -> None:
    module = module_of(net)
    one, again, other = (distilling.start_of(net, module, place, name) for name in ("0.0", "0.0", "1.0"))
    assert same(one, again)
    assert not same(one, other)
    assert same(distilling.start_of(net, module, place, ""), dict(module.named_parameters()))


def test_how_pictures_begin(place: Bench) -> None:
    train_split = place.dataset.split("train").to("cpu")
    means = begun(place, "means", 2, 1, "pictures", "here")
    for k in range(10):
        wanted = train_split["images"][train_split.labels == k].numpy().astype(np.float64).mean(0)
        np.testing.assert_allclose(means.pixels[k].numpy(), wanted, rtol=1e-6)
        assert torch.equal(means.pixels[k], means.pixels[10 + k])
    real = begun(place, "real", 3, 2, "pictures", "here")
    assert len({p.numpy().tobytes() for p in real.pixels}) == 60, "no picture twice"
    known = {
        (image.float().numpy().tobytes(), int(label))
        for image, label in zip(train_split["images"], train_split.labels, strict=True)
    }
    assert all((p.numpy().tobytes(), int(y)) in known for p, y in zip(real.pixels, real.labels, strict=True))
    noise = begun(place, "noise", 40, 1, "pictures", "here")
    inputs = place.task.normalised(noise.pixels)
    assert float(inputs.mean()) == pytest.approx(0, abs=0.02)
    assert float(inputs.std()) == pytest.approx(1, abs=0.02)
    moved = noise.changed(torch.ones_like(noise.pixels))
    torch.testing.assert_close(place.task.normalised(moved), inputs + 1, rtol=1e-4, atol=1e-4)


# --- what is refused


def test_more_inner_steps_than_memory_holds_are_said_before(
    place: Bench, net: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of(net)
    step, last = distilling.inner_bytes(module, place, 10), distilling.real_bytes(module, place, 100)
    assert step >= 2 * sum(p.numel() * 4 for p in module.parameters()), "weights and gradients"
    begun_at: list[int] = []
    monkeypatch.setattr(distilling, "learned", lambda *a: begun_at.append(1) or ([], 0.0))
    monkeypatch.setattr(memory, "available", lambda device: 40 * step + last)
    words = r"41 inner steps \(1 sets x 41 epochs\) need about .* enough for 40"
    with pytest.raises(UserError, match=words):
        distill(epochs=41).forewarn(lambda: net, place)
    distill(epochs=40).forewarn(lambda: net, place)
    distill(epochs=4000, length="0it").forewarn(lambda: net, place)
    assert not begun_at
    said: list[str] = []
    bench = dataclasses.replace(place, name="late", say=said.append)
    distill(epochs=40).apply(net, bench)
    assert not said
    distill(epochs=41).apply(net, bench)
    assert len(said) == 1, "said, not refused: a run that is hours old isn't stopped"
    assert re.search(words, said[0])
    assert len(begun_at) == 2


@pytest.mark.parametrize(
    ("names", "stat", "wanted"),
    [
        (
            ("memory.max", "memory.current"),
            "anon 5\ninactive_file 300\nactive_file 100\n",
            1000 - (700 - 300),
        ),
        (
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "inactive_file 10\ntotal_inactive_file 250\n",
            1000 - (700 - 250),
        ),
        (("memory.max", "memory.current"), None, 300),
        (("memory.max", "memory.current"), "not what is expected\n", 300),
        (("memory.max", "memory.current"), "inactive_file 9000\n", 1000),
    ],
)
def test_pages_of_files_are_memory_that_can_be_had(
    names: tuple[str, str], stat: str | None, wanted: int, tmp_path: Path
) -> None:
    assert memory.left(tmp_path, *names) is None
    for name, text in zip(names, ("1000\n", "700\n"), strict=True):
        (tmp_path / name).write_text(text)
    if stat is not None:
        (tmp_path / "memory.stat").write_text(stat)
    assert memory.left(tmp_path, *names) == wanted
    (tmp_path / names[0]).write_text("max\n")
    assert memory.left(tmp_path, *names) is None


def test_what_torch_keeps_on_a_gpu_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not run on one: what torch would say is put in its place."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert memory.available("cuda") == 1300


def test_the_estimate_is_what_a_longer_training_keeps(place: Bench, net: State) -> None:
    module = module_of(net)
    loss = distilling.OfTask(module, place.task)
    inputs, labels = module_inputs(place)
    start = {n: p.detach().requires_grad_() for n, p in module.named_parameters()}

    few = inputs[:10].clone().requires_grad_()

    def bytes_of(steps: int) -> int:
        rates = torch.full((steps, 1), 0.01, requires_grad=True)
        return saved_bytes(lambda: trained(loss, start, [(few, labels[:10])], rates))

    more = (bytes_of(30) - bytes_of(10)) / 20
    assert distilling.inner_bytes(module, place, 10) == pytest.approx(more, rel=0.05)


def not_asked_for() -> State:
    raise AssertionError("no net is wanted for this")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (7, "images: 7 is less than the 10 classes of digits; one of each is the least"),
        (25, "images: 25 is no multiple of the 10 classes of digits; 20 or 30"),
    ],
)
def test_images_and_classes_that_do_not_fit(images: int, words: str, place: Bench, net: State) -> None:
    for stage in (distill(images=images), Inducing(NTK, "1it", images=images), Chosen(images=images)):
        for call in (stage.apply, lambda _, bench, own=stage: own.forewarn(not_asked_for, bench)):
            with pytest.raises(UserError) as told:
                call(net, place)
            assert str(told.value).endswith(words)
            assert "\n" not in str(told.value)


def test_more_pictures_than_a_kernel_takes_are_refused_before_anything_is_made(place: Bench) -> None:
    for stage in (Inducing(NTK, "1it", images=6000), Chosen(kernel=NTK, images=6000)):
        with pytest.raises(UserError, match=r"images: 6,000; kernel ridge regression takes 5,000 at most$"):
            stage.forewarn(not_asked_for, place)
    Chosen(images=6000).forewarn(not_asked_for, place)


def test_too_few_pictures_to_begin_with(place: Bench, net: State) -> None:
    with pytest.raises(UserError, match=r"class 0 has \d+ training pictures, and 5000 are wanted"):
        distill(steps=5000, length="0it").apply(net, place)
    rare = place.dataset.split("train")
    rare = rare.take(np.flatnonzero(rare.labels != 3))
    lacking = dataclasses.replace(place.dataset, splits={**place.dataset.splits, "train": rare})
    bench = dataclasses.replace(place, dataset=lacking, feeds={})
    with pytest.raises(UserError, match="class 3 has 0 training pictures, and 1 are wanted"):
        distill(begin="means", length="0it").apply(net, bench)


def test_nets_whose_training_is_no_function_are_refused(place: Bench, net: State) -> None:
    with pytest.raises(UserError, match=r"features\.1 \(BatchNorm2d\) keeps statistics in training"):
        distill().apply(drawn(TINY, place), place)
    masked = net.with_groups(masks={"fc.weight": torch.ones(10, 12, dtype=torch.bool)})
    with pytest.raises(UserError, match="the net is pruned"):
        distill().apply(masked, place)


def test_settings_that_are_refused() -> None:
    for changes, words in (
        ({"begin": "photo"}, "begin: unknown 'photo'"),
        ({"length": "many"}, "length: 'many' is no length"),
        ({"betas": (0.5,)}, "betas: .* not two numbers"),
        ({"nets": 3}, "nets: 3 nets of one and the same init"),
        ({"rate": 0.0}, "rate: 0.0 is not a number above 0"),
        ({"steps": 0}, "steps: 0 is not a whole number of 1 or more"),
    ):
        with pytest.raises(UserError, match=words):
            distill(**changes)
    with pytest.raises(UserError, match="is no kernel; choose one by its YAML: rbf, arc_cosine or ntk"):
        Inducing({"_target_": "compressbench.distances.kl.kl", "_partial_": True}, "1it")
    with pytest.raises(UserError, match="step sizes are those of data"):
        follow("1it", data=None)
    with pytest.raises(UserError, match=r"rates: .* are not one or more numbers above 0"):
        Chosen(rates=[])
    with pytest.raises(UserError, match="nets: 5 nets of one and the same init are one"):
        Chosen(nets=5)
    for name, value in (("rates", [0.1]), ("steps", 2), ("epochs", 4), ("random_inits", True)):
        with pytest.raises(UserError, match=f"{name}: kernel ridge regression has no .*; leave {name} out"):
            Chosen(kernel=NTK, **{name: value})
    with pytest.raises(UserError, match="random_inits: kernel ridge regression has no init"):
        Chosen(kernel=NTK, random_inits=True, nets=3)
    Chosen(kernel=NTK, rates=list(Chosen().rates))
    with pytest.raises(UserError, match=r"regulariser: 0.0 is not a number above 0"):
        Chosen(kernel=NTK, regulariser=0.0)


def test_followed_trainings_that_do_not_fit(place: Bench, net: State) -> None:
    made = distill(steps=2, length="0it").apply(net, place)
    rates = made.group("data")[RATES] * torch.arange(1, 21)[:, None].div(11, rounding_mode="floor").add(1)
    made = made.with_groups(data={**made.group("data"), RATES: rates})
    bench = beside(place, made)
    for stage, words in (
        (follow("5it"), "length: 5it is 5 iterations, and made carries step sizes of 4"),
        (follow("1it", batch_size=3), "batch_size: 3 doesn't divide the 20 examples of made"),
        (follow("1it", batch_size=20), "batch_size: 20 takes examples of made together"),
    ):
        with pytest.raises(UserError, match=words):
            stage.apply(net, bench)
    few = Few(20).apply(net, place)
    with pytest.raises(UserError, match="in_order: made carries no step sizes"):
        follow("1it").apply(net, beside(place, few))


def test_a_loss_without_bounds_is_said(place: Bench, net: State) -> None:
    with pytest.raises(
        Diverged, match=r"loss is (nan|inf) at iteration \d+ of 6: training on the pictures left"
    ):
        distill(rate=1e20).apply(net, place)


def test_other_examples_than_pictures_are_refused(place: Bench, net: State) -> None:
    split = place.dataset.split("train")
    texts = dataclasses.replace(split, columns={"tokens": split["images"]})
    changed = dataclasses.replace(place.dataset, splits={**place.dataset.splits, "train": texts})
    with pytest.raises(UserError, match="data/distilled learns pictures, and the examples of digits are"):
        distill().apply(net, dataclasses.replace(place, dataset=changed))


# --- the controls


def test_the_best_real_pictures_are_chosen_on_validation(place: Bench, net: State) -> None:
    tried = {"draws": 4, "rates": [0.01, 0.3], "epochs": 4}
    said: list[str] = []
    made = chosen(net, dataclasses.replace(place, name="real", say=said.append), Chosen(**tried))
    shares = {}
    validation = place.feed("validation")
    inputs = place.task.encode(validation)[0]
    for draw in range(4):
        pictures = begun(place, "real", 1, 1, f"pictures.{draw}", "here")
        for rate in (0.01, 0.3):
            column = torch.full((10, 4), rate)
            own = net.with_groups(data={"images": pictures.pixels, "labels": pictures.labels, RATES: column})
            state = follow("4ep").apply(net, beside(place, own))
            right = module_of(state)(inputs).argmax(1) == validation.labels
            shares[draw, rate] = float(right.float().mean())
    best = max(shares, key=lambda at: shares[at])
    assert made.facts["chosen_validation"] == pytest.approx(100 * shares[best], abs=1e-4)
    wanted = begun(place, "real", 1, 1, f"pictures.{best[0]}", "here")
    assert torch.equal(made.group("data")["images"], wanted.pixels)
    assert made.group("data")[RATES][0, 0] == pytest.approx(best[1])
    assert len(set(shares.values())) > 2
    assert said == [
        f"real: the best step size is {best[1]:g}, the end of rates: a longer list may hold a better one"
    ]
    none = {n: s for n, s in place.dataset.splits.items() if n != "validation"}
    bench = dataclasses.replace(place, dataset=dataclasses.replace(place.dataset, splits=none))
    with pytest.raises(UserError, match="chooses on the validation split, and digits has none"):
        chosen(net, bench, Chosen())


def test_the_best_real_pictures_for_a_kernel(place: Bench, net: State) -> None:
    made = chosen(net, place, Chosen(draws=5, kernel=NTK))
    assert RATES not in made.group("data")
    state = KernelRidge("made", NTK).apply(None, beside(place, made))
    validation = place.feed("validation")
    right = module_of(state)(place.task.encode(validation)[0]).argmax(1) == validation.labels
    assert made.facts["chosen_validation"] == pytest.approx(100 * float(right.float().mean()), abs=1.2)


# --- kernels


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return math.acos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))


def test_kernels_by_hand() -> None:
    x, y = seeded(4, 5).numpy(), seeded(3, 5, seed=1).numpy()
    found = [
        between(k, torch.from_numpy(x), torch.from_numpy(y))
        for k in (kernels.rbf, kernels.arc_cosine, kernels.ntk)
    ]
    for i in range(4):
        for j in range(3):
            t, lengths = angle(x[i], y[j]), np.linalg.norm(x[i]) * np.linalg.norm(y[j])
            first = lengths * (math.sin(t) + (math.pi - t) * math.cos(t)) / math.pi
            wanted = [
                math.exp(-0.5 * float(np.sum((x[i] - y[j]) ** 2))),
                first,
                first + x[i] @ y[j] * (math.pi - t) / math.pi,
            ]
            for one, value in zip(found, wanted, strict=True):
                assert float(one[i, j]) == pytest.approx(value, rel=1e-9)


def test_rbf_is_sklearns() -> None:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    x, y = seeded(6, 5), seeded(4, 5, seed=1)
    found = between(lambda *p: kernels.rbf(*p, gamma=0.7), x, y)
    np.testing.assert_allclose(found.numpy(), pairwise.rbf_kernel(x.numpy(), y.numpy(), 0.7), rtol=1e-10)


def test_the_tangent_kernel_is_that_of_a_wide_net() -> None:
    """Inner products of the gradients of a net of 3 hidden layers, 2,000 wide: within some percent of the limit."""
    width, depth = 2000, 3
    x = seeded(3, 6)
    sizes = [6, *[width] * depth, 1]
    weights = [
        (torch.randn(b, a, generator=torch.Generator().manual_seed(k), dtype=torch.float64)).requires_grad_()
        for k, (a, b) in enumerate(itertools.pairwise(sizes))
    ]
    gradients = []
    for row in x:
        h = row
        for k, w in enumerate(weights):
            scale = (
                math.sqrt(2 / sizes[k]) if k else 1.0
            )  # the kernel's inputs aren't divided by their number here
            h = scale * (w @ (torch.relu(h) if k else h))
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(h.sum(), weights)]))
    stacked = torch.stack(gradients)
    wanted = stacked @ stacked.t()
    found = between(lambda *p: kernels.ntk(*p, depth=depth), x, x)
    np.testing.assert_allclose(
        found.numpy(), wanted.numpy(), rtol=0.1, atol=0.1 * float(found.diagonal().mean())
    )
    np.testing.assert_allclose(found.diagonal().numpy(), (depth + 1) * x.square().sum(1).numpy(), rtol=1e-7)


@pytest.mark.parametrize("kernel", [kernels.rbf, kernels.arc_cosine, kernels.ntk])
def test_kernels_are_positive_semidefinite_with_gradients_at_equal_points(kernel: Any) -> None:
    twice, unit = (
        seeded(2, 5),
        torch.eye(5, dtype=torch.float64),
    )  # the first two of twelve; cosines that are exactly 1
    x = torch.cat((seeded(12, 5), twice, unit, -unit[:1], torch.zeros(1, 5, dtype=torch.float64)))
    found = between(kernel, x, x)
    torch.testing.assert_close(found, found.t(), rtol=1e-12, atol=1e-14)
    values = np.linalg.eigvalsh(found.numpy())
    assert values.min() > -1e-10 * values.max()
    points = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(between(kernel, points, points).sum(), points)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kernel", [kernels.rbf, kernels.arc_cosine, kernels.ntk])
def test_the_gradient_of_ridge_regression_is_that_of_finite_differences(kernel: Any) -> None:
    points, rows, targets = seeded(4, 3), seeded(6, 3, seed=1), seeded(4, 2, seed=2)

    def loss(points: Tensor, targets: Tensor) -> Tensor:
        return ridge_answers(kernel, points, targets, 1e-2, rows).square().sum()

    assert torch.autograd.gradcheck(
        loss, (points.requires_grad_(), targets.requires_grad_()), eps=1e-6, atol=1e-5
    )


def test_ridge_regression_is_sklearns() -> None:
    ridge = pytest.importorskip("sklearn.kernel_ridge")
    points, rows, targets = seeded(12, 5), seeded(7, 5, seed=1), seeded(12, 3, seed=2)
    for kernel in (kernels.rbf, kernels.ntk):
        gram = between(kernel, points, points).numpy()
        alpha = 1e-2 * np.trace(gram) / 12
        model = ridge.KernelRidge(alpha=alpha, kernel="precomputed").fit(gram, targets.numpy())
        found = coefficients(kernel, points, targets, 1e-2)
        np.testing.assert_allclose(found.numpy(), model.dual_coef_, rtol=1e-8)
        wanted = model.predict(between(kernel, rows, points).numpy())
        np.testing.assert_allclose(
            ridge_answers(kernel, points, targets, 1e-2, rows).numpy(), wanted, rtol=1e-8
        )


@pytest.mark.parametrize("regulariser", [0.0, 1e-30])
def test_equal_points_that_no_regulariser_tells_apart(regulariser: float) -> None:
    points = torch.tensor([[1.0, 2.0], [3.0, -1.0], [1.0, 2.0]], dtype=torch.float64)
    with pytest.raises(
        UserError, match=f"3 support points .* regulariser of {regulariser:g} is too small"
    ) as told:
        coefficients(kernels.rbf, points, seeded(3, 2), regulariser)
    assert "\n" not in str(told.value)
    found, gram = coefficients(kernels.rbf, points, seeded(3, 2), 1e-6), between(kernels.rbf, points, points)
    np.testing.assert_allclose(
        ((gram + 1e-6 * torch.eye(3)) @ found).numpy(), seeded(3, 2).numpy(), rtol=1e-8
    )


# --- kernel inducing points as stages


def test_kernel_ridge_is_a_net_like_any_other(place: Bench, net: State) -> None:
    ridge = pytest.importorskip("sklearn.kernel_ridge")
    made = Few(200).apply(net, place)
    state = KernelRidge("made", RBF, 1e-3).apply(None, beside(place, made))
    data = made.group("data")
    rows = [
        place.task.normalised(x).flatten(1).double().numpy() / 8
        for x in (data["images"], place.feed("test")["images"])
    ]
    targets = np.eye(10)[data["labels"].numpy()] - 0.1
    model = ridge.KernelRidge(alpha=1e-3, kernel="rbf", gamma=0.5).fit(rows[0], targets)
    wanted = model.predict(rows[1])
    found = module_of(state)(place.task.encode(place.feed("test"))[0]).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert float((found.argmax(1) == place.feed("test").labels.numpy()).mean()) > 0.8
    assert state.facts["forward_macs"] == 200 * 64 + 10 * 200


@pytest.mark.parametrize("learn_labels", [False, True])
def test_inducing_points_predict_better_than_what_they_began_as(
    learn_labels: bool, place: Bench, net: State
) -> None:
    settings = {"batch_size": 200, "lr": 0.05, "learn_labels": learn_labels, "regulariser": 1e-3}
    before, after = (Inducing(NTK, length, **settings).apply(net, place) for length in ("0it", "60it"))
    assert (TARGETS in after.group("data")) == learn_labels
    shares = []
    feed = place.feed("validation")
    for made in (before, after):
        state = KernelRidge("made", NTK, 1e-3).apply(None, beside(place, made))
        right = module_of(state)(place.task.encode(feed)[0]).argmax(1) == feed.labels
        shares.append(float(right.float().mean()))
    data, inputs = after.group("data"), place.task.encode(feed)[0]
    points = place.task.normalised(data["images"]).flatten(1).double() / 8
    targets = data[TARGETS].double() if learn_labels else F.one_hot(data["labels"]).double() - 0.1
    wanted = ridge_answers(
        lambda *p: kernels.ntk(*p, depth=2), points, targets, 1e-3, inputs.flatten(1).double() / 8
    )
    torch.testing.assert_close(module_of(state)(inputs).double(), wanted, rtol=0, atol=2e-3)
    if learn_labels:
        assert (targets - (F.one_hot(data["labels"]).double() - 0.1)).abs().max() > 0.05
    assert shares[1] > shares[0] + 0.1
    assert after.facts["condensed"][-1]["loss"] < 0.7 * after.facts["condensed"][0]["loss"]
    assert same(after.weights, net.weights)


def test_all_that_leads_to_pictures_is_counted(place: Bench, net: State) -> None:
    """By hand, on digits: 64 pixels, 10 classes, 10 pictures; an MLP of 64 x 12 + 12 x 10 MACs."""
    forward, held = 64 * 12 + 12 * 10, len(place.feed("validation"))
    before = net.with_facts(macs=7, examples=5, seconds=1.0)
    nets = {"draws": 2, "rates": [0.1, 0.2, 0.3], "epochs": 4, "steps": 2}
    solved = 10 * 10 * 64 + 333 + 10 * 10 * 10
    for stage, macs, seen in (
        (Chosen(**nets), 2 * 3 * (3 * 4 * 20 + held) * forward, 2 * 3 * 4 * 20),
        (
            Chosen(**nets, random_inits=True, nets=3),
            3 * 2 * 3 * (3 * 4 * 20 + held) * forward,
            3 * 2 * 3 * 4 * 20,
        ),
        (Chosen(**nets, begin="means"), 3 * (3 * 4 * 20 + held) * forward, 3 * 4 * 20),
        (Chosen(draws=4, kernel=NTK), 4 * (solved + held * 10 * (64 + 10)), 4 * 10),
        (Inducing(NTK, "5it", batch_size=100), 5 * 3 * (solved + 100 * 10 * (64 + 10)), 5 * (10 + 100)),
        (Inducing(NTK, "0it", batch_size=100), 0, 0),
        (distill(length="2it"), 2 * (9 * 2 * 10 + 3 * 100) * forward, 2 * (2 * 10 + 100)),
    ):
        facts = stage.apply(before, place).facts
        assert (facts["macs"], facts["examples"]) == (7 + macs, 5 + seen), stage
        assert facts["seconds"] > 1 or not macs
    made = Few(30).apply(before, place)
    facts = KernelRidge("made", NTK).apply(None, beside(place, made)).facts
    assert (facts["macs"], facts["examples"]) == (30 * 30 * 64 + 30**3 // 3 + 30 * 30 * 10, 30)
    assert facts["seconds"] > 0


def test_kernel_ridge_refuses_what_it_cannot_solve(
    place: Bench, net: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabelled = Few(20, unlabelled=True).apply(net, place)
    with pytest.raises(UserError, match="some examples of made have no label"):
        KernelRidge("made", NTK).apply(None, beside(place, unlabelled))
    monkeypatch.setattr("compressbench.condensing.inducing.MOST", 19)
    with pytest.raises(UserError, match="20 support points, 19 at most"):
        KernelRidge("made", NTK).apply(None, beside(place, Few(20).apply(net, place)))
    with pytest.raises(UserError, match="made carries no data set"):
        KernelRidge("made", NTK).apply(None, beside(place, net))
