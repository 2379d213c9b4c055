"""Foreign models: structures that users bring, see ``cases_nets``; each is handled, or said in one line."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cases_nets
from compressbench.bench import Bench
from compressbench.deploying.exporting import FORMS
from compressbench.errors import UserError
from compressbench.hardware import agreement
from compressbench.hardware.coding import index_bits, shared, values_of
from compressbench.hardware.early import lower
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
from compressbench.hardware.openvino_cpu import OpenVINOCPU
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.models.build import left_alone, module_of
from compressbench.models.counting import count
from compressbench.models.draw import drawn
from compressbench.models.exits import parts_of
from compressbench.outputs import Outputs, forward, tensors_of
from compressbench.probes.cost import Cost
from compressbench.probes.structure import Structure
from compressbench.quantizing.folding import folded
from compressbench.records import Metric
from compressbench.seeds import derive_seed
from compressbench.stages.exits import Attach, Choose
from compressbench.stages.init import Init
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.stages.rewind import Reinit
from compressbench.stages.shrink import Channels
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.views import View
from tiny import blank

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

TRAIN = Train("2it", 8, 0.01, {"_target_": "torch.optim.SGD", "_partial_": True}, validate=None)
MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
JOINT = {"_target_": "compressbench.training.exits.joint", "_partial_": True, "power": 0.0, "last": True}
TRAIN_EXITS = dataclasses.replace(TRAIN, objective=JOINT)
RUNTIMES = {"onnxruntime": OnnxRuntimeCPU(batches=(1, 4)), "openvino": OpenVINOCPU(batches=(1, 4))}


def state_of(name: str, bench: Bench) -> State:
    """A net of ``cases_nets``, or one of this file, as it is drawn."""
    where = "cases_nets" if hasattr(cases_nets, name) else "test_foreign"
    build = {"_target_": f"{where}.{name}", "channels": "@channels", "outputs": "@classes"}
    return drawn({"name": name, "build": build}, bench)


def images_of(bench: Bench, count: int) -> Tensor:
    return bench.task.normalised(bench.feed("test")["images"][:count])


def answers(state: State, images: Tensor) -> Tensor:
    with torch.no_grad():
        return forward(module_of(state), images).logits


class Reads(nn.Module):
    """What a net reads as a number while it is traced; ``cases_nets.BufferScalar`` reads a buffer."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.head = cases_nets.cbr(channels, 16), nn.Linear(16, outputs)
        self.register_buffer("clip", torch.tensor(0.5))
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.a(x)).mean((2, 3)))


