"""Integer grids and their scales, folded norms, observers."""

from __future__ import annotations

import pytest
import torch
import yaml
from torch import Tensor, nn

from cases_quantize import (
    RESNET,
    STAGES,
    from_yaml,
    logits,
    observed,
    observer,
    qat,
    same,
    top1,
    train,
    trained,  # noqa: F401
)
from compressbench import specs
from compressbench.errors import UserError
from compressbench.masks import masked
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.quantized import forms_of, integers, quantized, rounded
from compressbench.observers.entropy import divergence, entropy
from compressbench.observers.min_max import min_max
from compressbench.observers.mse import mse
from compressbench.observers.observed import Observed
from compressbench.observers.percentile import percentile
from compressbench.quantizing import folding, ranges
from compressbench.specs.conf import conf_dir
from compressbench.stages.quantize import Quantize
from tiny import TINY

OBSERVERS = sorted(p.stem for p in (conf_dir() / "observer").glob("*.yaml"))


# Grids and scales -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "symmetric", "weight", "inputs"),
    [
        (8, True, (-127, 127), (-127, 127)),
        (8, False, (-128, 127), (0, 255)),
        (4, True, (-7, 7), (-7, 7)),
        (4, False, (-8, 7), (0, 15)),
        (2, True, (-1, 1), (-1, 1)),
        (1, False, (-1, 0), (0, 1)),
        (16, True, (-32767, 32767), (-32767, 32767)),
    ],
)
def test_the_integers_of_a_grid(bits: int, symmetric: bool, weight, inputs) -> None:
    one, other = ranges.weight_form(bits, symmetric, "channel"), ranges.input_form(bits, symmetric, False)
    assert (one["low"], one["high"]) == weight
    assert (other["low"], other["high"]) == inputs


def test_symmetric_scale_is_the_largest_over_127() -> None:
    scale, zero = observed(torch.tensor([[-1.27, 0.5], [0.2, 2.54], [0.0, 0.0]])).grid(
        torch.tensor([-1.27, 0.2, 0.0]), torch.tensor([0.5, 2.54, 0.0])
    )
    assert scale.tolist() == pytest.approx([0.01, 0.02, 1.0])
    assert zero.tolist() == [0, 0, 0]


def test_asymmetric_scale_is_the_width_over_255_and_zero_is_met() -> None:
    given = Observed(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1), 0, 255)
    low, high = torch.tensor([-1.0, 0.0, 0.5, -2.55]), torch.tensor([1.55, 5.1, 2.55, -1.0])
    scale, zero = given.grid(low, high)
    assert scale.tolist() == pytest.approx([0.01, 0.02, 0.01, 0.01])
    assert zero.tolist() == [100, 0, 0, 255]


def test_eight_to_four_bits_raises_the_scale_by_127_over_7(bench) -> None:
    state = drawn(RESNET, bench)
    eight, four = (Quantize(weights=b, inputs=None).apply(state, bench) for b in (8, 4))
    for name, scale in eight.group("scales").items():
        if name.endswith("|scale"):
            assert torch.allclose(four.group("scales")[name] / scale, torch.tensor(127 / 7), rtol=1e-5)


