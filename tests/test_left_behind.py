"""What a stage leaves behind in a state, said once; nets with exits in other nets and on runtimes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from cases_quantize import MAGNITUDE, RESNET, qat, train
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.hardware.exits import lower, without_exits
from compressbench.hardware.target import Lowered
from compressbench.masks import masked
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.exit_policies import GONE, KEPT
from compressbench.models.exits import last_alone
from compressbench.outputs import forward
from compressbench.probes.deployed import logits
from compressbench.probes.structure import Structure
from compressbench.runs.flags import LOST, STALE, checked
from compressbench.specs import build
from compressbench.stages.composite import Ensemble, Take
from compressbench.stages.exits import Attach, Cascade, Choose
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.stages.share import Share
from compressbench.stages.shrink import Channels
from compressbench.stages.theseus import Replace, Successor
from compressbench.state import State
from compressbench.views import View
from tiny import TINY

HEAD = {"_target_": "compressbench.exit_heads.pooled.pooled", "_partial_": True}
SURE = {"_target_": "compressbench.exit_criteria.max_probability.max_probability", "_partial_": True}
SHARED = {
    "shared": {"_target_": "compressbench.training.reparametrisations.shared.shared", "_partial_": True}
}
DEEP = {**RESNET, "build": {**RESNET["build"], "depth": 14}}
CHOOSE = Choose(criterion=SURE, budget=0.7)


def after(state: State | None, stage, place: Bench) -> State:
    """As the executor applies a stage."""
    return checked(state, stage.apply(state, dataclasses.replace(place, name=type(stage).__name__)))


def flags(state: State, start: str) -> list[str]:
    return [flag for flag in state.facts["flags"] if flag.startswith(start)]


def answers(state: State, place: Bench) -> Tensor:
    with torch.no_grad():
        return forward(module_of(state), place.task.normalised(place.feed("test")["images"][:64])).logits


@pytest.fixture(scope="module")
def net(place: Bench) -> State:
    return drawn(RESNET, place)


@pytest.fixture(scope="module")
def exits(net: State, place: Bench) -> State:
    put = after(net, Attach(points=("layer1", "layer2"), head=HEAD), place)
    return after(put, train("12it", lr=0.05), place)


# Sharing.


def test_sharing_lost_by_a_training_is_said(net: State, place: Bench) -> None:
    shared = after(net, Share(bits=3), place)
    assert not flags(shared, LOST)
    (flag,) = flags(after(shared, train("2it"), place), LOST)
    assert "conv1.weight, layer1.0.conv1.weight, layer1.0.conv2.weight and " in flag
    assert "reparametrise: shared" in flag
    assert not flags(after(shared, train("2it", reparametrise=SHARED), place), LOST)
    assert not flags(after(shared, Prune(criterion=MAGNITUDE), place), LOST), "fewer values are shared still"
    assert not flags(after(net, train("2it"), place), LOST)


def test_sharing_anew_takes_the_flag_back_and_a_later_loss_names_all(net: State, place: Bench) -> None:
    """What was lost is said until it is shared again, under all its names, and not a moment longer."""
    lost = after(after(net, Share(bits=3), place), train("2it"), place)
    again = after(lost, Share(bits=3), place)
    assert not flags(again, LOST)
    part = after(lost, Share(bits=3, layers={"layer*": None}), place)
    (flag,) = flags(part, LOST)
    assert "conv1.weight" not in flag.replace(".conv1.weight", "")
    assert "layer1.0.conv1.weight" in flag
    (flag,) = flags(after(part, train("2it"), place), LOST)
    assert " and 7 more" in flag, "ten layers: one, six in blocks, two shortcuts and one have parted again"


def test_weights_trained_as_shared_stay_so_in_tensors_of_any_size(place: Bench) -> None:
    """36 and 70 entries fill no vector register: the optimiser rounds their last ones in another way."""
    net = drawn(TINY, place)
    shared = after(net, Share(bits=3), place)
    trained = after(shared, train("12it", lr=0.05, reparametrise=SHARED), place)
    assert not flags(trained, LOST)
    for name, weight in shared.weights.items():
        if name in shared.facts["prunable"]:
            own = trained.weights[name].reshape(-1)
            groups = weight.reshape(-1).unique(return_inverse=True)[1]
            assert all(len(own[groups == k].unique()) == 1 for k in groups.unique()), name
            assert not torch.equal(trained.weights[name], weight)


def test_a_tensor_that_shares_more_values_than_before_has_lost(net: State) -> None:
    name = "layer3.0.conv2.weight"
    few = net.weights[name].sign() * 0.5
    many = few.clone()
    many.view(-1)[:5] = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.6])  # 7 values: 3 bits where 1 was enough
    before = net.with_groups(weights={**net.weights, name: few})
    (flag,) = flags(checked(before, net.with_groups(weights={**net.weights, name: many})), LOST)
    assert name in flag


# Scales.


def test_scales_that_no_longer_fit_are_said_with_how_far(net: State, place: Bench) -> None:
    rounded = after(net, Quantize(per="tensor", fold=False, inputs=None), place)
    assert not flags(rounded, STALE)
    halved = {n: t * (0.45 if n == "conv1.weight" else 1.0) for n, t in rounded.weights.items()}
    (flag,) = flags(checked(rounded, rounded.with_groups(weights=halved)), STALE)
    assert "weights span 0.45 to 1 of what they hold" in flag
    larger = {n: t * (3.0 if n == "conv1.weight" else 1.0) for n, t in rounded.weights.items()}
    (flag,) = flags(checked(rounded, rounded.with_groups(weights=larger)), STALE)
    assert "weights span 1 to 3 of what they hold" in flag


def test_scales_are_stale_after_training_and_cutting_until_they_are_set_anew(
    net: State, place: Bench
) -> None:
    rounded = after(net, Quantize(), place)
    trained = after(rounded, train("3it", lr=0.5), place)
    assert len(flags(trained, STALE)) == 1
    cut = after(rounded, Channels(criterion=MAGNITUDE, fraction=0.5), place)
    assert len(flags(cut, STALE)) == 1
    again = after(trained, train("3it", lr=0.5), place)
    assert len(flags(again, STALE)) == 1, "once, as it is now"
    assert not flags(after(again, Quantize(), place), STALE)
    assert not flags(after(rounded, train("3it", lr=0.05, reparametrise=qat()), place), STALE)


# Policies: one flag at a time.


def test_flags_of_a_policy_do_not_contradict_each_other(exits: State, place: Bench) -> None:
    chosen = after(exits, CHOOSE, place)
    pruned = after(chosen, Prune(criterion=MAGNITUDE), place)
    assert flags(pruned, "its exits") == [KEPT]
    trained = after(pruned, train("2it"), place)
    assert flags(trained, "its exits") == [GONE]
    assert flags(after(trained, CHOOSE, place), "its exits") == []
    assert flags(after(pruned, CHOOSE, place), "its exits") == []


# Theseus and ensembles.


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for n, p in module.named_parameters() if p.ndim > 1)


def test_inside_theseus_the_density_is_that_of_what_computes(place: Bench) -> None:
    deep = drawn(DEEP, place)
    whole = parameters(module_of(deep))
    inside = after(deep, Replace(), place)
    blocks = [f"layer{k}.1." for k in (1, 2, 3)]
    gone = sum(
        t.numel() for n, t in deep.weights.items() if t.ndim > 1 and any(n.startswith(b) for b in blocks)
    )
    assert inside.facts["density"] == pytest.approx((whole - gone) / whole)
    found = {
        (m.name, m.group): m.value for m in Structure().measure(View(inside, place), View(deep, place), place)
    }
    assert found["density", ""] == pytest.approx(100 * (whole - gone) / whole)
    assert found["density_all", ""] < 100
    assert found["layer_density", "layer1.0.new.conv1.weight"] == 100
    assert found["layer_density", "layer1.1.conv1.weight"] == 0
    masks = {
        "layer1.0.new.conv1.weight": torch.zeros_like(inside.weights["layer1.0.new.conv1.weight"]).bool()
    }
    without = masks["layer1.0.new.conv1.weight"].numel()
    assert checked(inside, masked(inside, masks)).facts["density"] == pytest.approx(
        (whole - gone - without) / whole
    )
    out = after(inside, Successor(), place)
    assert out.facts["density"] == inside.facts["density"]
    assert out.facts["drawn"] == deep.facts["drawn"]


def test_what_changes_the_net_while_blocks_are_replaced_ends_in_one_line(place: Bench) -> None:
    inside = after(drawn(DEEP, place), Replace(), place)
    for stage, kind in (
        (Quantize(examples=50), "fold, quantize"),
        (Channels(criterion=MAGNITUDE, fraction=0.25), "cut"),
        (Attach(points=("layer1",), head=HEAD), "exits"),
    ):
        changed = after(inside, stage, place)
        with pytest.raises(
            UserError, match=rf"while its blocks were being replaced \({kind}\); what quantizes"
        ):
            Successor().apply(changed, place)
    with pytest.raises(UserError, match="blocks are being replaced already; a theseus/successor stage"):
        Replace().apply(inside, place)


def test_a_net_with_exits_in_theseus(place: Bench) -> None:
    put = after(drawn(DEEP, place), Attach(points=("layer1", "layer2.0"), head=HEAD), place)
    inside = after(put, Replace(), place)
    assert set(inside.model["groups"]) == {"layer1.0", "layer2.0", "layer3.0"}, "heads are no blocks"
    out = after(after(inside, train("2it"), place), Successor(), place)
    assert out.facts["density"] < 1
    chosen = after(out, CHOOSE, place)
    assert len(View(chosen, place).parts) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Ensemble, Cascade])
def test_nets_with_exits_as_members(kind, exits: State, net: State, place: Bench) -> None:
    chosen = after(exits, CHOOSE, place)
    bench = dataclasses.replace(place, references={"a": chosen, "b": net})
    joined = kind(members=("a", "b")).apply(None, bench)
    assert any("members 0 answer by their last exit" in flag for flag in joined.facts["flags"])
    one, other = answers(exits, place), answers(net, place)
    wanted = other if kind is Cascade else (one.softmax(1) + other.softmax(1)).div(2).log()
    torch.testing.assert_close(answers(joined, place), wanted)
    again = module_of(joined)
    assert torch.equal(
        forward(again, torch.ones(2, 1, 8, 8)).logits, forward(again, torch.ones(2, 1, 8, 8)).logits
    )
    back = Take(member=0).apply(joined, place)
    torch.testing.assert_close(answers(back, place), one)
    assert len(View(after(back, CHOOSE, place), place).parts) == 3


# Quantized nets with exits on runtimes.

QUANTIZE = Quantize(examples=100)
ORDERS = {
    "no policy": (QUANTIZE,),
    "quantize, choose": (QUANTIZE, CHOOSE),
    "choose, quantize": (CHOOSE, QUANTIZE),
    "mixed bits, choose": (Quantize(weights=4, examples=100, layers={"exits.0.fc.weight": None}), CHOOSE),
}


@pytest.mark.slow
@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("runtime", ["onnxruntime_cpu.OnnxRuntimeCPU", "openvino_cpu.OpenVINOCPU"])
def test_quantized_nets_with_exits_deploy(runtime: str, order: str, exits: State, place: Bench) -> None:
    pytest.importorskip("onnxruntime" if "onnx" in runtime else "openvino")
    state = exits
    for stage in ORDERS[order]:
        state = after(state, stage, place)
    view = View(state, place)
    lowered = lower(build({"_target_": f"compressbench.hardware.{runtime}", "batches": [1, 8]}, ""), view)
    assert isinstance(lowered, Lowered), getattr(lowered, "why", "")
    assert "int8" in lowered.runtime
    assert lowered.varies is (order != "no policy")
    heads = [name for name in lowered.in_float if name.startswith("exits.")]
    assert heads == (["exits.0.fc"] if "mixed" in order else []), "the state's own float layers are named"
    same = logits(lowered, place).argmax(1) == view.log_probs.argmax(1)
    assert float(same.float().mean()) > 0.97
    if order == "no policy":
        assert lowered.artefact
        assert b"exits." not in lowered.artefact
    else:
        assert "in parts" in lowered.runtime


def test_a_net_without_its_exits_answers_by_its_last_layer(exits: State, place: Bench) -> None:
    state = after(exits, Channels(criterion=MAGNITUDE, fraction=0.25), place)
    state = after(after(after(state, Prune(criterion=MAGNITUDE), place), QUANTIZE, place), CHOOSE, place)
    alone = last_alone(state)
    assert not alone.policies
    assert not any(n.startswith("exits.") for named in alone.tensors.values() for n in named)
    torch.testing.assert_close(answers(alone, place), answers(state, place))
    assert not hasattr(module_of(alone), "parts")
    view = View(drawn(RESNET, place), place)
    assert without_exits(view) is view