class AFloat(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x.clamp(max=float(self.clip)) * float(self.scale)


class AnInt(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x / int(self.scale)


class ABranch(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x * 2 if self.scale > 1 else x / 2


class Largest(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x / x.abs().max().item()


class ABranchOnTheInput(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x / 2


class OfTheBatch(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x.repeat(len(x), 1, 1, 1)[: len(x)] / len(x)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["BufferScalar", "AFloat", "AnInt", "ABranch"])
def test_numbers_that_a_forward_reads_of_its_own_tensors_are_the_true_ones(
    name: str, runtime: str, place: Bench
) -> None:
    state = state_of(name, place)
    state.weights["clip"].fill_(0.1)
    found = RUNTIMES[runtime].lower(View(state, place))
    assert isinstance(found, Lowered)
    images = images_of(place, 32)
    assert float((found.run(images) - answers(state, images)).abs().max()) < 1e-4  # type: ignore[operator]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["Largest", "OfTheBatch"])
@pytest.mark.parametrize("rounds", [False, True])
def test_a_number_read_of_the_input_is_said_and_never_a_wrong_figure(
    name: str, runtime: str, rounds: bool, place: Bench
) -> None:
    state = state_of(name, place)
    if rounds:
        state = Quantize(examples=64).apply(state, place)
    found = RUNTIMES[runtime].lower(View(state, place))
    assert isinstance(found, Unsupported)
    assert " at batch " in found.why
    assert "the net (test_foreign.py:" in found.why
    assert "compute with tensors" in found.why
    assert "\n" not in found.why


@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["BufferScalar", "AFloat"])
def test_what_is_exported_answers_as_the_net_does(name: str, form: str, place: Bench, tmp_path: Any) -> None:
    state = state_of(name, place)
    images = images_of(place, 32)
    _, run, _ = FORMS[form](View(state, place), tmp_path / "x", images[:8])
    assert float((run(images) - answers(state, images)).abs().max()) < 1e-4


def test_torch_export_knows_numbers_that_are_read_of_the_input(place: Bench, tmp_path: Any) -> None:
    state, images = state_of("Largest", place), images_of(place, 32)
    _, run, _ = FORMS["torch_export"](View(state, place), tmp_path / "x", images[:8])
    assert float((run(images) - answers(state, images)).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("Largest", "onnx"),
        ("Largest", "openvino"),
        ("OfTheBatch", "openvino"),
        ("ABranchOnTheInput", "torch_export"),
    ],
)
def test_what_would_answer_otherwise_is_not_written(
    name: str, form: str, place: Bench, tmp_path: Any
) -> None:
    with pytest.raises(UserError) as caught:
        FORMS[form](View(state_of(name, place), place), tmp_path / "x", images_of(place, 8))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


class Answer(NamedTuple):
    logits: Tensor
    beside: Tensor


class Several(nn.Module):
    """Two heads in evaluation too, in a named tuple; the second one is no part of what is deployed."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = cases_nets.cbr(channels, 16), cases_nets.cbr(16, 16)
        self.head, self.two = nn.Linear(16, outputs), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Answer:
        x = self.b(self.a(x)).mean((2, 3))
        return Answer(self.head(x), self.two(x))


class Wrapping(nn.Module):
    """A DataParallel inside, as nets are that were trained in one."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a = nn.DataParallel(cases_nets.cbr(channels, 16))
        self.a.device_ids = []
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).mean((2, 3)))


class Transposing(nn.Module):
    """Decodes by the weight that encodes, read off the layer."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(64 * channels, 32), nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.a(x.flatten(1)))
        return self.head(hidden) + F.linear(hidden, self.a.weight.t()).mean(1, keepdim=True)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_rounded_weight_that_a_forward_reads_itself_is_said(
    runtime: str, place: Bench, tmp_path: Any
) -> None:
    rounded = Quantize(examples=64).apply(state_of("Transposing", place), place)
    found = RUNTIMES[runtime].lower(View(rounded, place))
    assert isinstance(found, Unsupported)
    assert "a rounds its weight, and a forward reads it beside the layer" in found.why
    assert "layers={a.weight: null}" in found.why
    kept = Quantize(examples=64, layers={"a.weight": None}).apply(state_of("Transposing", place), place)
    assert isinstance(RUNTIMES[runtime].lower(View(kept, place)), Lowered)
    images = images_of(place, 8)
    _, run, _ = FORMS["torch_export"](View(rounded, place), tmp_path / "x", images)
    assert agreement.apart(answers(rounded, images), run(images), rounds=False) < 1e-3


@pytest.mark.parametrize(
    ("name", "point"),
    [("Several", "a"), ("Wrapping", "a"), ("Beginning", "b"), ("Computed", "n")],
)
def test_it_is_rounded_takes_exits_and_is_deployed_and_exported(
    name: str, point: str, place: Bench, tmp_path: Any
) -> None:
    head = {"_target_": "compressbench.exit_heads.pooled.pooled", "_partial_": True}
    state = state_of(name, place)
    rounded = Quantize(examples=64).apply(state, place)
    early = TRAIN_EXITS.apply(Attach((point,), head).apply(state, place), place)
    images = images_of(place, 8)
    for made in (state, rounded, early):
        own = answers(made, images)
        for runtime in RUNTIMES.values():
            found = lower(runtime, View(made, place))
            assert isinstance(found, Lowered), found
            assert agreement.apart(own, torch.as_tensor(found.run(images)), made is rounded) < 0.05
            assert ("no answer depends on them: two" in found.runtime) == (
                name == "Several" and made is rounded
            )
    for form in ("onnx", "torch_export"):
        _, run, _ = FORMS[form](View(rounded, place), tmp_path / form, images)
        assert agreement.apart(answers(rounded, images), run(images), True) < 0.05


class Computed(nn.Module):
    """A spectral norm before, and an orthogonal layer behind the one convolution that is plain."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        spectral, orthogonal = nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.orthogonal
        self.a = spectral(nn.Conv2d(channels, 16, 3, padding=1))
        self.b, self.n = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.q, self.head = orthogonal(nn.Linear(16, 16)), nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n(self.b(F.relu(self.a(x))))).mean((2, 3))
        return self.head(F.relu(self.q(x)))


def test_norms_inside_a_data_parallel_are_folded(place: Bench) -> None:
    rounded = Quantize(examples=64).apply(state_of("Wrapping", place), place)
    assert rounded.facts["flags"] == []
    assert "a.module.1.weight" not in rounded.weights


