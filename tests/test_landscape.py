"""The loss as a function of the weights: curvature against closed forms and a second library, rescaling, extents."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.models.equivalent import Pair, pairs, rescaled
from compressbench.outputs import Outputs, forward
from compressbench.probes import landscape
from compressbench.probes.flat_region import FlatRegion
from compressbench.probes.hessian import Hessian
from compressbench.probes.landscape import (
    Landscape,
    ascent,
    extent,
    forms,
    keskar,
    lanczos,
    landscape_of,
    random_direction,
)
from compressbench.probes.sharpness import Sharpness
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.views import View
from conftest import MLP
from test_flat import MAGNITUDE, RESNET, stepper, train
from tiny import TINY


class Bowl(nn.Module):
    """Its "logits" are its weights; with the loss below, sum of a w² / 2."""

    def __init__(self, start: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start))

    def forward(self, x):
        return self.w.expand(len(x), -1)


@dataclasses.dataclass(frozen=True)
class Parabola:
    """A task whose loss is a w² / 2, summed over weights."""

    a: torch.Tensor

    def loss(self, outputs: Outputs, labels: torch.Tensor) -> torch.Tensor:
        return (self.a * outputs.logits**2 / 2).sum(1).mean()


def bowl(a: list[float], w: list[float], masks=None) -> Landscape:
    batch = [
        ((torch.zeros(3, 1),), torch.zeros(3, dtype=torch.long)),
        ((torch.zeros(2, 1),), torch.zeros(2, dtype=torch.long)),
    ]
    return landscape_of(Bowl(w), masks or {}, batch, Parabola(torch.tensor(a)))  # type: ignore[arg-type]


A, W = [4.0, 1.0, 0.25, 9.0], [0.5, -2.0, 3.0, 1.0]


def test_a_diagonal_quadratic_in_closed_form() -> None:
    place = bowl(A, W)
    a, w = torch.tensor(A), torch.tensor(W)
    assert place.loss() == pytest.approx(float((a * w**2 / 2).sum()))
    torch.testing.assert_close(place.gradient(), a * w)
    v = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(place.product(v), a * v)
    found = lanczos(place.product, torch.ones(4), 1e-6)
    assert found.value == pytest.approx(9, rel=1e-6)
    assert abs(found.vector[3]) == pytest.approx(1, abs=1e-3)
    for estimate in landscape.trace(place, torch.Generator().manual_seed(0), 3):
        assert estimate == pytest.approx(sum(A)), "exact where the Hessian is diagonal"
    # the loss at w + e with e = rho g / ||g||
    e = 0.3 * a * w / (a * w).norm()
    assert ascent(place, place.gradient(), 0.3) == pytest.approx(
        float((a * (w + e) ** 2 / 2).sum() - (a * w**2 / 2).sum()), rel=1e-5
    )
    assert ascent(place, place.gradient(), 0.0) == 0
    # in a box the worst corner of a parabola is away from zero
    box = 1e-2 * (w.abs() + 1)
    worst = float((a * (w.abs() + box) ** 2 / 2).sum())
    base = place.loss()
    assert keskar(place, 1e-2, 3, torch.Generator()) == pytest.approx(
        100 * (worst - base) / (1 + base), rel=1e-4
    )


def test_extents_of_a_parabola() -> None:
    place = bowl([2.0], [0.0])
    for rise in (0.1, 1.0):
        assert extent(place, torch.ones(1), rise, 100.0) == pytest.approx(rise**0.5, rel=2e-3)
    assert extent(bowl([0.0], [1.0]), torch.ones(1), 0.1, 7.0) == 7.0, "never rises"


def test_more_dimensions_than_weights_are_refused() -> None:
    place = bowl(A, W, {"w": torch.tensor([True, False, True, True])})
    with pytest.raises(UserError, match="dimensions: 4 is more than the 3 weights that can move"):
        keskar(place, 1e-3, 2, torch.Generator(), dimensions=4)
    assert keskar(place, 1e-3, 2, torch.Generator().manual_seed(0), dimensions=3) > 0


def test_very_short_extents_are_found() -> None:
    assert extent(bowl([2e10], [0.0]), torch.ones(1), 0.1, 100.0) == pytest.approx(
        (0.1 / 1e10) ** 0.5, rel=5e-3
    )


def test_moves_are_undone_exactly_and_masks_hold() -> None:
    place = bowl(A, W, {"w": torch.tensor([True, False, True, True])})
    before = place.weights().clone()
    assert place.loss_at(torch.full((4,), 0.1)) != place.loss()
    assert torch.equal(place.weights(), before)
    assert place.gradient()[1] == 0
    assert place.product(torch.ones(4))[1] == 0
    assert random_direction(place, torch.Generator().manual_seed(1))[1] == 0
    assert float(random_direction(place, torch.Generator().manual_seed(1)).norm()) == pytest.approx(1)
    assert place.loss_at(torch.full((4,), 1e30)) == math.inf


def test_lanczos_against_dense_eigenvalues() -> None:
    generator = torch.Generator().manual_seed(0)
    for spread in (1.0, 1.3):
        q = torch.linalg.qr(torch.randn(60, 60, generator=generator, dtype=torch.float64))[0]
        values = torch.tensor([spread**k for k in range(60)], dtype=torch.float64) - 5
        matrix = (q * values) @ q.T
        found = lanczos(
            lambda v, m=matrix: m @ v, torch.randn(60, generator=generator, dtype=torch.float64), 1e-3, 60
        )
        exact = float(torch.linalg.eigvalsh(matrix)[-1])
        assert abs(found.value - exact) <= 1e-3 * abs(exact)
        assert found.products <= 60


def test_lanczos_does_not_stop_at_a_crowd_below_the_top() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        values = torch.cat(
            [torch.tensor([1.2]), torch.ones(100), 0.01 * torch.rand(3899, generator=generator)]
        )
        found = lanczos(lambda v, d=values: d * v, torch.randn(4000, generator=generator), 0.01)
        assert found.value == pytest.approx(1.2, rel=0.02)


@pytest.fixture(scope="module")
def trained(place):
    """A small ResNet and a net of linear layers, trained a little."""
    nets = {"resnet": RESNET, "mlp": MLP, "tiny": TINY}
    return {name: train(length="60it").apply(drawn(model, place), place) for name, model in nets.items()}


def of(state, place, examples=200, suffix="") -> Landscape:
    found = dict(forms(View(state, place), examples, 4.0))[suffix]
    assert not isinstance(found, str), found
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "mlp", "tiny"])
def test_curvature_agrees_with_a_second_library(name, trained, place) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    here = of(trained[name], place)
    operator = curvlinops.HessianLinearOperator(
        here.module,
        nn.CrossEntropyLoss(),
        list(here.params.values()),
        [(x, y) for (x,), y in here.batches],
        check_deterministic=False,
    )
    v = random_direction(here, torch.Generator().manual_seed(0))
    torch.testing.assert_close(here.product(v), operator @ v, rtol=2e-3, atol=2e-4)
    from scipy.sparse.linalg import eigsh

    (theirs,) = eigsh(operator.to_scipy(), k=1, which="LA", tol=1e-4, return_eigenvectors=False)
    ours = lanczos(here.product, v, 0.01)
    assert ours.value == pytest.approx(float(theirs), rel=0.01)
    estimates = landscape.trace(here, torch.Generator().manual_seed(0), 8)
    again = []
    drawing = torch.Generator().manual_seed(0)
    for _ in range(8):
        z = torch.randint(0, 2, v.shape, generator=drawing).float() * 2 - 1
        again.append(float(z @ (operator @ z)))
    assert estimates == pytest.approx(again, rel=2e-3, abs=2e-2)


def test_eigenvalue_of_a_whole_hessian(place) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.fc = nn.AvgPool2d(4), nn.Linear(4, 10)

        def forward(self, x):
            return self.fc(self.pool(x).flatten(1))

    torch.manual_seed(0)
    images, labels = place.feed("train")["images"][:100], place.feed("train").labels[:100]
    here = landscape_of(Small(), {}, [((place.task.normalised(images),), labels)], place.task)
    size = len(here.weights())
    whole = torch.stack([here.product(row) for row in torch.eye(size)])
    torch.testing.assert_close(whole, whole.T, rtol=1e-4, atol=1e-5)
    values = torch.linalg.eigvalsh(whole.double())
    assert lanczos(here.product, torch.ones(size), 1e-3).value == pytest.approx(float(values[-1]), rel=1e-3)
    drawn = landscape.trace(here, torch.Generator().manual_seed(0), 400)
    assert sum(drawn) / 400 == pytest.approx(float(values.sum()), rel=0.1)


@pytest.mark.parametrize(("name", "count"), [("resnet", 3), ("mlp", 1), ("tiny", 1)])
def test_rescaling_leaves_the_function_and_not_the_curvature(name, count, trained, place) -> None:
    view = View(trained[name], place)
    own, other = (dict(forms(view, 200, 4.0))[s] for s in ("", "_rescaled"))
    assert not isinstance(own, str)
    assert not isinstance(other, str)
    assert f" {count} ReLU" in other[1]
    inputs = own[0].batches[0][0]
    with torch.no_grad():
        a, b = (forward(x[0].module, *inputs).logits for x in (own, other))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(a.abs().max()))
    assert own[0].loss() == pytest.approx(other[0].loss(), rel=1e-6)
    start = random_direction(own[0], torch.Generator().manual_seed(0))
    assert lanczos(other[0].product, start).value > 1.5 * lanczos(own[0].product, start).value
    # what is measured relative to the weights doesn't see it
    rises = [ascent(x[0], x[0].gradient(), 0.5, adaptive=True) for x in (own, other)]
    assert rises[0] == pytest.approx(rises[1], rel=1e-3)


class Branching(nn.Module):
    """What may be rescaled, and what not: a layer read twice, a tanh, a shared weight, a pooled and flattened path."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.relu, self.pool = nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
        self.d, self.e, self.f = nn.Linear(36, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.relu(self.a(x))
        x = x + self.relu(self.norm(self.b(x)))
        x = self.pool(torch.relu(self.c(x)))
        x = torch.tanh(self.d(x.view(x.size(0), -1)))
        return self.f(self.e(x).relu())


def test_which_layers_may_be_rescaled() -> None:
    net = Branching().eval()
    assert pairs(net) == [Pair("c", "d"), Pair("e", "f")]
    x = torch.randn(5, 1, 8, 8)
    found = rescaled(net, 8.0, (x,))
    assert not isinstance(found, str)
    torch.testing.assert_close(net(x), found[0](x), rtol=0, atol=0)
    assert not torch.equal(found[0].get_parameter("c.weight"), net.c.weight)
    net.e.weight = nn.Parameter(net.e.weight.detach())
    net.f2 = net.e  # the same module by another name is the same
    net.b.weight, net.c.bias = net.b.weight, net.b.bias  # a bias that two layers share
    assert pairs(net) == [Pair("e", "f")]
    assert "no layer is followed by a ReLU" in rescaled(nn.Linear(64, 3), 4.0, (torch.randn(2, 64),))  # type: ignore[operator]


class Named(nn.Module):
    """A module whose name is that of an activation that it isn't."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.relu, self.b = nn.Linear(64, 8), activation, nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.relu(self.a(x)))


def test_what_a_module_is_called_says_nothing() -> None:
    assert pairs(Named(nn.ReLU())) == [Pair("a", "b")]
    for activation in (nn.ReLU6(), nn.GELU(), nn.Tanh(), nn.PReLU()):
        assert pairs(Named(activation)) == []


class Reading(nn.Module):
    """One layer's weight is read elsewhere as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = nn.functional.linear(x, self.a.weight)
        return self.c(self.b(self.a(x).relu()).relu())


def test_a_layer_that_is_read_elsewhere_is_left_alone() -> None:
    assert pairs(Reading()) == [Pair("b", "c")]


class Attending(nn.Module):
    """Fused attention, which has no derivative in forward mode."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = x.flatten(1).unflatten(1, (8, 8))
        x = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.fc(self.out(x).mean(1))


def test_products_where_forward_mode_is_missing(place) -> None:
    torch.manual_seed(0)
    images, labels = place.feed("train")["images"][:50], place.feed("train").labels[:50]
    here = landscape_of(Attending(), {}, [((place.task.normalised(images),), labels)], place.task)
    assert not here.forward_mode
    v = random_direction(here, torch.Generator().manual_seed(0))
    with here.moved(v * 1e-2):
        above = here.gradient()
    with here.moved(v * -1e-2):
        below = here.gradient()
    torch.testing.assert_close(here.product(v), (above - below) / 2e-2, rtol=0.02, atol=2e-3)


def test_of_a_chain_every_other_link_is_rescaled() -> None:
    layers = [
        nn.Linear(6, 6),
        nn.ReLU(),
        nn.Linear(6, 6),
        nn.ReLU(),
        nn.Linear(6, 6),
        nn.ReLU(),
        nn.Linear(6, 6),
    ]
    assert pairs(nn.Sequential(*layers)) == [Pair("0", "2"), Pair("4", "6")]


def test_what_has_no_slope_says_so(trained, place) -> None:
    quantized = Quantize(weights=4).apply(trained["mlp"], place)
    for probe in (Sharpness(), Hessian(), FlatRegion()):
        rows = list(probe.measure(View(quantized, place), View(trained["mlp"], place), place))
        assert all(r.value is None and "its layers round" in r.note for r in rows)
    with pytest.raises(UserError, match="no parameters: its loss has no sharpness"):
        landscape_of(nn.Flatten(), {}, [], place.task)


def test_probes_on_a_pruned_net_and_twice(trained, place) -> None:
    pruned = Prune(MAGNITUDE, 0.5).apply(trained["tiny"], place)
    for probe in (
        Sharpness(examples=100),
        Hessian(examples=100, samples=2),
        FlatRegion(examples=100, directions=2),
    ):
        first, again = (
            list(probe.measure(View(pruned, place), View(trained["tiny"], place), place)) for _ in range(2)
        )
        assert first == again
        assert all(r.value is not None and math.isfinite(r.value) for r in first), first
        measures = {r.name.removesuffix("_rescaled") for r in first if r.name.endswith("_rescaled")}
        plain = {r.name for r in first if not r.name.endswith("_rescaled")}
        assert measures == plain - {"train_loss", "gradient_norm", "generalisation_gap"}


def test_sharp_and_flat_are_told_apart(place) -> None:
    """A planted effect: ten times the learning rate's noise and SAM end where the loss is flatter."""
    start = drawn(MLP, place)
    sharp = train(length="300it", lr=0.02, weight_decay=0.0).apply(start, place)
    flat = train(length="300it", lr=0.02, weight_decay=0.0, stepper=stepper("sam", rho=0.3)).apply(
        start, place
    )
    rows = {}
    for name, state in (("sharp", sharp), ("flat", flat)):
        found = [
            *Sharpness(examples=300, steps=2).measure(View(state, place), View(state, place), place),
            *Hessian(examples=300, samples=2).measure(View(state, place), View(state, place), place),
            *FlatRegion(examples=300).measure(View(state, place), View(state, place), place),
        ]
        rows[name] = {r.name: r.value for r in found}
    assert rows["sharp"]["hessian_largest"] > 2 * rows["flat"]["hessian_largest"]
    assert rows["sharp"]["hessian_trace"] > 2 * rows["flat"]["hessian_trace"]
    assert rows["sharp"]["extent_gradient"] < rows["flat"]["extent_gradient"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sharpness(rho=-0.1), "rho: -0.1 is not a number of 0 or more"),
        (lambda: Sharpness(steps=0), "steps: 0 is not a whole number of 1 or more"),
        (lambda: Sharpness(dimensions=0), "dimensions: 0 is not a whole number"),
        (lambda: Hessian(tolerance=0.0), "tolerance: 0.0 is not a number above 0"),
        (lambda: FlatRegion(factor=-4.0), "factor: -4.0 is not a factor between 1/1024 and 1024"),
    ],
)
def test_bad_settings(make, words) -> None:
    with pytest.raises(UserError, match=words):
        make()