@pytest.mark.parametrize("per", ["channel", "tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
def test_the_error_is_half_a_step_at_most(bits: int, symmetric: bool, per: str) -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(bits))
    form = ranges.weight_form(bits, symmetric, per)
    scale, zero = ranges.weight_scales(weight, form, symmetric, min_max)
    error = (rounded(weight, form, scale, zero) - weight).abs().flatten(1)
    step = scale.view(-1, 1) if per == "channel" else scale
    # The zero point is an integer: with it the ends of an asymmetric range may be out by half a step more.
    assert bool((error <= (0.5 if symmetric else 1.0) * step * (1 + 1e-4)).all())
    assert float((error > 0.5 * step * (1 + 1e-4)).float().mean()) < 0.05
    assert bool((error > 0.4 * step).any()), "the bound is nearly met"
    assert len(integers(weight, form, scale, zero).unique()) <= 2**bits


def test_a_scale_a_channel_errs_less_than_one_a_tensor() -> None:
    weight = torch.randn(4, 50) * torch.tensor([[0.01], [0.1], [1.0], [10.0]])
    errors = []
    for per in ("channel", "tensor"):
        form = ranges.weight_form(4, True, per)
        scale, zero = ranges.weight_scales(weight, form, True, min_max)
        errors.append((rounded(weight, form, scale, zero) - weight).square().mean(1))
    assert bool((errors[0][:3] < 0.1 * errors[1][:3]).all())
    assert torch.equal(errors[0][3], errors[1][3])


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_zeros_stay_zero(name: str, trained) -> None:
    state, bench = trained
    masks = {
        n: torch.rand(state.weights[n].shape, generator=bench.generator(n)) < 0.5
        for n in state.facts["prunable"]
    }
    stage = from_yaml(name)
    result = stage.apply(masked(state, masks), bench)
    result = train("5it", reparametrise=qat()).apply(result, bench)
    for layer, part in quantized(module_of(result)).items():
        form, gone = forms_of(part)["weight"], ~masks[f"{layer}.weight"]
        scale, zero = (getattr(part, f"weight_{e}", None) for e in ("scale", "zero"))
        assert not result.weights[f"{layer}.weight"][gone].any()
        assert not form or not rounded(part.weight, form, scale, zero)[gone].any()


def test_zero_is_exact_on_every_asymmetric_grid() -> None:
    values = torch.tensor([[0.0, 0.3, 1.0], [-0.7, 0.0, 0.1], [-3.0, -1.0, 0.0]])
    for bits in (8, 4, 2, 1):
        form = ranges.weight_form(bits, False, "channel")
        scale, zero = ranges.weight_scales(values, form, False, min_max)
        assert not rounded(values, form, scale, zero)[values == 0].any()


def test_gradients_pass_inside_the_range_and_are_zero_outside() -> None:
    for learns in (False, True):
        x = torch.tensor([-3.0, -1.0, 0.26, 1.0, 5.0], requires_grad=True)
        scale, zero = torch.tensor(0.5, requires_grad=learns), torch.tensor(0, dtype=torch.int32)
        y = rounded(x, {"bits": 3, "low": -3, "high": 3, "axis": None}, scale, zero)
        assert y.tolist() == [-1.5, -1.0, 0.5, 1.0, 1.5]
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [0, 1, 1, 1, 0]
        if learns:  # -3 and 3 outside; round(x / s) - x / s inside: 0, 1 - 0.52, 0; over sqrt(5 entries * 3)
            assert float(scale.grad) == pytest.approx((-3 + 0 + 0.48 + 0 + 3) / 15**0.5, abs=1e-5)


@pytest.mark.parametrize("axis", [0, None])
def test_learned_scales_round_as_fixed_ones(axis) -> None:
    x = torch.randn(6, 4, 3, 3)
    scale = torch.rand(6) / 10 + 0.01 if axis == 0 else torch.tensor(0.03)
    zero = torch.zeros_like(scale, dtype=torch.int32) + 2
    form = {"bits": 4, "low": -8, "high": 7, "axis": axis}
    fixed = rounded(x, form, scale, zero)
    assert torch.equal(fixed, rounded(x, form, scale.clone().requires_grad_(), zero))
    back = (integers(x, form, scale, zero) - zero.view(-1, 1, 1, 1)) * scale.view(-1, 1, 1, 1)
    assert torch.allclose(fixed, back, atol=1e-6)


# Folding --------------------------------------------------------------------------------------------------------------


def test_folded_equals_unfolded(trained) -> None:
    state, bench = trained
    done, flags = folding.folded(state, bench)
    assert not flags
    assert torch.allclose(
        logits(done, bench), logits(state, bench), atol=1e-5 * float(logits(state, bench).abs().max())
    )
    assert len(done.edits[0]["fold"]) == 9
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module_of(done).modules())
    assert done.facts["density"] == 1
    tiny = drawn(TINY, bench)
    folded, flags = folding.folded(tiny, bench)
    assert not flags
    assert torch.allclose(logits(folded, bench), logits(tiny, bench), atol=1e-5)


class Shared(nn.Module):
    """One norm that follows a sum, and one convolution whose result is read twice."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(shape[0], 4, 3, padding=1), nn.BatchNorm2d(4)
        self.other, self.after = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits."""
        y = self.conv(x)
        y = self.norm(y) + y
        y = self.after(self.other(y) + y)
        return self.fc(y.mean((2, 3)))


class Dependent(Shared):
    """Can't be traced: what it does depends on the values."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits."""
        return super().forward(x if x.sum() > -1e9 else -x)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("Shared", "no convolution alone before them: norm, after"), ("Dependent", "the net can't be traced")],
)
def test_a_norm_that_cant_be_folded_stays_and_is_said(kind: str, said: str, bench) -> None:
    build = {"_target_": f"{__name__}.{kind}", "shape": "@shape", "classes": "@classes"}
    state = drawn({"name": kind, "build": build}, bench)
    result = Quantize().apply(state, bench)
    assert any(said in flag for flag in result.facts["flags"])
    assert sum(isinstance(m, nn.BatchNorm2d) for m in module_of(result).modules()) == 2
    assert set(quantized(module_of(result))) == {"conv", "other", "fc"}


