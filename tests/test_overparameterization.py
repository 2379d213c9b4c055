"""Ease of training against size: Du's Gram matrix, the line, negative curvature, factorisations, in closed form."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from cases_report import record
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.data.load import load
from compressbench.errors import UserError
from compressbench.hardware.coding import index_bits
from compressbench.models.draw import drawn
from compressbench.outputs import Outputs
from compressbench.probes import landscape
from compressbench.probes import negative_curvature as curvature
from compressbench.probes.factorisation import Factorisation, Problem, zero_columns
from compressbench.probes.fitting import Fitting
from compressbench.probes.negative_curvature import NegativeCurvature
from compressbench.probes.straight_line import StraightLine, largest_rise
from compressbench.probes.structure import Structure
from compressbench.probes.two_layer import (
    TwoLayer,
    conditions,
    flipped,
    gram,
    h_infinity,
    halving,
    largest_move,
    smallest_eigenvalue,
)
from compressbench.records import Records
from compressbench.report import drawing
from compressbench.report.numbers import from_text
from compressbench.report.page import write_report
from compressbench.report.panels import panels
from compressbench.report.sections.overparameterization import (
    BY_GROUP,
    _against_size,
    _estimated,
    nets,
    section,
    shown,
)
from compressbench.report.states import every_seed
from compressbench.runs.plan import Context, make
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.views import View
from conftest import DIGITS, MLP, kill
from test_landscape import A, W, bowl

DESCENT = {"_target_": "torch.optim.SGD", "_partial_": True}
LEAST_SQUARES = "compressbench.tasks.vectors.least_squares.least_squares"


def on(read: str, targets: str, **settings: Any) -> Bench:
    """A bench on a data set that is made."""
    data = {
        "name": read,
        "read": {"_target_": f"compressbench.data.vectors.{read}", **settings},
        "task": {"_target_": LEAST_SQUARES, "targets": targets},
    }
    return Bench(load(data), 0, "init", say=lambda text: None)


def net(kind: str, **settings: Any) -> dict[str, Any]:
    build = {
        "_target_": f"compressbench.models.shallow.{kind}",
        "features": "@features",
        "classes": "@classes",
    }
    return {"name": kind, "build": {**build, **settings}}


def descent(length: str, bench: Bench, lr: float, **more: Any) -> Train:
    """All examples at once."""
    return Train(length, len(bench.feed("train")), lr, DESCENT, validate=None, **more)


@pytest.fixture(scope="module")
def sphere() -> Bench:
    return on("sphere", "signs", examples=12, dimension=5)


@pytest.fixture(scope="module")
def wide(sphere: Bench) -> tuple[State, State]:
    """A two-layer net at its start and after a training that was followed."""
    start = drawn(net("TwoLayer", width=64), sphere)
    return start, descent("40it", sphere, 1.2, follow="5it").apply(start, sphere)


def points(n: int, d: int, seed: int = 0) -> torch.Tensor:
    found = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found / found.norm(dim=1, keepdim=True)


def values(found: Any) -> dict[str, Any]:
    return {f"{m.name} {m.group}".strip(): m.value for m in found}


# H-infinity


def test_h_infinity_is_symmetric_psd_with_half_the_squared_length_on_its_diagonal() -> None:
    x = points(30, 7) * torch.arange(1, 31, dtype=torch.float64)[:, None]  # of any length
    found = h_infinity(x)
    torch.testing.assert_close(found, found.T, rtol=0, atol=0)
    torch.testing.assert_close(found.diagonal(), (x**2).sum(1) / 2, rtol=1e-12, atol=0)
    assert np.linalg.eigvalsh(found.numpy())[0] > 0
    assert smallest_eigenvalue(found) == pytest.approx(np.linalg.eigvalsh(found.numpy())[0])


def test_h_infinity_of_orthogonal_parallel_and_opposite_inputs() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    found = h_infinity(x)
    assert found[0, 1] == 0
    assert found[0, 2] == pytest.approx(0.5)
    assert found[0, 3] == pytest.approx(0, abs=1e-15)


def test_h_infinity_is_what_many_random_neurons_say() -> None:
    x = points(6, 4)
    drawing = np.random.RandomState(1)
    w = drawing.standard_normal((400_000, 4))
    active = (w @ x.numpy().T >= 0).astype(float)
    sampled = (x @ x.T).numpy() * (active.T @ active) / len(w)
    np.testing.assert_allclose(h_infinity(x), sampled, atol=5 * 0.5 / len(w) ** 0.5)
    few = torch.from_numpy(w[:50])
    np.testing.assert_allclose(gram(x, few), (x @ x.T).numpy() * (active[:50].T @ active[:50]) / 50)


# a two-layer net beside its start


def test_moves_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    then = torch.tensor([[1.0, 1.0], [2.0, -1.0]])
    now = torch.tensor([[-2.0, 1.0], [2.0, 3.0]])
    assert flipped(x, then, now) == 2 / 4
    assert largest_move(then, now) == 4
    assert flipped(x, then, then) == 0


def test_halving_and_conditions() -> None:
    assert halving([(0, 8.0), (10, 4.0), (20, 1.0)], 1e-6) == pytest.approx(20 / 3)
    assert halving([(0, 8.0), (10, 4.0), (20, 1.0)], 0.5) == pytest.approx(10)
    assert halving([(0, 8.0), (10, 9.0)], 1e-6) is None
    assert "eta is 0.1, and the theorem wants about 0.0025" in conditions(0.1, 10, 10**9, 0.25)
    assert conditions(0.001, 10, 10**9, 0.25) == "the theorem's conditions hold with constants of 1"
    assert "the width is 1e+03, and the theorem wants more than about 2.6e+08" in conditions(
        0.001, 10, 1000, 0.25
    )
    assert "theorem says nothing" in conditions(0.001, 10, 1000, 0.0)


def test_a_net_is_the_sum_over_its_neurons(sphere: Bench, wide: tuple[State, State]) -> None:
    start, _ = wide
    x = sphere.feed("train")["x"]
    w, a = (start.weights[n].double().numpy() for n in ("hidden.weight", "signs"))
    assert set(a) == {-1.0, 1.0}
    f = np.maximum(x.double().numpy() @ w.T, 0) @ a / 8
    logits = View(start, sphere).module(x).detach()
    np.testing.assert_allclose(logits[:, 1], f, atol=1e-5)
    np.testing.assert_allclose(logits[:, 0], -f, atol=1e-5)
    y = 2 * sphere.feed("train").labels - 1
    loss = sphere.task.loss(Outputs(logits), sphere.feed("train").labels)
    assert float(loss) == pytest.approx(((f - y.numpy()) ** 2).mean() / 2, rel=1e-5)


def test_gradient_descent_is_that_of_the_theorem(sphere: Bench, wide: tuple[State, State]) -> None:
    """Three steps by numpy: w_r -= eta m^-1/2 sum_i (f_i - y_i) a_r [w_r . x_i > 0] x_i, eta = lr / n."""
    start, _ = wide
    x = sphere.feed("train")["x"].double().numpy()
    y = 2.0 * sphere.feed("train").labels.numpy() - 1
    w, a = (start.weights[n].double().numpy().copy() for n in ("hidden.weight", "signs"))
    for _ in range(3):
        before = x @ w.T
        error = np.maximum(before, 0) @ a / 8 - y
        w -= 0.1 / 8 * ((before > 0) * error[:, None] * a).T @ x
    found = descent("3it", sphere, 1.2).apply(start, sphere)
    np.testing.assert_allclose(found.weights["hidden.weight"], w, atol=1e-5)
    assert torch.equal(found.weights["signs"], start.weights["signs"]), "the signs are fixed"


def test_the_probe_against_numpy(sphere: Bench, wide: tuple[State, State]) -> None:
    start, end = wide
    found = values(TwoLayer().measure(View(end, sphere), View(start, sphere), sphere))
    x = sphere.feed("train")["x"].double().numpy()
    then, now = (s.weights["hidden.weight"].double().numpy() for s in wide)
    assert found["width"] == 64
    assert found["patterns_flipped"] == pytest.approx(100 * ((x @ then.T > 0) != (x @ now.T > 0)).mean())
    assert found["neuron_move_largest"] == pytest.approx(np.linalg.norm(now - then, axis=1).max())
    smallest = np.linalg.eigvalsh(h_infinity(torch.from_numpy(x)).numpy())[0]
    assert found["lambda0"] == pytest.approx(smallest)
    factor = 1 - 0.1 * smallest / 2
    assert found["loss_halved_in_proven"] == pytest.approx(math.log(2) / -math.log(factor))
    curve = end.facts["curve"]
    assert found["loss_proven_at 40"] == pytest.approx(curve[0]["train_loss"] * factor**40)
    assert found["loss_proven_at 0"] == curve[0]["train_loss"]
    own = 40 * math.log(2) / math.log(curve[0]["train_loss"] / curve[-1]["train_loss"])
    assert found["loss_halved_in"] == pytest.approx(own)


def test_nothing_has_flipped_or_moved_at_the_start(sphere: Bench, wide: tuple[State, State]) -> None:
    view = View(wide[0], sphere)
    found = values(TwoLayer().measure(view, view, sphere))
    assert found["patterns_flipped"] == 0
    assert found["neuron_move_largest"] == 0
    assert found["loss_halved_in"] is None


def test_other_nets_and_other_starts_are_told(sphere: Bench, wide: tuple[State, State], place: Bench) -> None:
    other = View(drawn(MLP, place), place)
    for found in TwoLayer().measure(other, other, place):
        assert found.value is None
        assert "two layers under fixed signs" in found.note
    narrow = View(drawn(net("TwoLayer", width=3), sphere), sphere)
    for found in TwoLayer().measure(narrow, View(wide[0], sphere), sphere):
        assert found.value is None
        assert "own_reference" in found.note


# what a training writes down


def test_a_followed_training_is_the_same_training(sphere: Bench, wide: tuple[State, State]) -> None:
    start, end = wide
    alone = descent("40it", sphere, 1.2).apply(start, sphere)
    assert torch.equal(alone.weights["hidden.weight"], end.weights["hidden.weight"])
    assert alone.facts["curve"] == []
    curve = end.facts["curve"]
    assert [p["step"] for p in curve] == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    for state, point in ((start, curve[0]), (end, curve[-1])):
        logits = View(state, sphere).module(sphere.feed("train")["x"]).detach()
        loss = sphere.task.loss(Outputs(logits), sphere.feed("train").labels)
        assert point["train_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_parts_and_resumed_trainings_write_down_the_same(
    sphere: Bench, wide: tuple[State, State], tmp_path: Path
) -> None:
    start, end = wide
    half = descent("40it", sphere, 1.2, follow="5it", stop="17it").apply(start, sphere)
    whole = descent("40it", sphere, 1.2, follow="5it", start="17it").apply(half, sphere)
    without = [p for p in whole.facts["curve"] if p["step"] != 17]
    assert without == end.facts["curve"]
    stage = descent("40it", sphere, 1.2, follow="5it")
    kill(stage, start, sphere, tmp_path, 25)
    resumed = stage.apply(start, dataclasses.replace(sphere, checkpoints=tmp_path))
    assert resumed.facts["curve"] == end.facts["curve"]
    assert torch.equal(resumed.weights["hidden.weight"], end.weights["hidden.weight"])


def test_validation_and_training_loss_stand_at_one_step(place: Bench) -> None:
    stage = Train("4it", 100, 0.01, DESCENT, validate="2it", follow="4it", augment=False)
    curve = stage.apply(drawn(MLP, place), place).facts["curve"]
    assert [sorted({"train_loss", "validation_loss"} & set(p)) for p in curve] == [
        ["train_loss"],
        ["validation_loss"],
        ["train_loss", "validation_loss"],
    ]


def test_epochs_to_a_loss_by_hand(sphere: Bench, wide: tuple[State, State]) -> None:
    curve = [{"step": s, "lr": 0.1, "train_loss": v} for s, v in ((0, 2.0), (6, 0.9), (12, 0.4))]
    state = wide[1].with_facts(
        curve=[*curve, {"step": 12, "lr": 0.1, "validation_loss": 1.0}],
        followed={"batch_size": 4, "examples": 12, "beyond_descent": []},
    )
    view = View(state, sphere)
    found = values(Fitting([1.0, 0.5, 0.1]).measure(view, view, sphere))
    assert found["epochs_to_loss 1"] == 6 * 4 / 12  # batches of 4 of 12 examples
    assert found["epochs_to_loss 0.5"] == 12 * 4 / 12
    assert found["epochs_to_loss 0.1"] is None
    said = {m.group: m.note for m in Fitting([1.0]).measure(view, view, sphere) if m.name == "epochs_to_loss"}
    assert said == {"1": "the loss was written down every 6 steps (follow)"}
    assert found["fitted_loss"] == 0.4
    assert found["fitted_loss_at 6"] == 0.9
    silent = View(wide[0], sphere)
    (only,) = Fitting().measure(silent, silent, sphere)
    assert only.value is None
    assert "set follow in the training stage" in only.note


def test_epochs_of_a_training_that_is_not_the_first_or_of_other_data(sphere: Bench) -> None:
    """50 steps and then 6, in batches of 4 of 12 examples: the loss of 0 steps of the second is that of 2 epochs."""
    start = drawn(net("TwoLayer", width=8), sphere)
    first = Train("50it", 4, 0.1, DESCENT, validate=None).apply(start, sphere)
    then = Train("6it", 4, 0.1, DESCENT, validate=None, follow="6it")
    state = then.apply(first, sphere)
    assert state.facts["examples"] == 56 * 4, "of the whole lineage"
    last = state.facts["curve"][-1]["train_loss"]
    view = View(state, sphere)
    level = last * 1.0001
    assert state.facts["curve"][0]["train_loss"] > level, "it is reached at the end alone"
    assert values(Fitting([level]).measure(view, view, sphere))[f"epochs_to_loss {level:g}"] == 2.0
    made = dataclasses.replace(sphere, feeds={**sphere.feeds, "train": sphere.feed("train").head(4)})
    on_few = then.apply(start, made)
    view = View(on_few, sphere)
    level = on_few.facts["curve"][-1]["train_loss"] * 1.0001
    found = list(Fitting([level]).measure(view, view, sphere))
    assert values(found)[f"epochs_to_loss {level:g}"] == 6.0, "an epoch of its own four examples is one step"
    assert {m.n for m in found if m.name.startswith("fitted_loss")} == {4}


def test_parts_of_other_batch_sizes_have_no_epochs(sphere: Bench) -> None:
    start = drawn(net("TwoLayer", width=8), sphere)
    half = Train("6it", 4, 0.1, DESCENT, validate=None, follow="1it", stop="3it").apply(start, sphere)
    whole = Train("6it", 6, 0.1, DESCENT, validate=None, follow="1it", start="3it").apply(half, sphere)
    same = Train("6it", 4, 0.1, DESCENT, validate=None, follow="1it", start="3it").apply(half, sphere)
    for state, known in ((whole, False), (same, True)):
        *_, told = Fitting([100.0]).measure(View(state, sphere), View(state, sphere), sphere)
        assert (told.value == 0.0) == known
        assert ("can't be told as epochs" in told.note) == (not known)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, ""),
        ({"batch_size": 4}, "batches of 4 of 12 examples"),
        ({"optimizer": {**DESCENT, "momentum": 0.9}}, "momentum 0.9"),
        ({"optimizer": {"_target_": "torch.optim.Adam", "_partial_": True}}, "optimizer Adam"),
        ({"weight_decay": 0.01}, "weight_decay 0.01"),
        ({"warmup": "2it"}, "warmup 2it"),
        ({"clip": 1.0}, "clip 1.0"),
        (
            {"schedule": {"_target_": "compressbench.training.schedules.cosine", "_partial_": True}},
            "schedule cosine",
        ),
    ],
)
def test_the_proven_rate_is_that_of_gradient_descent_alone(
    more: dict[str, Any], told: str, sphere: Bench
) -> None:
    start = drawn(net("TwoLayer", width=16), sphere)
    stage = Train(**{"length": "4it", "batch_size": 12, "lr": 0.1, "optimizer": DESCENT, "validate": None,
                     "follow": "1it", **more})  # fmt: skip
    found = list(TwoLayer().measure(View(stage.apply(start, sphere), sphere), View(start, sphere), sphere))
    (proven,) = [m for m in found if m.name == "loss_halved_in_proven"]
    assert (proven.value is None) == bool(told)
    assert any(m.name == "loss_proven_at" for m in found) == (not told)
    assert told in proven.note
    assert ("gradient descent on all examples at one rate" in proven.note) == bool(told)


def test_a_rate_of_other_data_or_of_an_unknown_training_is_none(
    sphere: Bench, wide: tuple[State, State]
) -> None:
    start, end = wide
    for followed, told in (
        (None, "wasn't written down"),
        ({"batch_size": 9, "examples": 9, "beyond_descent": []}, "trained on 9 examples, not the 12"),
    ):
        view = View(end.with_facts(followed=followed), sphere)
        found = {m.name: m for m in TwoLayer().measure(view, View(start, sphere), sphere)}
        assert found["loss_halved_in_proven"].value is None
        assert told in found["loss_halved_in_proven"].note


# the straight line


def test_a_line_that_is_not_finite_somewhere_is_not_monotone(
    sphere: Bench, wide: tuple[State, State], monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressbench.probes import loss_increase

    for losses in ([1, math.nan, 0.5], [1, 0.8, math.nan], [1, math.inf, 0.5], [math.nan, 0.8, 0.5]):
        assert largest_rise(losses) is None
        left = iter(losses)
        monkeypatch.setattr(loss_increase, "mean_loss", lambda view, n, left=left: float(next(left)))
        told = list(StraightLine(3, 12).measure(View(wide[1], sphere), View(wide[0], sphere), sphere))
        for m in told:
            if m.name in ("line_monotone", "line_rise"):
                assert m.value is None
                assert "isn't finite at 1" in m.note
            assert m.value is None or math.isfinite(m.value)


def test_the_largest_rise() -> None:
    assert largest_rise([3, 2, 1]) == 0
    assert largest_rise([3, 1, 2, 0, 0.5]) == 1
    assert largest_rise([1, 4, 2]) == 3


def test_the_line_of_a_two_layer_net_against_numpy(sphere: Bench, wide: tuple[State, State]) -> None:
    start, end = wide
    found = values(StraightLine(5, 12).measure(View(end, sphere), View(start, sphere), sphere))
    x = sphere.feed("train")["x"].double().numpy()
    y = 2.0 * sphere.feed("train").labels.numpy() - 1
    (then, now), a = (
        (s.weights["hidden.weight"].double().numpy() for s in wide),
        start.weights["signs"].numpy(),
    )
    expected = [
        ((np.maximum(x @ ((1 - t) * then + t * now).T, 0) @ a / 8 - y) ** 2).mean() / 2
        for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    for place, loss in zip(("0", "0.25", "0.5", "0.75", "1"), expected, strict=True):
        assert found[f"line_loss {place}"] == pytest.approx(loss, rel=1e-4)
    assert found["line_monotone"] == float(all(np.diff(expected) <= 0))
    assert found["line_length"] == pytest.approx(np.linalg.norm(now - then))
    assert found["line_length_relative"] == pytest.approx(
        100 * np.linalg.norm(now - then) / np.linalg.norm(then)
    )
    assert found["dimensions"] == 64 * 5


def test_a_hump_on_the_line_is_seen(sphere: Bench, wide: tuple[State, State]) -> None:
    """From w to -w the loss passes that of the zero net, which is 1/2."""
    end = wide[1]
    other = end.with_groups(weights={**end.weights, "hidden.weight": -end.weights["hidden.weight"]})
    found = values(StraightLine(3, 12).measure(View(other, sphere), View(end, sphere), sphere))
    assert found["line_loss 0.5"] == pytest.approx(0.5)
    assert found["line_rise"] > 0
    assert found["line_monotone"] == 0
    narrow = View(drawn(net("TwoLayer", width=3), sphere), sphere)
    for told in StraightLine(3).measure(narrow, View(end, sphere), sphere):
        assert told.value is None
        assert "no straight line: the models differ" in told.note


# negative curvature


def weight_below(density: curvature.Density) -> float:
    """As the probe has it of one density."""
    return curvature.ratio_of_sums([curvature.sizes(density)])[0]


def test_a_quadratic_of_known_eigenvalues() -> None:
    a = [4.0, -1.0, 0.0, -3.0, 2.0, 0.0]
    place = bowl(a, [1.0] * 6)
    torch.testing.assert_close(curvature.hessian(place), torch.diag(torch.tensor(a, dtype=torch.float64)))
    whole = curvature.of_matrix(curvature.hessian(place))
    assert weight_below(whole) == pytest.approx(4 / 10)
    assert curvature.share_below(whole, 1e-3) == pytest.approx(2 / 6)
    assert curvature.share_below(whole, 0.5) == pytest.approx(1 / 6)
    # starts of equal parts of each eigenvector say it exactly
    found = curvature.quadrature(place, torch.ones(6), 6)
    assert weight_below(found) == pytest.approx(4 / 10, abs=1e-5)
    assert curvature.share_below(found, 1e-3) == pytest.approx(2 / 6, abs=1e-5)
    assert float(found.values.min()) == pytest.approx(-3, rel=1e-4)
    held = bowl(A, W, {"w": torch.tensor([True, False, True, True])})
    assert held.free == 3
    assert weight_below(curvature.of_matrix(curvature.hessian(held))) == 0


def test_the_hessian_of_a_factorisation_warns_of_nothing() -> None:
    code = (
        "import torch\nfrom compressbench.probes.factorisation import Problem\n"
        "eye = torch.eye(3, dtype=torch.float64)\n"
        "print(Problem(eye, eye[:, :2], 0.05).hessian(eye[:2, :1], eye[:, :1]).shape)"
    )  # torch warns once a process
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("torch.Size([5, 5])\n", "")


def test_a_small_net_whole_and_estimated(digits: Any) -> None:
    """Against the Hessian that torch computes of the same function, and by starts alone."""
    bench = Bench(digits, 0, "init", say=lambda text: None)
    build = {**MLP["build"], "hidden": [3]}
    state = Train("20it", 100, 0.1, DESCENT, validate=None).apply(
        drawn({"name": "mlp", "build": build}, bench), bench
    )
    view = View(state, bench)
    place = landscape.as_it_is(view, 40)
    assert not isinstance(place, str)
    names = list(place.params)
    flat = place.weights().double()

    def loss(w: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(names, place.shaped(w), strict=True))
        ((x,), y), *_ = place.batches
        hidden = (x.double().flatten(1) @ parts["hidden.0.weight"].T + parts["hidden.0.bias"]).relu()
        logits = hidden @ parts["fc.weight"].T + parts["fc.bias"]
        return torch.nn.functional.cross_entropy(logits, y)

    eigenvalues = np.linalg.eigvalsh(torch.func.hessian(loss)(flat).numpy())
    share = 100 * -eigenvalues[eigenvalues < 0].sum() / np.abs(eigenvalues).sum()
    below = 100 * (eigenvalues < -1e-3 * np.abs(eigenvalues).max()).mean()
    assert share > 1, "there is something to be seen"
    found = values(NegativeCurvature(whole=1000, examples=40).measure(view, view, bench))
    assert found["negative_curvature"] == pytest.approx(share, abs=0.01)
    assert found["negative_directions"] == pytest.approx(below, abs=0.01)
    assert found["eigenvalue_smallest"] == pytest.approx(eigenvalues[0], rel=1e-3)
    assert found["eigenvalue_largest"] == pytest.approx(eigenvalues[-1], rel=1e-3)
    assert found["dimensions"] == len(flat)
    told = list(NegativeCurvature(whole=1, starts=6, products=30, examples=40).measure(view, view, bench))
    assert values(told)["negative_curvature"] == pytest.approx(share, rel=0.35)
    assert values(told)["eigenvalue_smallest"] == pytest.approx(eigenvalues[0], rel=0.02)
    assert values(told)["negative_directions"] is None
    (directions,) = [m for m in told if m.name == "negative_directions"]
    assert "bulk at 0" in directions.note
    assert "6 random starts, 30 products" in told[0].note
    assert "standard error" in told[0].note
    low, high = (values(told)[f"negative_curvature_{end}"] for end in ("low", "high"))
    assert 0 <= low < values(told)["negative_curvature"] < high <= 100
    two = list(NegativeCurvature(whole=1, starts=2, products=5, examples=40).measure(view, view, bench))
    assert not [m for m in two if m.name.endswith(("_low", "_high"))], "two starts have no error"


def test_a_ratio_of_sums_and_its_jackknife_against_numpy() -> None:
    drawing = np.random.RandomState(3)
    pairs = np.abs(drawing.standard_normal((7, 2))) + np.array([0.0, 1.0])
    share, error = curvature.ratio_of_sums([(float(a), float(b)) for a, b in pairs])
    assert share == pytest.approx(pairs[:, 0].sum() / pairs[:, 1].sum())
    assert share != pytest.approx((pairs[:, 0] / pairs[:, 1]).mean(), rel=1e-3)
    left = [np.delete(pairs, k, 0).sum(0) for k in range(7)]
    without = np.array([a / b for a, b in left])
    assert error == pytest.approx(np.sqrt(6 / 7 * ((without - without.mean()) ** 2).sum()))
    # of equal denominators it is the standard error of a mean
    firsts = pairs[:, 0]
    found = curvature.ratio_of_sums([(float(a), 2.0) for a in firsts])
    assert found[1] == pytest.approx(firsts.std(ddof=1) / 7**0.5 / 2)
    assert curvature.ratio_of_sums([(1.0, 2.0), (3.0, 4.0)]) == (4 / 6, None)
    assert curvature.ratio_of_sums([(0.0, 0.0)]) == (0.0, None)


# factorisations


@pytest.fixture(scope="module")
def members() -> Bench:
    return on("memberships", "one_hot", sizes=[16, 9, 4, 1])


def problem(bench: Bench, decay: float = 0.05) -> Problem:
    feed = bench.feed("train")
    return Problem(feed["x"].double(), one_hot(feed.labels, 4).double(), decay)


def lowered(of: Problem, rank: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """U and V of the singular values lowered by n decay, the largest ``rank`` of them, and columns of zeros."""
    left, values_, right = np.linalg.svd((of.y.T @ of.x).numpy(), full_matrices=False)
    kept = np.maximum(values_ - len(of.x) * of.decay, 0) ** 0.5
    u, v = np.zeros((4, columns)), np.zeros((of.x.shape[1], columns))
    u[:, :rank] = left[:, :rank] * kept[:rank]
    v[:, :rank] = right[:rank].T * kept[:rank]
    return torch.from_numpy(u), torch.from_numpy(v)


def test_the_optimum_in_closed_form(members: Bench) -> None:
    """Singular values 4, 3, 2, 1 lowered by 1.5: (3 x 2.25 + 1) / 60 + 0.05 x (2.5 + 1.5 + 0.5)."""
    of = problem(members)
    value, rank = of.optimum()
    assert rank == 3
    assert value == pytest.approx(7.75 / 60 + 0.225)
    u, v = lowered(of, 3, 3)
    assert of.value(u, v) == pytest.approx(value)
    convex = np.linalg.norm((of.y.T - u @ v.T @ of.x.T).numpy()) ** 2 / 60
    convex += 0.05 * np.linalg.svd((u @ v.T).numpy())[1].sum()
    assert convex == pytest.approx(value), "the product's penalty is the nuclear norm there"


def test_a_local_minimum_with_an_all_zero_column_is_global(members: Bench) -> None:
    of = problem(members)
    u, v = lowered(of, 3, 4)
    assert of.slope(u, v) == pytest.approx(0, abs=1e-12)
    assert float(torch.linalg.eigvalsh(of.hessian(u, v))[0]) > -1e-12
    assert of.value(u, v) - of.optimum()[0] == pytest.approx(0, abs=1e-12)
    top = (2.5 + 1.5) / 30 + 2 * 0.05  # as the recipe's header says: its lr must stay below 2 over it
    assert float(torch.linalg.eigvalsh(of.hessian(u, v))[-1]) == pytest.approx(top)
    assert zero_columns(u, v, 1e-3) == 1
    turn, _ = np.linalg.qr(np.random.RandomState(0).standard_normal((4, 4)))
    turned = [part @ torch.from_numpy(turn) for part in (u, v)]
    assert float(turned[0].norm(dim=0).min()) > 0.1
    assert zero_columns(*turned, 1e-3) == 1
    assert of.value(*turned) == pytest.approx(of.value(u, v))
    assert of.certificate(u, v) == pytest.approx(0, abs=1e-12), (
        "singular values that are kept reach the decay"
    )


def test_a_narrow_one_that_is_not_global(members: Bench) -> None:
    """Two columns: no slope, no way down, and yet above the optimum by (2 - 1.5)^2 / 60; a third column finds a way."""
    of = problem(members)
    u, v = lowered(of, 2, 2)
    assert of.slope(u, v) == pytest.approx(0, abs=1e-12)
    assert float(torch.linalg.eigvalsh(of.hessian(u, v))[0]) > -1e-12
    assert of.value(u, v) - of.optimum()[0] == pytest.approx(0.25 / 60)
    assert of.certificate(u, v) == pytest.approx(0.05 - 2 / 30)
    wider = [torch.cat((part, part[:, :1] * 0), dim=1) for part in (u, v)]
    assert float(torch.linalg.eigvalsh(of.hessian(*wider))[0]) == pytest.approx(0.05 - 2 / 30)


def test_slope_and_certificate_against_autograd_and_numpy(members: Bench) -> None:
    of = problem(members)
    draw = torch.Generator().manual_seed(0)
    u, v = (torch.randn(n, 2, generator=draw, dtype=torch.float64, requires_grad=True) for n in (4, 30))
    error = of.y - of.x @ v @ u.T
    loss = (error**2).sum() / 60 + 0.025 * ((u**2).sum() + (v**2).sum())
    by_u, by_v = torch.autograd.grad(loss, (u, v))
    u, v = u.detach(), v.detach()
    assert of.value(u, v) == pytest.approx(loss.item())
    assert of.slope(u, v) == pytest.approx(float((by_u**2).sum() + (by_v**2).sum()) ** 0.5)
    gradient = -(error.T @ of.x).detach().numpy() / 30
    assert of.certificate(u, v) == pytest.approx(0.05 - np.linalg.svd(gradient)[1][0])


def test_trained_factorisations(members: Bench) -> None:
    """Ordinary training with weight decay comes to what is computed above, certificate and all."""
    for columns, gap, zero, is_global in ((2, 0.25 / 60, 0, 0.0), (4, 0.0, 1, 1.0)):
        start = drawn(net("Factorised", columns=columns), members)
        end = descent("900it", members, 3.0, weight_decay=0.05).apply(start, members)
        view = View(end, members)
        found = values(Factorisation(0.05).measure(view, view, members))
        assert found["slope"] < 1e-3
        assert found["objective_gap"] == pytest.approx(gap, abs=1e-5)
        assert found["columns_zero"] == zero
        assert found["columns_needed"] == 3
        assert found["is_global"] == is_global
        assert found["curvature_smallest"] > -1e-5
        assert (found["curvature_smallest_widened"] > -1e-5) == bool(is_global)
    begun = View(drawn(net("Factorised", columns=4), members), members)
    found = values(Factorisation(0.05).measure(begun, begun, members))
    assert found["is_global"] is None, "not stationary"
    assert values(Factorisation(0.05, most=10).measure(begun, begun, members))["curvature_smallest"] is None


def test_what_has_no_certificate_is_told(members: Bench, sphere: Bench, place: Bench) -> None:
    linear = {"_target_": "torch.nn.Linear", "in_features": "@features", "out_features": "@classes"}
    for model, bench in ((MLP, place), ({"name": "linear", "build": linear}, members)):
        other = View(drawn(model, bench), bench)
        for found in Factorisation().measure(other, other, bench):
            assert found.value is None
            assert "product of two matrices" in found.note
    skewed = on("sphere", "one_hot", examples=6, dimension=5)
    view = View(drawn(net("Factorised", columns=2), skewed), skewed)
    for found in Factorisation().measure(view, view, skewed):
        assert found.value is None
        assert "not orthonormal" in found.note


# data, task, models: what they are, what they refuse


def test_points_of_the_sphere() -> None:
    data = on("sphere", "signs", examples=50, dimension=8).dataset
    for part in ("train", "test"):
        x = data.split(part)["x"]
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)
        assert x.shape == (50, 8)
        assert set(data.split(part).labels) == {0, 1}
    assert not np.array_equal(data.split("train")["x"], data.split("test")["x"])
    again = on("sphere", "signs", examples=50, dimension=8).dataset
    other = on("sphere", "signs", examples=50, dimension=8, seed=1).dataset
    assert again.fingerprint == data.fingerprint != other.fingerprint


def test_memberships_have_the_singular_values_that_they_say(members: Bench) -> None:
    feed = members.feed("train")
    assert np.array_equal(np.sort(feed["x"].numpy().argmax(1)), np.arange(30))
    matrix = one_hot(feed.labels, 4).double().T @ feed["x"].double()
    np.testing.assert_allclose(np.linalg.svd(matrix.numpy())[1], [4, 3, 2, 1])


def test_the_loss_and_likelihoods_of_one_hot_targets(members: Bench) -> None:
    logits, labels = torch.tensor([[1.0, 0.0, 2.0, -1.0], [0.0, 0.0, 0.0, 3.0]]), torch.tensor([2, 0])
    assert float(members.task.loss(Outputs(logits), labels)) == pytest.approx((3 / 2 + 10 / 2) / 2)
    said = members.task.log_probs(Outputs(logits), labels).log_probs
    np.testing.assert_allclose(said.exp().sum(1), 1, rtol=1e-6)
    # Gaussian noise of variance 1 about the unit vectors
    density = np.exp(-((logits[0].numpy() - np.eye(4)) ** 2).sum(1) / 2)
    np.testing.assert_allclose(said[0].exp(), density / density.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("read", "settings", "message"),
    [
        ("sphere", {"examples": 0, "dimension": 5}, "examples: 0 is not a whole number of 1 or more"),
        ("sphere", {"examples": 5, "dimension": 1}, "dimension: 1 is not a whole number of 2 or more"),
        ("sphere", {"examples": 10**6, "dimension": 10**3}, "more than 50,000,000 numbers"),
        ("memberships", {"sizes": [3]}, "is no list of two or more sizes"),
        ("memberships", {"sizes": [3, 3]}, "no two classes may be of one size"),
        ("memberships", {"sizes": [3, 0]}, "sizes: 0 is not a whole number of 1 or more"),
        ("memberships", {"sizes": [9000, 3]}, "9003 examples are more than 7,071"),
    ],
)
def test_data_that_cannot_be_made(read: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        on(read, "one_hot", **settings)


def test_targets_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"targets: unknown 'sings'; did you mean signs"):
        on("sphere", "sings", examples=5, dimension=3)
    with pytest.raises(UserError, match="signs are of two classes, and it has 3; targets: one_hot"):
        on("memberships", "signs", sizes=[3, 2, 1])
    with pytest.raises(UserError, match="column x"):
        load({**DIGITS, "task": {"_target_": LEAST_SQUARES}})


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("TwoLayer", {"width": 0}, "two_layer: width: 0 is not a whole number of 1 or more"),
        ("Factorised", {"columns": -1}, "factorised: columns: -1 is not a whole number"),
        ("Factorised", {"columns": 2, "scale": 0.0}, "factorised: scale: 0.0 is not above 0"),
    ],
)
def test_nets_that_cannot_be(kind: str, settings: dict[str, Any], message: str, sphere: Bench) -> None:
    with pytest.raises(UserError, match=message):
        drawn(net(kind, **settings), sphere)


def test_two_layers_answer_two_classes(members: Bench) -> None:
    with pytest.raises(UserError, match="the data set has 4 classes, not 2"):
        drawn(net("TwoLayer", width=3), members)


@pytest.mark.parametrize(
    ("make_probe", "message"),
    [
        (lambda: StraightLine(points=2), "points: 2 is less than 3"),
        (lambda: StraightLine(examples=0), "examples: 0 is not a whole number of 1 or more"),
        (lambda: Fitting([0.5, 0.0]), "levels: 0.0 is no loss above 0"),
        (lambda: TwoLayer(until=2.0), r"until: 2.0 is not in \[0, 1\]"),
        (lambda: NegativeCurvature(starts=0), "starts: 0 is not a whole number of 1 or more"),
        (lambda: Factorisation(weight_decay=0.0), "weight_decay: 0.0 is not a number above 0"),
    ],
)
def test_settings_of_probes_out_of_range(make_probe: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_probe()


def test_what_is_no_length_is_refused() -> None:
    with pytest.raises(UserError, match="follow: '10' is no length"):
        Train("4it", 5, 0.1, DESCENT, follow="10")


def test_rows_that_training_alone_made_equal_were_rounded_by_nobody(members: Bench) -> None:
    state = drawn(net("Factorised", columns=2), members)
    alike = torch.full_like(state.weights["right.weight"], 0.5)
    state = state.with_groups(weights={**state.weights, "right.weight": alike})
    assert index_bits(alike) == 1
    view = View(state, members)
    assert values(Structure().measure(view, view, members))["weight_bits"] == 32


# a moment compares each state with its own


INIT = {"_target_": "compressbench.stages.init.Init", "model": net("TwoLayer", width=3)}
TRAIN = {
    "_target_": "compressbench.stages.train.Train", "length": "2it", "batch_size": 4, "lr": 0.1, "optimizer": DESCENT,
}  # fmt: skip


def planned(moment: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(series, state, reference) of the moment's measures."""
    stages = {
        "init": INIT,
        "dense": TRAIN,
        "width": {
            "_target_": "compressbench.stages.repeat.ForEach",
            "values": [5, 7],
            "set": "init.model.build.width",
            "stages": {"init": INIT, "train": TRAIN},
        },
        "again": {**TRAIN, "from": "dense"},
    }
    compare = {"reference": "dense", "series": {"narrower": "width_*.train"}, "moments": {"own": moment}}
    plan = make({"stages": stages, "compare": compare}, 0, Context("", "cpu", 1))
    return [(m.series, m.state, m.reference) for m in plan.measures if m.moment == "own"]


