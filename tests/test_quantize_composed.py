"""Training of rounded nets, and every stage after a quantize stage."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from cases_quantize import (
    MAGNITUDE,
    observer,
    qat,
    same,
    stages,
    top1,
    train,
    trained,  # noqa: F401
)
from compressbench import specs
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.quantized import forms_of, quantized, rounded, unfit
from compressbench.outputs import forward
from compressbench.probes.structure import Structure
from compressbench.stages.quantize import Cast, Quantize
from compressbench.stages.shrink import Channels
from compressbench.state import State
from compressbench.views import View
from conftest import kill

# Training -------------------------------------------------------------------------------------------------------------


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


# Composition ----------------------------------------------------------------------------------------------------------


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
    spec = {"_target_": "test_quantize_composed.OwnLayers", "shape": "@shape", "classes": "@classes"}
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
