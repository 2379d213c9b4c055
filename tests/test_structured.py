"""Structured pruning: a shrunk net is the masked one made small; what was cut is data and can be cut elsewhere too."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import module_of, prunable, snapshot
from compressbench.models.counting import count
from compressbench.models.cutting import cut_module, cut_tensors
from compressbench.models.draw import drawn
from compressbench.outputs import forward
from compressbench.pruning import structured
from compressbench.pruning.unstructured import prune
from compressbench.stages.prune import Prune
from compressbench.stages.rewind import RandomMask, Reinit, Weights
from compressbench.stages.shrink import Blocks, Channels
from compressbench.state import State
from compressbench.store import Store

MODELS = "compressbench.models"
SIZED = {"shape": "@shape", "classes": "@classes"}
L1 = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
RANDOM = {"_target_": "compressbench.criteria.random.random", "_partial_": True}
SPECS = {
    "resnet": {"_target_": f"{MODELS}.resnet.CifarResNet", "depth": 8, **SIZED},
    "resnet20": {"_target_": f"{MODELS}.resnet.CifarResNet", "depth": 20, "width": 4, **SIZED},
    "padded": {"_target_": f"{MODELS}.resnet.CifarResNet", "depth": 8, "shortcut": "A", **SIZED},
    "lenet_5": {"_target_": f"{MODELS}.lenet.LeNet5", **SIZED},
    "mlp": {"_target_": f"{MODELS}.lenet.LeNet300100", **SIZED},
    "conv_2": {"_target_": f"{MODELS}.conv.ConvN", "depth": 2, **SIZED},
    "vgg": {"_target_": f"{MODELS}.vgg.CifarVgg", "depth": 11, **SIZED},
    "vit": {"_target_": f"{MODELS}.vit.VisionTransformer", "dim": 32, "depth": 2, "mlp": 48, **SIZED},
    "mobile": {"_target_": "test_structured.Mobile"},
    "grouped": {"_target_": "test_structured.Grouped"},
    "dense": {"_target_": "test_structured.Concat"},
    "transposed": {"_target_": "test_structured.Transposed"},
    "sigmoid": {"_target_": "test_structured.Sigmoid"},
    "functional": {"_target_": "test_structured.Fixed"},
}


def conv(before: int, after: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, groups=groups), nn.BatchNorm2d(after), nn.ReLU()
    )


class Head(nn.Module):
    def __init__(self, *parts: nn.Module, width: int) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        return self.fc(self.parts(x).mean((2, 3)))


def Mobile() -> nn.Module:
    return Head(conv(1, 8), conv(8, 8, groups=8), conv(8, 12), conv(12, 12, groups=12), width=12)


def Grouped() -> nn.Module:
    return Head(conv(1, 8), conv(8, 16, groups=4), conv(16, 8, groups=2), width=8)


def Transposed() -> nn.Module:
    return Head(conv(1, 8), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), conv(6, 6), width=6)


def Sigmoid() -> nn.Module:
    return Head(nn.Conv2d(1, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 6, 3), nn.PReLU(6), width=6)


class Concat(nn.Module):
    """Dense connections: every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = conv(1, 6), conv(6, 5), conv(11, 7)
        self.fc = nn.Linear(7 * 16, 10)

    def forward(self, x):
        x = self.one(x)
        x = self.three(torch.cat([x, self.two(x)], 1))
        return self.fc(nn.functional.max_pool2d(x, 2).flatten(1))


class Fixed(nn.Module):
    """Counts on its own widths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().view(-1, 8, 64).mean(2))


class Untraceable(nn.Module):
    """Cuts the graph, on which the tracing relies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        with torch.no_grad():
            return self.fc(self.conv(x).mean((2, 3)))


def shaken(name: str, bench: Bench) -> State:
    """A drawn net with random biases, norms and running statistics."""
    state = drawn({"name": name, "build": SPECS[name]}, bench)
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for key, tensor in state.weights.items():
        if not tensor.is_floating_point() or (tensor.ndim > 1 and "weight" in key):
            weights[key] = tensor
        elif "var" in key or key.endswith("weight"):
            weights[key] = 0.5 + torch.rand(tensor.shape, generator=generator)
        else:
            weights[key] = 0.3 * torch.randn(tensor.shape, generator=generator)
    return state.with_groups(weights=weights)


