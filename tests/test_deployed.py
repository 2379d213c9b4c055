"""Deployment: graphs that carry a state's own scales, what runtimes make of them, exported files without us."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.hardware import agreement, onnx_graph, onnxruntime_cpu, openvino_cpu
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
from compressbench.hardware.openvino_cpu import OpenVINOCPU
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.quantized import affine, load_scales, quantize, symmetric
from compressbench.probes.deployed import Deployed
from compressbench.state import State
from compressbench.views import View

onnx = pytest.importorskip("onnx")
for _runtime in ("onnxruntime", "openvino"):  # not imported here: that would write into the user's folder
    if importlib.util.find_spec(_runtime) is None:
        pytest.skip(f"needs {_runtime}", allow_module_level=True)

RESNET = {
    "name": "resnet8",
    "build": {
        "_target_": "compressbench.models.resnet.CifarResNet",
        "depth": 8,
        "shape": "@shape",
        "classes": "@classes",
    },
}
WEIGHT = {"bits": 8, "low": -127, "high": 127, "axis": 0}
INPUT = {"bits": 8, "low": 0, "high": 255, "axis": None}


def quantized_state(
    state: State, bench: Bench, weight: Any = WEIGHT, entering: Any = INPUT, only: str = ""
) -> State:
    """Every layer rounded, by hand: weights by their largest entry, inputs by the range on 64 test images."""
    module = module_of(state)
    kinds = (nn.Conv2d, nn.Linear)
    layers = {n: m for n, m in module.named_modules() if isinstance(m, kinds) and n.startswith(only)}
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda m, x, n=name: seen.update({n: (x[0].amin(), x[0].amax())}))
    with torch.no_grad():
        module(bench.task.normalised(bench.feed("test")["images"][:64]))
    scales = {}
    for name, layer in layers.items():
        if weight and "dtype" not in weight:
            rows = layer.weight.detach().flatten(1)
            if weight["axis"] is None:
                rows = rows.reshape(1, -1)
            if weight["low"] == -weight["high"]:
                scale, zero = symmetric(rows.abs().amax(1), weight["low"], weight["high"])
            else:
                scale, zero = affine(rows.amin(1), rows.amax(1), weight["low"], weight["high"])
            if weight["axis"] is None:
                scale, zero = scale[0], zero[0]
            scales |= {f"{name}.weight|scale": scale, f"{name}.weight|zero": zero}
        if entering and "dtype" not in entering and not entering.get("dynamic"):
            scale, zero = affine(*seen[name], entering["low"], entering["high"])
            scales |= {f"{name}.input|scale": scale, f"{name}.input|zero": zero}
    edit = {"quantize": {n: {"weight": weight, "input": entering} for n in layers}}
    return dataclasses.replace(state, edits=(*state.edits, edit)).with_groups(scales=scales)


def lowered(target: Any, state: State, bench: Bench) -> Lowered:
    found = target.lower(View(state, bench))
    assert isinstance(found, Lowered), found
    return found


def simulated(state: State, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module_of(state)(inputs)


FORMS = {
    "float": (None, None),
    "8/8": (WEIGHT, INPUT),
    "8/8 per tensor": ({**WEIGHT, "axis": None}, INPUT),
    "8/8 asymmetric weights": ({"bits": 8, "low": -128, "high": 127, "axis": 0}, INPUT),
    "8/8 unsigned weights": ({"bits": 8, "low": 0, "high": 255, "axis": 0}, INPUT),
    "8/8 signed inputs": (WEIGHT, {"bits": 8, "low": -128, "high": 127, "axis": None}),
    "8/8 signed inputs, both alike": (WEIGHT, {"bits": 8, "low": -127, "high": 127, "axis": None}),
    "4/4": ({"bits": 4, "low": -7, "high": 7, "axis": 0}, {"bits": 4, "low": 0, "high": 15, "axis": None}),
    "2/8": ({"bits": 2, "low": -1, "high": 1, "axis": 0}, INPUT),
    "12/12": (
        {"bits": 12, "low": -2047, "high": 2047, "axis": 0},
        {"bits": 12, "low": 0, "high": 4095, "axis": None},
    ),
    "8/dynamic": (WEIGHT, {**INPUT, "dynamic": True}),
    "weights only": (WEIGHT, None),
    "inputs only": (None, INPUT),
    "bf16": ({"dtype": "bfloat16"}, {"dtype": "bfloat16"}),
    "fp16": ({"dtype": "float16"}, {"dtype": "float16"}),
}
TARGETS = {"onnxruntime": OnnxRuntimeCPU(batches=(1,)), "openvino": OpenVINOCPU(batches=(64,))}


class OwnPadding(nn.Conv2d):
    """Pads by itself, as converted nets do."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(input, (0, 1, 0, 1))
        return nn.functional.conv2d(padded, self.weight, self.bias, self.stride)


