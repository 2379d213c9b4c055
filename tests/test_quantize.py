"""Quantization: grids, scales, error bounds, folding, observers, rounding, mixed precision, QAT, composition."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
import yaml
from torch import Tensor, nn

from compressbench import specs
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.errors import UserError
from compressbench.masks import masked
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.quantized import forms_of, integers, quantized, rounded, unfit
from compressbench.observers.entropy import divergence, entropy
from compressbench.observers.min_max import min_max
from compressbench.observers.mse import mse
from compressbench.observers.observed import Observed
from compressbench.observers.percentile import percentile
from compressbench.outputs import forward
from compressbench.probes.structure import Structure
from compressbench.quantizing import calibration, correction, folding, mixed, ranges
from compressbench.specs.conf import conf_dir
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Cast, Mixed, Quantize
from compressbench.stages.rewind import LearningRate, Reinit, Weights
from compressbench.stages.shrink import Blocks, Channels
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.store import Store
from compressbench.views import View
from conftest import kill
from tiny import TINY

STAGES = sorted(p.stem for p in (conf_dir() / "stage/quantize").glob("*.yaml") if p.stem[0] != "_")
OBSERVERS = sorted(p.stem for p in (conf_dir() / "observer").glob("*.yaml"))
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9}
MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
RESNET = {
    "name": "resnet8",
    "build": {
        "_target_": "compressbench.models.resnet.CifarResNet",
        "depth": 8,
        "shape": "@shape",
        "classes": "@classes",
    },
}


def observer(name: str, **settings) -> dict:
    return {"_target_": f"compressbench.observers.{name}.{name}", "_partial_": True, **settings}


def qat(**settings) -> dict:
    target = "compressbench.training.reparametrisations.qat.qat"
    return {"qat": {"_target_": target, "_partial_": True, **settings}}


def train(length: str = "20it", **changes) -> Train:
    settings = {"batch_size": 50, "lr": 0.01, "optimizer": SGD, "validate": None}
    return Train(length=length, **{**settings, **changes})


@pytest.fixture(scope="module")
def trained(digits) -> tuple[State, Bench]:

    bench = Bench(digits, seed=0, name="init")
    return train("60it", lr=0.05).apply(drawn(RESNET, bench), bench), bench


def logits(state: State, bench: Bench, split: str = "test") -> Tensor:
    with torch.no_grad():
        return forward(module_of(state), bench.task.normalised(bench.feed(split)["images"])).logits


def top1(state: State, bench: Bench) -> float:
    return float((logits(state, bench).argmax(1) == bench.feed("test").labels).float().mean())


def observed(values: Tensor, bits: int = 8, symmetric: bool = True) -> Observed:
    form = ranges.weight_form(bits, symmetric, "channel")
    return Observed(values, values.amin(1), values.amax(1), form["low"], form["high"], symmetric)


def same(a: State, b: State) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        t.keys() == b.tensors[g].keys() and all(torch.equal(x, b.tensors[g][n]) for n, x in t.items())
        for g, t in a.tensors.items()
    )


# Grids and scales.


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


# Folding.


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
    build = {"_target_": f"test_quantize.{kind}", "shape": "@shape", "classes": "@classes"}
    state = drawn({"name": kind, "build": build}, bench)
    result = Quantize().apply(state, bench)
    assert any(said in flag for flag in result.facts["flags"])
    assert sum(isinstance(m, nn.BatchNorm2d) for m in module_of(result).modules()) == 2
    assert set(quantized(module_of(result))) == {"conv", "other", "fc"}


# Observers.


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


# Stages.


def from_yaml(name: str, **changes) -> Quantize | Mixed | Cast:
    config = composed(["scale=smoke", f"+stage/quantize@recipe.stages.q={name}"])["recipe"]["stages"]["q"]
    spec = specs.expand(config)
    kind = {"Quantize": Quantize, "Mixed": Mixed, "Cast": Cast}[spec["_target_"].rpartition(".")[2]]
    return kind(**{**{k: v for k, v in specs.settings_of(spec).items() if k != "from"}, **changes})


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_twice_and_from_the_store(name: str, trained, tmp_path) -> None:
    state, bench = trained
    before = {n: w.clone() for n, w in state.weights.items()}
    stage = from_yaml(name, **({"rounding_steps": 30} if name == "adaptive" else {}))
    torch.manual_seed(1)
    first = stage.apply(state, bench)
    torch.manual_seed(2)
    assert same(first, stage.apply(state, bench))
    assert all(torch.equal(w, before[n]) for n, w in state.weights.items())
    assert stage.describe()
    assert top1(first, bench) > 0.93 * top1(state, bench)
    store = Store(tmp_path)
    store.save("k" * 64, first, {})
    back = store.load("k" * 64)
    assert back is not None
    assert same(first, back)
    assert torch.equal(logits(first, bench), logits(back, bench))
    assert json.loads(json.dumps(back.edits[-1]))["quantize"].keys() == quantized(module_of(first)).keys()
    if name not in ("adaptive", "dynamic"):  # latent weights stay what they were
        plain, _ = folding.folded(state, bench)
        assert all(torch.equal(w, first.weights[n]) for n, w in plain.weights.items())


def test_what_computes_is_what_the_forms_say(trained) -> None:
    state, bench = trained
    result = Quantize(weights=4, inputs=6, per="tensor").apply(state, bench)
    module = module_of(result)
    layer = quantized(module)["layer2.0.conv2"]
    scales = result.group("scales")
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
    with torch.no_grad():
        forward(module, bench.task.normalised(bench.feed("test")["images"][:4]))

    def grid(x: Tensor, part: str, low: int, high: int) -> Tensor:
        scale, zero = (scales[f"layer2.0.conv2.{part}|{e}"] for e in ("scale", "zero"))
        return ((x / scale).round() + zero).clamp(low, high).sub(zero) * scale

    expected = nn.functional.conv2d(
        grid(seen[0], "input", 0, 63), grid(layer.weight, "weight", -7, 7), layer.bias, padding=1
    )
    assert torch.allclose(seen[1], expected, atol=1e-4)


def test_ranges_come_from_validation_images_in_float(trained) -> None:
    state, bench = trained
    result = Quantize(examples=100).apply(state, bench)
    folded, _ = folding.folded(state, bench)
    picked = calibration.drawn(bench, "validation", 100)
    x = bench.task.normalised(picked.examples["images"])
    scales = result.group("scales")
    assert float(scales["conv1.input|scale"]) == pytest.approx(float(x.max() - x.min()) / 255, rel=1e-5)
    with torch.no_grad():
        y = module_of(folded).conv1(x).relu()
    assert float(scales["layer1.0.conv1.input|scale"]) == pytest.approx(float(y.max()) / 255, rel=1e-4)
    assert int(scales["layer1.0.conv1.input|zero"]) == 0
    assert picked.flags == ()


def test_a_sample_of_many_values_keeps_the_extremes(bench, monkeypatch) -> None:
    monkeypatch.setattr(calibration, "SAMPLE", 1000)
    state = drawn(RESNET, bench)
    data = calibration.drawn(bench, "train", 128)
    seen = calibration.inputs_of(module_of(state), bench, data, ["conv1", "fc"])
    x = bench.task.normalised(data.examples["images"])
    assert seen["conv1"].values.shape == (1, 1000)
    assert (seen["conv1"].smallest.item(), seen["conv1"].largest.item()) == (x.min().item(), x.max().item())


def test_without_validation_images_it_says_so(bench) -> None:
    splits = {n: s for n, s in bench.dataset.splits.items() if n != "validation"}
    bench = dataclasses.replace(bench, dataset=dataclasses.replace(bench.dataset, splits=splits), feeds={})
    result = Quantize().apply(drawn(TINY, bench), bench)
    assert any("calibrated on training images" in flag for flag in result.facts["flags"])
    assert not Quantize(dynamic=True).apply(drawn(TINY, bench), bench).facts["flags"]


def test_no_calibration_images_is_refused_where_they_are_wanted(bench) -> None:
    state = drawn(TINY, bench)
    with pytest.raises(UserError, match="no calibration images"):
        Quantize(examples=0).apply(state, bench)
    with pytest.raises(UserError, match="no split 'holdout'"):
        Quantize(split="holdout").apply(state, bench)
    assert Quantize(examples=0, dynamic=True).apply(state, bench).group("scales")
    assert Quantize(examples=0, inputs=None).apply(state, bench).group("scales")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": 0}, "weights: 0 is not in 1..16 bits"),
        ({"weights": 17}, "weights: 17 is not in 1..16 bits"),
        ({"inputs": 2.5}, "inputs: 2.5 is not in 1..16 bits"),
        ({"weights": True}, "weights: True is not in 1..16 bits"),
        ({"weights": 1}, "1 bit, symmetric, holds nothing but 0"),
        ({"weights": None, "inputs": None}, "leaves the net in float"),
        ({"per": "row"}, "per: unknown 'row'"),
        ({"split": "test"}, "test images choose nothing"),
        ({"examples": -1}, "examples: -1 is below 0"),
        ({"rounding": "up"}, "rounding: unknown 'up'"),
        ({"rounding_steps": 0}, "rounding_steps: 0"),
        ({"dynamic": True, "inputs_symmetric": True}, "inputs_symmetric"),
        ({"layers": {"fc*": {"weights": 20}}}, r"layers\.fc\*\.weights: 20 is not in 1..16"),
        ({"layers": {"fc*": 8}}, r"layers\.fc\*: 8 is no"),
        ({"layers": None}, "layers: None is no mapping"),
        ({"observer": None}, "observer: None is no spec"),
        ({"weight_observer": "mse"}, "weight_observer: 'mse' is no spec"),
    ],
)
def test_a_quantize_stage_refuses(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Quantize(**settings)


def test_other_stages_refuse(trained) -> None:
    state, bench = trained
    for settings, message in (
        ({"choices": []}, "choices"), ({"choices": [8, 8]}, "different"), ({"choices": [8, 0]}, "0 is not in 1..16"),
        ({"budget": 1.5}, "budget: 1.5"), ({"budget": 0}, "budget: 0"), ({"per": "x"}, "per"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            Mixed(**settings)
    with pytest.raises(UserError, match="dtype: unknown 'fp8'"):
        Cast("fp8")
    with pytest.raises(UserError, match=r"budget: 0.05 .* 2 bits everywhere, which are 0.0625"):
        Mixed(budget=0.05).apply(state, bench)
    with pytest.raises(UserError, match="layers: 'stem' fits no prunable tensor"):
        Quantize(layers={"stem": None}).apply(state, bench)
    with pytest.raises(UserError, match=r"reparametrise\.qat: the state isn't quantized"):
        train(reparametrise=qat()).apply(state, bench)
    with pytest.raises(UserError, match=r"reparametrise\.qat: ranges: unknown 'best'"):
        train(reparametrise=qat(ranges="best")).apply(Quantize().apply(state, bench), bench)


def test_bad_bits_are_one_line_and_exit_2(command, tmp_path) -> None:
    result = command("run", "recipe=bits_sweep", "scale=smoke", "recipe.bits=[40]", f"outputs={tmp_path}")
    assert result.returncode == 2
    assert "40 is not in 1..16 bits" in result.stderr
    assert "Traceback" not in result.stderr


def test_layers_have_bits_of_their_own(trained) -> None:
    state, bench = trained
    own = {"@input": None, "layer3.*": {"weights": 2}, "@output": {"weights": 16, "inputs": None}}
    result = Quantize(weights=4, layers=own).apply(state, bench)
    bits = {
        n: [f["bits"] if f else None for f in forms_of(m).values()]
        for n, m in quantized(module_of(result)).items()
    }
    assert bits["conv1"] == [None, None]
    assert bits["layer3.0.conv1"] == [2, 8]
    assert bits["layer2.0.conv1"] == [4, 8]
    assert bits["fc"] == [16, None]
    assert not [n for n in result.group("scales") if n.startswith("conv1.")]


def test_quantizing_again_replaces_what_was(trained) -> None:
    state, bench = trained
    eight = Quantize().apply(state, bench)
    for first in (eight, Quantize(dynamic=True).apply(state, bench), Cast().apply(state, bench)):
        second = Quantize(weights=4, inputs=None).apply(first, bench)
        direct = Quantize(weights=4, inputs=None).apply(state, bench)
        assert torch.equal(logits(second, bench), logits(direct, bench))
        assert second.edits[: len(first.edits)] == first.edits
        assert torch.equal(logits(Quantize().apply(second, bench), bench), logits(eight, bench))


def test_dynamic_ranges_are_those_of_each_batch(trained) -> None:
    state, bench = trained
    result = Quantize(dynamic=True).apply(state, bench)
    assert not [n for n in result.group("scales") if "input" in n]
    assert top1(result, bench) == pytest.approx(top1(state, bench), abs=0.02)
    module = module_of(result)
    layer = quantized(module)["fc"]
    x = torch.rand(4, 64)
    with torch.no_grad():
        assert torch.allclose(layer(10 * x) - layer.bias, 10 * (layer(x) - layer.bias), atol=1e-4)


def test_half_floats_round_to_their_type(trained) -> None:
    state, bench = trained
    folded, _ = folding.folded(state, bench)
    for dtype in ("bfloat16", "float16"):
        result = Cast(dtype).apply(state, bench)
        weight = getattr(torch, dtype)
        layer = quantized(module_of(result))["fc"]
        x = torch.rand(3, 64)
        w = folded.weights["fc.weight"].to(weight).float()
        expected = nn.functional.linear(x.to(weight).float(), w, folded.weights["fc.bias"])
        assert torch.allclose(layer(x), expected, atol=1e-6)
    kept = Cast(float32=["@output"]).apply(state, bench)
    assert forms_of(quantized(module_of(kept))["fc"]) == {"weight": None, "input": None}


# Corrections.


def test_columns_times_the_weight_are_the_layer() -> None:
    layers = [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(4, 6, (3, 5), padding="same", dilation=2, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4, bias=False),
    ]
    x = torch.randn(2, 4, 9, 11)
    for layer in layers:
        rows = correction.columns(layer, x)
        weight = layer.weight.flatten(1).view(layer.groups, -1, rows.shape[-1])
        product = rows @ weight.transpose(1, 2)  # (groups, positions, out / groups)
        y = layer(x)
        expected = y.flatten(2).permute(0, 2, 1).reshape(-1, y.shape[1])
        assert torch.allclose(product.permute(1, 0, 2).reshape(expected.shape), expected, atol=1e-5)
    one = nn.Conv1d(4, 6, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 4, 9)
    assert torch.allclose(
        (correction.columns(one, x)[0] @ one.weight.flatten(1).T).view(2, -1, 6).transpose(1, 2),
        one(x),
        atol=1e-5,
    )
    linear = nn.Linear(5, 3, bias=False)
    x = torch.randn(2, 7, 5)
    assert torch.allclose(
        (correction.columns(linear, x)[0] @ linear.weight.T).view(2, 7, 3), linear(x), atol=1e-6
    )


def test_adapted_rounding_comes_near_the_best_of_all_choices() -> None:
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(5):
        weight = torch.rand(1, 8, generator=generator) - 0.5
        mix = torch.randn(8, 3, generator=generator)
        x = torch.randn(500, 3, generator=generator) @ mix.T + 0.1 * torch.randn(500, 8, generator=generator)
        gram = (x.T @ x / 500).unsqueeze(0)
        form = ranges.weight_form(3, True, "tensor")
        scale, zero = ranges.weight_scales(weight, form, True, min_max)

        def error(w: Tensor, x: Tensor = x, weight: Tensor = weight) -> float:
            return float((x @ (w - weight).T).square().mean())

        adapted = correction.adapted(weight, form, scale, zero, gram, 500)
        chosen = error(rounded(adapted, form, scale, zero))
        low = (weight / scale).floor()
        every = [
            error(scale * (low + torch.tensor([ups])).clamp(-3, 3))
            for ups in itertools.product((0.0, 1.0), repeat=8)
        ]
        nearest = error(rounded(weight, form, scale, zero))
        assert min(every) - 1e-9 <= chosen <= nearest
        found.append((chosen - min(every)) / (nearest - min(every) + 1e-12))
        assert bool(((rounded(adapted, form, scale, zero) - weight).abs() < scale * (1 + 1e-4)).all())
        assert int((adapted != 0).sum()) == 8, "a weight that rounds to 0 isn't pruned"
    assert sum(found) / len(found) < 0.5, "more than half of what rounding to nearest loses"


def test_adapted_rounding_and_bias_correction_help_at_few_bits(trained) -> None:
    state, bench = trained
    truth = logits(state, bench)

    def distance(**settings) -> float:
        result = Quantize(weights=3, inputs=8, per="tensor", weight_observer=observer("mse"), **settings)
        return float((logits(result.apply(state, bench), bench) - truth).square().mean())

    nearest = distance()
    assert distance(bias_correction=True) < nearest
    assert distance(rounding="adaptive", rounding_steps=200) < 0.8 * nearest


def test_bias_correction_brings_the_mean_back(trained) -> None:
    state, bench = trained
    plain, corrected = (
        Quantize(weights=3, inputs=None, bias_correction=c, examples=200).apply(state, bench)
        for c in (False, True)
    )
    folded, _ = folding.folded(state, bench)
    x = bench.task.normalised(calibration.drawn(bench, "validation", 200).examples["images"])
    means = [module_of(s).conv1(x).detach().mean((0, 2, 3)) for s in (folded, plain, corrected)]
    assert torch.allclose(means[2], means[0], atol=1e-4)
    assert float((means[1] - means[0]).abs().max()) > 1e-3


# Mixed precision.


def test_the_cheapest_step_down_goes_first_until_it_fits() -> None:
    sizes = {"a": 100, "b": 100, "c": 100}
    losses = {
        "a": {8: 0.0, 4: 0.1, 2: 9.0},
        "b": {8: 0.0, 4: 0.2, 2: 0.3},
        "c": {8: 0.0, 4: 5.0, 2: 6.0},
    }
    chosen = [mixed.within_budget(sizes, losses, [2, 8, 4], b) for b in (0.25, 0.21, 0.17, 0.15, 0.13)]
    assert chosen == [
        {"a": 8, "b": 8, "c": 8},
        {"a": 4, "b": 8, "c": 8},
        {"a": 4, "b": 4, "c": 8},
        {"a": 4, "b": 2, "c": 8},
        {"a": 4, "b": 2, "c": 4},
    ]


def test_mixed_precision_keeps_to_its_budget_and_beats_the_same_bits_everywhere(trained) -> None:
    state, bench = trained
    stage = Mixed(budget=0.0938, choices=[8, 4, 3, 2], inputs=None)
    result = stage.apply(state, bench)
    sizes = {n.removesuffix(".weight"): c for n, c in state.facts["prunable"].items()}
    bits = result.facts["bits"]
    assert sum(sizes[n] * b for n, b in bits.items()) <= 0.0938 * 32 * sum(sizes.values())
    table = result.facts["sensitivity"]
    assert table.keys() == sizes.keys()
    assert all(set(row) == {"8", "4", "3", "2"} for row in table.values())
    assert max(row["2"] for row in table.values()) > 10 * max(abs(row["8"]) for row in table.values())
    assert bits["conv1"] > bits["layer3.0.conv2"], "a small layer is cheap to keep"
    everywhere = Quantize(weights=3, inputs=None).apply(state, bench)
    data = calibration.drawn(bench, "validation", 512)
    losses = [calibration.mean_loss(module_of(s), bench, data) for s in (result, everywhere)]
    assert losses[0] < losses[1] + 0.02


# Training.


@pytest.mark.parametrize("kind", ["observed", "learned"])
def test_training_wins_back_what_few_bits_cost(kind: str, trained) -> None:
    state, bench = trained
    start = Quantize(weights=2, inputs=4, weight_observer=observer("mse")).apply(state, bench)
    done = train("60it", reparametrise=qat(ranges=kind), lr=0.02).apply(start, bench)
    assert top1(start, bench) < 0.8
    assert top1(done, bench) > top1(start, bench) + 0.1
    assert done.group("scales").keys() == start.group("scales").keys()
    moved = [
        n
        for n, t in done.group("scales").items()
        if "|scale" in n and not torch.equal(t, start.group("scales")[n])
    ]
    assert len(moved) == 20


def test_observed_ranges_are_those_of_the_final_weights(trained) -> None:
    state, bench = trained
    done = train(reparametrise=qat()).apply(Quantize(inputs=None).apply(state, bench), bench)
    for name, part in quantized(module_of(done)).items():
        expected = part.weight.detach().flatten(1).abs().amax(1) / 127
        assert torch.allclose(done.group("scales")[f"{name}.weight|scale"], expected)


def test_observed_inputs_are_a_moving_average(trained) -> None:
    state, bench = trained
    start = Quantize().apply(state, bench)
    done = train("1it", reparametrise=qat(momentum=0.9), augment=False).apply(start, bench)
    before, after = start.group("scales"), done.group("ranges")["conv1.input"]
    scale, zero = before["conv1.input|scale"], before["conv1.input|zero"]
    first = scale * (torch.tensor([0, 255]) - zero)
    batch = (after - 0.9 * first) / 0.1
    x = bench.task.normalised(bench.feed("train")["images"])
    assert x.min() <= batch[0] + 1e-4
    assert batch[1] <= x.max() + 1e-4
    assert float(done.group("scales")["conv1.input|scale"]) == pytest.approx(
        float(after[1] - after[0]) / 255, rel=1e-4
    )


@pytest.mark.parametrize("kind", ["observed", "learned"])
def test_killed_and_stopped_trainings_are_the_same_training(kind: str, trained, tmp_path) -> None:
    state, bench = trained
    start = Quantize(weights=4).apply(state, bench)
    stage = train("20it", reparametrise=qat(ranges=kind))
    whole = stage.apply(start, bench)

    kill(stage, start, bench, tmp_path, at=11)
    assert same(whole, stage.apply(start, dataclasses.replace(bench, checkpoints=tmp_path)))
    first = dataclasses.replace(stage, stop="7it").apply(start, bench)
    assert same(whole, dataclasses.replace(stage, start="7it").apply(first, bench))


def test_training_without_the_method_keeps_the_ranges(trained) -> None:
    state, bench = trained
    start = Quantize(weights=3).apply(state, bench)
    done = train().apply(start, bench)
    assert all(torch.equal(t, start.group("scales")[n]) for n, t in done.group("scales").items())
    assert not torch.equal(done.weights["fc.weight"], start.weights["fc.weight"])


def test_gradual_pruning_during_quantization_aware_training(trained) -> None:
    state, bench = trained
    gradual = {
        "_target_": "compressbench.training.reparametrisations.gradual.gradual",
        "_partial_": True,
        "criterion": specs.build(MAGNITUDE),
        "scope": specs.build({"_target_": "compressbench.scopes.global_.global_", "_partial_": True}),
        "grain": specs.build({"_target_": "compressbench.grains.weight.weight"}),
        "every": "4it",
        "final": 0.6,
    }
    start = Quantize(weights=4).apply(state, bench)
    for kind in ("observed", "learned"):
        done = train(reparametrise={**qat(ranges=kind), "gradual": gradual}).apply(start, bench)
        assert done.facts["density"] == pytest.approx(0.4, abs=1e-3)
        for name, part in quantized(module_of(done)).items():
            scale, zero = part.weight_scale, part.weight_zero
            effective = rounded(part.weight, forms_of(part)["weight"], scale, zero)
            assert not effective[~done.masks[f"{name}.weight"]].any()


# Composition.


def stages(bench: Bench, state: State) -> dict:
    init = drawn(RESNET, bench)
    return {
        "prune": (Prune(MAGNITUDE, 0.5), {}),
        "taylor": (Prune({**MAGNITUDE, "_target_": "compressbench.criteria.taylor.taylor"}, 0.5), {}),
        "channels": (Channels(MAGNITUDE, fraction=0.3), {}),
        "blocks": (Blocks(MAGNITUDE, fraction=0.5), {}),
        "rewind": (Weights("init"), {"init": init}),
        "learning_rate": (LearningRate(), {}),
        "reinit": (Reinit(), {}),
    }


@pytest.mark.parametrize(
    "name", ["prune", "taylor", "channels", "blocks", "rewind", "learning_rate", "reinit"]
)
@pytest.mark.parametrize("kind", ["static", "tensor", "dynamic", "bf16"])
def test_every_stage_takes_a_quantized_state(name: str, kind: str, trained) -> None:
    state, bench = trained
    start = {
        "static": Quantize(),
        "tensor": Quantize(weights=4, per="tensor", symmetric=False),
        "dynamic": Quantize(dynamic=True),
        "bf16": Cast(),
    }[kind].apply(state, bench)
    stage, references = stages(bench, state)[name]
    bench = dataclasses.replace(bench, name=name, references=references)
    done = stage.apply(start, bench)
    module = module_of(done)
    assert set(quantized(module)) <= set(quantized(module_of(start)))
    assert bool(
        forward(module, bench.task.normalised(bench.feed("test")["images"][:8])).logits.isfinite().all()
    )
    if kind == "static":
        low = train("3it", reparametrise=qat(), precision="bf16").apply(done, bench)
        assert low.group("scales").keys() == done.group("scales").keys()
    again = Quantize(weights=6).apply(done, bench)
    assert len(quantized(module_of(again))) == len(again.facts["prunable"])


def test_channels_take_their_scales_with_them(trained) -> None:
    state, bench = trained
    start = Quantize().apply(state, bench)
    done = Channels(MAGNITUDE, fraction=0.5).apply(start, bench)
    kept = done.edits[-1]["cut"]
    for name, dims in kept.items():
        if name.endswith("weight") and "0" in dims:
            before = start.group("scales")[f"{name}|scale"]
            assert torch.equal(done.group("scales")[f"{name}|scale"], before[list(dims["0"])])
    assert kept


def test_structure_counts_bits(trained) -> None:
    state, bench = trained

    def bits(state: State) -> tuple[float, float]:
        view = View(state, bench)
        found = {m.name: m.value for m in Structure().measure(view, view, bench) if not m.group}
        return found["weight_bits"], found["input_bits"]

    assert bits(state) == (32, 32)
    assert bits(Quantize(weights=4, inputs=8).apply(state, bench)) == (4, 8)
    assert bits(Cast().apply(state, bench)) == (16, 16)
    assert bits(Quantize(inputs=None, layers={"@output": None}).apply(state, bench))[0] == pytest.approx(
        (8 * (77072 - 640) + 32 * 640) / 77072
    )


def test_the_fast_form_of_a_quantized_net_computes_the_same(trained) -> None:
    state, bench = trained
    for stage in (Quantize(), Quantize(weights=4, inputs=4), Quantize(dynamic=True), Cast("float16")):
        view = View(stage.apply(state, bench), bench)
        plain = []
        with torch.no_grad():
            for batch in bench.feed("test").batches(64):
                plain.append(forward(view.module, *bench.task.encode(batch)).logits.argmax(1))
        assert float((view.log_probs.argmax(1) == torch.cat(plain)).float().mean()) > 0.997


class OwnPadding(nn.Conv2d):
    """Pads by itself, as converted nets do."""

    def forward(self, input: Tensor) -> Tensor:
        padded = nn.functional.pad(input, (0, 1, 0, 1))
        return nn.functional.conv2d(
            padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


class Standardised(nn.Conv2d):
    """Its output isn't proportional to its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight / self.weight.std(), self.bias)