def logits(state_or_module, images: torch.Tensor) -> torch.Tensor:
    module = module_of(state_or_module) if isinstance(state_or_module, State) else state_or_module
    with torch.no_grad():
        return forward(module.eval(), images).logits


def zeroed(state: State, cut) -> State:
    """The state with all that a cut removes from its parameters set to zero."""
    parameters = dict(module_of(state).named_parameters())
    weights = dict(state.weights)
    for name, dims in cut.items():
        for dim, kept in dims.items():
            if name in parameters:
                gone = torch.ones(weights[name].shape[int(dim)])
                gone[kept] = 0
                at = gone.nonzero().squeeze(1)
                weights[name] = weights[name].index_fill(int(dim), at, 0.0)
    return state.with_groups(weights=weights)


@pytest.mark.parametrize("how", ["uniform", "global"])
@pytest.mark.parametrize(
    ("name", "inside"),
    [
        *((n, False) for n in SPECS if n not in ("padded", "functional", "resnet20")),
        ("padded", True),
        ("resnet", True),
        ("vit", True),
    ],
)
def test_masked_and_shrunk_agree(name: str, inside: bool, how: str, bench: Bench) -> None:
    state = shaken(name, bench)
    small = Channels(L1, how=how, fraction=0.4, inside=inside).apply(state, bench)
    (edit,) = small.edits
    images = torch.randn(4, *bench.dataset.task.shape, generator=torch.Generator().manual_seed(2))
    whole = logits(zeroed(state, edit["cut"]), images)
    assert (logits(small, images) - whole).abs().max() <= 1e-5 * whole.abs().max().clamp(min=1)
    assert small.facts["forward_macs"] < state.facts["forward_macs"]
    module = module_of(small)
    assert small.facts["prunable"] == {n: p.numel() for n, p in prunable(module).items()}
    other = sum(
        state.weights[n].numel() for n in ("token", "positions") if n in state.weights
    )  # of the transformer
    left = sum(small.facts["prunable"].values()) + other
    assert small.facts["density"] == left / (state.facts["whole"] + other)
    for part in module.modules():  # what a layer says of itself is what its tensors say
        if isinstance(part, nn.Conv2d):
            assert part.weight.shape[:2] == (part.out_channels, part.in_channels // part.groups)
        elif isinstance(part, nn.Linear):
            assert part.weight.shape == (part.out_features, part.in_features)
        elif isinstance(part, nn.BatchNorm2d):
            assert len(part.running_mean) == part.num_features


@pytest.mark.parametrize(("removed", "fraction"), [(1, 0.125), (4, 0.5), (7, 0.99)])
def test_parameters_after_channels_are_removed(removed: int, fraction: float, bench: Bench) -> None:
    """(c - r)(ci k^2) + co k^2 (c - r) weights of the two layers, as in FACTS section 4."""
    spec = {"_target_": "test_structured.Two"}
    state = drawn({"name": "two", "build": spec}, bench)
    small = Channels(L1, fraction=fraction).apply(state, bench)
    c, k, co = 8 - removed, 3, 10
    module = module_of(small)
    assert module.one.weight.numel() + module.two.weight.numel() == c * 1 * k**2 + co * k**2 * c
    assert sum(p.numel() for p in module.parameters()) == c * k**2 + c + co * k**2 * c + co
    kept = small.edits[0]["cut"]["one.weight"]["0"]
    strength = state.weights["one.weight"].abs().sum((1, 2, 3))
    assert sorted(strength[kept]) == sorted(strength)[removed:]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 10, 3)

    def forward(self, x):
        return self.two(self.one(x).relu()).mean((2, 3))


def test_a_criterion_scores_all_producers_of_a_channel(bench: Bench) -> None:
    state = drawn({"name": "resnet", "build": SPECS["resnet"]}, bench)
    weights = dict(state.weights)
    for name in ("conv1.weight", "layer1.0.conv2.weight"):
        weights[name] = weights[name].clone()
    weights["conv1.weight"][3] *= 0  # weak in one producer of the sum, strong in the other
    weights["layer1.0.conv2.weight"][3] *= 50
    weights["conv1.weight"][5] *= 0.01
    weights["layer1.0.conv2.weight"][5] *= 0.01
    small = Channels(L1, fraction=1 / 16).apply(state.with_groups(weights=weights), bench)
    kept = small.edits[0]["cut"]["conv1.weight"]["0"]
    assert set(range(16)) - set(kept) == {5}
    assert small.edits[0]["cut"]["layer1.0.conv2.weight"]["0"] == kept


