"""Nets of others: what is exported and lowered answers as the net does, or it is said why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cases_foreign import (
    RUNTIMES,
    TRAIN_EXITS,
    Branching,
    Fixed,
    answers,
    images_of,
    state_of,
)
from compressbench.bench import Bench
from compressbench.deploying.exporting import FORMS
from compressbench.errors import UserError
from compressbench.hardware import agreement
from compressbench.hardware.exits import lower
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.models.build import module_of
from compressbench.stages.exits import Attach
from compressbench.stages.quantize import Quantize
from compressbench.views import View


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
    assert "the net (cases_foreign.py:" in found.why
    assert "compute with tensors" in found.why
    assert "\n" not in found.why


@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["BufferScalar", "AFloat"])
def test_what_is_exported_answers_as_the_net_does(name: str, form: str, place: Bench, tmp_path: Any) -> None:
    state = state_of(name, place)
    images = images_of(place, 32)
    _, run, _ = FORMS[form](View(state, place), tmp_path / "x", (images[:8],))
    assert float((run(images) - answers(state, images)).abs().max()) < 1e-4


def test_torch_export_knows_numbers_that_are_read_of_the_input(place: Bench, tmp_path: Any) -> None:
    state, images = state_of("Largest", place), images_of(place, 32)
    _, run, _ = FORMS["torch_export"](View(state, place), tmp_path / "x", (images[:8],))
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
        FORMS[form](View(state_of(name, place), place), tmp_path / "x", (images_of(place, 8),))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


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
    _, run, _ = FORMS["torch_export"](View(rounded, place), tmp_path / "x", (images,))
    assert agreement.apart(answers(rounded, images), run(images), rounds=False) < 1e-3


@pytest.mark.slow
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
        _, run, _ = FORMS[form](View(rounded, place), tmp_path / form, (images,))
        assert agreement.apart(answers(rounded, images), run(images), True) < 0.05


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


def test_agreement_is_by_the_furthest_logit_in_float_and_on_average_where_it_rounds() -> None:
    own = torch.tensor([[0.0, 2.0], [0.0, 2.0]])  # its spread is 1
    there = torch.tensor([[0.0, 2.0], [0.0, 2.8]])
    assert agreement.apart(own, there, rounds=False) == pytest.approx(0.8)
    assert agreement.apart(own, there, rounds=True) == pytest.approx(0.2)
    assert agreement.two_sizes((4,)) == (4, 8)
    assert agreement.two_sizes((8, 8)) == (8, 8, 3)
    assert agreement.two_sizes((1, 64)) == (1, 64)
    agreement.check(lambda x: own[: len(x)], lambda x: there[: len(x)], (own,), (1,), "it")
    with pytest.raises(
        agreement.Otherwise, match=r"it answers otherwise than the state at batch 2: logits 0\.8 of"
    ):
        agreement.check(lambda x: own[: len(x)], lambda x: there[: len(x)], (own,), (1, 2), "it")
    agreement.check(lambda x: own[: len(x)], lambda x: there[: len(x)], (own,), (1, 2), "it", True)
    with pytest.raises(agreement.Otherwise, match="it answers otherwise"):
        agreement.check(lambda x: own, lambda x: own * float("nan"), (own,), (1, 2), "it", True)


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


@pytest.mark.parametrize(("net", "words"), [(Branching(), "torch.where"), (Fixed(), "reshape by -1")])
def test_what_torch_cannot_export_is_one_line_and_no_dump(
    net: nn.Module, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from compressbench.hardware.exported import exported

    with pytest.raises(UserError, match=words):
        exported(net, (torch.randn(4, 1, 8, 8),))
    assert capfd.readouterr() == ("", "")
