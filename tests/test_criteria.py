"""Criteria: exact toy cases, estimators against autograd, planted effects, and their one-line errors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian

from compressbench.bench import Bench
from compressbench.criteria.bn_scale import bn_scale, scales
from compressbench.criteria.curvature import deletion_costs, hutchinson
from compressbench.criteria.given import Given, Saliency
from compressbench.criteria.gradients import batches, differentiable, mean_gradients, per_example
from compressbench.criteria.large_final_same_sign import large_final_same_sign
from compressbench.criteria.magnitude import magnitude
from compressbench.criteria.magnitude_increase import magnitude_increase
from compressbench.criteria.movement import movement
from compressbench.criteria.obd_fisher import mean_square, obd_fisher
from compressbench.criteria.obd_hutchinson import obd_hutchinson
from compressbench.criteria.obd_recursion import cross_entropy_seed, obd_recursion, recursion
from compressbench.criteria.obs import obs
from compressbench.criteria.small_final import small_final
from compressbench.criteria.snip import snip
from compressbench.criteria.taylor import taylor
from compressbench.criteria.woodfisher import (
    add_gradients,
    in_blocks,
    inverse_identity,
    saliency,
    update,
    woodfisher,
)
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.pruning.unstructured import whole_masks
from compressbench.state import State
from tiny import TINY, Tiny

RESNET = {
    "name": "resnet8",
    "build": {
        "_target_": "compressbench.models.resnet.CifarResNet",
        "depth": 8,
        "shape": "@shape",
        "classes": "@classes",
        "width": 4,
    },
}


def given_of(state: State, bench: Bench, **references: State) -> Given:
    weights = {n: state.weights[n] for n in state.facts["prunable"]}
    own = dataclasses.replace(bench, name="prune", references=references)
    return Given(weights, whole_masks(state), state, own)


@pytest.fixture
def tiny(bench: Bench) -> Given:
    return given_of(drawn(TINY, bench), bench)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- Optimal Brain Damage ------------------------------------------------------------------------------------------


def test_magnitude_is_not_saliency(tiny: Given) -> None:
    weights, h = {"w": torch.tensor([0.1, 1.0])}, {"w": torch.tensor([400.0, 1.0])}
    cost = deletion_costs(weights, h)["w"]
    assert torch.allclose(cost, torch.tensor([2.0, 0.5]))
    small = magnitude(dataclasses.replace(tiny, weights=weights))["w"]
    assert int(small.argmin()) == 0
    assert int(cost.argmin()) == 1


def test_a_linear_layer_under_squared_error_has_the_mean_square_of_its_inputs() -> None:
    x, y = rand(50, 7), rand(50, 3, seed=1)
    layer = nn.Sequential(nn.Linear(7, 3, bias=False)).double()
    found = recursion(layer, x, torch.ones_like)["0.weight"] / len(x)
    whole = hessian(lambda w: 0.5 * (x @ w.T - y).square().sum(1).mean(), layer[0].weight.detach())
    exact = whole.reshape(21, 21).diagonal().view(3, 7)
    assert torch.allclose(found, exact, atol=1e-12)
    assert torch.allclose(found, x.square().mean(0).expand(3, 7), atol=1e-12)


def test_the_recursion_is_exact_for_the_last_linear_layer_under_cross_entropy() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x, labels = rand(30, 6), torch.arange(30) % 4
    found = recursion(net, x, cross_entropy_seed)
    hidden = net[1](net[0](x)).detach()

    def loss(w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(hidden, w, net[2].bias), labels)

    exact = hessian(loss, net[2].weight.detach()).reshape(20, 20).diagonal().view(4, 5)
    assert torch.allclose(found["2.weight"] / 30, exact, atol=1e-12)
    assert (found["0.weight"] >= 0).all()
    assert found["0.weight"].shape == (5, 6)


def test_the_recursion_by_hand_through_a_hidden_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x = rand(30, 6)
    a = net[0](x)
    above = cross_entropy_seed(net(x))
    own = (1 - a.tanh().square()).square() * (above @ net[2].weight.square())
    assert torch.allclose(recursion(net, x, cross_entropy_seed)["0.weight"], own.T @ x.square(), atol=1e-12)


def test_the_recursion_is_exact_where_nothing_crosses() -> None:
    """One path from each first weight to one output: no cross terms to drop, ReLU has no f''."""
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1, groups=3, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 3),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        net[1].running_var.copy_(torch.tensor([0.3, 2.0, 1.5]))
        net[1].weight.copy_(torch.tensor([0.5, -1.5, 2.0]))
        net[6].weight.copy_(torch.diag(torch.tensor([2.0, -1.0, 0.5])))
    x = torch.zeros(9, 3, 4, 4, dtype=torch.float64)
    x[..., 0, 0] = rand(9, 3)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return 0.5 * torch.func.functional_call(net, {"0.weight": w}, (x,)).square().sum()

    exact = hessian(loss, net[0].weight.detach()).reshape(3, 3).diagonal()
    found = recursion(net, x, torch.ones_like)["0.weight"].flatten()
    assert exact.abs().min() > 0
    assert torch.allclose(found, exact, atol=1e-12)


def test_shared_weights_sum_over_their_uses() -> None:
    conv = nn.Conv1d(2, 3, 3, stride=2, padding=1).double()
    net = nn.Sequential(conv, nn.Flatten())
    x = rand(4, 2, 9)
    patches = F.pad(x, (1, 1)).unfold(2, 3, 2)
    expected = patches.square().sum((0, 2)).expand(3, 2, 3)
    assert torch.allclose(recursion(net, x, torch.ones_like)["0.weight"], expected, atol=1e-12)


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AdaptiveAvgPool2d(2)]
)
def test_average_pooling_squares_its_jacobian(pool: nn.Module) -> None:
    from compressbench.criteria.obd_recursion import through_average

    x, above = rand(1, 1, 5, 5), rand(1, 1, 2, 2).abs() if not isinstance(pool, nn.AvgPool2d) else None
    above = pool(x).abs() if above is None else above
    jacobian = torch.func.jacrev(pool)(x).reshape(above.numel(), 25)
    expected = jacobian.square().T @ above.flatten()
    assert torch.allclose(through_average(pool, x, above).flatten(), expected, atol=1e-12)


def test_the_recursion_refuses_what_it_does_not_know(bench: Bench) -> None:
    with pytest.raises(
        UserError,
        match=r"obd_recursion: a branch at layer1\.0\.downsample \(Identity\); it knows linear.*obd_fisher",
    ):
        obd_recursion(given_of(drawn(RESNET, bench), bench))
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    with pytest.raises(UserError, match=r"no rule at 1 \(LayerNorm\)"):
        recursion(net, torch.ones(2, 4), torch.ones_like)

    class Loops(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"Loops can't be traced .*use obd_fisher"):
        recursion(Loops(), torch.ones(2, 4), torch.ones_like)

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.a(x)
            return self.b(x)

    with pytest.raises(UserError, match=r"a branch at b \(Linear\)"):
        recursion(Branches(), torch.ones(2, 4), torch.ones_like)

    class Adds(Branches):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.a(x)

    with pytest.raises(UserError, match=r"no rule at add in 0; it knows"):
        recursion(nn.Sequential(Adds()), torch.ones(2, 4), torch.ones_like)


def test_hutchinson_is_exact_on_a_diagonal_hessian() -> None:
    w = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)
    h = torch.tensor([3.0, 5.0, 7.0])
    for z in ([1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]):
        assert hutchinson((h * w.square()).sum() / 2, [w], [[torch.tensor(z)]])[0].tolist() == [3.0, 5.0, 7.0]


def test_hutchinson_over_all_signs_is_the_diagonal() -> None:
    import itertools

    root = rand(4, 4)
    h = root @ root.T
    w = rand(4, seed=2).requires_grad_(True)
    every = [[torch.tensor(z, dtype=torch.float64)] for z in itertools.product([-1.0, 1.0], repeat=4)]
    found = hutchinson(w @ h @ w / 2, [w], every)[0]
    assert torch.allclose(found, h.diagonal(), atol=1e-12)
    one = hutchinson(w @ h @ w / 2, [w], every[5:6])[0]
    assert not torch.allclose(one, h.diagonal(), atol=1e-3)


def test_three_estimators_on_one_net(tiny: Given) -> None:
    few = {"examples": 300}
    found = {
        "recursion": obd_recursion(tiny, **few).scores,
        "fisher": obd_fisher(tiny, **few).scores,
        "hutchinson": obd_hutchinson(tiny, **few, probes=128).scores,
    }
    last = "fc.weight"
    assert all((s >= 0).all() for scores in found.values() for s in scores.values())
    exact = found["recursion"][last].flatten()
    noisy = found["hutchinson"][last].flatten()
    assert float(torch.corrcoef(torch.stack([exact, noisy]))[0, 1]) > 0.5
    other = found["fisher"][last].flatten()
    assert float(torch.corrcoef(torch.stack([exact, other]))[0, 1]) > 0.5


@pytest.mark.parametrize(
    "criterion",
    [taylor, snip, obd_recursion, obd_fisher, obd_hutchinson, functools.partial(woodfisher, damping=1e-12)],
)
def test_weights_of_a_dead_channel_are_free_whatever_their_size(bench: Bench, criterion: Callable) -> None:
    """Planted: batch norm shuts channel 0, so its filter and what reads it do nothing, though they are the largest."""
    state = drawn(TINY, bench)
    weights = {n: t.clone() for n, t in state.weights.items()}
    weights["features.1.weight"][0] = weights["features.1.bias"][0] = 0
    weights["features.0.weight"][0] *= 10
    weights["features.4.weight"][:, 0] *= 10
    given = given_of(state.with_groups(weights=weights), bench)

    def dead(scores: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat(
            [scores["features.0.weight"][0].flatten(), scores["features.4.weight"][:, 0].flatten()]
        )

    def everything(scores: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([s.flatten() for s in scores.values()])

    found = criterion(given)
    scores = found.scores if isinstance(found, Saliency) else found
    assert dead(scores).max() < 1e-3 * everything(scores).mean()
    assert dead(magnitude(given)).mean() > 3 * everything(magnitude(given)).mean()


# --- gradients -----------------------------------------------------------------------------------------------------


def test_gradients_per_example_equal_a_loop(tiny: Given) -> None:
    module, parameters = differentiable(tiny)
    task = tiny.bench.task
    data = list(batches(tiny, 11, size=6))
    chunks = list(per_example(module, parameters, data, task, chunk=4))
    inputs, labels = torch.cat([d[0][0] for d in data]), torch.cat([d[1] for d in data])
    assert sum(d[2] for d in data) == pytest.approx(1)
    for name in parameters:
        together = torch.cat([c[name] for c in chunks])
        assert together.shape == (11, *parameters[name].shape)
        for i in range(11):
            loss = F.cross_entropy(module(inputs[i : i + 1]), labels[i : i + 1])
            alone = torch.autograd.grad(loss, parameters[name])[0]
            assert torch.allclose(together[i], alone, atol=1e-6)
    mean = mean_gradients(module, parameters, data, task)
    for name in parameters:
        assert torch.allclose(mean[name], torch.cat([c[name] for c in chunks]).mean(0), atol=1e-6)


def test_squaring_the_batch_mean_is_wrong() -> None:
    """Two examples whose gradients cancel: the mean gradient is 0, the Fisher is not."""
    pairs = [{"w": torch.tensor([[3.0, 1.0], [-3.0, 1.0]])}, {"w": torch.tensor([[3.0, 1.0]])}]
    assert mean_square(pairs)["w"].tolist() == [9.0, 1.0]
    mean = torch.cat([p["w"] for p in pairs]).mean(0).square()
    assert mean[0] == 1


def test_fisher_is_the_mean_square_of_a_loop(tiny: Given) -> None:
    module, parameters = differentiable(tiny)
    ((inputs,), labels, _), *_ = batches(tiny, 20)
    exact = {n: torch.zeros_like(p) for n, p in parameters.items()}
    for i in range(20):
        loss = F.cross_entropy(module(inputs[i : i + 1]), labels[i : i + 1])
        for n, g in zip(exact, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            exact[n] += g.square() / 20
    found = obd_fisher(tiny, examples=20).scores
    for n, w in tiny.weights.items():
        assert torch.allclose(found[n], exact[n] * w.square() / 2, rtol=1e-4, atol=1e-10)


def test_taylor_is_the_first_order_change(tiny: Given) -> None:
    module, parameters = differentiable(tiny)
    ((inputs,), labels, _), *_ = batches(tiny, 100)
    gradients = torch.autograd.grad(F.cross_entropy(module(inputs), labels), list(parameters.values()))
    found, squared = taylor(tiny, examples=100), taylor(tiny, examples=100, square=True)
    for (n, w), g in zip(tiny.weights.items(), gradients, strict=True):
        assert torch.allclose(found[n], (w * g).abs(), atol=1e-7)
        assert torch.allclose(squared[n], (w * g).square(), atol=1e-7)
    other = taylor(tiny, examples=100, split="validation")
    assert not torch.equal(found["fc.weight"], other["fc.weight"])


def test_snip_sums_to_one_and_normalises_by_its_batch(tiny: Given) -> None:
    found = snip(tiny, examples=50)
    assert sum(float(s.sum()) for s in found.values()) == pytest.approx(1, abs=1e-5)
    shifted = dict(tiny.state.weights)
    shifted["features.1.running_mean"] = torch.full((4,), 1e3)
    moved = dataclasses.replace(tiny, state=tiny.state.with_groups(weights=shifted))
    again = snip(moved, examples=50)
    assert all(torch.equal(found[n], again[n]) for n in found)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"examples": 0}, r"criterion\.examples: 0 is not a whole number of at least 1"),
        ({"examples": True}, r"criterion\.examples: True"),
        ({"split": "test"}, r"criterion\.split: unknown 'test'"),
    ],
)
def test_bad_settings_of_taylor(tiny: Given, settings: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        taylor(tiny, **settings)


def test_scores_of_a_diverged_net_are_refused(tiny: Given) -> None:
    weights = {n: t * float("nan") if n == "fc.weight" else t for n, t in tiny.state.weights.items()}
    harmed = dataclasses.replace(tiny, state=tiny.state.with_groups(weights=weights))
    with pytest.raises(UserError, match=r"criterion taylor: scores of features\.0\.weight are not finite"):
        taylor(harmed, examples=10)


def test_a_net_without_gradients_per_example_gets_one_line(tiny: Given) -> None:
    class Noisy(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + (1 if float(x.sum()) > 0 else 0)

    module = Noisy([1, 8, 8], 10).eval()
    parameters = {n: p for n, p in module.named_parameters() if n == "fc.weight"}
    with pytest.raises(UserError, match=r"Noisy has no gradient per example \(.*\); use a criterion"):
        list(per_example(module, parameters, batches(tiny, 4), tiny.bench.task))


def test_criteria_leave_what_they_are_given(tiny: Given) -> None:
    before = {n: t.clone() for n, t in tiny.state.weights.items()}
    taylor(tiny, 20)
    snip(tiny, 20)
    obd_recursion(tiny, 20)
    obd_hutchinson(tiny, 20, probes=1)
    masks = {n: torch.zeros_like(m) for n, m in tiny.masks.items()}
    made = woodfisher(tiny, examples=20)
    made.compensate(masks)
    assert all(torch.equal(t, before[n]) for n, t in tiny.state.weights.items())
    assert all(m.all() for m in tiny.masks.values())


# --- Optimal Brain Surgeon, WoodFisher -----------------------------------------------------------------------------


def test_brain_surgeon_by_hand() -> None:
    h = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    w = torch.ones(1, 2, dtype=torch.float64)
    inverse = torch.linalg.inv(h).unsqueeze(0)
    assert torch.allclose(saliency(inverse, w), torch.full((1, 2), 0.75, dtype=torch.float64))
    moved = update(inverse, w, torch.tensor([[True, False]]))
    assert torch.allclose(moved, torch.tensor([[-1.0, 0.5]], dtype=torch.float64))
    assert float(moved[0] @ h @ moved[0] / 2) == pytest.approx(0.75)
    assert deletion_costs({"w": w[0]}, {"w": h.diagonal()})["w"].tolist() == [1.0, 1.0]


def test_removing_many_is_the_constrained_minimum() -> None:
    root = rand(2, 6, 9)
    h = root @ root.transpose(1, 2)
    w = rand(2, 6, seed=3)
    gone = torch.tensor([[True, False, True, True, False, False], [False] * 6])
    moved = update(torch.linalg.inv(h), w, gone)
    assert torch.allclose((w + moved)[gone], torch.zeros(3, dtype=torch.float64), atol=1e-10)
    gradient = (h[0] @ moved[0])[~gone[0]]
    assert torch.allclose(gradient, torch.zeros(3, dtype=torch.float64), atol=1e-8)
    assert not moved[1].any()


@pytest.mark.parametrize("chunk", [1, 4, 25])
def test_the_recursion_of_woodfisher_is_the_inverse(chunk: int) -> None:
    g, damping = rand(25, 3, 8), 1e-2
    inverse = inverse_identity(torch.zeros(3, 8), damping)
    for part in g.split(chunk):
        add_gradients(inverse, part.transpose(0, 1), 25)
    for block in range(3):
        own = g[:, block]
        exact = torch.linalg.inv(damping * torch.eye(8, dtype=torch.float64) + own.T @ own / 25)
        assert torch.allclose(inverse[block], exact, atol=1e-12, rtol=0)


def test_blocks_are_filled_up() -> None:
    assert in_blocks(torch.arange(5), 2).tolist() == [[0, 1], [2, 3], [4, 0]]
    assert in_blocks(torch.ones(3, 4), 4).shape == (3, 1, 4)


def test_blocks_of_one_are_the_diagonal_fisher(tiny: Given) -> None:
    scores = woodfisher(tiny, block=1, damping=1e-9, examples=64).scores
    fisher = obd_fisher(tiny, examples=64).scores
    for name in scores:
        assert torch.allclose(scores[name], fisher[name], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("block", [16, None])
def test_what_stays_makes_up_for_what_goes(bench: Bench, block: int | None) -> None:
    """On the quadratic model itself: the predicted rise is smaller with the update than without."""
    state = drawn(TINY, bench)
    old = {n: torch.ones_like(state.weights[n], dtype=torch.bool) for n in state.facts["prunable"]}
    old["fc.weight"][0] = False
    state = state.with_groups(
        weights={n: t * old[n] if n in old else t for n, t in state.weights.items()}, masks=old
    )
    given = given_of(state, bench)
    made = woodfisher(given, block=block, damping=1e-3, examples=64)
    assert made.compensate
    masks = {n: m & (s > s[m].median()) for (n, s), m in zip(made.scores.items(), old.values(), strict=True)}
    new = made.compensate(masks)
    for n, w in given.weights.items():
        assert new[n].shape == w.shape
        assert new[n].dtype == w.dtype
        assert not new[n][~masks[n]].any()
        assert not torch.equal(new[n], w * masks[n])
    module, parameters = differentiable(given)
    chunks = list(per_example(module, parameters, batches(given, 64), bench.task))

    def rise(after: dict) -> float:
        total = 0.0
        for n, w in given.weights.items():
            g = torch.cat([c[n] for c in chunks]).flatten(1)
            size = block or w.numel()
            dw = in_blocks((after[n] - w).flatten(), size)
            along = (in_blocks(g, size) * dw).sum(2)
            total += float(along.square().mean(0).sum() / 2 + 1e-3 * dw.square().sum() / 2)
        return total

    assert rise(dict(new)) < 0.9 * rise({n: w * masks[n] for n, w in given.weights.items()})


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"block": 0}, r"criterion\.block: 0 is not a whole number of at least 1, or null"),
        ({"damping": 0}, r"criterion\.damping: 0 is not above 0"),
    ],
)
def test_bad_settings_of_woodfisher(tiny: Given, settings: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        woodfisher(tiny, **settings)


def test_blocks_that_are_too_large_are_refused(tiny: Given) -> None:
    big = {"fc.weight": torch.zeros(1).expand(300, 784)}
    with pytest.raises(
        UserError, match=r"blocks of whole layers takes 412\.2 GiB, at most 8 .* block: 4565 or less"
    ):
        obs(dataclasses.replace(tiny, weights=big))


# --- comparisons with an earlier state, training's own scores, batch norm ---------------------------------------------


def test_comparisons_with_an_earlier_state(bench: Bench) -> None:
    state = drawn(TINY, bench)
    now, then = torch.tensor([0.5, -2.0, 1.0]), torch.tensor([1.0, 1.5, 0.25])
    old = State({}, {"weights": {"w": then}})
    given = Given(
        {"w": now},
        {"w": now != 0},
        state,
        dataclasses.replace(bench, references={"init": old}),
    )
    assert magnitude_increase(given, since="init")["w"].tolist() == [-0.5, 0.5, 0.75]
    assert large_final_same_sign(given, since="init")["w"].tolist() == [0.5, -2.0, 1.0]
    assert small_final(given)["w"].tolist() == [-0.5, -2.0, -1.0]
    wrong = dataclasses.replace(given, weights={"w": torch.zeros(2)})
    with pytest.raises(UserError, match=r"criterion\.since: w is of shape \(3,\) in init, here \(2,\)"):
        magnitude_increase(wrong, since="init")
    with pytest.raises(UserError, match=r"criterion\.since: v is missing in init"):
        large_final_same_sign(dataclasses.replace(given, weights={"v": now}), since="init")


def test_movement_reads_what_training_left(tiny: Given) -> None:
    with pytest.raises(
        UserError, match=r"criterion movement: the state has no movement of features\.0\.weight; .*add"
    ):
        movement(tiny)
    group = {n: torch.randn_like(w) for n, w in tiny.weights.items()}
    state = tiny.state.with_groups(movement=group)
    found = movement(dataclasses.replace(tiny, state=state))
    assert all(found[n] is group[n] for n in group)


def test_batch_norm_scale_of_the_norm_that_follows(tiny: Given) -> None:
    weights = {**tiny.state.weights, "features.1.weight": torch.tensor([0.5, -3.0, 0.0, 1.0])}
    found = bn_scale(dataclasses.replace(tiny, state=tiny.state.with_groups(weights=weights)))
    first = found["features.0.weight"]
    assert first.shape == (4, 1, 3, 3)
    assert first[:, 0, 1, 1].tolist() == [0.5, 3.0, 0.0, 1.0]
    assert (first == first[:, :1, :1, :1]).all()
    for name in ("features.4.weight", "fc.weight"):
        assert (found[name] == 3.0).all(), "what no norm follows goes last"


def test_batch_norm_scale_in_a_residual_net_and_in_one_without(bench: Bench) -> None:
    given = given_of(drawn(RESNET, bench), bench)
    from compressbench.models.build import module_of

    found = scales(module_of(given.state), bench.task.blank(1))
    assert found.keys() == {n for n in given.weights if n != "fc.weight"}
    from conftest import MLP

    with pytest.raises(UserError, match="criterion bn_scale: no batch norm follows"):
        bn_scale(given_of(drawn(MLP, bench), bench))
