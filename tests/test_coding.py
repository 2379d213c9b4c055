"""Codes on disk: bits, gaps, codebooks, Huffman codes; weight sharing and centroids that train together."""

from __future__ import annotations

import functools
import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import short
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.hardware import coding
from compressbench.masks import masked
from compressbench.models.build import module_of, prunable
from compressbench.models.draw import drawn
from compressbench.probes.cost import Cost
from compressbench.quantizing.sharing import lloyd, nearest_of
from compressbench.stages.quantize import Cast, Quantize
from compressbench.stages.share import Share
from compressbench.state import State
from compressbench.views import View
from tiny import TINY

SHARED = {"_target_": "compressbench.training.reparametrisations.shared.shared", "_partial_": True}


@pytest.fixture(scope="module")
def trained(digits) -> tuple[State, Bench]:

    bench = Bench(digits, seed=0, name="init")
    return train("60it").apply(drawn(TINY, bench), bench), bench


train = functools.partial(short.train, validate=None)


def pruned(state: State) -> State:
    kept = {n: w.abs() > w.abs().flatten().quantile(0.8) for n, w in prunable(module_of(state)).items()}
    return masked(state, {n: m.detach() for n, m in kept.items()})


def test_bits_by_hand() -> None:
    assert coding.pack_bits(np.array([5, 0, 7, 1]), 3) == bytes([0b10100011, 0b10010000])
    assert len(coding.pack_bits(np.arange(16), 4)) == 8


def test_huffman_lengths_by_hand() -> None:
    """The textbook's 45, 13, 12, 16, 9, 5 (Cormen et al., section 16.3): 224 bits, where three each take 300."""
    counts = [45, 13, 12, 16, 9, 5]
    lengths = coding.huffman_lengths(counts)
    assert lengths == [1, 3, 3, 3, 4, 4]
    assert sum(n * c for n, c in zip(lengths, counts, strict=True)) == 224
    assert coding.canonical(lengths) == [0b0, 0b100, 0b101, 0b110, 0b1110, 0b1111]
    codes = np.repeat(np.arange(6), counts)
    data = coding.huffman_encode(codes, 8)
    assert len(data) == 8 + 224 // 8
    assert coding.huffman_decode(data, 8, 100).tolist() == codes.tolist()


def test_one_symbol_alone_takes_a_bit() -> None:
    data = coding.huffman_encode(np.zeros(9, np.int64), 2)
    assert data == bytes([1, 0, 0, 0])


def test_a_codebook_takes_its_values_and_its_indices() -> None:
    """1,000 weights of 4 values: 250 bytes of indices and 16 of values; Huffman takes 1.75 bits at 1/2, 1/4, 1/8, 1/8."""
    values = torch.tensor([-1.5, -0.25, 0.5, 2.0])
    tensor = values[torch.tensor([0] * 500 + [1] * 250 + [2] * 125 + [3] * 125)]
    found = coding.shared(tensor)
    assert (found.bits, found.zero, coding.index_bits(tensor)) == (2, None, 2)
    entry, parts = coding._codes(found, huffman=False)
    assert sorted(map(len, parts)) == [16, 250]
    entry, parts = coding._codes(found, huffman=True)
    assert sorted(map(len, parts)) == [16, 4 + 1750 // 8 + 1]
    assert entry["streams"] == [["huffman", 2, 1000]]


def test_different_values_are_no_codebook() -> None:
    torch.manual_seed(0)
    assert coding.shared(torch.randn(1000)) is None
    assert coding.index_bits(torch.randn(1000)) is None


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(1,), (7,), (4, 9), (3, 2, 3, 3)]),
    bits=st.integers(1, 10),
    keep=st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    huffman=st.booleans(),
    seed=st.integers(0, 100),
)
def test_codes_are_exactly_reversible(shape, bits, keep, huffman, seed) -> None:
    draw = torch.Generator().manual_seed(seed)
    low = -(2 ** (bits - 1))
    zero = torch.randint(low, low + 2**bits, (shape[0],) if seed % 2 else (1,), generator=draw).to(
        torch.int32
    )
    q = torch.randint(low, low + 2**bits, shape, generator=draw)
    q = torch.where(torch.rand(shape, generator=draw) < keep, q, zero.view(-1, *[1] * (len(shape) - 1)))
    scale = torch.rand(shape[0], generator=draw) + 0.1
    coded = {"w": coding.of_integers(q, bits, low, scale, zero)}
    tensors = {"b": torch.randn(3, generator=draw), "w": q, "n": torch.tensor(3)}
    plain, back = coding.decode(coding.encode(tensors, coded, huffman))
    wanted = (q - zero.view(-1, *[1] * (len(shape) - 1))).float() * scale.view(-1, *[1] * (len(shape) - 1))
    assert torch.equal(coding.values_of(back["w"]), wanted)
    assert torch.equal(plain["b"], tensors["b"])
    assert torch.equal(plain["n"], tensors["n"])