def test_uniform_and_global(bench: Bench) -> None:
    state = drawn({"name": "mlp", "build": SPECS["mlp"]}, bench)
    weak = dict(state.weights)
    rows = torch.linspace(0.01, 3, 300).unsqueeze(1) ** 3  # very unequal rows in the first layer
    weak["hidden.0.weight"] = torch.ones(300, 64) * rows
    weak["hidden.2.weight"] = torch.ones(100, 300)
    state = state.with_groups(weights=weak)
    uniform = Channels(L1, fraction=0.25).apply(state, bench).facts["prunable"]
    assert uniform == {"hidden.0.weight": 225 * 64, "hidden.2.weight": 75 * 225, "fc.weight": 10 * 75}
    pooled = Channels(L1, how="global", fraction=0.25).apply(state, bench).facts["prunable"]
    assert pooled == {"hidden.0.weight": 200 * 64, "hidden.2.weight": 100 * 200, "fc.weight": 10 * 100}
    least = Channels(L1, how="global", fraction=0.999).apply(state, bench).facts["prunable"]
    assert least == {"hidden.0.weight": 64, "hidden.2.weight": 1, "fc.weight": 10}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["uniform", "global"])
@pytest.mark.parametrize("name", ["resnet", "vgg", "conv_2"])
def test_to_a_share_of_the_macs(name: str, how: str, bench: Bench) -> None:
    state = drawn({"name": name, "build": SPECS[name]}, bench)
    small = Channels(L1, how=how, macs=0.5).apply(state, bench)
    ratio = small.facts["forward_macs"] / state.facts["forward_macs"]
    assert 0.45 <= ratio <= 0.5
    assert count(module_of(small), bench.task.blank(1)).macs == small.facts["forward_macs"]
    with pytest.raises(UserError, match=r"macs: 1e-06 of the net's MACs can't be reached; .* it is \d"):
        Channels(L1, how=how, macs=1e-6).apply(state, bench)


class Model:
    """A target that charges by the MAC, and by the size of the batch."""

    batches = (4, 64)

    def __init__(self, floor: float = 0.0) -> None:
        self.floor = floor

    def lower(self, view):
        from compressbench.hardware.target import Lowered

        cost = self.floor + count(view.module, view.bench.task.blank(1)).macs
        return Lowered(lambda batch: cost, (torch.zeros(4),), "a model of a device")

    def time(self, lowered, batch):
        from compressbench.hardware.target import Timing

        return [Timing(batch, (batch * x.run(*x.inputs),)) for x in lowered]


def test_to_a_share_of_the_measured_latency(bench: Bench) -> None:
    state = drawn({"name": "resnet", "build": SPECS["resnet"]}, bench)
    target = {"_target_": "test_structured.Model"}
    small = Channels(L1, latency=0.5, target=target).apply(state, bench)
    assert 0.3 <= small.facts["forward_macs"] / state.facts["forward_macs"] <= 0.5
    assert any("measured latency (a model of a device, batch 4)" in f for f in small.facts["flags"])
    with pytest.raises(UserError, match=r"latency: 0.5 of the net's latency can't be reached.* it is 0.9"):
        Channels(L1, latency=0.5, target={**target, "floor": 1e7}).apply(state, bench)
    real = {"_target_": "compressbench.hardware.torch_cpu.TorchCPU", "batches": [1], "seconds": 0.01}
    tiny = Channels(L1, latency=0.95, target=real).apply(state, bench)
    assert tiny.facts["forward_macs"] < state.facts["forward_macs"]