@pytest.mark.parametrize("inside", [False, True])
def test_channels_that_meet_a_computed_weight_are_left_and_named(inside: bool, place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    with pytest.raises(UserError, match=r"a weight that they meet is computed: q, a; .*remove_param"):
        Channels(MAGNITUDE, fraction=0.5, inside=inside).apply(state_of("Computed", place), place)


class BothWays(nn.Module):
    """Tracing fails on its recurrent layer; the convolutions before it are no part of that."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = cases_nets.cbr(channels, 16), cases_nets.cbr(16, 8)
        self.rnn = nn.GRU(64, 16, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.b(self.a(x)).permute(0, 2, 1, 3).flatten(2))[0].mean(1))


def test_channels_go_where_they_can_be_followed(place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    state = state_of("BothWays", place)
    # a and b; of two layers and two ways, 48 rows of 64 or 32 inputs and of 16 of their own, at eight rows
    assert state.facts["forward_macs"] == 64 * (144 + 1152) + 8 * 2 * 48 * (64 + 16 + 32 + 16) + 320
    small = Channels(MAGNITUDE, fraction=0.5).apply(state, place)
    assert small.weights["a.0.weight"].shape[0] == small.weights["b.0.weight"].shape[1] == 8
    assert small.weights["b.0.weight"].shape[0] == 8, "all of them stay"
    assert any("can't be followed: b.0" in flag for flag in small.facts["flags"])
    assert any("left dense" in flag and "rnn.weight_ih_l0" in flag for flag in small.facts["flags"])


class NoOnnx(Reads):
    """ONNX has no such operator."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.a = nn.Sequential(self.a, Bessel())

    def inner(self, x: Tensor) -> Tensor:
        return x


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0e(x)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_net_that_cannot_be_exported_is_one_line_with_its_layer(
    runtime: str, place: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    found = RUNTIMES[runtime].lower(View(state_of("NoOnnx", place), place))
    assert isinstance(found, Unsupported)
    assert "a.1 runs aten::special_i0e; " in found.why
    assert "hardware=compiled and export --to torch_export, which need no ONNX" in found.why
    assert "\n" not in found.why
    assert capfd.readouterr() == ("", ""), "no dump of a graph"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["Mha", "Encoder", "VisionTransformer"])
def test_attention_is_lowered_as_its_layers_are_written(
    name: str, runtime: str, place: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    if name == "VisionTransformer":
        pytest.importorskip("torchvision")
    state = state_of(name, place)
    found = RUNTIMES[runtime].lower(View(state, place))
    assert isinstance(found, Lowered)
    images = images_of(place, 16)
    assert float((found.run(images) - answers(state, images)).abs().max()) < 1e-4  # type: ignore[operator]
    assert capfd.readouterr() == ("", "")


class Encoder(nn.Module):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8 * channels, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8 * channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.transpose(1, 2).flatten(2)).mean(1))


class VisionTransformer(nn.Module):
    def __init__(self, channels: int, outputs: int) -> None:
        from torchvision.models import VisionTransformer as Theirs

        super().__init__()
        self.net = Theirs(8, 2, 1, 2, 16, 32, num_classes=outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


def test_agreement_is_by_the_furthest_logit_in_float_and_on_average_where_it_rounds() -> None:
    own = torch.tensor([[0.0, 2.0], [0.0, 2.0]])  # its spread is 1
    there = torch.tensor([[0.0, 2.0], [0.0, 2.8]])
    assert agreement.apart(own, there, rounds=False) == pytest.approx(0.8)
    assert agreement.apart(own, there, rounds=True) == pytest.approx(0.2)
    assert agreement.two_sizes((4,)) == (4, 8)
    assert agreement.two_sizes((8, 8)) == (8, 8, 3)
    assert agreement.two_sizes((1, 64)) == (1, 64)
    agreement.check(lambda x: own[: len(x)], lambda x: there[: len(x)], own, (1,), "it")
    with pytest.raises(
        agreement.Otherwise, match=r"it answers otherwise than the state at batch 2: logits 0\.8 of"
    ):
        agreement.check(lambda x: own[: len(x)], lambda x: there[: len(x)], own, (1, 2), "it")
    agreement.check(lambda x: own[: len(x)], lambda x: there[: len(x)], own, (1, 2), "it", True)
    with pytest.raises(agreement.Otherwise, match="it answers otherwise"):
        agreement.check(lambda x: own, lambda x: own * float("nan"), own, (1, 2), "it", True)


class Recurrent(nn.Module):
    """Two layers, both directions: each cell reads its input and its state."""

    def __init__(self, channels: int, outputs: int, kind: str = "GRU") -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(8 * channels, 16, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.transpose(1, 2).flatten(2))[0][:, -1])