class Padded(nn.Sequential):
    def __init__(self, shape: list[int], classes: int) -> None:
        layers = OwnPadding(shape[0], 4, 2), nn.ReLU(), OwnPadding(4, 4, 2), nn.Flatten()
        super().__init__(*layers, nn.Linear(4 * shape[1] * shape[2], classes))


@pytest.mark.parametrize("runtime", TARGETS)
def test_layers_of_a_class_of_their_own_are_deployed(runtime: str, place: Bench) -> None:
    build = {"_target_": "test_deployed.Padded", "shape": "@shape", "classes": "@classes"}
    state = quantized_state(drawn({"name": "padded", "build": build}, place), place)
    found = lowered(TARGETS[runtime], state, place)
    inputs = place.task.normalised(place.feed("test")["images"][:64])
    own, there = simulated(state, inputs), found.run(inputs)
    assert isinstance(there, torch.Tensor)
    assert float((there - own).abs().max()) < 0.03 * float(own.max() - own.min())
    assert "int8" in found.runtime
    assert found.in_float == (("0", "2") if runtime == "onnxruntime" else ()), (
        "its convolutions want rounded results"
    )


@pytest.mark.parametrize("runtime", TARGETS)
@pytest.mark.parametrize("name", FORMS)
def test_a_runtime_computes_what_the_simulation_says(
    name: str, runtime: str, place: Bench, dense: State
) -> None:
    weight, entering = FORMS[name]
    state = quantized_state(dense, place, weight, entering) if name != "float" else dense
    found = lowered(TARGETS[runtime], state, place)
    inputs = place.task.normalised(place.feed("test")["images"][:64])
    own, there = simulated(state, inputs), found.run(inputs)
    assert isinstance(there, torch.Tensor)
    assert there.shape == own.shape == (64, 10)
    spread = float(own.max() - own.min())
    limit = 0.02 if "dtype" in (weight or {}) else 0.005  # a rounding on its edge may fall to the other side
    assert float((there - own).abs().max()) < limit * spread
    if name != "float":
        assert float((there - simulated(dense, inputs)).abs().max()) > 1e-6 * spread, "it does round"


def test_the_graph_is_u8s8_with_the_states_own_scales(place: Bench, dense: State) -> None:
    state = quantized_state(dense, place)
    inputs = place.task.normalised(place.feed("test")["images"][:8])
    graph = onnx_graph.graph_of(module_of(state), (inputs,))
    onnx.checker.check_model(graph.model)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.model.graph.initializer}
    assert graph.integer == ("features.0", "features.4", "fc")
    for name in graph.integer:
        assert values[f"{name}.weight|q"].dtype == np.int8
        assert values[f"{name}.input|zero"].dtype == np.uint8
        assert np.abs(values[f"{name}.weight|q"].astype(int)).max() == 127
        for key in ("weight|scale", "weight|zero", "input|scale", "input|zero"):
            assert np.array_equal(values[f"{name}.{key}"], state.group("scales")[f"{name}.{key}"].numpy()), (
                key
            )
    assert not any(v.dtype == np.float32 and v.ndim > 1 for v in values.values()), "no float weight is left"
    kinds = [n.op_type for n in graph.model.graph.node]
    assert kinds.count("QuantizeLinear") == 3
    assert graph.bytes() == onnx_graph.graph_of(module_of(state), (inputs,)).bytes()