def test_masks_are_cut_too_and_it_composes(bench: Bench, tmp_path: Path) -> None:
    dense = shaken("resnet", bench)
    sparse = prune(dense, bench, Prune(**PRUNE, fraction=0.5))
    small = Channels(L1, fraction=0.5).apply(sparse, bench)
    for name, mask in small.masks.items():
        assert mask.shape == small.weights[name].shape
        assert not small.weights[name][~mask].any()
        expected = cut_tensors(sparse.masks, small.edits[0], sparse.weights)[name]
        assert torch.equal(mask, expected)
    kept = sum(int(m.sum()) for m in small.masks.values())
    assert small.facts["density"] == kept / dense.facts["whole"]
    again = prune(small, dataclasses.replace(bench, name="again"), Prune(**PRUNE, fraction=0.5))
    assert again.facts["density"] == pytest.approx(small.facts["density"] / 2, rel=1e-3)
    twice = Channels(L1, fraction=0.5).apply(again, bench)
    assert len(twice.edits) == 2
    store = Store(tmp_path)
    store.save("k", twice, {})
    back = Store(tmp_path).load("k")
    assert back is not None
    assert back.edits == twice.edits
    images = torch.randn(3, *bench.task.blank(1)[0].shape[1:])
    assert torch.equal(logits(back, images), logits(twice, images))


def test_rewound_weights_are_the_old_ones_at_the_kept_places(bench: Bench) -> None:
    warm = shaken("resnet", bench)
    momentum = {f"{n}|momentum_buffer": torch.randn_like(w) for n, w in warm.weights.items() if w.ndim}
    warm = warm.with_groups(optimizer={**momentum, "conv1.weight|step": torch.tensor(3.0)})
    later = shaken("resnet", dataclasses.replace(bench, name="trained"))
    first = Channels(L1, fraction=0.25).apply(warm.with_groups(weights=later.weights), bench)
    small = prune(Channels(L1, fraction=0.5).apply(first, bench), bench, Prune(**PRUNE, fraction=0.3))
    back = Weights("warm").apply(small, dataclasses.replace(bench, references={"warm": warm}))
    assert back.edits == small.edits
    for name, old in warm.weights.items():
        for edit in back.edits:
            for dim, kept in edit["cut"].get(name, {}).items():
                old = old[(slice(None),) * int(dim) + (kept,)]
        mask = small.masks.get(name, torch.ones_like(old, dtype=torch.bool))
        assert torch.equal(back.weights[name], old * mask)
    optimizer = back.group("optimizer")
    assert optimizer["conv1.weight|momentum_buffer"].shape == back.weights["conv1.weight"].shape
    assert float(optimizer["conv1.weight|step"]) == 3
    one = Weights("warm").apply(small, dataclasses.replace(bench, references={"warm": first}))
    assert one.weights["conv1.weight"].shape == small.weights["conv1.weight"].shape
    with pytest.raises(UserError, match="to: warm: its net was cut in another way"):
        Weights("warm").apply(first, dataclasses.replace(bench, references={"warm": small}))


def test_reinit_and_random_mask_of_a_shrunk_net(bench: Bench) -> None:
    dense = shaken("resnet", bench)
    small = prune(Channels(L1, fraction=0.5).apply(dense, bench), bench, Prune(**PRUNE, fraction=0.3))
    other = dataclasses.replace(bench, name="again")
    fresh = Reinit().apply(small, other)
    whole = drawn({"name": "resnet", "build": SPECS["resnet"]}, other)
    expected = cut_tensors(whole.weights, small.edits[0])
    for name, mask in small.masks.items():
        assert torch.equal(fresh.weights[name], expected[name] * mask)
    random = RandomMask("small").apply(dense, dataclasses.replace(other, references={"small": small}))
    assert random.edits == small.edits
    assert random.facts["density"] == small.facts["density"]
    assert random.facts["forward_macs"] == small.facts["forward_macs"]
    assert [int(m.sum()) for m in random.masks.values()] == [int(m.sum()) for m in small.masks.values()]
    with pytest.raises(UserError, match="like: dense: its net was cut in another way"):
        RandomMask("dense").apply(small, dataclasses.replace(other, references={"dense": dense}))


