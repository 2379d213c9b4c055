"""Exits with other stages and runtimes, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from cases_exits import HEAD, POINTS, RESNET, bench, build, exits, images, spec, three_of, training  # noqa: F401
from compressbench import specs
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.exit_criteria.policy import (
    assigned,
    compacted,
    everything,
    policy_of,
    taken,
)
from compressbench.models import early
from compressbench.models.build import module_of
from compressbench.models.counting import count, of_exits
from compressbench.models.draw import drawn
from compressbench.models.exits import check, parts_of
from compressbench.stages.exits import Attach, Cascade, Choose
from compressbench.state import State
from compressbench.store import Store
from compressbench.views import View
from test_reparametrise import METHODS, ready
from test_reparametrise import method as reparametrisation

# with other stages ----------------------------------------------------------------------------------------------------


def test_a_frozen_trunk_stays_to_the_bit_and_its_exits_learn(bench: Bench) -> None:
    from compressbench.stages.train import Train

    state = Attach(POINTS, HEAD).apply(drawn(RESNET, bench), bench)
    for objective, own in (("joint", {"last": False}), ("self_distilled", {})):
        after = training(objective, Train, **own, only="exits.*").apply(
            state, dataclasses.replace(bench, name="exits")
        )
        for name, tensor in after.weights.items():
            assert torch.equal(tensor, state.weights[name]) != name.startswith("exits."), name
        forward, heads = state.facts["forward_macs"], 10 * (4 + 8)
        assert after.facts["macs"] == 30 * 32 * (forward + 2 * heads)


def test_only_some_parameters(bench: Bench) -> None:
    from compressbench.training.loop import _freeze, _step_macs

    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2))
    assert [type(m) for m in _freeze(module, "*.bias")] == []
    module.requires_grad_(True)
    assert module[1] in _freeze(module, "2.*")
    state = drawn(RESNET, bench)
    net, whole = module_of(state), state.facts["forward_macs"]
    assert _step_macs(state.facts, net, None, bench) == 3 * whole
    layers = count(net, bench.task.blank(1)).layers
    assert _step_macs(state.facts, net, "fc.*", bench) == whole + 2 * layers["fc"]
    assert _step_macs(state.facts, net, "conv1.*", bench) == 2 * whole + layers["conv1"]


def test_training_on_loses_a_policy_and_says_so(exits: State, bench: Bench) -> None:
    from compressbench.stages.train import Train

    state = Choose(spec("margin"), budget=0.7).apply(exits, bench)
    after = training("joint", Train).apply(state, dataclasses.replace(bench, name="on"))
    assert not after.policies
    assert "its exits' policy was chosen for other weights, and is gone: choose anew" in after.facts["flags"]


def test_sam_and_swa_leave_a_frozen_trunk_alone(bench: Bench) -> None:
    from compressbench.stages.train import Train

    convolved = {"_target_": "compressbench.exit_heads.convolved.convolved", "_partial_": True, "width": 8}
    state = Attach(POINTS, convolved).apply(drawn(RESNET, bench), bench)
    partial = {"_partial_": True}
    settings = dataclasses.replace(
        training("joint", Train, only="exits.*", last=False),
        stepper={"_target_": "compressbench.training.sam.sam", "rho": 0.05, **partial},
        averager={
            "_target_": "compressbench.training.averagers.swa",
            "start": 0.5,
            "every": "5it",
            **partial,
        },
    )
    after = settings.apply(state, dataclasses.replace(bench, name="exits"))
    for name, tensor in after.weights.items():
        if not name.startswith("exits."):
            assert torch.equal(tensor, state.weights[name]), name
    moved = [n for n, t in after.weights.items() if n.endswith("running_mean") and n.startswith("exits.")]
    assert moved
    assert not any(torch.equal(after.weights[n], state.weights[n]) for n in moved)


def test_joint_is_the_weighted_mean_of_all_exits_losses(exits: State, bench: Bench) -> None:
    from compressbench.outputs import Outputs
    from compressbench.training.exits import joint, self_distilled
    from compressbench.training.objectives import Batch

    feed = bench.feed("train")
    x, y = bench.task.normalised(feed["images"][:16]), feed.labels[:16]
    with torch.no_grad():
        logits = everything(parts_of(module_of(exits)), x)
    outputs = Outputs(logits[-1], {f"exit{k}": t for k, t in enumerate(logits[:-1])})
    batch = Batch(outputs, x, y, torch.arange(16))
    losses = [float(nn.functional.cross_entropy(t, y)) for t in logits]
    assert float(joint(bench)(batch)) == pytest.approx(sum(losses) / 3)
    assert float(joint(bench, power=1.0)(batch)) == pytest.approx(
        (losses[0] + 2 * losses[1] + 3 * losses[2]) / 6
    )
    assert float(joint(bench, last=False)(batch)) == pytest.approx(sum(losses[:2]) / 2)
    wanted = logits[-1].softmax(1)
    apart = [
        float((wanted * (logits[-1].log_softmax(1) - t.log_softmax(1))).sum(1).mean()) for t in logits[:-1]
    ]
    assert float(self_distilled(bench)(batch)) == pytest.approx(sum(apart) / 2, rel=1e-5)


def test_the_order_of_exits_is_that_of_numbers_not_of_letters() -> None:
    from compressbench.outputs import Outputs
    from compressbench.training.exits import early_of

    taps = {f"exit{k}": torch.full((1, 2), float(k)) for k in reversed(range(12))}
    assert [float(t[0, 0]) for t in early_of(Outputs(torch.zeros(1, 2), taps))] == list(range(12))


def test_exits_after_pruning_and_pruning_after_exits(exits: State, bench: Bench) -> None:
    from compressbench.pruning.unstructured import prune
    from compressbench.stages.prune import Prune

    criterion = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    thin = prune(drawn(RESNET, bench), bench, Prune(criterion, 0.8))
    after = Attach(POINTS, HEAD).apply(thin, bench)
    for name, mask in thin.masks.items():
        assert torch.equal(after.masks[name], mask)
    assert thin.facts["density"] < after.facts["density"] < thin.facts["density"] + 0.1
    again = prune(exits, bench, Prune(criterion, 0.5))
    assert any(name.startswith("exits.") for name in again.masks)
    check(module_of(again), three_of(bench))


def test_channels_removed_before_and_after_exits(exits: State, bench: Bench) -> None:
    from compressbench.stages.shrink import Channels

    criterion = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    settings = Channels(criterion, macs=0.6, inside=True)
    thin = settings.apply(drawn(RESNET, bench), bench)
    after = Attach(POINTS, HEAD).apply(thin, bench)
    check(module_of(after), three_of(bench))
    later = settings.apply(exits, bench)
    assert later.facts["forward_macs"] < exits.facts["forward_macs"]
    check(module_of(later), three_of(bench))
    # coupled channels that an exit reads too: its head loses the same inputs
    whole = Channels(criterion, macs=0.6).apply(exits, bench)
    module = module_of(whole)
    check(module, three_of(bench))
    assert module.exits[0].fc.in_features < 4


def test_quantized_nets_with_exits(exits: State, bench: Bench) -> None:
    from compressbench.cli.run import composed

    stage = composed(["recipe=ptq_resnet", "scale=smoke"])["recipe"]["stages"]["static"]
    stage = specs.expand(stage, "static")
    settings = {k: v for k, v in stage.items() if k not in ("from", "_target_")}
    from compressbench.stages.quantize import Quantize

    after = Quantize(**settings).apply(exits, dataclasses.replace(bench, name="quantize"))
    chosen = Choose(spec("margin"), budget=0.8).apply(after, bench)
    check(module_of(chosen), three_of(bench))
    assert View(chosen, bench).log_probs.isfinite().all()
    # and the other way round
    first = Quantize(**settings).apply(drawn(RESNET, bench), dataclasses.replace(bench, name="quantize"))
    check(module_of(Attach(POINTS, HEAD).apply(first, bench)), three_of(bench))


def test_a_cascade_asks_each_net_anew_and_pays_for_all(exits: State, bench: Bench) -> None:
    small = drawn(build("compressbench.models.resnet.CifarResNet", depth=8, width=2), bench)
    large = drawn(RESNET, dataclasses.replace(bench, name="large"))
    both = dataclasses.replace(bench, references={"small": small, "large": large})
    made = Cascade(("small", "large")).apply(None, both)
    costs = of_exits(parts_of(module_of(made)), bench.task.blank(1))
    assert costs == [
        small.facts["forward_macs"],
        small.facts["forward_macs"] + large.facts["forward_macs"],
    ]
    assert made.facts["forward_macs"] == costs[-1]
    state = Choose(spec("max_probability"), budget=0.9).apply(made, bench)
    x = images(bench)
    with torch.inference_mode():
        one, two = module_of(small)(x), module_of(large)(x)
        rule = policy_of(state.policies)
        assert rule is not None
        where = assigned(rule, [one, two])
        assert len(where.unique()) == 2
        assert torch.allclose(View(state, bench).fast(x), taken([one, two], where), atol=1e-3)


def test_a_policy_comes_back_from_the_store(exits: State, bench: Bench, tmp_path) -> None:
    state = Choose(spec("max_probability"), budget=0.7).apply(exits, bench)
    store = Store(tmp_path)
    store.save("key", state, {})
    back = store.load("key")
    assert back is not None
    assert back.policies == state.policies
    assert torch.equal(View(back, bench).log_probs, View(state, bench).log_probs)


def test_a_store_file_cannot_name_a_head_of_another_origin(exits: State) -> None:
    from compressbench.models.cutting import replay

    with pytest.raises(UserError, match="mapping of modules to heads"):
        replay(nn.Sequential(nn.Identity()), [{"exits": {"points": {"layer1": 3}}}])
    places = [place for place, _ in specs.walk([exits.model, exits.edits, exits.policies])]
    assert any("exits" in place for place in places), "the executor's check of a stored state sees heads"


# refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 1.2}, r"threshold: 1\.2 is not in \[0, 1\]"),
        ({"threshold": -0.1}, r"threshold: -0\.1 is not in \[0, 1\]"),
        ({"threshold": "high"}, "threshold"),
        ({"budget": 0.5, "threshold": 0.5}, "exactly one of"),
        ({}, "exactly one of"),
        ({"budget": 1.5}, r"budget: 1\.5 is not in \[0, 1\]"),
        ({"accuracy": -1}, "accuracy: -1 is not a number of 0 or more"),
        ({"accuracy": 1.0, "shared": False}, "shared: false goes with a budget"),
    ],
)
def test_policies_that_are_refused_before_anything_runs(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Choose(spec("max_probability"), **settings)


@pytest.mark.parametrize("value", [0, 1.5, -3])
def test_patience_is_a_whole_number_of_one_or_more(value: float) -> None:
    with pytest.raises(UserError, match="is not a whole number of 1 or more"):
        Choose(spec("patience"), threshold=value)


def test_what_only_shows_when_the_stage_runs(exits: State, bench: Bench) -> None:
    with pytest.raises(UserError, match=r"budget: 0\.01 of the full cost can't be kept"):
        Choose(spec("margin"), budget=0.01).apply(exits, bench)
    with pytest.raises(UserError, match="3 numbers for 2 exits"):
        Choose(spec("margin"), threshold=(0.1, 0.2, 0.3)).apply(exits, bench)
    with pytest.raises(UserError, match="has no exits; put an exits/attach"):
        Choose(spec("margin"), threshold=0.5).apply(drawn(RESNET, bench), bench)
    with pytest.raises(UserError, match="the net has exits already"):
        Attach(("layer1",), HEAD).apply(exits, bench)
    from compressbench.stages.train import Train

    with pytest.raises(UserError, match="the net has no exits to train"):
        training("joint", Train).apply(drawn(RESNET, bench), bench)
    with pytest.raises(UserError, match=r"only: 'nothing\.\*' fits no parameter"):
        training("joint", Train, only="nothing.*").apply(exits, bench)


def test_a_target_of_whole_nets_and_an_export_refuse_what_leaves_early(
    exits: State, bench: Bench, tmp_path
) -> None:
    from types import SimpleNamespace

    from compressbench.cli.export import export
    from compressbench.hardware.early import lower
    from compressbench.hardware.target import Unsupported
    from compressbench.hardware.torch_compiled import TorchCompiled

    view = View(Choose(spec("margin"), budget=0.7).apply(exits, bench), bench)
    found = lower(TorchCompiled(), view)
    assert isinstance(found, Unsupported)
    assert "early exits: this target takes whole nets alone" in found.why
    with pytest.raises(UserError, match="leaves early by a policy"):
        export(None, view, SimpleNamespace(name="choose"), "onnx", tmp_path / "out", tmp_path)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runtime", ["onnxruntime_cpu.OnnxRuntimeCPU", "openvino_cpu.OpenVINOCPU"])
@pytest.mark.parametrize("kind", ["exits", "cascade"])
def test_runtimes_run_the_parts_and_answer_alike(runtime: str, kind: str, exits: State, bench: Bench) -> None:
    pytest.importorskip("onnxruntime" if "onnx" in runtime else "openvino")
    from compressbench.hardware.target import Lowered

    target = specs.build(
        {"_target_": f"compressbench.hardware.{runtime}", "seconds": 0.01, "batches": [1, 16]}
    )
    state = exits
    if kind == "cascade":
        small = drawn(build("compressbench.models.resnet.CifarResNet", depth=8, width=2), bench)
        both = dataclasses.replace(bench, references={"small": small, "large": drawn(RESNET, bench)})
        state = Cascade(("small", "large")).apply(None, both)
    view = View(Choose(spec("max_probability"), budget=0.8).apply(state, bench), bench)
    lowered = target.lower(view)
    assert isinstance(lowered, Lowered)
    x = images(bench)
    rule = policy_of(view.state.policies)
    assert rule is not None
    with torch.inference_mode():
        own, there = everything(parts_of(view.module), x), everything(lowered.parts, x)
        for one, other in zip(own, there, strict=True):
            assert torch.allclose(one, other, atol=1e-3)
        found = compacted(lowered.parts, rule, x)
    assert float((found.exits == assigned(rule, own)).double().mean()) > 0.97
    timing = target.time([lowered, lowered], 16)[0]
    assert 0 < timing.median < 1


def test_a_mixture_is_timed_over_all_its_images(bench: Bench) -> None:
    from compressbench.hardware.target import MIXTURE, Lowered
    from compressbench.hardware.torch_cpu import calls

    seen: list[int] = []
    images = torch.arange(256.0)[:, None]
    early = Lowered(lambda x: seen.extend(x[:, 0].int().tolist()), (images,), "", varies=True)
    whole = dataclasses.replace(early, varies=False)
    (run, other), forwards = calls([early, whole], 64)
    run()
    other()
    assert seen == 2 * list(range(MIXTURE))
    assert forwards == 4
    seen.clear()
    (run,), forwards = calls([whole], 64)
    run()
    assert seen == list(range(64))
    assert forwards == 1


def test_other_weights_lose_a_policy_and_say_so(exits: State, bench: Bench) -> None:
    from compressbench.stages.rewind import LearningRate, Reinit, Weights

    state = Choose(spec("margin"), budget=0.7).apply(exits, bench)
    with_refs = dataclasses.replace(bench, name="back", references={"joint": exits})
    flag = "its exits' policy was chosen for other weights, and is gone: choose anew"
    for stage in (Weights("joint"), Reinit()):
        after = stage.apply(state, with_refs)
        assert not after.policies
        assert flag in after.facts["flags"]
    assert LearningRate().apply(state, with_refs).policies == state.policies


@pytest.mark.parametrize("name", METHODS)
def test_exits_train_under_every_reparametrisation(bench: Bench, name: str) -> None:
    """Pruned bit by bit, rounded, drawn: the parts, heads among them, still answer as the whole does."""
    from compressbench.stages.train import Train

    start = Attach(POINTS, HEAD).apply(ready(name, RESNET, bench), bench)
    stage = dataclasses.replace(
        training("joint", Train), length="9it", lr=0.02, reparametrise=reparametrisation(name)
    )
    after = stage.apply(start, dataclasses.replace(bench, name="joint"))
    check(module_of(after), three_of(bench))
    chosen = Choose(spec("margin"), budget=0.9).apply(after, bench)
    assert View(chosen, bench).log_probs.isfinite().all()
    heads = [n for n in after.masks if n.startswith("exits.")]
    if name == "gradual":
        assert heads
        assert float(after.masks[heads[0]].float().mean()) < 0.8
    if name == "qat":
        assert (after.weights["exits.0.fc.weight"] != start.weights["exits.0.fc.weight"]).any()


def test_batch_norms_fold_in_a_net_with_exits_too(exits: State, bench: Bench) -> None:
    from compressbench.quantizing.folding import folded

    after, flags = folded(exits, bench)
    assert not flags
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module_of(after).modules())
    check(module_of(after), three_of(bench))
    x = images(bench)
    with torch.no_grad():
        own, there = (everything(parts_of(module_of(s)), x) for s in (exits, after))
    for one, other in zip(own, there, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    # a head that reads a convolution's own result keeps the norm behind it
    beside = Attach(("conv1",), HEAD).apply(drawn(RESNET, bench), bench)
    after, flags = folded(beside, bench)
    assert flags == ["batch norms not folded, no convolution alone before them: bn1"]


def test_a_policy_that_outlives_a_stage_is_told_of(exits: State, bench: Bench) -> None:
    from compressbench.stages.prune import Prune

    chosen = Choose(spec("margin"), budget=0.7).apply(exits, bench)
    magnitude = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    pruned = Prune(magnitude, 0.5).apply(chosen, bench)
    told = early.outlived(chosen, pruned).facts["flags"]
    assert sum("chosen before this" in flag for flag in told) == 1
    assert early.outlived(exits, chosen) == chosen
    assert early.outlived(chosen, chosen.settled()).facts == chosen.facts
    assert early.outlived(None, chosen) == chosen


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Attach((1,), HEAD),
            r"points: names are wanted; a number that is one in quotes, e\.g\. \['1'\]",
        ),
        (lambda: Attach(("layer1",), 7), "head: 7 is no head"),
        (lambda: Choose(spec("margin"), budget=0), "budget: 0 would let nobody in"),
        (lambda: Choose(7, budget=0.5), "criterion: 7 is none"),
    ],
)
def test_what_is_no_name_or_no_part_is_refused_at_once(make, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make()


def test_a_side_input_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(UserError, match="side: nope is the name of no value in the net"):
        Attach(POINTS, HEAD, ("nope",)).apply(drawn(RESNET, bench), bench)
