"""Reparametrisations: formulas, counts, frozen weights, gradients, continuation, and their effects."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import yaml

import short
from compressbench import specs
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.masks import masked
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.outputs import forward
from compressbench.specs.conf import conf_dir
from compressbench.stages.quantize import Quantize
from compressbench.stages.rewind import RandomMask
from compressbench.stages.share import Share
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.training import loop, reparametrise
from compressbench.training.reparametrisations import dnw as wirings
from compressbench.training.reparametrisations import edge_popup as popup
from compressbench.training.reparametrisations import l0
from compressbench.training.reparametrisations import variational_dropout as variational
from compressbench.training.reparametrisations.gradual import cubic
from compressbench.training.reparametrisations.targeted_dropout import smallest
from conftest import MLP, kill
from short import equal, same

FOLDER = conf_dir() / "reparametrise"
METHODS = sorted(p.stem for p in FOLDER.glob("*.yaml"))
RESNET = {
    "build": {
        "_target_": "compressbench.models.resnet.CifarResNet",
        "depth": 8,
        "shape": "@shape",
        "classes": "@classes",
    }
}
NORMAL = {
    "build": {**MLP["build"], "init": {"_target_": "torch.nn.init.kaiming_normal_", "_partial_": True}},
}
HASTE = {"gradual": {"every": "5it", "final": 0.8}, "supermask": {"lr": 5.0}}


def method(name: str, **settings) -> dict:
    """A method's spec as the plan makes it."""
    spec = {**yaml.safe_load((FOLDER / f"{name}.yaml").read_text()), **HASTE.get(name, {}), **settings}
    return {name: specs.expand(spec)}


def ready(name: str, model: dict, bench: Bench) -> State:
    """A drawn state on which the method can train."""
    start = drawn(model, bench)
    first = {"qat": Quantize(), "shared": Share()}.get(name)
    return first.apply(start, bench) if first else start


def train(methods: dict, length: str = "30it", **changes) -> Train:
    return short.train(length, **{"weight_decay": 1e-2, **changes}, reparametrise=methods)


def kept(state) -> dict[str, int]:
    return {n: int(m.sum()) for n, m in state.masks.items()}


def top1(state, bench: Bench) -> float:
    feed = bench.feed("test")
    with torch.no_grad():
        outputs = forward(module_of(state), bench.task.normalised(feed["images"]))
    return float((outputs.logits.argmax(1) == feed.labels).float().mean())


def on(start, bench: Bench, methods: dict) -> tuple[torch.nn.Module, reparametrise.Reparametrised]:
    """The methods on a module, as the loop has them."""
    module = module_of(start).train()
    stage = train(methods)
    made = reparametrise.built(module, bench, start, loop._run(stage, bench), stage.methods())
    assert made is not None
    return module, made