def test_gaps_longer_than_a_symbol() -> None:
    sparse = torch.zeros(200_000)
    sparse[torch.tensor([0, 1, 70_000, 199_999])] = torch.tensor([1.0, 2.0, 1.0, 2.0])
    for huffman in (False, True):
        data = coding.encode({"w": sparse}, {"w": coding.shared(sparse)}, huffman)
        assert torch.equal(coding.values_of(coding.decode(data)[1]["w"]), sparse)
        assert len(data) < 400


def test_other_bytes_are_refused() -> None:
    with pytest.raises(UserError, match="not an encoded set"):
        coding.decode(b"12345678 and what not")


@pytest.mark.parametrize("huffman", [False, True])
def test_what_is_stored_computes_what_the_state_computes(huffman, trained) -> None:
    """The rounded weights come back from the bytes to the last bit: 3-bit integers, most of them pruned."""
    before, bench = trained
    state = Quantize(weights=3).apply(pruned(before), bench)
    module = module_of(state)
    tensors, coded = coding.stored(module, state.weights)
    _, back = coding.decode(coding.encode(tensors, coded, huffman))
    assert len(back) >= 3
    for name, found in back.items():
        if name.endswith("weight"):
            layer = module.get_submodule(name.removesuffix(".weight"))
            scale = layer.weight_scale.view(-1, *[1] * (layer.weight.ndim - 1))
            q = torch.round(layer.weight.detach() * (1 / layer.weight_scale).view(scale.shape)).clamp(-3, 3)
            assert torch.equal(coding.values_of(found), q * scale)


def test_bytes_fall_with_the_bits(trained) -> None:
    before, bench = trained
    view = View(before, bench)

    def cost(state: State) -> dict[str, float]:
        return {m.name: m.value for m in Cost().measure(View(state, bench), view, bench)}

    assert "quantized_bytes" not in cost(before)
    sizes = [cost(Quantize(weights=b).apply(before, bench))["quantized_bytes"] for b in (16, 8, 4, 2)]
    weights = sum(w.numel() for w in prunable(module_of(before)).values())
    steps = [(a - b) / weights for a, b in itertools.pairwise(sizes)]
    assert steps == pytest.approx([1.0, 0.5, 0.25], abs=0.05)
    half = cost(Cast().apply(before, bench))
    assert half["quantized_bytes"] < half["dense_bytes"]
    shared = cost(Share(bits=3).apply(pruned(before), bench))
    assert (
        shared["huffman_bytes"] <= shared["quantized_bytes"] < shared["sparse_bytes"] < shared["dense_bytes"]
    )
    assert shared["compression_ratio"] == pytest.approx(
        shared["dense_bytes"] / shared["huffman_bytes"], rel=1e-6
    )