# Observers ------------------------------------------------------------------------------------------------------------


def test_min_max_is_of_everything_not_of_the_sample() -> None:
    low, high = min_max(Observed(torch.zeros(1, 3), torch.tensor([-2.0]), torch.tensor([5.0]), 0, 255))
    assert (low.item(), high.item()) == (-2, 5)


def test_percentile_clips_outliers_at_the_ends_there_are() -> None:
    values = torch.arange(10_001.0).view(1, -1)
    low, high = percentile(observed(values, symmetric=False), 99.0)
    assert (low.item(), high.item()) == (0, pytest.approx(9900))
    low, high = percentile(observed(values - 5000, symmetric=False), 99.0)
    assert (low.item(), high.item()) == pytest.approx((-4950, 4950))
    low, high = percentile(observed(values - 9000), 90.0)
    assert (-low.item(), high.item()) == pytest.approx((8000, 8000), abs=1)
    low, high = percentile(observed(values), 100.0)
    assert high.item() == 10_000


def test_mse_beats_every_other_range_it_may_choose() -> None:
    values = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    values[0, 0] = 6
    for bits in (8, 4, 2):
        given = observed(values, bits)
        low, high = mse(given)

        def error(alpha: float, given: Observed = given) -> Tensor:
            return (given.rounded(alpha * given.smallest, alpha * given.largest) - values).square().mean(1)

        best = (given.rounded(low, high) - values).square().mean(1)
        others = torch.stack([error(a) for a in torch.linspace(1, 0.2, 80).tolist()])
        assert torch.allclose(best, others.amin(0))
    assert high[0] < 3, "the outlier is clipped at two bits"


def test_the_divergence_of_a_histogram_by_hand() -> None:
    counts = torch.tensor([4.0, 0.0, 2.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    # Bins 0..3 in two levels: P = [4, 0, 2, 2 + 2] / 10, Q = [4, 0, 2, 2] / 8.
    expected = 0.4 * torch.tensor(0.8).log() + 0.2 * torch.tensor(0.8).log() + 0.4 * torch.tensor(1.6).log()
    assert divergence(counts, 0, 4, 2) == pytest.approx(float(expected), abs=1e-6)
    assert divergence(torch.ones(64, dtype=torch.float64), 0, 64, 16) == pytest.approx(0, abs=1e-12)


def test_entropy_keeps_an_even_spread_and_clips_a_far_outlier() -> None:
    even = torch.linspace(0, 1, 20_000).view(1, -1)
    given = Observed(even, even.amin(1), even.amax(1), 0, 15)
    assert entropy(given)[1].item() == pytest.approx(1, abs=0.02)
    normal = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0)).abs()
    normal[0, 0] = 30
    given = Observed(normal, normal.amin(1), normal.amax(1), 0, 15)
    assert 1.5 < entropy(given)[1].item() < 8


@pytest.mark.parametrize("name", OBSERVERS)
def test_every_observer_gives_a_range_that_rounds(name: str, trained) -> None:
    state, bench = trained
    spec = specs.expand(yaml.safe_load((conf_dir() / "observer" / f"{name}.yaml").read_text()))
    stage = Quantize(weights=4, inputs=4, per="tensor", observer=spec, weight_observer=spec)
    result = stage.apply(state, bench)
    assert name in stage.describe()
    assert all(
        t.isfinite().all() and (t > 0).all() for n, t in result.group("scales").items() if "|scale" in n
    )
    assert top1(result, bench) > 0.9 * top1(state, bench)
    assert same(result, stage.apply(state, bench))
    zeros = Observed(torch.zeros(2, 5), torch.zeros(2), torch.zeros(2), -127, 127, True)
    assert zeros.grid(*specs.build(spec)(zeros))[0].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("percentile", {"share": 40}, "share: 40 is not in"),
        ("mse", {"smallest": 0}, "smallest 0"),
        ("entropy", {"bins": 100}, "at least 256 bins"),
    ],
)
def test_an_observer_refuses(name: str, settings: dict, message: str, trained) -> None:
    state, bench = trained
    with pytest.raises(UserError, match=message):
        Quantize(observer=observer(name, **settings)).apply(state, bench)
