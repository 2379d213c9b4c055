"""Nets of others at the beginning: what can't be worked on, norms, exits, names in files of weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import cases_nets
from cases_foreign import (
    RUNTIMES,
    TRAIN,
    TRAIN_EXITS,
    answers,
    images_of,
    shaken,
    state_of,
)
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.hardware import agreement
from compressbench.hardware.target import Lowered
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.exits import parts_of
from compressbench.quantizing.folding import folded
from compressbench.stages.exits import Attach, Choose
from compressbench.stages.quantize import Quantize
from compressbench.views import View


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


@pytest.mark.slow
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
