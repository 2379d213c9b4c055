"""Foreign models: structures that users bring, see ``cases_nets``; each is handled, or said in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cases_nets
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.exporting import FORMS
from compressbench.hardware import agreement
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
from compressbench.hardware.openvino_cpu import OpenVINOCPU
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.outputs import forward
from compressbench.stages.quantize import Quantize
from compressbench.state import State
from compressbench.views import View

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

RUNTIMES = {"onnxruntime": OnnxRuntimeCPU(batches=(1, 4)), "openvino": OpenVINOCPU(batches=(1, 4))}


def state_of(name: str, bench: Bench) -> State:
    """A net of ``cases_nets``, or one of this file, as it is drawn."""
    where = "cases_nets" if hasattr(cases_nets, name) else "test_foreign"
    build = {"_target_": f"{where}.{name}", "channels": "@channels", "outputs": "@classes"}
    return drawn({"name": name, "build": build}, bench)


def images_of(bench: Bench, count: int) -> Tensor:
    return bench.task.encode(bench.feed("test").images[:count])


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