PRUNE = {"criterion": L1}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"cut": {"conv1.weight": {"0": [0, 99]}}}, "increasing indices below 16"),
        ({"cut": {"conv1.weight": {"0": [-1, 2]}}}, "increasing indices below 16"),
        ({"cut": {"conv1.weight": {"0": [3, 2]}}}, "increasing indices below 16"),
        ({"cut": {"conv1.weight": {"0": [2, 2]}}}, "increasing indices below 16"),
        ({"cut": {"conv1.weight": {"0": []}}}, "increasing indices below 16"),
        ({"cut": {"conv1.weight": {"0": [True, 2]}}}, "increasing indices below 16"),
        ({"cut": {"conv1.weight": {"0": "12"}}}, "increasing indices below 16"),
        ({"cut": {"conv1.weight": {"4": [0]}}}, "no dimension '4'"),
        ({"cut": {"conv1.weight": [0]}}, "cut is a mapping"),
        ({"cut": {"conv1.wait": {"0": [0]}}}, "no tensor 'conv1.wait'"),
        ({"cut": {"conv9.weight": {"0": [0]}}}, "did you mean conv1"),
        ({"drop": "layer1"}, "drop names modules"),
        ({"drop": ["layer9"]}, "did you mean layer"),
        ({"cat": {}}, "unknown edit 'cat'"),
        ({"cut": {}, "drop": []}, "one entry"),
        ("cut", "one entry"),
    ],
)
def test_a_store_file_may_not_cut_what_is_not_there(edit, message: str, bench: Bench) -> None:
    state = drawn({"name": "resnet", "build": SPECS["resnet"]}, bench)
    with pytest.raises(UserError, match=message) as caught:
        module_of(dataclasses.replace(state, edits=(edit,)))
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_the_edits_are_refused(bench: Bench) -> None:
    small = Channels(L1, fraction=0.5).apply(shaken("resnet", bench), bench)
    with pytest.raises(UserError, match="don't fit"):
        module_of(dataclasses.replace(small, edits=()))


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    dims = {"0": [0, 2], "1": [1, 3]}
    cut_module(net, {"cut": {"0.weight": dims, "1.weight": dims, "0.bias": {"0": [0, 2]}}})
    assert net[1].weight is net[0].weight
    assert net[0].weight.shape == (2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 1.0}, r"fraction: 1.0 is not in \[0, 1\); all of them would leave no net"),
        ({"fraction": -0.1}, r"fraction: -0.1 is not in \[0, 1\)"),
        ({"macs": 0.0}, r"macs: 0.0 is not in \(0, 1\)"),
        ({"macs": True}, r"macs: True is not in \(0, 1\)"),
        ({"macs": 0.5, "fraction": 0.5}, "exactly one says how much goes; fraction and macs is given"),
        ({}, "exactly one says how much goes; none is given"),
        ({"latency": 0.5}, r"add target=\$\{hardware.target\}"),
        ({"fraction": 0.5, "how": "globl"}, "how: unknown 'globl'; did you mean global"),
    ],
)
def test_bad_settings_are_one_line(settings, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Channels(L1, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SPECS["functional"], "inside: true removes channels only within blocks"),
        ({"_target_": "test_structured.Untraceable"}, "graph can't be traced: its output has no gradient"),
        ({"_target_": "torch.nn.Sequential"}, ""),
    ],
)
def test_nets_that_can_not_be_thinned_are_one_line(spec, message: str, bench: Bench) -> None:
    if not message:
        spec, message = {"_target_": "test_structured.Flat"}, "Flat has no channels that can be removed"
    state = drawn({"name": "net", "build": spec}, bench)
    with pytest.raises(UserError, match=message) as caught:
        Channels(L1, fraction=0.5).apply(state, bench)
    assert "\n" not in str(caught.value)


