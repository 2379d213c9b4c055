"""Devices that aren't here: rooflines by hand, ridge points, what fits, and what brings nothing where."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from compressbench import specs
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.hardware.fpga import Fpga
from compressbench.hardware.modelled import Device, Modelled, Roofline, as_run, layer_time, share, unfit
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.hardware.units import quantity
from compressbench.hardware.work import DENSE, TWO_OF_FOUR, UNSTRUCTURED, Layer, Work, pattern_of, work_of
from compressbench.models.draw import drawn
from compressbench.probes.targets import Targets
from compressbench.specs.conf import conf_dir
from compressbench.stages.quantize import Quantize
from compressbench.state import State
from compressbench.views import View

NAMES = sorted(p.stem for p in (conf_dir() / "target").glob("*.yaml"))


def target(name: str) -> Any:
    config = OmegaConf.load(conf_dir() / "target" / f"{name}.yaml")
    if "seconds" in config:
        config.seconds = 0.01
    return specs.build(OmegaConf.to_container(config), name)


MODELLED = [n for n in NAMES if not hasattr(target(n), "seconds")]
ROOFLINES = [n for n in MODELLED if isinstance(target(n), Modelled)]
LAYER = Layer("a", "convolution", 1_000_000, 9216, 9216, DENSE, 8192, 8192, (32, 32))
INT8 = dataclasses.replace(LAYER, weight_bits=8, input_bits=8)
HALF = dataclasses.replace(LAYER, weight_bits=16, input_bits=16, half="float16")


def pruned(layer: Layer, pattern: str, density: float) -> Layer:
    return dataclasses.replace(layer, pattern=pattern, nonzero=round(layer.weights * density))


def seconds(layer: Layer, device: Device, batch: int = 1) -> float:
    return Roofline(Work((layer,), 16384, 0), device)(batch)[0].seconds


@pytest.mark.parametrize(
    ("name", "kind", "ridge"),
    [  # FACTS.md, section 16
        ("raspberry_pi_4", "fp32", 3.8),
        ("raspberry_pi_5", "fp32", 9),
        ("jetson_nano", "fp16", 18),
        ("jetson_orin_nano", "int8", 294),
        ("t4", "fp16", 203),
        ("a100", "fp16", 201),
        ("h100", "fp16", 295),
        ("tpu_v4", "bf16", 229),
    ],
)
def test_ridge_points(name: str, kind: str, ridge: float) -> None:
    assert target(name).device.ridge(kind) == pytest.approx(ridge, rel=0.03)


def test_the_fpga_comes_near_two_vendor_engines_at_8_bits() -> None:
    """2.46 TOP/s: two DPU B4096 at 300 MHz (AMD UG1354)."""
    assert target("zynq_zcu104").peak(8, 8) == pytest.approx(2.46e12, rel=0.2)


def test_fewer_bits_are_always_faster_on_the_fpga_only() -> None:
    fpga = target("zynq_zcu104")
    peaks = [fpga.peak(b, b) for b in (32, 16, 8, 6, 4, 3, 2, 1)]
    assert peaks == sorted(peaks)
    four = dataclasses.replace(LAYER, weight_bits=4, input_bits=4)
    assert fpga.layer_time(four, 64, True).seconds < fpga.layer_time(INT8, 64, True).seconds
    phone = target("raspberry_pi_5").device
    assert seconds(four, phone) == seconds(INT8, phone)
    assert as_run(four, phone).why == "4 bits run as 8"


def test_a_layer_by_hand() -> None:
    device = Device({"fp32": 1e9}, 1e8, 1e9, overhead=1e-6, supports={})
    run = as_run(LAYER, device)
    computing, moving = 2 * 1e6 / 1e9, (9216 + 16384) * 4 / 1e8
    found = layer_time(LAYER, run, device, 1, False)
    assert found.seconds == pytest.approx(max(computing, moving) + 1e-6)
    assert found.bound == "computing"
    eight = layer_time(LAYER, run, device, 8, False)
    assert eight.seconds == pytest.approx(8 * computing + 1e-6)
    slow = dataclasses.replace(device, bandwidth=1e7)
    assert layer_time(LAYER, run, slow, 1, False).bound == "moving"
    assert layer_time(LAYER, run, slow, 1, False).seconds == pytest.approx((9216 + 16384) * 4 / 1e7 + 1e-6)
    lazy = dataclasses.replace(device, overhead=1.0)
    assert layer_time(LAYER, run, lazy, 1, False).bound == "overhead"


def test_a_cache_holds_what_fits() -> None:
    small = Device({"fp32": 1e15}, 1e8, 1e9, cache=70_000, cache_bandwidth=1e10, supports={})
    run = as_run(LAYER, small)
    streamed = layer_time(LAYER, run, small, 1, False)
    assert streamed.seconds == pytest.approx(9216 * 4 / 1e8 + 16384 * 4 / 1e10)
    both = layer_time(LAYER, run, small, 2, False)
    assert both.seconds == pytest.approx((9216 + 2 * 16384) * 4 / 1e8), "two examples no longer fit"
    large = dataclasses.replace(small, cache=1e6)
    assert seconds(LAYER, large) == pytest.approx((9216 + 16384) * 4 / 1e10), "the whole net lies in it"


def test_channels_are_padded() -> None:
    device = Device({"fp32": 1e9}, 1e15, 1e9, pad=128, supports={})
    assert layer_time(LAYER, as_run(LAYER, device), device, 1, False).seconds == pytest.approx(16 * 2e6 / 1e9)


@pytest.mark.parametrize("name", ROOFLINES)
@pytest.mark.parametrize("density", [0.5, 0.1, 0.01])
def test_masks_speed_up_nothing_without_sparse_kernels(name: str, density: float) -> None:
    device = target(name).device
    for layer in (LAYER, HALF, INT8):
        run = as_run(layer, device)
        if not run.type:
            continue
        masked = as_run(pruned(layer, UNSTRUCTURED, density), device)
        assert masked.gain == 1.0
        assert not masked.skips
        assert masked.why
        assert seconds(pruned(layer, UNSTRUCTURED, density), device) == seconds(layer, device)


@pytest.mark.parametrize("name", ROOFLINES)
def test_two_of_four_gains_on_ampere_and_later_only(name: str) -> None:
    device = target(name).device
    has = name in ("jetson_orin_nano", "jetson_agx_orin", "a100", "h100")
    assert (device.supports["2:4"] is True) is has
    for layer in (HALF, INT8):
        run = as_run(pruned(layer, TWO_OF_FOUR, 0.5), device)
        if run.type:
            gains = has and run.type != "fp32"
            assert run.gain == (2.0 if gains else 1.0)
            assert bool(run.why) is not gains
    if "fp32" in device.peaks:
        single = as_run(pruned(LAYER, TWO_OF_FOUR, 0.5), device)
        assert single.gain == 1.0
        assert single.why


def test_two_of_four_takes_the_bytes_of_half_the_weights_and_their_places() -> None:
    """0.5625 of dense bytes in 16 bits, 0.625 in 8 (Mishra et al. 2021)."""
    device = target("a100").device
    for layer, part in ((HALF, 0.5625), (INT8, 0.625)):
        run = as_run(pruned(layer, TWO_OF_FOUR, 0.5), device)
        assert run.kept * run.weight_bits == part * layer.weights * layer.weight_bits


@pytest.mark.parametrize("name", ROOFLINES)
def test_int8_gains_where_it_is_supported(name: str) -> None:
    device = target(name).device
    run = as_run(INT8, device)
    assert (run.type == "int8") is (device.supports["int8"] is True)
    if name in ("jetson_nano", "raspberry_pi_4"):
        assert run.type == "fp32"
        assert run.why == device.supports["int8"]
        assert seconds(INT8, device, 64) == seconds(LAYER, device, 64)


def test_weights_alone_in_integers_run_in_float() -> None:
    run = as_run(dataclasses.replace(LAYER, weight_bits=8), target("raspberry_pi_5").device)
    assert run.type == "fp32"
    assert "both be integers" in run.why


def test_sixteen_bit_integers_are_no_half_floats() -> None:
    wide = dataclasses.replace(LAYER, weight_bits=16, input_bits=16)
    run = as_run(wide, target("t4").device)
    assert run.type == "fp32"
    assert "more than 8 bits" in run.why
    assert as_run(HALF, target("t4").device).type == "fp16"


def test_a_layer_that_runs_five_times_costs_five_overheads() -> None:
    device = Device({"fp32": 1e15}, 1e15, 1e9, overhead=1e-3, supports={})
    again = dataclasses.replace(LAYER, calls=5)
    assert layer_time(again, as_run(again, device), device, 1, False).seconds == pytest.approx(5e-3)


def test_rounded_weights_are_no_activations(place: Bench, dense: State) -> None:
    state = Quantize(examples=16).apply(dense, place)
    assert work_of(View(state, place)).activations <= work_of(View(dense, place)).activations


def test_what_fits_at_one_batch_size_is_priced_there(place: Bench, dense: State) -> None:
    held = work_of(View(dense, place)).activations * 4
    board = dataclasses.replace(target("raspberry_pi_4"), memory=f"{held * 8 + 4096} B", batches=(1, 64))
    found = {
        m.name: m for m in Targets({"board": board}).measure(View(dense, place), View(dense, place), place)
    }
    assert found["latency_b1"].value
    assert found["latency_b64"].value is None
    assert "at batch 64 don't fit its memory" in found["latency_b64"].note


def test_the_edge_tpu_takes_integers_only() -> None:
    device = target("edge_tpu").device
    assert as_run(dataclasses.replace(INT8, ranges="dynamic"), device).type == ""
    assert as_run(LAYER, device).type == ""
    assert "quantize weights and inputs" in as_run(LAYER, device).why
    assert as_run(INT8, device).type == "int8"


@pytest.mark.parametrize("name", ["tpu_v4", "edge_tpu"])
def test_exits_bring_nothing_on_static_graphs(name: str) -> None:
    assert "static" in target(name).supports["exits"]


def test_zeros_are_skipped_where_a_device_is_said_to() -> None:
    device = dataclasses.replace(
        target("raspberry_pi_5").device, supports={"int8": True, "2:4": "no", "unstructured": 0.3}
    )
    run = as_run(pruned(LAYER, UNSTRUCTURED, 0.1), device)
    assert run.gain == pytest.approx(3, rel=0.01)
    assert run.skips
    assert run.kept == 922
    assert as_run(pruned(LAYER, UNSTRUCTURED, 0.4), device).gain == 1.0


def test_what_fits() -> None:
    work = Work((LAYER,), 100_000, 1_000)
    mcu = target("cortex_m7").device
    assert unfit(work, mcu, 1) == ""
    assert unfit(work, mcu, 3) == "activations of 1.2 MB at batch 3 don't fit its memory of 1 MB"
    big = Work((dataclasses.replace(LAYER, weights=1_000_000),), 1_000, 0)
    assert unfit(big, mcu, 1) == "weights of 4 MB don't fit its storage of 2 MB"
    assert unfit(Work((dataclasses.replace(INT8, weights=1_000_000),), 1_000, 0), mcu, 1) == ""
    huge = Work((dataclasses.replace(LAYER, weights=10**9),), 1_000, 0)
    assert "weights and activations of 4 GB" in unfit(huge, target("raspberry_pi_4").device, 64)


def test_work_is_what_is_counted(place: Bench, dense: State) -> None:
    from compressbench.models.build import module_of
    from compressbench.models.counting import count

    work, counts = work_of(View(dense, place)), count(module_of(dense), place.task.blank(1))
    assert {x.name: x.macs for x in work.layers} == dict(counts.layers)
    assert sum(x.weights for x in work.layers) == counts.prunable
    assert sum(x.weights for x in work.layers) + work.others == counts.parameters
    first = work.layers[0]
    assert first.inputs == place.task.blank(1)[0].numel()
    assert work.activations >= first.outputs


class Chain(nn.Sequential):
    def __init__(self) -> None:
        last = nn.Flatten(), nn.Linear(320, 10)
        super().__init__(nn.Conv2d(1, 3, 1), nn.ReLU(inplace=True), nn.Conv2d(3, 5, 1), *last)


def test_the_most_that_is_alive_at_once(place: Bench) -> None:
    spec = {"name": "chain", "build": {"_target_": "test_modelled.Chain"}}
    shape = place.dataset.task.shape
    work = work_of(View(drawn(spec, place), place))
    assert work.activations == 9 * shape[1] * shape[2], (
        "the image, three channels and five, the five as a view"
    )


def test_patterns() -> None:
    weight = torch.ones(4, 8, 3, 3)
    assert pattern_of(weight) == DENSE
    weight[:, ::2] = 0
    assert pattern_of(weight) == TWO_OF_FOUR
    weight[0, 0] = 1
    assert pattern_of(weight) == UNSTRUCTURED
    assert pattern_of(torch.tensor([[1.0, 0, 1]])) == UNSTRUCTURED


def test_a_quantized_states_bits(place: Bench, dense: State) -> None:
    state = Quantize(weights=4, inputs=8, examples=16).apply(dense, place)
    layers = work_of(View(state, place)).layers
    assert {(x.weight_bits, x.input_bits, x.ranges) for x in layers} == {(4, 8, "static")}


@pytest.mark.parametrize("name", NAMES)
def test_every_target_prices_a_state_or_says_why_not(name: str, place: Bench, dense: State) -> None:
    for package in ("openvino", "onnxruntime"):
        if name == f"cpu_{package}":
            pytest.importorskip(package)
    if name == "cpu_torch_compiled":
        pytest.skip("compiles for a while: test_deployed has it")
    thing = dataclasses.replace(target(name), batches=(1,))
    found = list(Targets({name: thing}).measure(View(dense, place), View(dense, place), place))
    latency = next(m for m in found if m.name == "latency_b1")
    assert latency.group == name
    if latency.value is None:
        why = {"edge_tpu": "only integers run here", "xnnpack": "pip install executorch"}
        assert why.get(name, "no CUDA device") in latency.note
        assert name in why or name.startswith("cuda")
        return
    modelled = name in MODELLED
    assert {m.basis for m in found if m.name != "file_bytes"} == {"modelled" if modelled else "measured"}
    assert latency.note.startswith("modelled: ") is modelled
    assert next(m for m in found if m.name == "speedup_b1").value > 0
    layers = [m for m in found if m.name == "layer_time"]
    assert len(layers) == (3 if modelled else 0)
    if modelled:
        assert sum(m.value or 0 for m in layers) == pytest.approx(latency.value)
        assert all(m.group.startswith(f"{name}/") and "waits for" in m.note for m in layers)
        assert "verified" in latency.note or "derived" in latency.note, (
            "a peak has its source, or says it has none"
        )


def test_a_modelled_target_runs_nothing(place: Bench, dense: State) -> None:
    found = target("t4").lower(View(dense, place))
    assert isinstance(found, Lowered)
    with pytest.raises(UserError, match="executes nothing"):
        found.run(torch.zeros(1))


def test_what_does_not_fit_is_a_sentence(place: Bench, dense: State) -> None:
    tight = dataclasses.replace(target("cortex_m7"), memory="1 kB")
    found = tight.lower(View(dense, place))
    assert isinstance(found, Unsupported)
    assert "don't fit its memory of 1 kB" in found.why
    small = dataclasses.replace(target("zynq_zcu104"), memory="1 kB")
    assert isinstance(small.lower(View(dense, place)), Unsupported)


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("48 GFLOP/s", ("FLOP/s",), 48e9),
        ("0.61 TOP/s", ("FLOP/s", "OP/s"), 0.61e12),
        ("12.8 GB/s", ("B/s",), 12.8e9),
        ("2 MiB", ("B",), 2 * 2**20),
        ("7 W", ("W",), 7),
    ],
)
def test_quantities(text: str, units: tuple[str, ...], value: float) -> None:
    assert quantity(text, "x", units) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peaks": {"fp32": "-48 GFLOP/s"}}, "peaks.fp32: '-48 GFLOP/s' is not above 0"),
        ({"peaks": {"fp32": "48 horses"}}, "unknown unit 'horses'"),
        ({"peaks": {"fp33": "48 GFLOP/s"}}, "peaks: unknown type"),
        ({"peaks": {}}, "at least one is wanted"),
        ({"bandwidth": "fast"}, "'fast' is no quantity"),
        ({"bandwidth": 12}, "unknown unit ''"),
        ({"memory": "4 GB/s"}, "unknown unit 'GB/s'"),
        ({"power": "0 W"}, "'0 W' is not above 0"),
        ({"memory": "1e999 GB"}, "not above 0 and finite"),
        ({"peaks": ["fp32"]}, "peaks: .* is no mapping"),
        ({"supports": None}, "supports: None is no mapping"),
        ({"sources": "me"}, "sources: 'me' is no mapping"),
        ({"fitted": "all"}, "fitted: 'all' is no mapping"),
        ({"fitted": {"convolution": [[8, 0]]}}, r"shares in \(0, 1\]"),
        ({"fitted": {"convolution": [[8, -1]]}}, r"shares in \(0, 1\]"),
        ({"fitted": {"convolution": [[1]]}}, "pairs of width and share"),
        ({"fitted": {"pooling": [[8, 1]]}}, "unknown kind of layer"),
        ({"overhead": "-5 us"}, "is not above 0"),
        ({"cache": "1 MB", "cache_bandwidth": None}, "go together"),
        ({"supports": {"int8": True}}, "left out; true or a sentence"),
        ({"supports": {"fp8": True}}, "unknown feature"),
        ({"pad": 0}, "pad is 0"),
        ({"batches": ()}, "batches is"),
    ],
)
def test_a_malformed_target_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(target("raspberry_pi_4"), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dsp": 0}, "dsp is 0"), ({"use": 2.0}, "use is 2.0"), ({"clock": "300 m"}, "clock: unknown unit")],
)
def test_a_malformed_fpga_is_one_line(settings: dict[str, Any], message: str) -> None:
    good = target("zynq_zcu104")
    assert isinstance(good, Fpga)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(good, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_calibration_gives_a_target_that_prices(
    runtime: str, place: Bench, dense: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few and short measurements: what is asserted is the form, never a speed."""
    import yaml

    from compressbench.hardware import calibrating

    if runtime == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setattr(
        calibrating, "WIDTHS", {"convolution": (8, 16), "pointwise": (16,), "depthwise": (8,)}
    )
    fitted = calibrating.fit(runtime, lambda text: None, seconds=0.001)
    assert set(fitted.peaks) == {"fp32", *(["int8"] if runtime == "openvino" else [])}
    assert all(0 < s <= 1 for found in fitted.shares.values() for _, s in found)
    assert fitted.cache_bandwidth >= fitted.bandwidth > 0
    text = calibrating.as_yaml(fitted, runtime, "here")
    thing = specs.build({**yaml.safe_load(text), "batches": [1]}, "this_machine")
    found = thing.lower(View(dense, place))
    assert isinstance(found, Lowered)
    timing = thing.time([found], 1)[0]
    assert timing.basis == "modelled"
    assert timing.median > thing.device.call
    with pytest.raises(UserError, match="unknown 'tensorrt'"):
        calibrating.fit("tensorrt", lambda text: None)