def test_each_state_is_compared_with_that_of_its_own_block() -> None:
    series = {"narrower": "width_*.train", "again": "again"}
    assert planned({"own_reference": "init", "series": series}) == [
        ("dense", "dense", "init"),
        ("narrower", "width_5.train", "width_5.init"),
        ("narrower", "width_7.train", "width_7.init"),
        ("again", "again", "init"),
    ]


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (
            {"own_reference": "innit"},
            "own_reference: width_5.train has no state 'innit' before it; did you mean init",
        ),
        ({"own_reference": "train"}, "own_reference: width_5.train has no state 'train' before it"),
        (
            {"own_reference": "init", "reference": "init"},
            "reference and own_reference; a moment has one of them",
        ),
    ],
)
def test_own_references_that_are_none(moment: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        planned({**moment, "series": {"narrower": "width_*.train"}})


# recipes and the report


def test_the_recipes_compose_at_every_scale() -> None:
    sizes = {}
    for scale in ("smoke", "laptop", "paper"):
        config = composed(["recipe=overparameterization", f"scale={scale}"])
        data, stages = config["dataset"]["read"], config["recipe"]["stages"]
        assert stages["dense"]["batch_size"] == data["examples"], "all examples at once"
        assert stages["dense"]["lr"] / data["examples"] == pytest.approx(0.1), "eta, as the header says"
        sizes[scale] = data["examples"]
    assert sizes == {"smoke": 20, "laptop": 100, "paper": 1000}
    config = composed(["recipe=overparameterization_factorised", "recipe.weight_decay=0.02"])
    assert config["evaluation"]["of_moments"]["factorisation"]["weight_decay"] == 0.02
    assert config["recipe"]["stages"]["dense"]["weight_decay"] == 0.02


def planted() -> Records:
    """Two widths and the widest over two seeds; the loss halves every 10, 5 and 2 steps."""
    rows = []

    def add(series: str, order: int, width: int, halving_: int) -> None:
        for seed in (0, 1):
            here = {"series": series, "order": order, "seed": seed, "state": f"width_{width}.train"}
            rows.append(record(**here, value=50.0))
            own = {**here, "moment": "from its start", "unit": "1"}
            for probe, metric, value, unit in (
                ("two_layer", "width", width, "1"),
                ("two_layer", "patterns_flipped", 30.0 / halving_, "%"),
                ("two_layer", "neuron_move_largest", 1.0 / width, "1"),
                ("straight_line", "line_rise", 0.0, "1"),
                ("negative_curvature", "negative_curvature", 10.0 + seed, "%"),
                ("negative_curvature", "dimensions", 7.0 * width, "1"),
            ):
                rows.append(record(**{**own, "unit": unit}, probe=probe, metric=metric, value=value))
            for step in (0, 10, 20):
                at = {"probe": "fitting", "metric": "fitted_loss_at", "group": str(step)}
                rows.append(record(**own, **at, value=2 ** (-step / halving_)))
                at = {"probe": "two_layer", "metric": "loss_proven_at", "group": str(step)}
                rows.append(record(**own, **at, value=2 ** (-step / 50), basis="theoretical"))
            for place in (0, 0.5, 1):
                at = {"probe": "straight_line", "metric": "line_loss", "group": f"{place:g}"}
                rows.append(record(**own, **at, value=1 - place / 2))
            for level in ("0.5", "0.1"):
                at = {"probe": "fitting", "metric": "epochs_to_loss", "group": level}
                value = float(halving_) if level == "0.5" or width > 5 else None
                rows.append(
                    record(**{**own, "unit": "epochs"}, **at, value=value, note="" if value else "never")
                )

    add("dense", 0, 100, 2)
    add("narrower", 1, 5, 10)
    add("narrower", 2, 20, 5)
    return Records(rows)


def test_the_section_draws_and_tabulates_what_was_measured(tmp_path: Path) -> None:
    (panel,) = panels(planted())
    found = nets(panel, "from its start")
    assert [net_.label for net_ in found] == ["width 5", "width 20", "width 100"]
    with drawing.settings():
        made = section(panel, "")
    assert [chart.title for chart in made.charts] == [
        "Training loss against steps",
        "Training loss on the line from start to end",
        "Epochs until the training loss is reached",
        "Activation patterns flipped since the start",
        "Largest move of a neuron",
        "Share of negative curvature",
    ]
    assert all(
        name in made.charts[0].svg for name in ("width 5", "width 20", "width 100", "proven, width 100")
    )
    assert [table.title.partition(",")[0] for table in made.tables] == [
        "Moves from the start",
        "Line from start to end",
        "Negative curvature",
        "Fit",
    ]
    fit = made.tables[-1]
    heads = [head for head, _ in fit.heads]
    place = heads.index("Epochs to a loss of 0.1")
    assert {
        row.cells[heads.index("State")].text: row.cells[place].text
        for row in fit.rows
        if row.label != "dense"
    }
    assert [row.cells[place].text[:1] for row in fit.rows] == ["2", "–", "5"]
    known = shown(panel, "from its start")
    assert {
        (r.probe, r.metric, bool(r.group))
        for r in panel.rows
        if r.probe not in ("accuracy", "negative_curvature")
    } <= known
    page = write_report(planted(), tmp_path, "widths").read_text(encoding="utf-8")
    assert page.count("Ease of training") >= 1


def test_a_report_without_such_figures_has_no_such_section() -> None:
    (panel,) = panels(Records([record(), record(series="narrower", order=1, value=80.0)]))
    assert section(panel, "").empty


def test_the_curve_of_a_state_stays_json(wide: tuple[State, State]) -> None:
    assert json.loads(json.dumps(wide[1].facts["curve"])) == wide[1].facts["curve"]


def test_no_mean_of_the_seeds_that_came_to_a_level() -> None:
    """Width 5 at level 0.5: seed 1 never came there."""
    rows = [
        dataclasses.replace(r, value=None, note="never within 20 steps")
        if (r.metric, r.group, r.seed, r.state) == ("epochs_to_loss", "0.5", 1, "width_5.train")
        else r
        for r in planted()
    ]
    (panel,) = panels(Records(rows))
    with drawing.settings():
        made = section(panel, "")
    fit = next(t for t in made.tables if t.title.startswith("Fit"))
    place = [head for head, _ in fit.heads].index("Epochs to a loss of 0.5")
    assert sorted(row.cells[place].text for row in fit.rows) == ["1 of 2 reached", "2.00", "5.00"]
    found = nets(panel, "from its start")
    (line,) = _against_size(found, "fitting", "epochs_to_loss", "", "0.5", every_seed)
    assert [size for size, _ in line[2]] == [20, 100]
    chart = next(c for c in made.charts if c.title.startswith("Epochs"))
    assert "at one seed or more, has no mark" in chart.caption


def test_groups_that_are_no_numbers_do_not_kill_the_report(tmp_path: Path) -> None:
    like = {
        "series": "narrower",
        "order": 1,
        "state": "width_5.train",
        "moment": "from its start",
        "unit": "1",
    }
    hostile = ["abc", "nan", "inf", "9" * 5000, "../../evil", "<b>"]
    rows = [
        record(**like, probe=probe, metric=metric, group=group, value=1.0)
        for group in hostile
        for probe, metric in BY_GROUP
    ]
    mixed = Records([*planted(), *rows])
    (panel,) = panels(mixed)
    with drawing.settings():
        made = section(panel, "")
    assert len(made.charts) == 6
    assert [from_text(group) for group in ("0.5", "-1e3", *hostile)] == [0.5, -1000.0, *[None] * 6]
    write_report(mixed, tmp_path, "widths")


def test_yes_and_no_of_seeds_are_counted(tmp_path: Path) -> None:
    here = {
        "moment": "from its start",
        "unit": "1",
        "series": "narrower",
        "order": 1,
        "state": "width_5.train",
    }
    rows = [
        record(**here, seed=seed, probe=probe, metric=metric, value=value)
        for seed, value in ((0, 1.0), (1, 0.0))
        for probe, metric in (("straight_line", "line_monotone"), ("factorisation", "is_global"))
    ]
    (panel,) = panels(Records([*planted(), *rows]))
    with drawing.settings():
        made = section(panel, "")
    seen = 0
    for table in made.tables:
        for k, (head, unit) in enumerate(table.heads):
            if head in ("Falls all along", "Global minimum"):
                (cell,) = [row.cells[k] for row in table.rows if row.cells[k].text != "\N{EN DASH}"]
                # Wilson's by hand: (1/2 + z^2/4) / (1 + z^2/2) -+ z sqrt(1/8 + z^2/16) / (1 + z^2/2), z = 1.96
                assert cell.plain == "1 of 2 (9 to 91 %)"
                assert "seeds" in unit
                seen += 1
    assert seen == 2


def test_the_caption_says_of_the_proven_rate_what_the_record_says() -> None:
    here = {
        "moment": "from its start",
        "unit": "iterations",
        "basis": "theoretical",
        "state": "width_100.train",
    }
    for note in (
        "the theorem's conditions hold with constants of 1",
        "a comparison, no guarantee: eta is 0.1",
    ):
        row = record(**here, series="dense", order=0, probe="two_layer", metric="loss_halved_in_proven",
                     value=50.0, note=note)  # fmt: skip
        (panel,) = panels(Records([*planted(), row]))
        with drawing.settings():
            chart = section(panel, "").charts[0]
        assert note in chart.caption
        assert ("don’t hold" in chart.caption) is False


def test_one_seed_of_estimated_curvature_has_bars_of_the_estimate() -> None:
    one = Records([r for r in planted() if r.seed == 0])
    ends = [
        dataclasses.replace(r, metric=f"negative_curvature_{end}", value=r.value + off)
        for r in one
        if r.metric == "negative_curvature" and r.order != 1 and r.value is not None
        for end, off in (("low", -2.0), ("high", 3.0))
    ]
    captions = []
    for rows in (list(one), [*one, *ends]):
        (panel,) = panels(Records(rows))
        with drawing.settings():
            captions.append(section(panel, "").charts[-1].caption)
    assert "Grey bars" not in captions[0]
    assert "Grey bars: the estimate’s 95 % interval" in captions[1]
    found = {net_.label: _estimated(net_) for net_ in nets(panel, "from its start")}
    assert found["width 5"] is None, "its whole Hessian was taken"
    assert found["width 100"] == (100, 10.0, 8.0, 13.0)
    known = shown(panel, "from its start")
    assert {("negative_curvature", f"negative_curvature_{end}", False) for end in ("low", "high")} <= known