def test_the_cubic_schedule() -> None:
    assert [cubic(d, 0, 0.9) for d in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(
        [0, 0.5203125, 0.7875, 0.8859375, 0.9], abs=1e-12
    )
    assert cubic(0.5, 0.2, 0.8, power=1) == pytest.approx(0.5)
    assert (cubic(-1, 0.1, 0.9), cubic(2, 0.1, 0.9)) == (pytest.approx(0.1), 0.9)


def test_the_divergence_of_variational_dropout() -> None:
    found = variational.divergence(torch.tensor([-8.0, 0, 3, 8], dtype=torch.float64))
    assert found.tolist() == pytest.approx([4.6359, 0.43124, 0.02542, 0.000168], rel=5e-3)
    weight = torch.tensor([0.1, 0.0, 1e3])
    assert variational.log_alpha(torch.tensor([-10.0, -3.0, -10.0]), weight).tolist() == pytest.approx(
        [-10 - math.log(0.01 + 1e-8), 8, -8], abs=1e-5
    )


def test_the_hard_concrete_gate() -> None:
    logs = torch.tensor([0.0, 2.197], dtype=torch.float64)
    assert l0.open_probability(logs).tolist() == pytest.approx([0.8318, 0.9780], abs=5e-5)
    uniform = torch.linspace(5e-6, 1 - 5e-6, 100_000, dtype=torch.float64)
    for log in logs:
        gates = l0.gate(log, uniform)
        assert float((gates > 0).double().mean()) == pytest.approx(float(l0.open_probability(log)), abs=1e-4)
        assert 0 <= gates.min() <= gates.max() <= 1
    assert l0.expected_gate(torch.tensor([-10.0, 0, 10])).tolist() == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model", [MLP, RESNET], ids=["mlp", "resnet"])
def test_every_method_twice_and_from_a_checkpoint(name: str, model, bench, tmp_path) -> None:
    start = ready(name, model, bench)
    stage = train(method(name), "12it")
    torch.manual_seed(1)
    whole = stage.apply(start, bench)
    torch.manual_seed(2)
    assert equal(whole, stage.apply(start, bench))
    assert not same(whole.weights, train({}, "12it").apply(start, bench).weights) or name == "movement"
    assert whole.facts["macs"] == 3 * 12 * 50 * start.facts["forward_macs"]
    assert same(module_of(whole).state_dict(), whole.weights)

    kill(stage, start, bench, tmp_path, at=7)
    said: list[str] = []
    resumed = stage.apply(start, dataclasses.replace(bench, checkpoints=tmp_path, say=said.append))
    assert not said
    assert equal(whole, resumed)


@pytest.mark.parametrize("name", METHODS)
def test_stopped_short_it_goes_on_or_is_refused(name: str, bench) -> None:
    start = ready(name, MLP, bench)
    stage = train(method(name))
    half = dataclasses.replace(stage, stop="13it")
    if name in ("dnw", "edge_popup", "supermask", "variational_dropout", "l0"):
        with pytest.raises(UserError, match=f"stop: with reparametrise.{name} .* interrupted at 13 of 30"):
            half.apply(start, bench)
        return
    first = half.apply(start, bench)
    assert equal(dataclasses.replace(stage, start="13it").apply(first, bench), stage.apply(start, bench))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_in_bf16_and_on_a_pruned_net(name: str, bench) -> None:
    start = ready(name, RESNET, bench)
    low = train(method(name), precision="bf16", length="10it").apply(start, bench)
    assert all(w.dtype == start.weights[n].dtype for n, w in low.weights.items())
    assert all(torch.isfinite(w).all() for w in low.weights.values())
    half = {
        n: torch.rand(start.weights[n].shape, generator=bench.generator(n)) < 0.5
        for n in start.facts["prunable"]
    }
    pruned = train(method(name), length="10it").apply(masked(start, half), bench)
    assert all(not (pruned.masks[n] & ~mask).any() for n, mask in half.items())
    assert all(not pruned.weights[n][~mask].any() for n, mask in pruned.masks.items())
    assert 0 < pruned.facts["density"] < 0.51


def test_gradual_pruning_nests_its_masks(bench, monkeypatch) -> None:
    seen: list[tuple[int, dict]] = []
    real = loop._remask

    def spy(job):
        out = real(job)
        seen.append((job.live.step, dict(job.live.masks)))
        return out

    monkeypatch.setattr(loop, "_remask", spy)
    start = drawn(MLP, bench)
    whole = sum(start.facts["prunable"].values())
    methods = method("gradual", final=0.9, start=0.2, stop=0.7, every="3it", rates={"@output": 0.5})
    end = train(methods, length="40it", decay="all").apply(start, bench)
    steps = [s for s, m in seen if m]
    assert steps[0] == 8
    densities = {s: sum(int(x.sum()) for x in m.values()) / whole for s, m in seen if m}
    changes = [s for a, s in zip([0, *steps], steps, strict=False) if densities.get(a) != densities[s]]
    assert changes == [8, 11, 14, 17, 20, 23, 26, 28]
    for (_, a), (_, b) in itertools.pairwise(seen):
        assert all(not (b[n] & ~m).any() for n, m in a.items())
    output = "fc.weight"
    count = {n: k for n, k in start.facts["prunable"].items() if n != output}
    assert kept(end)[output] == 1000 - 500
    assert sum(v for n, v in kept(end).items() if n != output) == sum(count.values()) - round(
        0.9 * sum(count.values())
    )
    for name, mask in end.masks.items():
        assert not end.weights[name][~mask].any()
    assert end.facts["density"] == sum(kept(end).values()) / whole


def test_gradual_pruning_by_movement_of_the_same_training(bench) -> None:
    start = drawn(MLP, bench)
    both = {**method("movement"), **method("gradual", criterion="movement", start=0.4)}
    end = train(both).apply(start, bench)
    assert end.facts["density"] == pytest.approx(0.2, abs=1e-4)
    assert end.group("movement").keys() == start.facts["prunable"].keys()
    other = train(method("gradual", start=0.4)).apply(start, bench)
    assert not same(end.masks, other.masks)


def test_movement_is_the_sum_of_minus_gradient_times_weight(bench) -> None:
    start = drawn(MLP, bench)
    module, made = on(start, bench, method("movement"))
    x = torch.rand(8, *bench.task.blank(1)[0].shape[1:])
    with made.in_place(True):
        module(x).logsumexp(1).sum().backward()
    made.after_gradient()
    for name, sums in made.groups()["movement"].items():
        p = dict(module.named_parameters())[name]
        assert torch.allclose(sums, -p.grad * p)


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_edge_popup_freezes_weights_and_keeps_exact_counts(keep: float, bench) -> None:
    start = drawn(NORMAL, bench)
    end = train(method("edge_popup", keep=keep), lr=0.1).apply(start, bench)
    for name, weight in start.weights.items():
        if name in end.masks:
            assert torch.equal(end.weights[name], weight * end.masks[name])
            assert int(end.masks[name].sum()) == weight.numel() - int((1 - keep) * weight.numel())
        else:
            assert torch.equal(end.weights[name], weight)
    if keep == 1:
        assert same(end.weights, start.weights)


def test_edge_popup_with_signed_constants(bench) -> None:
    start = drawn(NORMAL, bench)
    end = train(method("edge_popup", signed_constant=True), lr=0.1).apply(start, bench)
    for name, mask in end.masks.items():
        size = math.sqrt(2 / start.weights[name].shape[1])
        assert torch.allclose(end.weights[name][mask], start.weights[name][mask].sign() * size)


def test_edge_popup_leaves_norms_as_they_are(bench) -> None:
    start = drawn(RESNET, bench)
    end = train(method("edge_popup")).apply(start, bench)
    trained = dict(module_of(start).named_parameters()).keys() - end.masks.keys()
    assert all(torch.equal(end.weights[n], start.weights[n]) for n in trained)
    assert not torch.equal(end.weights["bn1.running_mean"], start.weights["bn1.running_mean"])


def test_gradients_of_scores_and_of_sleeping_edges(bench) -> None:
    start = drawn(NORMAL, bench)
    x = torch.rand(16, *bench.task.blank(1)[0].shape[1:])
    module, made = on(start, bench, method("edge_popup", keep=0.3))
    effective = {n: made.effective(n, True).detach().requires_grad_() for n in start.facts["prunable"]}
    torch.func.functional_call(module, effective, (x,)).logsumexp(1).sum().backward()
    with made.in_place(True):
        module(x).logsumexp(1).sum().backward()
    for name, scores in made.methods["edge_popup"].parameters.items():
        wanted = effective[name].grad * start.weights[name] * scores.detach().sign()
        assert torch.allclose(scores.grad, wanted, atol=1e-6)
        assert scores.grad[effective[name] == 0].any()
        assert dict(module.named_parameters())[name].grad is None
    for update in (True, False):
        module, made = on(start, bench, method("dnw", keep=0.1, update=update))
        with made.in_place(True):
            module(x).logsumexp(1).sum().backward()
        for name, parameter in made._named.items():
            if name in start.facts["prunable"]:
                asleep = parameter.grad[made.effective(name, True) == 0]
                assert bool(asleep.any()) == update, name
    through = wirings.Through.apply(torch.ones(3, requires_grad=True), torch.tensor([True, False, True]))
    assert through.tolist() == [1, 0, 1]
    assert popup.kept(235_200, 0.3) == 235_200 - int(0.7 * 235_200)


def test_parameters_are_back_after_a_forward(bench) -> None:
    module, made = on(drawn(MLP, bench), bench, method("dnw"))
    before = dict(module.named_parameters())
    with made.in_place(True):
        assert int((module.fc.weight != 0).sum()) == 100
        with pytest.raises(IndexError):
            module(torch.rand(3))
    assert all(p is before[n] for n, p in module.named_parameters())
    assert isinstance(module.fc.weight, torch.nn.Parameter)


def test_targeted_dropout_drops_the_smallest_of_each_output(bench) -> None:
    weight = torch.tensor([[0.1, -3.0, 0.2, 4.0], [5.0, 0.6, -0.7, 8.0]])
    assert smallest(weight, 0.5).tolist() == [[True, False, True, False], [False, True, True, False]]
    start = drawn(MLP, bench)
    _, made = on(start, bench, method("targeted_dropout", gamma=0.5, alpha=1.0))
    effective = made.effective("hidden.2.weight", True)
    assert torch.equal((effective != 0).sum(1), torch.full((100,), 150))
    end = train(method("targeted_dropout")).apply(start, bench)
    assert not end.masks
    assert end.facts["density"] == 1


def test_noise_of_variational_dropout_has_the_right_size(bench) -> None:
    for model, name in ((MLP, "fc.weight"), (RESNET, "conv1.weight")):
        start = drawn(model, bench)
        module, made = on(start, bench, method("variational_dropout", initial=-2.0))
        layer = module.fc if name[:2] == "fc" else module.conv1
        wide = start.weights[name].shape[1]
        x = torch.rand(1, *((wide,) if name[:2] == "fc" else (wide, 8, 8)), generator=bench.generator("x"))
        layer.eval()
        clean = layer(x)
        layer.train()
        noisy = torch.stack([layer(x) for _ in range(3000)])
        mean = start.weights[name]
        logs = made.methods["variational_dropout"].parameters[name]
        variance = variational.log_alpha(logs, mean).exp() * mean**2
        bias = layer.bias
        layer.bias = None
        with torch.no_grad():
            layer.weight.copy_(variance)
            layer.eval()
            expected = layer(x**2).sqrt()
        layer.bias = bias
        assert torch.allclose(noisy.mean(0), clean, atol=0.1 * float(expected.max()))
        assert torch.allclose(noisy.std(0), expected, rtol=0.08)


@pytest.mark.parametrize(("name", "settings"), [("variational_dropout", {}), ("l0", {})])
def test_a_heavier_penalty_leaves_less(name: str, settings, bench) -> None:
    start = drawn(MLP, bench)
    densities = []
    for weight in (0.0, 1.0):
        methods = method(name, weight=weight, lr=50.0, stop=0.3, **settings)
        end = train(methods, length="150it", weight_decay=0.0).apply(start, bench)
        densities.append(end.facts["density"])
        assert top1(end, bench) > 0.75
    assert densities[1] < 0.8 * densities[0]


def test_waking_edges_is_what_makes_dnw(bench) -> None:
    """FACTS section 5: at 2 % of the edges .956 with the update rule, .236 without, .139 for a fixed random graph."""
    start = drawn(NORMAL, bench)
    long = {"length": "400it", "weight_decay": 0.0}
    found = {
        update: train(method("dnw", keep=0.02, update=update), **long).apply(start, bench)
        for update in (True, False)
    }
    place = dataclasses.replace(bench, references={"dnw": found[True]})
    fixed = train({}, **long).apply(RandomMask("dnw").apply(start, place), bench)
    assert kept(fixed) == kept(found[False]) == kept(found[True])
    assert top1(found[True], bench) > 0.9
    assert top1(found[True], bench) > top1(found[False], bench) + 0.15
    assert top1(found[True], bench) > top1(fixed, bench) + 0.15


@pytest.mark.parametrize(
    ("name", "settings", "lr"),
    [
        ("edge_popup", {}, 0.1),
        ("edge_popup", {"signed_constant": True}, 0.1),
        ("supermask", {"lr": 20.0}, 0.1),
    ],
)
def test_a_mask_alone_makes_a_random_net_classify(name: str, settings, lr, bench) -> None:
    start = drawn(NORMAL, bench)
    end = train(method(name, **settings), lr=lr, length="400it", weight_decay=0.0).apply(start, bench)
    place = dataclasses.replace(bench, references={"mask": end})
    assert top1(end, bench) > 0.85
    assert top1(RandomMask("mask").apply(start, place), bench) < 0.4


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (lambda: {"gradual": 3}, "reparametrise.gradual: 3 is no method"),
        (lambda: method("gradual", final=1.2), r"reparametrise.gradual: final: 1.2 is not in \[0, 1\]"),
        (lambda: method("gradual", start=0.8), "start 0.8, stop 0.7: must not decrease"),
        (lambda: method("gradual", every="5"), "'5' is no length"),
        (lambda: method("gradual", rates={"nothing": 0.5}), "fits no prunable tensor"),
        (lambda: method("dnw", keep=2), r"keep: 2 is not in \[0, 1\]"),
        (lambda: method("dnw", kept=0.1), "unexpected keyword argument 'kept'"),
        (lambda: method("dropout", p=1.0), r"p: 1.0 is not in \[0, 1\)"),
        (lambda: method("variational_dropout", weight=-1), "weight: -1 is below 0"),
        (lambda: {**method("gradual"), "again": method("gradual")["gradual"]}, "only one of gradual, again"),
    ],
)
def test_bad_settings(methods, words, bench) -> None:
    with pytest.raises(UserError, match=words):
        train(methods()).apply(drawn(MLP, bench), bench)
