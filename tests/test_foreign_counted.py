"""Nets of others counted: work, density, bits, sizes, computed weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import cases_nets
from cases_foreign import (
    MAGNITUDE,
    RUNTIMES,
    TRAIN,
    Recurrent,
    Spectral,
    answers,
    images_of,
    state_of,
)
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.hardware.coding import index_bits, shared, values_of
from compressbench.hardware.target import Lowered
from compressbench.models.build import left_alone, module_of
from compressbench.models.counting import count
from compressbench.models.draw import drawn
from compressbench.outputs import Outputs, tensors_of
from compressbench.probes.cost import Cost
from compressbench.probes.structure import Structure
from compressbench.records import Metric
from compressbench.seeds import derive_seed
from compressbench.stages.init import Init
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.stages.rewind import Reinit
from compressbench.state import State
from compressbench.views import View
from tiny import blank


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("Lstm", 8 * 4 * 32 * (8 + 32) + 320),
        ("Recurrent", 8 * 2 * 3 * 16 * ((8 + 16) + (32 + 16)) + 320),
        ("Products", 768 + 60 + 432 + 60 + 120),
        # 16 patches of 4 numbers; 17 tokens: in 3 x 16, two products of each head, out, the two layers; the head
        ("Mha", 16 * 4 * 16 + 17 * (3 * 16 * 16 + 2 * 17 * 16 + 16 * 16 + 2 * 16 * 32) + 160),
    ],
)
def test_multiply_accumulates_by_hand(name: str, macs: int, place: Bench) -> None:
    counts = count(module_of(state_of(name, place)), blank((1, 8, 8)))
    assert counts.macs == macs
    assert counts.said == ""


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_are_counted_alike(kind: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    own = 8 * 2 * gates * 16 * ((8 + 16) + (32 + 16)) + 320
    assert count(Recurrent(1, 10, kind), blank((1, 8, 8))).macs == own


def test_what_has_no_formula_is_named_as_not_counted(place: Bench) -> None:
    counts = count(module_of(state_of("Hidden", place)), blank((1, 8, 8)))
    assert counts.macs == 40
    assert (
        counts.said == "not counted: the net: _fft_r2c, inner: mul"
    )  # the scale of one dimension is no product
    state = state_of("Hidden", place)
    (found,) = [m for m in Cost().measure(View(state, place), View(state, place), place) if m.name == "macs"]
    assert found.note == counts.said


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("Lstm", {"rnn.weight_ih_l0": 1024, "rnn.weight_hh_l0": 4096}),
        ("Mha", {"cls": 16, "attn.in_proj_weight": 768}),
        ("Products", {"einsum": 768, "vector": 60, "two.weight": 432, "table.weight": 84}),
        (
            "WeightNormed",
            {
                "a.parametrizations.weight.original0": 16,
                "a.parametrizations.weight.original1": 144,
                "b.parametrizations.weight.original0": 16,
                "b.parametrizations.weight.original1": 2304,
            },
        ),
        ("BufferScalar", {}),
    ],
)
def test_weights_that_no_layer_owns_are_named(name: str, left: dict[str, int], place: Bench) -> None:
    state = state_of(name, place)
    module = module_of(state)
    assert {n: p.numel() for n, p in left_alone(module).items()} == left
    assert state.facts.get("left_alone", {}) == left
    whole = sum(p.numel() for p in module.parameters() if p.ndim > 1)
    assert sum(left.values()) + sum(state.facts["prunable"].values()) == whole, (
        "each of them is one or the other"
    )


def figure(metric: str, state: State, bench: Bench) -> Metric:
    view = View(state, bench)
    (found,) = [m for m in Structure().measure(view, view, bench) if m.name == metric]
    return found


def test_density_counts_what_pruning_leaves_dense(place: Bench) -> None:
    said: list[str] = []
    bench = dataclasses.replace(place, say=said.append)
    dense = state_of("Lstm", bench)
    assert dense.facts["density"] == 1
    pruned = Prune(MAGNITUDE, 0.5).apply(dense, bench)
    # Lstm: 5,120 weights of the LSTM stay, of the 320 of the head 160
    assert pruned.facts["density"] == pytest.approx((5120 + 160) / 5440)
    found = figure("density", pruned, bench)
    assert found.value == pytest.approx(100 * (5120 + 160) / 5440)
    assert found.note.endswith("left dense: rnn.weight_ih_l0, rnn.weight_hh_l0, 94.1 % of them")
    assert figure("density", dense, bench).value == 100
    (flag,) = pruned.facts["flags"]
    assert flag.startswith("left dense, 94.1 % of the weights: rnn.weight_ih_l0, rnn.weight_hh_l0 (")
    assert said == [f"init: {flag}"]
    again = Prune(MAGNITUDE, 0.5).apply(pruned, bench)
    assert again.facts["density"] == pytest.approx((5120 + 80) / 5440)
    assert again.facts["flags"] == [flag]
    assert len(said) == 1, "once"


def test_bits_count_what_quantizing_leaves_in_float(place: Bench) -> None:
    for name, left in (("Lstm", 5120), ("WeightNormed", 2480), ("Mha", 1040)):
        dense = state_of(name, place)
        assert figure("weight_bits", dense, place).value == 32
        state = Quantize(examples=64).apply(dense, place)
        module = module_of(state)
        whole = sum(p.numel() for p in module.parameters() if p.ndim > 1)
        assert figure("weight_bits", state, place).value == pytest.approx(
            (8 * (whole - left) + 32 * left) / whole
        )
        flags = " ".join(state.facts["flags"])
        assert "shares the weight" not in flags
        for other in left_alone(module):
            assert f"{other} (of no convolution or linear layer)" in flags
            assert other.removesuffix(".weight") in figure("weight_bits", state, place).note


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("WeightNormed", {"a.weight": 144, "b.weight": 2304, "head.weight": 160}),
        ("OldWeightNormed", {"a.weight": 144, "b.weight": 2304, "head.weight": 160}),
        ("Spectral", {"a.weight": 144, "b.weight": 256, "head.weight": 160}),
    ],
)
def test_what_parametrizations_compute_is_made_plain_by_a_setting(
    name: str, sizes: dict[str, int], place: Bench
) -> None:
    where = "cases_nets" if hasattr(cases_nets, name) else "cases_foreign"
    build = {"_target_": f"{where}.{name}", "channels": "@channels", "outputs": "@classes"}
    model = {"name": name, "build": build, "remove_parametrizations": True}
    state = Init(model).apply(None, place)
    assert state.facts["prunable"] == sizes
    assert "left_alone" not in state.facts
    torch.manual_seed(derive_seed(place.seed, place.name))
    own = {"WeightNormed": cases_nets.WeightNormed, "OldWeightNormed": cases_nets.OldWeightNormed}.get(
        name, Spectral
    )
    images = images_of(place, 4)
    with torch.no_grad():
        assert torch.allclose(answers(state, images), own(1, 10).eval()(images), atol=1e-5)
    pruned = TRAIN.apply(Prune(MAGNITUDE, 0.5).apply(state, place), place)
    assert figure("density", pruned, place).value == pytest.approx(50, abs=0.1)
    rounded = Quantize(examples=64).apply(pruned, place)
    assert figure("weight_bits", rounded, place).value == 8
    assert isinstance(RUNTIMES["onnxruntime"].lower(View(rounded, place)), Lowered)
    back = Reinit().apply(pruned, place)
    assert back.weights.keys() == pruned.weights.keys()


def test_a_net_of_computed_weights_alone_is_told_of_the_setting(place: Bench) -> None:
    with pytest.raises(UserError, match=r"no prunable layer .*set model.remove_parametrizations=true"):
        state_of("Spectral", place)


def test_a_net_without_parametrizations_has_none_to_remove(place: Bench) -> None:
    build = {"_target_": "cases_nets.TimmLike", "channels": "@channels", "outputs": "@classes"}
    with pytest.raises(UserError, match="remove_parametrizations is set, and no tensor of it has any"):
        drawn({"name": "net", "build": build, "remove_parametrizations": True}, place)


def test_tensors_of_whatever_a_module_returns() -> None:
    one, two, whole = torch.rand(2), torch.rand(3), torch.tensor([1, 2])
    assert tensors_of(one) == [one]
    assert tensors_of({"a": (one, [two]), "b": whole, "c": None}) == [one, two]
    assert tensors_of(Outputs(one, {"exit0": two})) == [one, two]


def test_sizes_and_bits_follow_each_tensors_own_type(place: Bench) -> None:
    state = state_of("FirstDouble", place)
    assert state.weights["temperature"].dtype is torch.float64
    assert figure("weight_bits", state, place).value == 32
    rounded = Quantize(examples=64).apply(state, place)
    assert figure("weight_bits", rounded, place).value == 8
    assert figure("input_bits", rounded, place).value == 8
    for runtime in RUNTIMES.values():
        assert isinstance(runtime.lower(View(rounded, place)), Lowered)
    doubles = state_of("Doubles", place)
    assert figure("weight_bits", doubles, place).value == 64
    assert figure("input_bits", doubles, place).value == 64
    rounded = Quantize(examples=64).apply(doubles, place)
    assert figure("weight_bits", rounded, place).value == 8
    view = View(doubles, place)
    (found,) = [m for m in Cost().measure(view, view, place) if m.name == "dense_bytes"]
    # 9 x 16 weights, four times 16 of the norm, 160 + 10 of the head, 8 bytes each, and the header
    assert 0 < float(found.value or 0) - 8 * (144 + 64 + 170 + 1) < 1000


def test_shared_values_are_told_by_their_own_size() -> None:
    generator = torch.Generator().manual_seed(0)
    different = torch.rand(144, generator=generator, dtype=torch.float64)
    assert index_bits(different) is None
    assert index_bits(different.float()) is None
    few = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)[torch.arange(144) % 4]
    assert index_bits(few) == 2
    coded = shared(few)
    assert coded is not None
    assert torch.equal(values_of(coded), few), "to the bit"