def test_symmetric_signed_inputs_become_unsigned_by_a_move_of_128(place: Bench, dense: State) -> None:
    state = quantized_state(dense, place, WEIGHT, {"bits": 8, "low": -128, "high": 127, "axis": None})
    graph = onnx_graph.graph_of(module_of(state), (place.task.normalised(place.feed("test")["images"][:8]),))
    values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.model.graph.initializer}
    for name in graph.integer:
        assert int(values[f"{name}.input|zero"]) == int(state.group("scales")[f"{name}.input|zero"]) + 128


def test_equal_tensors_keep_their_names(place: Bench) -> None:
    """The exporter merges equal initializers: biases of zeros, as in every fresh net, and equal weights."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
            self.two.load_state_dict(self.one.state_dict())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x.flatten(1)))

    module = quantize(Twins().eval(), {n: {"weight": WEIGHT, "input": INPUT} for n in ("one", "two")})
    scale = module.one.weight.detach().abs().amax(1) / 127
    zeros = torch.zeros(64, dtype=torch.int32)
    one = {"weight|scale": scale, "weight|zero": zeros, "input|scale": torch.tensor(0.02)}
    one["input|zero"] = torch.tensor(100, dtype=torch.int32)
    load_scales(module, {f"{n}.{k}": v for n in ("one", "two") for k, v in one.items()})
    x = place.task.normalised(place.feed("test")["images"][:16])
    graph = onnx_graph.graph_of(module, (x,))
    session = onnxruntime_cpu.open_session(onnxruntime_cpu.package(), graph.bytes(), 1)
    there = session.run(None, {"images": x.numpy()})[0]
    with torch.no_grad():
        assert np.allclose(there, module(x).numpy(), atol=2e-2)


def test_u8s8_kernels_are_chosen(place: Bench) -> None:
    """OpenVINO computes every layer on integers; ONNX Runtime those whose result is rounded next, the rest is named."""
    state = quantized_state(drawn(RESNET, place), place)
    layers = set(state.edits[-1]["quantize"])
    openvino = lowered(OpenVINOCPU(batches=(1,)), state, place)
    assert openvino.in_float == ()
    assert "int8" in openvino.runtime
    onnxruntime = lowered(OnnxRuntimeCPU(batches=(1,)), state, place)
    assert set(onnxruntime.in_float) < layers
    assert "int8, " in onnxruntime.runtime
    assert onnxruntime.in_float[0] in onnxruntime.runtime
    float_only = lowered(OnnxRuntimeCPU(batches=(1,)), drawn(RESNET, place), place)
    assert float_only.runtime.endswith("fp32")
    assert len(openvino.artefact) < 0.4 * len(float_only.artefact)
    assert openvino.compile_seconds > 0


def test_rounded_results_bring_every_layer_to_integers(place: Bench) -> None:
    """ONNX Runtime's integer convolution can't give floats: on request what a sum reads is rounded as well."""
    state = quantized_state(drawn(RESNET, place), place)
    plain = lowered(OnnxRuntimeCPU(batches=(1,)), state, place)
    whole = lowered(OnnxRuntimeCPU(batches=(1,), results=True), state, place)
    assert plain.in_float
    assert whole.in_float == ()
    assert whole.runtime.endswith("results rounded too")
    before, after = (
        {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load_from_string(x.artefact).graph.initializer}
        for x in (plain, whole)
    )
    added = after.keys() - before.keys()
    assert added
    assert all(".result|" in name for name in added)
    assert all(np.array_equal(before[name], after[name]) for name in before), (
        "the state's own are as they were"
    )
    x = place.task.normalised(place.feed("test")["images"][:256])
    same = plain.run(x).argmax(1) == whole.run(x).argmax(1)  # type: ignore[attr-defined]
    assert float(same.float().mean()) > 0.95


class Products(nn.Module):
    """Linear layers on four dimensions, without biases: OpenVINO's integer kernels answer wrongly for some of them."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(shape[2], 16, bias=False)
        self.second = nn.Linear(16, 8, bias=False)
        self.fc = nn.Linear(8 * shape[0] * shape[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.tanh(self.second(torch.relu(self.first(x)))).flatten(1))


@pytest.mark.parametrize("entering", ["8/8", "8/8 signed inputs", "4/4"])
@pytest.mark.parametrize("runtime", TARGETS)
def test_what_a_runtime_answers_is_near_the_state(runtime: str, entering: str, place: Bench) -> None:
    build = {"_target_": "test_deployed.Products", "shape": "@shape", "classes": "@classes"}
    state = quantized_state(drawn({"name": "products", "build": build}, place), place, *FORMS[entering])
    found = lowered(dataclasses.replace(TARGETS[runtime], batches=(64,)), state, place)
    own, there = simulated(state, *found.inputs), found.run(*found.inputs)
    assert isinstance(there, torch.Tensor)
    assert float((there - own).abs().mean()) < 0.25 * float(own.std())


def test_wrong_answers_of_openvino_keep_linear_layers_in_float(
    place: Bench, dense: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = OpenVINOCPU(batches=(4,))
    real = agreement.check
    for refusals, kept in ((iter([True, False]), ("fc",)), (itertools.repeat(True), None)):

        def check(*args: Any, refusals: Iterator[bool] = refusals) -> None:
            real(*args)
            if args[5] and next(refusals):  # of what rounds
                raise agreement.Otherwise("far apart")

        monkeypatch.setattr(agreement, "check", check)
        found = target.lower(View(quantized_state(dense, place), place))
        if kept is None:
            assert found == Unsupported("far apart")
        else:
            assert isinstance(found, Lowered)
            assert found.in_float == kept
            assert "its integer kernels answer wrongly for fc: in float" in found.runtime


class Shared(nn.Sequential):
    def __init__(self, shape: list[int], classes: int) -> None:
        first, second = nn.Conv2d(shape[0], shape[0], 1), nn.Conv2d(shape[0], shape[0], 1)
        second.weight = first.weight
        super().__init__(
            first, nn.ReLU(), second, nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes)
        )


def test_two_layers_that_share_a_weight_are_refused(place: Bench) -> None:
    from compressbench.stages.quantize import Quantize

    build = {"_target_": "test_deployed.Shared", "shape": "@shape", "classes": "@classes"}
    state = Quantize(examples=16).apply(drawn({"name": "shared", "build": build}, place), place)
    assert any("2 (it shares the weight of 0)" in flag for flag in state.facts["flags"])
    for target in TARGETS.values():
        refused = target.lower(View(state, place))
        assert isinstance(refused, Unsupported)
        assert "2 and 0 share a weight" in refused.why


@pytest.mark.parametrize("runtime", TARGETS)
@pytest.mark.parametrize("form", ["4/4", "2/8"])
def test_few_bits_are_exact_in_a_deep_net(form: str, runtime: str, place: Bench) -> None:
    """ONNX Runtime rounds biases in steps of input scale x weight scale where it can; at few bits that is another net."""
    state = quantized_state(drawn(RESNET, place), place, *FORMS[form])
    found = lowered(dataclasses.replace(TARGETS[runtime], batches=(64,)), state, place)
    own, there = simulated(state, *found.inputs), found.run(*found.inputs)
    assert isinstance(there, torch.Tensor)
    same = (there.argmax(1) == own.argmax(1)).float().mean()
    assert float(same) >= 0.98
    assert float((there - own).abs().mean()) < 0.02 * float(own.std())


def test_bits_without_kernels_are_said(place: Bench, dense: State) -> None:
    wide = quantized_state(dense, place, *FORMS["12/12"])
    assert "more than 8 bits have no integer kernels" in lowered(TARGETS["openvino"], wide, place).runtime
    only = quantized_state(dense, place, WEIGHT, None)
    assert "its input is float" in lowered(TARGETS["onnxruntime"], only, place).runtime
    dynamic = quantized_state(dense, place, *FORMS["8/dynamic"])
    assert {"features.0", "features.4"} <= set(lowered(TARGETS["openvino"], dynamic, place).in_float)
    cast = quantized_state(dense, place, *FORMS["bf16"])
    assert lowered(TARGETS["openvino"], cast, place).runtime.endswith("else bf16")
    few = quantized_state(dense, place, WEIGHT, {"bits": 4, "low": 0, "high": 15, "dynamic": True})
    refused = TARGETS["onnxruntime"].lower(View(few, place))
    assert isinstance(refused, Unsupported)
    assert "8 bits only" in refused.why


class Awkward(nn.Module):
    """Its forward asks Python what a tensor holds, in a way that no exporter can follow."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.fft.fft(x.flatten(1)).real)


def test_a_net_that_no_runtime_takes_is_one_line(place: Bench) -> None:
    spec = {"_target_": "test_deployed.Awkward", "shape": "@shape", "classes": "@classes"}
    state = drawn({"name": "awkward", "build": spec}, place)
    for target in TARGETS.values():
        refused = target.lower(View(state, place))
        assert isinstance(refused, Unsupported)
        assert "\n" not in refused.why
    view = View(state, place)
    found = list(Deployed(dict(TARGETS)).measure(view, view, place))
    assert [m.value for m in found if m.name == "deployed_top1"] == [None, None]
    assert all(m.note for m in found if m.value is None)


def test_the_probe_has_every_column(place: Bench) -> None:
    dense = drawn(RESNET, place)
    state = quantized_state(dense, place)
    targets = {n: dataclasses.replace(t, batches=(1,), seconds=0.01) for n, t in TARGETS.items()}
    found = {
        (m.name, m.group): m for m in Deployed(targets).measure(View(state, place), View(dense, place), place)
    }
    for runtime in targets:
        assert abs(found["deployed_gap", runtime].value) < 3
        assert found["deployed_agreement", runtime].value > 90
        assert found["deployed_top1", runtime].n == 797
        low, middle, high = (found[f"deployed_speedup{e}_b1", runtime].value for e in ("_low", "", "_high"))
        assert 0 < low <= middle <= high
        assert found["deployed_speedup_b1", runtime].n >= 5
        for arm in ("deployed", "reference_fp32", "simulated"):
            least = found[f"{arm}_latency_min_b1", runtime]
            assert 0 < least.value <= found[f"{arm}_latency_b1", runtime].value
            assert least.n >= 10
        assert found["deployed_over_simulated_b1", runtime].value > 0
        assert found["compile_seconds", runtime].unit == "s"
        assert found["artefact_bytes", runtime].value > 20_000
    assert ("deployed_speedup_over_bf16_b1", "openvino") in found
    assert ("deployed_speedup_over_bf16_b1", "onnxruntime") not in found, "it has no bf16 kernels"
    assert "in float: " in found["layers_in_float", "onnxruntime"].note


def test_a_gap_is_flagged(place: Bench, dense: State, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(OnnxRuntimeCPU):
        def lower(self, view: View) -> Lowered | Unsupported:
            found = super().lower(view)
            assert isinstance(found, Lowered)
            return dataclasses.replace(
                found, run=lambda x: torch.nn.functional.one_hot(torch.zeros(len(x)).long(), 10)
            )

    view = View(dense, place)
    found = {m.name: m for m in Deployed({"w": Wrong(batches=(1,), seconds=0.01)}).measure(view, view, place)}
    gap = found["deployed_top1"].value - found["simulated_top1"].value
    assert found["deployed_gap"].value == gap
    assert bool(found["deployed_gap"].note) == (abs(gap) > 0.2)
    assert abs(gap) > 0.2


@pytest.mark.parametrize(
    "settings",
    [
        {"threads": 0},
        {"batches": ()},
        {"batches": (0,)},
        {"batches": (1.5,)},
        {"batches": 8},
        {"seconds": -1},
    ],
)
@pytest.mark.parametrize("kind", [OnnxRuntimeCPU, OpenVINOCPU])
def test_settings_are_checked(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="hardware: "):
        kind(**settings)


def test_an_unknown_precision_names_the_known() -> None:
    from compressbench.hardware.torch_compiled import TorchCompiled

    with pytest.raises(UserError, match="bf16"):
        OpenVINOCPU(precision="bf17")
    with pytest.raises(UserError, match="bf16"):
        TorchCompiled(precision="f16")
    with pytest.raises(UserError, match="a mapping"):
        Deployed({})


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("onnxruntime", onnxruntime_cpu.package, "onnx"),
        ("onnx", onnx_graph.onnx, "onnx"),
        ("openvino", openvino_cpu.package, "openvino"),
    ],
)
def test_a_missing_package_says_what_to_install(
    module: str, call: Any, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    if module == "openvino":
        monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(sys, "meta_path", [_Hiding(module), *sys.meta_path])
    with pytest.raises(UserError, match=rf"pip install 'compressbench\[{extra}\]'"):
        call()


class _Hiding:
    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == self.name:
            raise ImportError(f"No module named {name!r}")


BYTES_IN_INDUCTOR = (
    "8/8",
    "8/8 per tensor",
    "8/8 signed inputs",
    "8/8 signed inputs, both alike",
    "4/4",
    "2/8",
)
SIMULATED_IN_INDUCTOR = (
    "8/8 asymmetric weights",
    "12/12",
    "8/dynamic",
    "weights only",
    "inputs only",
    "bf16",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BYTES_IN_INDUCTOR, *SIMULATED_IN_INDUCTOR])
def test_compiled_torch_computes_what_the_simulation_says(name: str, place: Bench, dense: State) -> None:
    pytest.importorskip("torchao")
    from compressbench.hardware.torch_compiled import TorchCompiled

    state = quantized_state(dense, place, *FORMS[name])
    found = lowered(TorchCompiled(batches=(64,)), state, place)
    own, there = simulated(state, *found.inputs), found.run(*found.inputs)
    assert isinstance(there, torch.Tensor)
    assert float((there - own).abs().max()) < 0.03 * float(own.max() - own.min())
    simulates = name in SIMULATED_IN_INDUCTOR
    assert found.in_float == (("features.0", "features.4", "fc") if simulates else ())
    assert ("int8" in found.runtime) is not simulates
    assert ("3 of 3 quantized layers simulated" in found.runtime) is simulates
    assert found.compile_seconds > 0.1


class Twice(nn.Module):
    """One layer called twice, which inductor leaves in float; what is between convolutions is nothing but ReLUs."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(shape[0], 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.twice(torch.relu(self.twice(torch.relu(self.first(x)))))
        return self.fc(torch.relu(y).mean((2, 3)))


class Residual(nn.Module):
    """Its sum of a product with what went into it is one that torchao 0.18 fails to compile in integers."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(shape[1] * shape[2] * shape[0], 16)
        self.second = nn.Linear(16, 16)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        return self.fc(x + torch.relu(self.second(x)))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["8/8", "4/4"])
@pytest.mark.parametrize("kind", ["Twice", "Residual"])
def test_what_inductor_cannot_have_in_integers_is_named(kind: str, form: str, place: Bench) -> None:
    pytest.importorskip("torchao")
    from compressbench.hardware.torch_compiled import TorchCompiled

    build = {"_target_": f"test_deployed.{kind}", "shape": "@shape", "classes": "@classes"}
    state = quantized_state(drawn({"name": kind, "build": build}, place), place, *FORMS[form])
    found = lowered(TorchCompiled(batches=(4,)), state, place)
    own, there = simulated(state, *found.inputs), found.run(*found.inputs)
    assert isinstance(there, torch.Tensor)
    assert float((there - own).abs().max()) < 0.03 * float(own.max() - own.min())
    if kind == "Twice":
        assert found.in_float == ("twice",)
    else:
        assert not found.in_float or "its integer kernels fail" in found.runtime


@pytest.mark.slow
def test_compiled_torch_in_bf16_has_the_same_integers(place: Bench, dense: State) -> None:
    pytest.importorskip("torchao")
    from compressbench.hardware.torch_compiled import TorchCompiled

    state = quantized_state(dense, place)
    found = lowered(TorchCompiled(batches=(64,), precision="bf16"), state, place)
    own, there = simulated(state, *found.inputs), found.run(*found.inputs)
    assert isinstance(there, torch.Tensor)
    assert float((there - own).abs().max()) < 0.03 * float(own.max() - own.min())
    assert not found.in_float
    assert found.runtime == "torch inductor, int8, what is float bf16"


@pytest.mark.slow
def test_without_torchao_compiled_torch_says_what_to_install(
    place: Bench, dense: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressbench.hardware.torch_compiled import TorchCompiled

    monkeypatch.setitem(sys.modules, "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", None)
    found = lowered(TorchCompiled(batches=(1,)), quantized_state(dense, place), place)
    assert found.in_float == ("features.0", "features.4", "fc")
    assert "pip install 'compressbench[pt2e]'" in found.runtime


@pytest.mark.slow
def test_nine_nets_of_one_class_are_all_compiled(place: Bench, dense: State) -> None:
    """torch stops compiling a code object after eight versions of it, in silence."""
    from torch._dynamo.utils import counters

    from compressbench.hardware.torch_compiled import TorchCompiled

    target = TorchCompiled(batches=(1,), seconds=0.01)
    nets = [lowered(target, dense, place) for _ in range(9)]
    counters.clear()
    assert len(target.time(nets, 1)) == 9
    assert not counters["stats"], "frames compiled or skipped while timing"


USER = """
import json, sys
import numpy as np
folder = sys.argv[1]
data = np.load(folder + "/quantized.test.npz")
mean, std = np.array(json.load(open(folder + "/norm.json"))).reshape(2, -1)
x = (data["images"] * (1 / (255 * std)).astype("float32")[:, None, None]
     - (mean / std).astype("float32")[:, None, None]).astype("float32")
import onnxruntime, openvino
run = onnxruntime.InferenceSession(folder + "/quantized.onnx", providers=["CPUExecutionProvider"])
exact = {"INFERENCE_PRECISION_HINT": "f32"}
logits = {
    "onnxruntime": run.run(None, {"images": x})[0],
    "openvino": openvino.Core().compile_model(folder + "/quantized.xml", "CPU", exact)([x])[0],
}
assert not any(m.startswith("compressbench") for m in sys.modules)
print(json.dumps({name: int((found.argmax(1) == data["labels"]).sum()) for name, found in logits.items()}))
"""


RECIPE = """# tiny_ptq: a net and its eight-bit form
defaults:
  - /stage/init@stages.init: model
  - /stage/train@stages.dense: sgd
  - /stage/quantize@stages.quantized: ptq
  - override /model@_global_.model: resnet8
  - override /dataset@_global_.dataset: digits
  - _self_
name: tiny_ptq
stages:
  dense: {length: 1ep, batch_size: 64}
compare: {reference: dense, floor: false, series: {8 bits: quantized}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a quantized state: its folder."""
    from compressbench.cli.run import run_once

    folder = tmp_path_factory.mktemp("run")
    (folder / "conf" / "recipe").mkdir(parents=True)
    (folder / "conf" / "recipe" / "tiny_ptq.yaml").write_text(RECIPE)
    run_once(
        [
            "recipe=tiny_ptq",
            "scale=smoke",
            "hardware=cpu1",
            "evaluation=none",
            "+probe@evaluation.probes.deployed=deployed",
            f"outputs={folder}/out",
        ],
        str(folder / "conf"),
    )
    return next((folder / "out" / "runs").iterdir())


def test_a_plain_script_gives_the_recorded_accuracy_to_the_image(
    finished: Path, command, digits, tmp_path: Path
) -> None:
    """The whole way: a run with a quantized state, its exports, and a user's script that knows nothing of us."""
    from compressbench.records import read_jsonl

    (tmp_path / "norm.json").write_text(json.dumps([*digits.task.mean, *digits.task.std]))
    (tmp_path / "user.py").write_text(USER)
    records = read_jsonl(finished / "records.jsonl").where(state="quantized", metric="deployed_top1")
    for form in ("onnx", "openvino"):
        done = command(
            *("export", str(finished), "--state", "quantized", "--to", form, "--output", str(tmp_path)),
            "--images",
        )
        assert done.returncode == 0, done.stderr
    script = [sys.executable, str(tmp_path / "user.py"), str(tmp_path)]
    env = {"PATH": "", "HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    said = subprocess.run(script, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert said.returncode == 0, said.stderr
    for form, runtime in (("onnx", "onnxruntime"), ("openvino", "openvino")):
        (row,) = records.where(group=runtime)
        assert json.loads(said.stdout)[runtime] == round(row.value * row.n / 100)
        card = (tmp_path / f"quantized.{form}.md").read_text()
        for word in ("tiny_ptq", "licence", "deployed_top1", "mean = [", "quantize weights", "cpu1"):
            assert word in card, word


@pytest.mark.parametrize("form", ["torch_export", "safetensors", "executorch"])
@pytest.mark.parametrize("state", ["dense", "quantized"])
def test_other_forms_hold_the_same_function(
    form: str, state: str, finished: Path, command, tmp_path: Path
) -> None:
    if form == "executorch" and importlib.util.find_spec("executorch") is None:
        pytest.skip("needs executorch, which `make` does not install")
    done = command("export", str(finished), "--state", state, "--to", form, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "same class for 100.00 %" in done.stdout
    if (form, state) == ("safetensors", "quantized"):
        from safetensors.torch import load_file

        tensors = load_file(str(tmp_path / "quantized.safetensors"))
        assert tensors["conv1.weight|q"].dtype == torch.int8
        assert "conv1.weight" not in tensors


def test_exports_that_cannot_be_are_one_line(
    finished: Path, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(finished)
    cases = {
        (run, "--state", "dense", "--to", "onx"): "unknown form 'onx'; did you mean onnx?",
        (run, "--state", "dens", "--to", "onnx"): "no state 'dens'; did you mean dense?",
        (str(tmp_path), "--state", "dense", "--to", "onnx"): "it has no config.yaml",
        (run, "--state", "dense"): "required: --to",
    }
    monkeypatch.setitem(sys.modules, "executorch", None)
    cases[(run, "--state", "dense", "--to", "executorch")] = "pip install executorch"
    for words, said in cases.items():
        done = command("export", *words)
        assert done.returncode == 2, words
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
        assert not done.stdout


def test_a_file_that_does_something_else_is_not_left_behind(
    finished: Path, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressbench.deploying import exporting

    def wrong(view: View, stem: Path, sample: torch.Tensor) -> exporting.Written:
        paths, _, runtime = exporting.safetensors(view, stem, sample)
        return paths, lambda x: torch.nn.functional.one_hot(torch.zeros(len(x)).long(), 10), runtime

    monkeypatch.setitem(exporting.FORMS, "safetensors", wrong)
    done = command(
        "export", str(finished), "--state", "dense", "--to", "safetensors", "--output", str(tmp_path)
    )
    assert done.returncode == 2
    assert "what was written is deleted again" in done.stderr
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_in_the_users_folder(tmp_path: Path) -> None:
    """Both runtimes would write an identity there when they are imported."""
    code = (
        "from compressbench.hardware import onnxruntime_cpu, openvino_cpu\n"
        "onnxruntime_cpu.package(), openvino_cpu.package().Core()"
    )
    env = {**os.environ, "HOME": str(tmp_path)}
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI"):
        env.pop(name, None)
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    assert not list(tmp_path.rglob("*"))
