"""Nets of others cut: channels go where they can be followed, heads of the training with them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import cases_nets
from cases_foreign import (
    MAGNITUDE,
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
from compressbench.hardware.target import Lowered
from compressbench.models.build import module_of
from compressbench.outputs import tensors_of
from compressbench.stages.exits import Attach
from compressbench.stages.quantize import Quantize
from compressbench.stages.shrink import Channels
from compressbench.views import View


def test_norms_inside_a_data_parallel_are_folded(place: Bench) -> None:
    rounded = Quantize(examples=64).apply(state_of("Wrapping", place), place)
    assert rounded.facts["flags"] == []
    assert "a.module.1.weight" not in rounded.weights


@pytest.mark.parametrize("inside", [False, True])
def test_channels_that_meet_a_computed_weight_are_left_and_named(inside: bool, place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    with pytest.raises(UserError, match=r"a weight that they meet is computed: q, a; .*remove_param"):
        Channels(MAGNITUDE, fraction=0.5, inside=inside).apply(state_of("Computed", place), place)


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


def test_a_norm_that_activates_keeps_it_when_channels_go(place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    state = shaken(state_of("TimmLike", place))
    small = Channels(MAGNITUDE, fraction=0.5).apply(state, place)
    own = module_of(small)
    assert isinstance(own.n, cases_nets.ActivatedNorm)
    assert own.n.num_features == 8
    images = images_of(place, 4)
    assert float(own.n(own.a(images)).min()) >= 0, "it activates"


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


def test_a_graph_that_goes_round_for_ever_is_left_and_named(place: Bench) -> None:
    """What the perceptrons hide is halved; their own widths, 12 and 24, stay."""
    state = state_of("Windows", place)
    cut = Channels(criterion=MAGNITUDE, fraction=0.5).apply(state, place)
    hidden = {n: tuple(t.shape) for n, t in cut.weights.items() if n.endswith("mlp.0.weight")}
    assert sorted(hidden.values()) == [(24, 12), (24, 12), (48, 24), (48, 24)]
    assert cut.weights["net.head.weight"].shape == (10, 24)
    (said,) = [f for f in cut.facts["flags"] if "can't be followed" in f]
    assert "net.features.2.reduction" in said


def test_no_hint_is_given_that_is_followed_already(place: Bench) -> None:
    pytest.importorskip("torch_pruning")
    state = state_of("Numbers", place)
    with pytest.raises(UserError, match=r"at zero; inside: true removes channels only within blocks$"):
        Channels(MAGNITUDE, fraction=0.5).apply(state, place)
    with pytest.raises(UserError, match=r"at zero; prune single weights of such a net$"):
        Channels(MAGNITUDE, fraction=0.5, inside=True).apply(state, place)


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