class Squared(nn.Linear):
    """Nor is its output to its input."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input**2)


class OwnLayers(nn.Sequential):
    def __init__(self, shape: list[int], classes: int) -> None:
        size = shape[1] * shape[2]
        super().__init__(
            OwnPadding(shape[0], 4, 2, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            Standardised(4, 2, 3, padding=1),
            nn.Flatten(),
            Squared(2 * size, 8),
            nn.Linear(8, classes),
        )


def test_layers_of_a_class_of_their_own(bench) -> None:
    """Somebody else's subclass rounds if that is what an integer kernel does, and else stays, by name."""
    spec = {"_target_": "test_quantize.OwnLayers", "shape": "@shape", "classes": "@classes"}
    dense = drawn({"name": "own", "build": spec}, bench)
    state = Quantize(examples=16).apply(dense, bench)
    module = module_of(state)
    assert set(quantized(module)) == {"0", "6"}
    assert isinstance(module.get_submodule("1"), nn.Identity), "its norm is folded into it"
    (flag,) = state.facts["flags"]
    assert flag.startswith("layers left in float: 3 (Standardised, whose output isn't proportional")
    assert "5 (Squared" in flag
    x = bench.task.normalised(bench.feed("test")["images"][:8])
    layer = module.get_submodule("0")
    with torch.no_grad():
        found = layer(x)
        form = forms_of(layer)
        weight = rounded(layer.weight, form["weight"], layer.weight_scale, layer.weight_zero)
        rounded_x = rounded(x, form["input"], layer.input_scale, layer.input_zero)
        expected = nn.functional.conv2d(nn.functional.pad(rounded_x, (0, 1, 0, 1)), weight, layer.bias)
    assert torch.equal(found, expected)
    assert "weight" in dict(layer.named_parameters()), "the latent weight is what trains"
    module.requires_grad_(True)(x).sum().backward()
    gradient = layer._parameters["weight"].grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


def test_parts_of_torch_itself_are_no_such_class() -> None:
    attention = nn.MultiheadAttention(8, 2)
    assert unfit(attention.out_proj) == "NonDynamicallyQuantizableLinear"
    assert unfit(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    assert not unfit(nn.Linear(3, 2))