class Products(nn.Module):
    """Custom parameters, in products of several kinds."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        size = 64 * channels
        self.einsum, self.vector = nn.Parameter(torch.randn(size, 12)), nn.Parameter(torch.randn(5, 12))
        self.two, self.table = nn.Bilinear(12, 12, 3), nn.Embedding(7, 12)
        self.head = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("ni,io->no", x.flatten(1), self.einsum)  # 768 for one picture
        x = x + self.table(torch.tensor([3]))  # 0
        y = torch.cdist(x, self.vector).sum(1, keepdim=True)  # 60
        z = self.two(x, x).sum(1, keepdim=True)  # 3 * 12 * 12 = 432
        return self.head(x + y + z + torch.mv(self.vector, x[0]).sum())  # 60, and 120 of the head


class Hidden(nn.Module):
    """What multiplies and has no formula: element by element, and a Fourier transform."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.inner = Elementwise(64 * channels)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(torch.fft.rfft2(x).abs().sum() + x))


class Elementwise(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.own, self.scale = nn.Parameter(torch.randn(4, size)), nn.Parameter(torch.ones(1, size))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) * self.scale).unsqueeze(1) * self.own).sum(2)


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


class Spectral(nn.Module):
    """A spectral norm, an orthogonal layer, and a parametrization of the user's own on a plain parameter."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        spectral, orthogonal = nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.orthogonal
        self.a = spectral(nn.Conv2d(channels, 16, 3, padding=1))
        self.b, self.head = orthogonal(nn.Linear(16, 16)), nn.Linear(16, outputs)
        nn.utils.parametrize.register_parametrization(self.head, "weight", Twice())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)).mean((2, 3)))))


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


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
    where = "cases_nets" if hasattr(cases_nets, name) else "test_foreign"
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


class Lazy(nn.Module):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(channels, 8, 3), nn.LazyLinear(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).flatten(1))


class Unfinished(Reads):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra = nn.Parameter(torch.full((3, 3), float("nan")))

    def inner(self, x: Tensor) -> Tensor:
        return x


class Nowhere(Unfinished):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra = nn.Parameter(torch.empty((3, 3), device="meta"))


class Unregistered(Unfinished):
    """A tensor that its state_dict doesn't know."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra, self.noise = None, torch.rand(16, 1, 1)

    def inner(self, x: Tensor) -> Tensor:
        return x * self.noise


class Keeps(Unfinished):
    """It keeps what a forward computed."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra = None
        self.b = Remembering()

    def inner(self, x: Tensor) -> Tensor:
        return self.b(x)


class Remembering(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        return x


class Half(Unfinished):
    """It asks for an attribute that nobody made."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra, self.b = None, nn.Sequential(nn.Identity(), Asking())

    def inner(self, x: Tensor) -> Tensor:
        return self.b(x)


class Asking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "OldWeightNormed",
            r"b \(Conv2d\) can't be copied: the older torch.nn.utils.weight_norm: use that of torch",
        ),
        ("Keeps", r"b \(Remembering\) can't be copied: its attributes must be parameters, buffers"),
        ("Lazy", r"head \(LazyLinear\) has no shape before a forward, .*; give its sizes"),
        ("Unfinished", r"parameter extra holds what is no finite number"),
        ("Nowhere", r"parameter extra is on the meta device"),
        (
            "Unregistered",
            r"built again with the same parameters and buffers it answers otherwise; .*register_buffer",
        ),
        (
            "Half",
            r"can't take digits's images \(1, 8, 8\): b.1 \(Asking\): 'Asking' object has no attribute 'gain'",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:Lazy:UserWarning")
def test_what_no_stage_could_work_on_is_said_at_init(name: str, said: str, place: Bench) -> None:
    with pytest.raises(UserError, match=said) as caught:
        state_of(name, place)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


class Normed(nn.Module):
    """Two convolutions, each followed by a norm of some class."""

    def __init__(self, channels: int, outputs: int, norm: Any) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(channels, 16, 3, padding=1, bias=False), norm(16)
        self.b, self.m = nn.Conv2d(16, 16, 3, padding=1, groups=2), norm(16)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.m(self.b(self.n(self.a(x)))).mean((2, 3)))


class OfTimm(Normed):
    def __init__(self, channels: int, outputs: int) -> None:
        from timm.layers import BatchNormAct2d

        super().__init__(channels, outputs, lambda n: BatchNormAct2d(n, act_layer=nn.PReLU))


class Residual(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class WithResidual(Normed):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, Residual)


class Before(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


class WithBefore(Normed):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, Before)