def test_k_means_by_hand() -> None:
    """0, 1, 2 and 10, 11 from centroids 0 and 3: first means 0.5 and 7.67, then 1 and 10.5, and there it stays."""
    values = torch.tensor([10.0, 0.0, 2.0, 11.0, 1.0])
    assert lloyd(values, torch.tensor([0.0, 3.0]), 1).tolist() == pytest.approx([0.5, 23 / 3])
    found = lloyd(values, torch.tensor([0.0, 3.0]), 100)
    assert found.tolist() == [1.0, 10.5]
    assert nearest_of(values, found).tolist() == [1, 0, 0, 1, 0]


def test_k_means_never_errs_more_than_where_it_started() -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    start = torch.linspace(float(values.min()), float(values.max()), 16)

    def error(centroids: torch.Tensor) -> float:
        return float((values - centroids[nearest_of(values, centroids)]).square().mean())

    errors = [error(lloyd(values, start, n)) for n in (0, 1, 5, 50)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]


@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_shared_weights_have_few_values_and_zeros_stay(start, trained) -> None:
    before, bench = trained
    sparse = pruned(before)
    state = Share(bits=2, start=start, layers={"@output": 4, "@input": None}).apply(sparse, bench)
    first, *_, last = prunable(module_of(state))
    for name in prunable(module_of(state)):
        weight, old = state.weights[name], sparse.weights[name]
        assert torch.equal(weight == 0, old == 0)
        if name == first:
            assert torch.equal(weight, old)
        else:
            assert len(weight[weight != 0].unique()) <= (16 if name == last else 4)
            ends = old[old != 0]
            assert ends.min() <= weight.min()
            assert weight.max() <= ends.max()


@pytest.mark.parametrize("gradient", ["sum", "mean"])
def test_centroids_move_together(gradient, trained) -> None:
    before, bench = trained
    state = Share(bits=3).apply(pruned(before), bench)
    settings = {
        "lr": 0.002,
        "weight_decay": 1e-4,
        "reparametrise": {"shared": {**SHARED, "gradient": gradient}},
    }
    after = train("20it", **settings).apply(state, bench)
    apart = train("20it", lr=0.002).apply(state, bench)
    moved = 0
    for name in prunable(module_of(state)):
        old, new = state.weights[name], after.weights[name]
        codes = coding.shared(old)
        if codes is None:
            continue
        assert torch.equal(new == 0, old == 0)
        for code in codes.codes.unique():
            assert len(new[codes.codes == code].unique()) == 1
        moved += int(not torch.equal(old, new))
        assert len(apart.weights[name].unique()) > len(new.unique())
    assert moved >= 2


def test_the_first_step_of_a_centroid_is_its_clusters_summed_gradient(trained) -> None:
    """Equation 3 of Deep Compression: dL/dC_k = sum of dL/dW over the weights of cluster k."""
    from compressbench.training.reparametrisations.shared import shared

    before, bench = trained
    state = Share(bits=2).apply(before, bench)
    module = module_of(state)
    method = shared(module, bench, state, None)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
    name, weight = next((n, w) for n, w in prunable(module).items() if coding.shared(w) is not None)
    own = weight.grad.clone()
    method.after_gradient()
    for value in weight.unique():
        here = weight == value
        if value:
            torch.testing.assert_close(weight.grad[here], own[here].sum().expand(int(here.sum())))
    assert name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits: 0 is not in 1..16"),
        ({"bits": 17}, "bits: 17 is not in 1..16"),
        ({"start": "liner"}, "linear"),
        ({"iterations": -1}, "iterations: -1"),
        ({"layers": {"@conv": 40}}, "layers.@conv: 40"),
    ],
)
def test_share_refuses(settings, message) -> None:
    with pytest.raises(UserError, match=message):
        Share(**settings)


def test_what_cant_be_shared_is_said(trained) -> None:
    before, bench = trained
    with pytest.raises(UserError, match=r"stage/share@stages\.share: kmeans"):
        train("2it", reparametrise={"shared": SHARED}).apply(before, bench)
    with pytest.raises(UserError, match="quantized"):
        Share().apply(Quantize().apply(before, bench), bench)
    with pytest.raises(UserError, match="layers: 'nothing'"):
        Share(layers={"nothing": 3}).apply(before, bench)
