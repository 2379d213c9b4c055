"""Cheap convolutions: exact counts, the lecture slide's figures, the shift and its forms, and what a user gets wrong."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from compressbench import specs
from compressbench.bench import Bench
from compressbench.cli.main import run
from compressbench.data.dataset import Dataset, Split
from compressbench.errors import UserError
from compressbench.hardware.onnx_graph import graph_of
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU, open_session
from compressbench.hardware.openvino_cpu import OpenVINOCPU
from compressbench.hardware.target import Lowered
from compressbench.hardware.torch_cpu import TorchCPU
from compressbench.models import cheap
from compressbench.models.build import module_of
from compressbench.models.cheap import CheapResNet, Shift, depthwise, grouped, one_hot, shift, shifted
from compressbench.models.counting import count, with_norms_and_sums
from compressbench.models.draw import drawn
from compressbench.models.prepared import prepared
from compressbench.stages.shrink import Channels
from compressbench.tasks.images.classification import Classification
from compressbench.views import View
from test_models import CIFAR, built, config_of, parameters
from tiny import blank

GROUP16 = functools.partial(grouped, groups=16)
MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
SPATIAL = {"group16": GROUP16, "depthwise": depthwise, "shift": shifted}
# The lecture slide's figures of Xie et al. 2019: parameters and FLOPs in millions.
SLIDE = {
    "resnet56_a": (0.85, 126.81),
    "resnet56_group16": (0.16, 23.35),
    "resnet56_depthwise": (0.13, 20.14),
    "resnet56_shift": (0.10, 15.39),
}


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("name", "expected", "macs"),
    [
        ("resnet56_a", 853_018, 125_485_696),
        ("resnet56_group16", 154_378, 23_347_840),
        ("resnet56_depthwise", 119_818, 20_140_672),
        ("resnet56_shift", 102_106, 15_385_216),
    ],
)
def test_counts_are_exact_and_the_slides(name, expected, macs):
    module = built(name)
    counts = count(module, blank(CIFAR))
    assert (counts.parameters, counts.macs, counts.others) == (expected, macs, 0)
    millions, flops = SLIDE[name]
    assert round(counts.parameters / 1e6, 2) == pytest.approx(millions, abs=0.0101)
    by_its_rule = with_norms_and_sums(module, blank(CIFAR)) if name == "resnet56_a" else counts.macs
    assert round(by_its_rule / 1e6, 2) == flops


def test_the_slides_rule_for_the_standard_net():
    module = built("resnet56_a").train()
    modes = [m.training for m in module.modules()]
    norms, sums = 532_480, 258_048
    assert with_norms_and_sums(module, blank(CIFAR)) == 125_485_696 + 2 * norms + sums == 126_808_704
    assert [m.training for m in module.modules()] == modes
    assert not any(m._forward_hooks for m in module.modules())


def test_a_bias_is_no_sum_of_activations():
    assert with_norms_and_sums(nn.Linear(3, 2), blank((3,))) == 6


def test_a_cheap_block_by_hand():
    block = built("resnet56_group16").layer2[0]
    x = torch.randn(2, 16, 6, 6)
    inner = block.bn1(block.conv1(block.spatial1(x))).relu()
    inner = block.bn2(block.conv2(block.spatial2(inner))).relu()
    assert torch.allclose(block(x), inner + block.downsample(x))
    assert (block.spatial1.stride, block.spatial2.stride) == ((1, 1), (2, 2))
    assert (block.spatial1.groups, block.spatial1.in_channels, block.conv1.out_channels) == (16, 16, 32)
    assert block(x).lt(0).any()


# ---------------------------------------------------------------- the shift


def by_definition(x: torch.Tensor, stride: int) -> torch.Tensor:
    """Element by element, from the rule in words."""
    _, channels, height, width = x.shape
    out = torch.zeros_like(x)
    moved = 9 * (channels // 9)
    for c in range(channels):
        dx, dy = (c % 3 - 1, c // 3 % 3 - 1) if c < moved else (0, 0)
        for row in range(max(0, -dy), min(height, height - dy)):
            for column in range(max(0, -dx), min(width, width - dx)):
                out[:, c, row, column] = x[:, c, row + dy, column + dx]
    return out[:, :, ::stride, ::stride]


FORMS = {
    "as called": shift,
    "by a kernel": cheap._convolved,
    "by an index": lambda x, _, stride: cheap._gathered(x, stride),
    "by a view": lambda x, _, stride: cheap._viewed(x, stride),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 5, 9, 16, 18, 32, 64])
def test_every_form_of_the_shift_is_exact(channels, layout):
    for size in ((5, 7), (4, 4), (1, 3), (1, 1)):
        x = torch.randn(3, channels, *size).contiguous(memory_format=layout)
        for stride in (1, 2):
            expected = by_definition(x, stride)
            for name, form in FORMS.items():
                assert torch.equal(form(x, one_hot(channels), stride), expected), (name, size, stride)


@pytest.mark.parametrize("channels", [5, 16, 18])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_every_form_are_exact(channels, stride):
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, channels, 7, 6).contiguous(memory_format=layout).requires_grad_()
        outside = torch.randn(2, channels, -(-7 // stride), -(-6 // stride))
        kernel = one_hot(channels)
        (expected,) = torch.autograd.grad(
            conv2d(x.double(), kernel.double(), stride=stride, padding=1, groups=channels),
            x,
            outside.double(),
        )
        for name, form in FORMS.items():
            (own,) = torch.autograd.grad(form(x, kernel, stride), x, outside)
            assert torch.equal(own, expected), name


def test_which_channels_move():
    assert torch.equal(Shift(8)(x := torch.randn(1, 8, 3, 3)), x)
    x = torch.randn(1, 16, 5, 5)
    still = [c for c in range(16) if torch.equal(Shift(16)(x)[:, c], x[:, c])]
    assert still == [4, *range(9, 16)]
    assert torch.equal(Shift(16)(x)[:, 0, 1:, 1:], x[:, 0, :-1, :-1])
    assert torch.equal(Shift(16)(x)[:, 5, :, :-1], x[:, 5, :, 1:])


def test_large_tensors_and_small_ones_agree():
    x = torch.randn(5, 16, 32, 32)
    assert x.numel() > cheap.FEW > x[0].numel()
    layer = Shift(16)
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last):
            laid = x.contiguous(memory_format=layout)
            assert torch.equal(layer(laid), torch.cat([layer(one[None]) for one in x]))


def test_other_channels_than_its_own_are_refused():
    with pytest.raises(RuntimeError, match="a shift of 16 channels got 12"):
        Shift(16)(torch.zeros(1, 12, 4, 4))


def test_a_shift_has_no_parameters_no_weights_no_macs():
    layer = Shift(16, 2)
    assert parameters(layer) == 0
    assert not layer.state_dict()
    assert count(layer, blank((16, 8, 8))).macs == 0
    assert count(layer, blank((16, 64, 64))).macs == 0
    assert torch.equal(copy.deepcopy(layer)(x := torch.randn(1, 16, 4, 4)), layer(x))


def test_vectorised_gradients_and_products_pass_a_shift():
    torch.manual_seed(0)
    net = nn.Sequential(Shift(9), nn.Conv2d(9, 2, 1), nn.Flatten(), nn.Linear(32, 3))
    weights = {k: v.detach() for k, v in net.named_parameters()}
    x, y = torch.randn(4, 9, 4, 4), torch.arange(4) % 3

    def loss(p, image, label):
        return nn.functional.cross_entropy(torch.func.functional_call(net, p, (image[None],)), label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, x, y)
    with torch.no_grad():
        same = torch.func.vmap(lambda image: net(image[None])[0])(x)
    assert torch.allclose(same, net(x), atol=1e-6)
    nn.functional.cross_entropy(net(x), y).backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(each[name].mean(0), parameter.grad, atol=1e-6)
    _, product = torch.func.jvp(lambda p: loss(p, x[0], y[0]), (weights,), (weights,))
    assert product.isfinite()


# ---------------------------------------------------------------- whole nets


@pytest.mark.parametrize("name", SPATIAL)
def test_forwards_backwards_and_the_form_for_inference(name):
    torch.manual_seed(0)
    net = CheapResNet(8, (1, 9, 7), 10, SPATIAL[name]).train()
    x, y = torch.randn(8, 1, 9, 7), torch.arange(8)
    nn.functional.cross_entropy(net(x), y).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    fast = prepared(net, x)
    assert fast.layout is torch.channels_last
    assert fast.forward_only is not fast.differentiable
    with torch.no_grad():
        assert torch.allclose(fast(x), net.eval()(x), atol=1e-4)


def place_of(size: int) -> Bench:
    """Random images with random labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 3, size, size), dtype=np.uint8)
    split = Split.of(images, rng.integers(0, 10, 16))
    names = tuple("0123456789")
    splits = {"train": split, "validation": split, "test": split}
    dataset = Dataset("random", splits, Classification(names, (0.5,) * 3, (0.25,) * 3, images.shape[1:]))
    return Bench(dataset, seed=0, name="init")