def shaken(state: State) -> State:
    """Norms with statistics and factors that matter."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in state.weights.items():
        if name.rpartition(".")[0] in ("n", "m") and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return state


@pytest.mark.parametrize("name", ["TimmLike", "OfTimm"])
def test_a_norm_that_activates_is_folded_and_goes_on_activating(name: str, place: Bench) -> None:
    if name == "OfTimm":
        pytest.importorskip("timm")
    state = shaken(state_of(name, place))
    base, flags = folded(state, place)
    assert flags == []
    assert base.edits == ({"fold": {"a": ["n", 1e-5], "b": ["m", 1e-5]}},)
    images = images_of(place, 16)
    own = answers(state, images)
    assert float((answers(base, images) - own).abs().max()) < 1e-4 * float(own.abs().max())
    assert not any("running" in n or n in ("n.weight", "m.bias") for n in base.weights)
    assert ("n.act.weight" in base.weights) is (name == "OfTimm"), "the activation's own weight stays"
    quantized = Quantize(examples=64).apply(state, place)
    assert not any("not folded" in flag for flag in quantized.facts["flags"])
    found = RUNTIMES["openvino"].lower(View(quantized, place))
    assert isinstance(found, Lowered)
    assert found.in_float == ()
    trained = TRAIN.apply(quantized, place)  # in training too nothing normalises any more
    assert bool(answers(trained, images).isfinite().all())


@pytest.mark.parametrize("name", ["WithResidual", "WithBefore"])
def test_a_norm_that_does_more_is_left_and_named(name: str, place: Bench) -> None:
    state = shaken(state_of(name, place))
    base, flags = folded(state, place)
    assert base.edits == ()
    assert flags == ["batch norms not folded, no convolution alone before them: n, m"]


def test_a_norm_that_activates_keeps_it_when_channels_go(place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    state = shaken(state_of("TimmLike", place))
    small = Channels(MAGNITUDE, fraction=0.5).apply(state, place)
    own = module_of(small)
    assert isinstance(own.n, cases_nets.ActivatedNorm)
    assert own.n.num_features == 8
    images = images_of(place, 4)
    assert float(own.n(own.a(images)).min()) >= 0, "it activates"


@pytest.mark.parametrize("name", ["BufferGrid", "TimmLike"])
def test_exits_on_nets_with_buffers_and_norms_of_their_own(name: str, place: Bench) -> None:
    head = {"_target_": "compressbench.exit_heads.pooled.pooled", "_partial_": True}
    state = state_of(name, place)
    early = Attach(("a",), head).apply(state, place)
    images = images_of(place, 8)
    parts = parts_of(module_of(early))
    with torch.no_grad():
        logits, *live = parts[0](images)
        assert logits.shape == (8, 10)
        some = parts[1](*(t[torch.tensor([5, 2])] for t in live))[0]
    assert float((some - answers(state, images)[torch.tensor([5, 2])]).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["Doubles", "Beginning"])
def test_an_exit_head_is_of_the_type_of_what_it_reads(name: str, place: Bench) -> None:
    head = {"_target_": "compressbench.exit_heads.pooled.pooled", "_partial_": True}
    state = state_of(name, place)
    early = TRAIN_EXITS.apply(Attach(("a",), head).apply(state, place), place)
    assert early.weights["exits.0.fc.weight"].dtype is torch.float64
    criterion = {"_target_": "compressbench.exit_criteria.max_probability.max_probability", "_partial_": True}
    policy = Choose(criterion, threshold=0.1).apply(early, place)
    lowered = RUNTIMES["openvino"].lower(View(policy, place))
    assert isinstance(lowered, Lowered)
    whole = RUNTIMES["openvino"].lower(View(early, place))
    assert isinstance(whole, Lowered)
    images = images_of(place, 4)
    assert agreement.apart(answers(early, images), torch.as_tensor(whole.run(images)), rounds=False) < 1e-3


def same(found: Any, own: Any) -> bool:
    return found.keys() == own.keys() and all(torch.equal(found[n], own[n]) for n in own)


@pytest.mark.parametrize("name", ["Wrapped", "BufferScalar"])
def test_prefixes_go_only_where_the_names_then_fit(name: str, place: Bench, tmp_path: Any) -> None:
    build = {"_target_": f"cases_nets.{name}", "channels": "@channels", "outputs": "@classes"}
    net: nn.Module = getattr(cases_nets, name)(1, 10)
    own = {n: t.clone() for n, t in net.state_dict().items()}
    average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    compiled_part: nn.Module = getattr(cases_nets, name)(1, 10)
    compiled_part.load_state_dict(own)
    first = next(n for n, _ in compiled_part.named_children())
    setattr(compiled_part, first, torch.compile(getattr(compiled_part, first)))
    files = {
        "plain": own,
        "parallel": nn.DataParallel(net).state_dict(),
        "compiled": torch.compile(net).state_dict(),
        "compiled part": compiled_part.state_dict(),
        "both": {f"_orig_mod.module.{n}": t for n, t in own.items()},
        "averaged": average.state_dict(),
        "trainer": {"state_dict": {f"model.{n}": t for n, t in own.items()}, "epoch": 3},
        "script": {"model": own, "epoch": 3},
        "before batches were tracked": {n: t for n, t in own.items() if "num_batches" not in n},
    }
    assert any("_orig_mod" in n for n in files["compiled part"])
    assert "n_averaged" in files["averaged"]
    for what, content in files.items():
        path = tmp_path / f"{what.replace(' ', '_')}.pt"
        torch.save(content, path)
        state = drawn({"name": name, "build": build, "weights": str(path)}, place)
        assert same(state.weights, own), what
        trained = dataclasses.replace(TRAIN, checkpoint=str(path)).apply(state_of(name, place), place)
        assert same(trained.weights, own), what


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_names_that_torch_once_wrote_load(place: Bench, tmp_path: Any) -> None:
    old = cases_nets.OldWeightNormed(1, 10)
    assert "a.weight_g" in old.state_dict()
    torch.save(old.state_dict(), tmp_path / "old.pt")
    build = {"_target_": "cases_nets.WeightNormed", "channels": "@channels", "outputs": "@classes"}
    state = drawn({"name": "net", "build": build, "weights": str(tmp_path / "old.pt")}, place)
    images = images_of(place, 4)
    with torch.no_grad():
        assert torch.allclose(answers(state, images), old(images), atol=1e-6)


def test_names_that_fit_nowhere_are_named_as_they_fit_best(place: Bench, tmp_path: Any) -> None:
    own = cases_nets.Wrapped(1, 10).state_dict()
    torch.save({f"module.{n}": t for n, t in own.items() if n != "module.3.bias"}, tmp_path / "x.pt")
    build = {"_target_": "cases_nets.Wrapped", "channels": "@channels", "outputs": "@classes"}
    with pytest.raises(UserError, match=r"don't fit Wrapped: missing module\.3\.bias$"):
        drawn({"name": "net", "build": build, "weights": str(tmp_path / "x.pt")}, place)


class AuxInADict(nn.Module):
    """In training a dictionary, and a head that reads the middle through a convolution of its own."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.head = (
            cases_nets.cbr(channels, 16),
            cases_nets.cbr(16, 16),
            nn.Linear(16, outputs),
        )
        self.aux = nn.Sequential(nn.Conv2d(16, 12, 1), nn.ReLU(), nn.Dropout(0.5))
        self.said = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        out = self.head(self.b(x).mean((2, 3)))
        if not self.training:
            return out
        return {"logits": out, "more": [self.said(self.aux(x).mean((2, 3)))]}