def test_groups_that_shortcuts_pad_are_left_and_named(bench: Bench) -> None:
    state = drawn({"name": "net", "build": SPECS["padded"]}, bench)
    small = Channels(L1, fraction=0.5).apply(state, bench)
    within = Channels(L1, fraction=0.5, inside=True).apply(state, bench)
    (flag,) = small.facts["flags"]
    assert flag.startswith("channels left, without them the net would differ or not run: ")
    assert small.edits == within.edits


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_blocks_are_dropped(bench: Bench) -> None:
    state = shaken("resnet20", bench)
    whole = module_of(state)
    found = structured.candidates(whole, bench.task.blank(1), None)
    assert [n for n in found if n.count(".") == 1] == [
        "layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2",
    ]  # fmt: skip
    weak = dict(state.weights)
    for name in ("layer2.1.conv1.weight", "layer2.1.conv2.weight"):
        weak[name] = weak[name] * 1e-3
    state = state.with_groups(weights=weak)
    small = Blocks(L1, fraction=1 / 7, blocks="layer*.*").apply(state, bench)
    assert small.edits == ({"drop": ["layer2.1"]},)
    assert isinstance(module_of(small).get_submodule("layer2.1"), nn.Identity)
    images = torch.randn(3, *bench.task.blank(1)[0].shape[1:])
    whole = module_of(state)
    whole.layer2[1] = nn.Identity()
    assert torch.equal(logits(small, images), logits(whole, images))
    assert small.facts["density"] == sum(small.facts["prunable"].values()) / state.facts["whole"]
    assert small.facts["forward_macs"] == count(whole, bench.task.blank(1)).macs
    both = Channels(RANDOM, fraction=0.5).apply(small, dataclasses.replace(bench, name="both"))
    assert [next(iter(e)) for e in both.edits] == ["drop", "cut"]
    back = Weights("init").apply(both, dataclasses.replace(bench, references={"init": state}))
    assert not any(n.startswith("layer2.1.") for n in back.weights)
    logits(back, images)
    vit = shaken("vit", bench)
    assert list(structured.candidates(module_of(vit), bench.task.blank(1), None)) == [
        "blocks.0",
        "blocks.1",
    ]


def test_no_block_to_drop_is_one_line(bench: Bench) -> None:
    state = drawn({"name": "mlp", "build": SPECS["mlp"]}, bench)
    with pytest.raises(UserError, match=r"blocks: no layer or block gives back the shape that it takes"):
        Blocks(L1, fraction=0.5).apply(state, bench)
    with pytest.raises(UserError, match=r"no layer or block that 'body\*' fits"):
        Blocks(L1, fraction=0.5, blocks="body*").apply(shaken("resnet20", bench), bench)
    with pytest.raises(UserError, match=r"fraction: 1 is not in \[0, 1\)"):
        Blocks(L1, fraction=1)


def test_nothing_goes_at_zero(bench: Bench) -> None:
    state = shaken("resnet", bench)
    same = Channels(L1, fraction=0.0).apply(state, bench)
    assert same.edits == ()
    assert all(torch.equal(t, state.weights[n]) for n, t in same.weights.items())
    assert Blocks(L1, fraction=0.0).apply(state, bench).edits == ()


def test_random_channels_come_from_seed_and_stage(bench: Bench) -> None:
    state = drawn({"name": "resnet", "build": SPECS["resnet"]}, bench)
    torch.manual_seed(1)
    one = Channels(RANDOM, fraction=0.5).apply(state, bench)
    before = torch.random.get_rng_state()
    two = Channels(RANDOM, fraction=0.5).apply(state, bench)
    assert torch.equal(before, torch.random.get_rng_state())
    other = Channels(RANDOM, fraction=0.5).apply(state, dataclasses.replace(bench, seed=1))
    assert json.dumps(one.edits) == json.dumps(two.edits) != json.dumps(other.edits)
    assert snapshot(module_of(one)).keys() == state.weights.keys()


def lineage(levels: int, outputs: Path):
    """init, warm, dense, then levels of: channels out, single weights out, rewound to warm, trained."""
    from compressbench.cli.run import composed
    from compressbench.runs.experiment import prepare

    config = composed(
        ["recipe=one_shot", "scale=smoke", "hardware=cpu1", "evaluation=quick", f"outputs={outputs}"]
    )
    sgd = config["recipe"]["stages"]["dense"]
    stages = "compressbench.stages"
    block = {
        "shrink": {"_target_": f"{stages}.shrink.Channels", "criterion": "magnitude", "fraction": 0.3},
        "prune": {"_target_": f"{stages}.prune.Prune", "criterion": "magnitude", "fraction": 0.3},
        "rewind": {"_target_": f"{stages}.rewind.Weights", "to": "warm"},
        "retrain": {**sgd, "length": "20it", "start": "5it"},
    }
    config["recipe"] = {
        "name": "composed",
        "stages": {
            "init": config["recipe"]["stages"]["init"],
            "warm": {**sgd, "length": "20it", "stop": "5it"},
            "dense": {**sgd, "length": "20it", "start": "5it"},
            "level": {"_target_": f"{stages}.repeat.Repeat", "times": levels, "stages": block},
        },
        "compare": {"reference": "dense", "series": {"small": "level*.retrain"}},
    }
    return prepare(config)