def shift_net(bench: Bench, depth: int):
    """The state of a ResNet of shifts."""
    return drawn({"name": "shift", "build": {**config_of("resnet56_shift")["build"], "depth": depth}}, bench)


@pytest.mark.parametrize("target", [TorchCPU, OnnxRuntimeCPU, OpenVINOCPU])
def test_a_runtime_shifts_as_torch_does(target):
    pytest.importorskip({OnnxRuntimeCPU: "onnxruntime", OpenVINOCPU: "openvino"}.get(target, "torch"))
    bench = place_of(9)
    state = shift_net(bench, 8)
    lowered = target(batches=(1, 16)).lower(View(state, bench))
    assert isinstance(lowered, Lowered), lowered
    module = module_of(state)
    for batch in (1, 16):
        with torch.no_grad():
            own = module(lowered.inputs[0][:batch])
        assert torch.allclose(lowered.run(lowered.inputs[0][:batch]), own, atol=1e-4)


class Tinted(nn.Module):
    """A net with two equal constants that are no part of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 1)
        self.register_buffer("one", torch.full((10, 1, 1), 2.5), persistent=False)
        self.register_buffer("two", torch.full((10, 1, 1), 2.5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((self.conv(x) + self.one) * self.two).mean((2, 3))


def test_constants_are_exported_as_they_are():
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net, x = Tinted().eval(), torch.randn(2, 3, 4, 4)
    session = open_session(runtime, graph_of(net, (x,)).bytes(), 1)
    with torch.no_grad():
        assert torch.allclose(
            torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), net(x), atol=1e-5
        )


def test_channels_that_a_shift_reads_stay():
    pytest.importorskip("torch_pruning")
    bench = place_of(8)
    settings = {"criterion": MAGNITUDE, "fraction": 0.5}
    shallow = shift_net(bench, 8)
    thin = Channels(**settings).apply(shallow, bench)
    assert thin.weights["fc.weight"].shape == (10, 32)
    assert thin.weights["layer3.0.conv1.weight"].shape == shallow.weights["layer3.0.conv1.weight"].shape
    for state, inside in ((shallow, True), (shift_net(bench, 14), False)):
        with pytest.raises(UserError, match="CheapResNet has no channels that can be removed") as caught:
            Channels(inside=inside, **settings).apply(state, bench)
        assert "\n" not in str(caught.value)


def test_a_spatial_op_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "their_ops.py").write_text(
        "from torch import nn\n"
        "def pooled(channels, stride):\n"
        "    return nn.AvgPool2d(3, stride=stride, padding=1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = {
        **config_of("resnet56_shift")["build"],
        "spatial": {"_target_": "their_ops.pooled", "_partial_": True},
    }
    with pytest.raises(UserError, match=r"trust=\[their_ops\]"):
        specs.check(spec, "model.build")
    specs.check(spec, "model.build", trusted=["their_ops"])
    module = built("resnet56_shift", spatial=spec["spatial"])
    assert count(module, blank(CIFAR)).macs == 15_385_216


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grouped(16, 1, groups=3), "groups: 3 does not divide the 16 channels"),
        (lambda: grouped(16, 1, groups=32), "groups: 32 does not divide the 16 channels"),
        (lambda: grouped(16, 1, groups=0), "groups: 0 does not divide"),
        (lambda: CheapResNet(8, CIFAR, 10, GROUP16, width=12), "groups: 16 does not divide the 12 channels"),
        (lambda: CheapResNet(9, CIFAR, 10, shifted), "depth must be 6n"),
        (lambda: CheapResNet(8, CIFAR, 10, shifted, width=0), "width must be"),
        (lambda: CheapResNet(8, CIFAR, 10, "shifted"), "spatial must be a function"),
    ],
)
def test_bad_arguments_get_one_clear_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_groups_that_do_not_divide_end_a_run_with_one_line(tmp_path, capsys):
    args = [
        "recipe=one_shot",
        "model=resnet56_group16",
        "model.build.spatial.groups=5",
        "model.build.depth=8",
    ]
    code = run(["run", *args, "scale=smoke", "hardware=cpu1", f"outputs={tmp_path}"])
    told = capsys.readouterr().err
    assert code == 2
    assert "groups: 5 does not divide the 16 channels of a convolution" in told
    assert "Traceback" not in told