class Replaced(nn.Module):
    """In training another head altogether: neither forward reaches all of the net."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = cases_nets.cbr(channels, 16), cases_nets.cbr(16, 16)
        self.one, self.two = nn.Linear(16, outputs), nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return (self.one if self.training else self.two)(self.b(self.a(x)).mean((2, 3)))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ["AuxInTraining", "AuxInADict", "Replaced"])
def test_channels_are_cut_for_all_that_a_training_reaches(name: str, inside: bool, place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    state = state_of(name, place)
    small = Channels(MAGNITUDE, fraction=0.5, inside=inside).apply(state, place)
    module, whole = module_of(small), module_of(state)
    assert module.a[0].out_channels == 8
    assert small.facts["flags"] == [], "no group is left"
    with torch.no_grad():  # as it was, what went being zero
        for own, tensor in whole.named_parameters():
            for dim, kept in small.edits[0]["cut"].get(own, {}).items():
                gone = [k for k in range(tensor.shape[int(dim)]) if k not in kept]
                tensor.index_fill_(int(dim), torch.tensor(gone), 0)
        for net in (module, whole):
            for own, part in net.named_modules():
                part.training = own == ""
        found, wanted = module(images_of(place, 4)), whole(images_of(place, 4))
    for one, other in zip(tensors_of(found), tensors_of(wanted), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    trained = TRAIN.apply(small, place)
    assert trained.facts["examples"] == 16


@pytest.mark.parametrize("name", ["AuxInTraining", "AuxInADict"])
def test_heads_of_the_training_are_cut_beside_exits_too(name: str, place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    head = {"_target_": "compressbench.exit_heads.pooled.pooled", "_partial_": True}
    early = Attach(("a",), head).apply(state_of(name, place), place)
    small = Channels(MAGNITUDE, fraction=0.5).apply(early, place)
    reads = {"AuxInTraining": "aux.weight", "AuxInADict": "aux.0.weight"}[name]
    assert small.weights[reads].shape[1] == small.weights["exits.0.fc.weight"].shape[1] == 8
    assert small.facts["flags"] == []
    assert TRAIN_EXITS.apply(small, place).facts["examples"] == 16


@pytest.mark.parametrize(
    ("name", "beside"), [("AuxInTraining", 160), ("AuxInADict", 16 * 12 * 64 + 120), ("Replaced", 0)]
)
def test_heads_of_the_training_count_in_its_cost(name: str, beside: int, place: Bench) -> None:
    """Evaluation: 9 x 16 and 9 x 16 x 16 at 64 places, and the head. Three times, and once what is beside it."""
    trained = TRAIN.apply(state_of(name, place), place)
    assert trained.facts["forward_macs"] == 64 * (9 * 16 + 9 * 256) + 160
    assert trained.facts["macs"] == 16 * (3 * (64 * (9 * 16 + 9 * 256) + 160) + beside)


@pytest.mark.parametrize("name", ["AuxInTraining", "Replaced"])
def test_heads_that_never_run_in_evaluation_are_left_out_of_deployment(name: str, place: Bench) -> None:
    state = Quantize(examples=64).apply(state_of(name, place), place)
    head = "aux" if name == "AuxInTraining" else "one"
    for runtime in RUNTIMES.values():
        found = runtime.lower(View(state, place))
        assert isinstance(found, Lowered)
        assert f"left out, no answer depends on them: {head}" in found.runtime
        assert head not in found.in_float
        images = images_of(place, 16)
        own = answers(state, images)
        assert float((found.run(images) - own).abs().mean()) < 0.1 * float(own.std())  # type: ignore[operator]


def test_tensors_of_whatever_a_module_returns() -> None:
    one, two, whole = torch.rand(2), torch.rand(3), torch.tensor([1, 2])
    assert tensors_of(one) == [one]
    assert tensors_of({"a": (one, [two]), "b": whole, "c": None}) == [one, two]
    assert tensors_of(Outputs(one, {"exit0": two})) == [one, two]


class TiedApart(nn.Module):
    """Two layers with one weight, of which only one reads the channels of ``a``: those stay, others can go."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = cases_nets.cbr(channels, 16), cases_nets.cbr(channels, 16)
        self.c, self.d = (
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
        )
        self.d.weight = self.c.weight
        self.e, self.f = cases_nets.cbr(16, 12), nn.Conv2d(12, 16, 1)
        self.head = nn.Linear(32 * 16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.softmax(self.d(self.b(x)), 1)  # where no channel can go
        x = torch.cat([self.f(self.e(self.c(self.a(x)))), mixed], 1)
        return self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))