def test_the_share_of_the_peak_is_straight_between_what_was_fitted() -> None:
    device = Device(
        {"fp32": 1e9}, 1e9, 1e9, shares={"convolution": [(8, 0.2), (16, 0.6)], "int8 convolution": [(8, 1.0)]}
    )
    wide = {w: dataclasses.replace(LAYER, channels=(w, w)) for w in (4, 8, 12, 16, 99)}
    assert [share(wide[w], "fp32", device) for w in (4, 8, 12, 16, 99)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.6, 0.6]
    )
    assert share(wide[16], "int8", device) == 1.0
    assert share(dataclasses.replace(LAYER, kind="linear"), "fp32", device) == 1.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "f8"}, "precision 'f8'"),
        ({"form": "jitted"}, "form 'jitted'"),
        ({"semi_structured": True}, "wants precision f16 or bf16"),
        ({"batches": (0,)}, "batches is"),
    ],
)
def test_settings_of_a_gpu_are_checked(settings: dict[str, Any], said: str) -> None:
    from compressbench.hardware.torch_cuda import TorchCUDA

    with pytest.raises(UserError, match=said):
        TorchCUDA(**settings)


@pytest.mark.cuda
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("cuda")])
def test_a_gpu_computes_what_the_state_does(name: str, place: Bench, dense: State) -> None:
    from compressbench.models.build import module_of

    found = target(name).lower(View(dense, place))
    assert isinstance(found, Lowered), found
    with torch.no_grad():
        own = module_of(dense)(found.inputs[0].float().cpu())
    there = found.run(*found.inputs)
    assert isinstance(there, torch.Tensor)
    assert float((there.float().cpu() - own).abs().max()) < 0.03 * float(own.max() - own.min())