def test_channels_then_single_weights_then_rewound_killed_and_restarted(tmp_path: Path) -> None:
    from compressbench.runs.execute import Executor, Watcher
    from compressbench.runs.experiment import execute

    def rows(records):
        return [dataclasses.asdict(r) for r in records if not r.is_timing]

    cold = lineage(2, tmp_path / "a")
    records = execute(cold, Watcher(), [])
    execute(lineage(1, tmp_path / "b"), Watcher(), [])

    class Killed(BaseException):
        pass

    class Killing(Watcher):
        def working(self, name: str, words: str):
            if name == "level2.rewind":
                raise Killed
            return super().working(name, words)

    with pytest.raises(Killed):
        execute(lineage(2, tmp_path / "b"), Killing(), [])
    warm = lineage(2, tmp_path / "b")
    assert rows(execute(warm, Watcher(), [])) == rows(records)
    assert Executor(warm.plan, warm.store, warm.setting, Watcher()).missing_states() == []
    for node in cold.plan.nodes:
        one, other = cold.store.load(node.key), warm.store.load(node.key)
        assert one is not None
        assert other is not None
        assert one.edits == other.edits
        assert all(
            torch.equal(t, other.tensors[g][n]) for g, ts in one.tensors.items() for n, t in ts.items()
        )
    begin = cold.store.load(cold.plan.node("warm").key)
    back = cold.store.load(cold.plan.node("level2.rewind").key)
    assert begin is not None
    assert back is not None
    assert len(back.edits) == 2
    old, momentum = begin.weights, begin.group("optimizer")
    assert momentum
    for edit in back.edits:
        momentum = cut_tensors(momentum, edit, old)
        old = cut_tensors(old, edit)
    for name, weight in back.weights.items():
        assert torch.equal(weight, old[name] * back.masks.get(name, torch.ones_like(old[name])))
    assert all(torch.equal(t, momentum[n]) for n, t in back.group("optimizer").items())
    densities = [r.density for r in records.where(metric="top1", series="small")]
    assert 1 > densities[0] > densities[1] > 0


def test_probes_count_against_the_net_as_drawn(bench: Bench) -> None:
    from compressbench.hardware.torch_cpu import TorchCPU
    from compressbench.probes.cost import DENSE, SMALLER, Cost
    from compressbench.probes.forgetting import Forgetting
    from compressbench.probes.structure import Structure
    from compressbench.views import View

    state = shaken("resnet20", bench)
    small = Blocks(L1, fraction=0.15).apply(Channels(L1, fraction=0.5).apply(state, bench), bench)
    sparse = prune(small, bench, Prune(**PRUNE, fraction=0.5))
    zeros = prune(state, bench, Prune(**PRUNE, fraction=0.5))
    bench = dataclasses.replace(bench, target=TorchCPU(1, (1,), 0.01))
    dense = View(state, bench)
    for subject, caution in ((small, ""), (sparse, SMALLER), (zeros, DENSE)):
        view = View(subject, bench)
        found = {(m.name, m.group): m for m in Structure().measure(view, dense, bench)}
        assert found["density", ""].value == pytest.approx(100 * subject.facts["density"])
        assert found["density", ""].value < found["density_all", ""].value < 100
        assert {g for n, g in found if n == "layer_density"} == set(state.facts["prunable"])
        (speed,) = (m for m in Cost().measure(view, dense, bench) if m.name == "speedup_b1")
        assert (caution or "dense") in speed.note if caution else "dense" not in speed.note
        assert list(Forgetting().measure(view, dense, bench))
    gone = small.edits[1]["drop"][0]
    layers = {
        m.group: m.value
        for m in Structure().measure(View(small, bench), dense, bench)
        if m.name == "layer_density"
    }
    assert layers[f"{gone}.conv1.weight"] == 0
    assert layers["conv1.weight"] == 50