class Numbered(nn.Module):
    """The output depends on how many channels there are: without some it differs from them being zero."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.c = cases_nets.cbr(channels, 16), cases_nets.cbr(16, 16), cases_nets.cbr(16, 12)
        self.head = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        return self.head(self.c(y).mean((2, 3)) + 1.0 / y.shape[1])


@pytest.mark.parametrize("inside", [False, True])
def test_channels_of_one_weight_go_together(inside: bool, place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    state = state_of("TiedWeight", place)
    small = Channels(MAGNITUDE, fraction=0.5, inside=inside).apply(state, place)
    cut = small.edits[0]["cut"]
    assert cut["c.weight"] == cut["d.weight"]
    assert cut["c.weight"]["0"] == cut["c.weight"]["1"] == cut["a.0.weight"]["0"]
    module = module_of(small)
    assert module.c.weight is module.d.weight
    assert module.c.weight.shape == (8, 8, 3, 3)
    assert small.facts["flags"] == []


@pytest.mark.parametrize(
    ("name", "flag", "kept", "gone"),
    [
        (
            "TiedApart",
            "channels left, their layers share a weight that can't be cut alike: c, d",
            "c",
            "e.0",
        ),
        ("Numbered", "channels left, without them the net would differ or not run: b.0", "b.0", "a.0"),
    ],
)
@pytest.mark.parametrize("goal", [{"fraction": 0.5}, {"macs": 0.9}])
def test_one_group_that_cannot_go_is_left_and_named(
    name: str, flag: str, kept: str, gone: str, goal: dict[str, float], place: Bench
) -> None:
    pytest.importorskip("torch_pruning")
    said: list[str] = []
    state = state_of(name, place)
    small = Channels(MAGNITUDE, **goal).apply(state, dataclasses.replace(place, say=said.append))  # type: ignore[arg-type]
    assert small.facts["flags"] == [flag]
    assert said == [f"init: {flag}"]
    own, before = module_of(small), module_of(state)
    assert own.get_submodule(kept).out_channels == before.get_submodule(kept).out_channels
    assert own.get_submodule(gone).out_channels < before.get_submodule(gone).out_channels


class Windows(nn.Module):
    """torchvision's swin, tiny: its windows are rolled and cut apart, and tracing takes that for channels."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        models = pytest.importorskip("torchvision.models")
        self.net = models.SwinTransformer([2, 2], 12, [2, 2], [3, 3], [2, 2], num_classes=outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(F.interpolate(x, size=(16, 16)).repeat(1, 3, 1, 1))


def test_a_graph_that_goes_round_for_ever_is_left_and_named(place: Bench) -> None:
    """What the perceptrons hide is halved; their own widths, 12 and 24, stay."""
    state = state_of("Windows", place)
    cut = Channels(criterion=MAGNITUDE, fraction=0.5).apply(state, place)
    hidden = {n: tuple(t.shape) for n, t in cut.weights.items() if n.endswith("mlp.0.weight")}
    assert sorted(hidden.values()) == [(24, 12), (24, 12), (48, 24), (48, 24)]
    assert cut.weights["net.head.weight"].shape == (10, 24)
    (said,) = [f for f in cut.facts["flags"] if "can't be followed" in f]
    assert "net.features.2.reduction" in said


class Numbers(Numbered):
    def forward(self, x: Tensor) -> Tensor:
        x, y = self.a(x), self.b(self.a(x))
        z = self.c(y)
        return self.head(z.mean((2, 3)) + 1.0 / x.shape[1] + 1.0 / y.shape[1] + 1.0 / z.shape[1])


def test_no_hint_is_given_that_is_followed_already(place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    state = state_of("Numbers", place)
    with pytest.raises(UserError, match=r"at zero; inside: true removes channels only within blocks$"):
        Channels(MAGNITUDE, fraction=0.5).apply(state, place)
    with pytest.raises(UserError, match=r"at zero; prune single weights of such a net$"):
        Channels(MAGNITUDE, fraction=0.5, inside=True).apply(state, place)


class Beginning(nn.Module):
    """Float64 in its first half alone."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.head = (
            cases_nets.cbr(channels, 16),
            cases_nets.cbr(16, 16),
            nn.Linear(16, outputs),
        )
        self.a.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x.double()).float()).mean((2, 3)))


class Doubles(nn.Module):
    """All of it is float64."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.head = cases_nets.cbr(channels, 16), nn.Linear(16, outputs)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x.double()).mean((2, 3))).float()


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


def test_layers_that_round_are_not_passed_by_in_fused_attention(place: Bench) -> None:
    state = state_of("Encoder", place)
    rounded = Quantize(weights=3, inputs=3, examples=64).apply(state, place)
    images = images_of(place, 8)
    own = answers(rounded, images)  # without gradients, where torch would take its fused path
    module = module_of(rounded)
    slow = module(images).detach()
    assert module.encoder.layers[0].linear1.weight.requires_grad, (
        "with gradients it takes the one that is written"
    )
    assert torch.allclose(own, slow, atol=1e-5)
    assert float((own - answers(state, images)).abs().max()) > 1e-3, "it does round"


@pytest.mark.slow
def test_googlenet_is_cut_trained_rounded_and_deployed(place: Bench) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("torch_pruning")
    state = state_of("GoogLeNet", place)
    small = Channels(MAGNITUDE, fraction=0.5).apply(state, place)
    assert small.facts["density"] < 0.4
    trained = TRAIN.apply(small, place)
    rounded = Quantize(examples=32).apply(trained, place)
    assert not any("not folded" in flag for flag in rounded.facts["flags"])
    found = RUNTIMES["openvino"].lower(View(rounded, place))
    assert isinstance(found, Lowered)
    assert "left out, no answer depends on them: net.aux1.conv.conv" in found.runtime
    assert found.in_float == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BufferScalar", "Largest", "OfTheBatch", "ABranchOnTheInput", "Mha"])
def test_compiled_torch_answers_as_the_net_does_or_says_why_not(name: str, place: Bench) -> None:
    from compressbench.hardware.torch_compiled import TorchCompiled

    state = state_of(name, place)
    found = TorchCompiled(batches=(1, 4)).lower(View(state, place))
    if isinstance(found, Unsupported):
        assert "\n" not in found.why
        return
    images = images_of(place, 4)
    assert torch.allclose(found.run(images), answers(state, images), atol=1e-4)  # type: ignore[arg-type]


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(x * 2 if x.sum() > 0 else x)


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(4, 64))


@pytest.mark.parametrize(("net", "words"), [(Branching(), "torch.where"), (Fixed(), "reshape by -1")])
def test_what_torch_cannot_export_is_one_line_and_no_dump(
    net: nn.Module, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from compressbench.hardware.exported import exported

    with pytest.raises(UserError, match=words):
        exported(net, torch.randn(4, 1, 8, 8))
    assert capfd.readouterr() == ("", "")