@pytest.mark.parametrize("said", [True, 2.0, -1, 0, float("nan"), [1], ""])
def test_skipped_zeros_are_a_density_or_a_sentence(said: Any) -> None:
    good = target("raspberry_pi_4")
    with pytest.raises(UserError, match=r"supports\.unstructured: .* or a sentence"):
        dataclasses.replace(good, supports={**good.supports, "unstructured": said})


def test_int8_wants_its_peak() -> None:
    good = target("raspberry_pi_4")
    with pytest.raises(UserError, match=r"supports\.int8 is true, but peaks has no int8"):
        dataclasses.replace(good, supports={**good.supports, "int8": True})


@pytest.mark.parametrize("signed", [False, True])
def test_integer_products_are_what_the_simulation_says(signed: bool, place: Bench) -> None:
    """On the processor, where the GPU's code can run too: same sums, to the rounding of a float."""
    from compressbench.hardware.torch_cuda import integer_linear
    from compressbench.models.quantized import load_scales, quantize, quantized

    net = torch.nn.Sequential(torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10))
    form = {"bits": 8, "low": -128, "high": 127} if signed else {"bits": 8, "low": 0, "high": 255}
    layers = {
        n: {"weight": {"bits": 8, "low": -127, "high": 127, "axis": 0}, "input": form} for n in ("0", "2")
    }
    quantize(net, layers)
    zero = torch.tensor(-3 if signed else 5, dtype=torch.int32)
    scales = {}
    for n, out in (("0", 24), ("2", 10)):
        scales |= {
            f"{n}.weight|scale": torch.full((out,), 0.01),
            f"{n}.weight|zero": torch.zeros(out, dtype=torch.int32),
        }
        scales |= {f"{n}.input|scale": torch.tensor(0.02), f"{n}.input|zero": zero}
    load_scales(net, scales)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = net(x)
        assert integer_linear(net) == ("0",), "ten outputs are no multiple of eight"
        assert set(quantized(net)) == {"2"}
        assert torch.allclose(net(x), own, atol=1e-4)
