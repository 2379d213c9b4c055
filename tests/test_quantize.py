"""Quantize stages: what they make, corrections after them, bits by layer."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
from torch import Tensor, nn

from cases_quantize import (
    RESNET,
    STAGES,
    from_yaml,
    logits,
    observer,
    qat,
    same,
    top1,
    train,
    trained,  # noqa: F401
)
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.quantized import forms_of, quantized, rounded
from compressbench.observers.min_max import min_max
from compressbench.outputs import forward
from compressbench.quantizing import calibration, correction, folding, mixed, ranges
from compressbench.stages.quantize import Cast, Mixed, Quantize
from compressbench.store import Store
from tiny import TINY

# Stages ---------------------------------------------------------------------------------------------------------------


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
    assert any("calibrated on training examples" in flag for flag in result.facts["flags"])
    assert not Quantize(dynamic=True).apply(drawn(TINY, bench), bench).facts["flags"]


def test_no_calibration_images_is_refused_where_they_are_wanted(bench) -> None:
    state = drawn(TINY, bench)
    with pytest.raises(UserError, match="no calibration examples"):
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
        ({"split": "test"}, "test examples choose nothing"),
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


# Corrections ----------------------------------------------------------------------------------------------------------


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


# Mixed precision ------------------------------------------------------------------------------------------------------


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
