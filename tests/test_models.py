"""Models: exact counts, shapes, initial values, structure, checkpoints, and what a user gets wrong."""

from __future__ import annotations

import copy
import functools
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressbench import specs
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.errors import UserError
from compressbench.models import build
from compressbench.models.checkpoint import fitted, read_weights
from compressbench.models.conv import ConvN
from compressbench.models.counting import count
from compressbench.models.draw import drawn
from compressbench.models.external import timm_model, torchvision_model
from compressbench.models.lenet import LeNet5, LeNet300100
from compressbench.models.resnet import CifarResNet, ImageNetResNet
from compressbench.models.vgg import CifarVgg
from compressbench.models.vit import VisionTransformer
from compressbench.models.wide_resnet import WideResNet
from tiny import TINY, blank

CONF = Path(__file__).parents[1] / "conf"
TEXTS = ("encoder", "hf", "minilm", "language_model", "nat", "nat_student", "translator", "translator_weak")
VECTORS = ("factorised", "two_layer")
DIGITS, FASHION, CIFAR, IMAGENET = (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)
OWN = sorted(
    p.stem for p in (CONF / "model").glob("*.yaml") if p.stem not in ("torchvision", "timm", *TEXTS, *VECTORS)
)


@functools.cache
def config_of(name: str) -> dict[str, Any]:
    """conf/model/NAME.yaml as the command composes it, at scale=paper."""
    return composed([f"model={name}", "scale=paper"])["model"]


def built(name: str, shape=CIFAR, classes=10, seed=0, **changes) -> nn.Module:
    """The module of conf/model/NAME.yaml."""
    spec = config_of(name)["build"]
    known = {"@shape": list(shape), "@classes": classes}
    filled = {k: known.get(v, v) if isinstance(v, str) else v for k, v in spec.items()}
    torch.manual_seed(seed)
    return specs.build({**filled, **changes}).eval()


def on_meta(name: str, **settings) -> nn.Module:
    """The same without storage or arithmetic: for shapes and parameter counts only."""
    with torch.device("meta"):
        return built(name, **settings)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def weights(module: nn.Module, kind: type) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, kind))


# ---------------------------------------------------------------- exact counts


def test_lenet_counts():
    counts = count(built("lenet_300_100", FASHION), blank(FASHION))
    assert (counts.parameters, counts.prunable, counts.macs) == (266_610, 266_200, 266_200)
    assert counts.layers == {"hidden.0": 235_200, "hidden.2": 30_000, "fc": 1_000}
    assert parameters(on_meta("lenet_5", shape=FASHION)) == 61_706


@pytest.mark.parametrize(
    ("depth", "every", "convolution"),
    [(2, 4_300_992, 38_592), (4, 2_425_024, 259_776), (6, 2_261_184, 1_144_512)],
)
def test_conv_n_counts(depth, every, convolution):
    module = on_meta(f"conv_{depth}")
    assert weights(module, nn.Conv2d) == convolution
    assert sum(p.numel() for p in build.prunable(module).values()) == every
    assert parameters(module) == every + sum(p.numel() for n, p in module.named_parameters() if "bias" in n)


@pytest.mark.parametrize(
    ("depth", "shortcut", "expected", "macs"),
    [
        (20, "B", 272_474, 40_813_184),
        (20, "A", 269_722, 40_551_040),
        (56, "A", 853_018, 125_485_696),
        (56, "B", 855_770, 125_747_840),
    ],
)
def test_cifar_resnet_counts(depth, shortcut, expected, macs):
    counts = count(built(f"resnet{depth}", shortcut=shortcut), blank(CIFAR))
    assert (counts.parameters, counts.macs) == (expected, macs)


def test_resnet20_convolutions_with_projection():
    assert weights(on_meta("resnet20"), nn.Conv2d) == 270_256


@pytest.mark.parametrize("depth", [8, 20, 32, 44, 56, 110])
def test_cifar_resnet_depth_is_the_number_of_layers(depth):
    module = on_meta(f"resnet{depth}", shortcut="A")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules()) == depth


def test_vgg_counts():
    vgg19, vgg16 = on_meta("vgg19"), on_meta("vgg16")
    assert (weights(vgg19, nn.Conv2d), weights(vgg19, nn.Linear)) == (20_018_880, 5_120)
    assert weights(vgg16, nn.Conv2d) == 14_710_464
    for module, depth in ((vgg16, 16), (vgg19, 19)):
        assert sum(isinstance(m, nn.Conv2d) for m in module.modules()) == depth - 3
        assert sum(isinstance(m, nn.MaxPool2d) for m in module.modules()) == 4


@pytest.mark.parametrize(
    ("name", "shape", "classes", "expected"),
    [
        ("resnet18", IMAGENET, 1000, 11_689_512),
        ("resnet50", IMAGENET, 1000, 25_557_032),
        ("resnet18_small", CIFAR, 10, 11_173_962),
        ("resnet50_small", CIFAR, 10, 23_520_842),
        ("vit", CIFAR, 10, 3_190_538),
    ],
)
def test_other_parameter_counts(name, shape, classes, expected):
    assert parameters(on_meta(name, shape=shape, classes=classes)) == expected


@pytest.mark.parametrize(
    ("name", "expected", "convolutions"),
    [
        # counted by hand from the paper's table 1; its convolutions: 6 n + 1, and a projection a stage
        ("wrn_16_8", 10_961_370, 16),
        ("wrn_22_8", 17_158_106, 22),
        ("wrn_28_10", 36_479_194, 28),
        # as many as the ResNets that have their norms behind
        ("preact_resnet20", 269_722, 19),
        ("preact_resnet44", 658_586, 43),
    ],
)
def test_wide_resnet_counts(name, expected, convolutions):
    module = on_meta(name)
    assert parameters(module) == expected
    assert sum(isinstance(m, nn.Conv2d) for m in module.modules()) == convolutions
    assert f"{expected:,} parameters" in (CONF / "model" / f"{name}.yaml").read_text().splitlines()[0]


@pytest.mark.parametrize(("widen", "shortcut"), [(2, "B"), (1, "A"), (1, "B"), (2, "A")])
def test_a_wide_resnet_computes_what_the_paper_says(widen, shortcut):
    """Written again in functions: x + conv(relu(bn(conv(relu(bn(x)))))), a projection reading the first ReLU."""
    torch.manual_seed(0)
    module = WideResNet(10, widen, CIFAR, 10, shortcut).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(part.weight)
            nn.init.normal_(part.bias)
    held = module.state_dict()

    def act(x, name):
        figures = [held[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        mean, var, weight, bias = (f.view(1, -1, 1, 1) for f in figures)
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)

    x = torch.randn(2, *CIFAR)
    y = nn.functional.conv2d(x, held["conv1.weight"], padding=1)
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        block = f"layer{stage}.0"
        first = act(y, f"{block}.bn1")
        inner = nn.functional.conv2d(first, held[f"{block}.conv1.weight"], stride=stride, padding=1)
        through = y
        if f"{block}.downsample.weight" in held:
            through = nn.functional.conv2d(first, held[f"{block}.downsample.weight"], stride=stride)
        elif y.shape[1] != inner.shape[1]:
            thinned = y[:, :, ::stride, ::stride]
            through = torch.cat([thinned, torch.zeros(2, inner.shape[1] - y.shape[1], *thinned.shape[2:])], 1)
        inner = act(inner, f"{block}.bn2")
        y = through + nn.functional.conv2d(inner, held[f"{block}.conv2.weight"], padding=1)
    expected = nn.functional.linear(act(y, "bn").mean((2, 3)), held["fc.weight"], held["fc.bias"])
    with torch.no_grad():
        assert torch.allclose(module(x), expected, rtol=1e-4, atol=1e-4)


def test_dropout_of_a_wide_resnet_is_in_its_blocks_and_only_in_training():
    torch.manual_seed(0)
    module = WideResNet(10, 1, DIGITS, 10, dropout=0.5)
    assert [m.p for m in module.modules() if isinstance(m, nn.Dropout)] == [0.5] * 3
    assert not [m for m in on_meta("wrn_16_8").modules() if isinstance(m, nn.Dropout)]
    x = torch.randn(4, *DIGITS)
    assert not torch.equal(module(x), module(x))
    assert torch.equal(module.eval()(x), module(x))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"depth": 20}, r"depth must be 6n \+ 4 \(10, 16, 22, 28, 40 …\); got 20"),
        ({"depth": 4}, "depth must be 6n"),
        ({"widen": 0}, "widen must be an integer of at least 1; got 0"),
        ({"widen": 1.5}, "widen must be an integer of at least 1; got 1.5"),
        ({"shortcut": "C"}, "WRN-16-1: shortcut must be A \\(padding\\) or B \\(projection\\); got 'C'"),
        ({"dropout": 1}, "WRN-16-1: dropout must be a share in"),
        ({"classes": 0}, "WRN-16-1"),
    ],
)
def test_wide_resnets_that_are_none(settings, words):
    with pytest.raises(UserError, match=words):
        WideResNet(**{"depth": 16, "widen": 1, "shape": DIGITS, "classes": 10, **settings})


def test_the_figures_in_the_configs_are_true():
    for depth in (8, 20, 32, 44, 56, 110):
        line = (CONF / "model" / f"resnet{depth}.yaml").read_text().splitlines()[0]
        assert f"{parameters(on_meta(f'resnet{depth}')):,} parameters" in line


# ---------------------------------------------------------------- counting


def by_hooks(module: nn.Module, shape) -> dict[str, int]:
    """An independent count: output elements x weights that each of them meets."""
    found: dict[str, int] = {}

    def hook(name):
        def add(part, _, output: Tensor):
            found[name] = found.get(name, 0) + output.numel() * part.weight[0].numel()

        return add

    handles = [
        m.register_forward_hook(hook(n))
        for n, m in module.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        module(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ["lenet_5", "conv_4", "resnet8", "resnet18_small", "vit"])
def test_macs_agree_with_the_flop_counter_and_with_hooks(name):
    module = built(name, FASHION)
    counts = count(module, blank(FASHION))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *FASHION))
    assert counter.get_total_flops() == 2 * counts.macs
    assert dict(counts.layers) == by_hooks(module, FASHION)
    tokens, heads, layers = 7 * 7 + 1, 256, 6
    assert counts.others == (2 * layers * tokens * tokens * heads if name == "vit" else 0)


def test_counting_leaves_the_module_as_it_was():
    module = built("resnet8").train()
    module.layer2.eval()
    modes = [m.training for m in module.modules()]
    before = copy.deepcopy(module.state_dict())
    fast = torch.backends.mha.get_fastpath_enabled()
    first, second = count(module, blank(CIFAR)), count(module, blank(CIFAR))
    assert first == second
    assert [m.training for m in module.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
    assert torch.backends.mha.get_fastpath_enabled() == fast


class Encoder(nn.Module):
    """Torch's own transformer layer: its fast path and its fused attention hide their products."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2).transpose(1, 2)).mean(1)


def test_fused_attention_is_counted():
    tokens = 4 * 4
    counts = count(Encoder().eval(), blank((8, 4, 4)))
    assert counts.layers == {
        "layer.self_attn.out_proj": tokens * 8 * 8,
        "layer.linear1": tokens * 8 * 16,
        "layer.linear2": tokens * 16 * 8,
    }
    assert counts.others == tokens * 8 * 24 + 2 * tokens * tokens * 8


class Odd(nn.Module):
    """One layer used twice, one tied to another, one never used, one that rewrites its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4, bias=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.twice.weight
        self.unused = nn.Linear(4, 9)
        self.rewritten = Rewriting(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.rewritten(self.tied(self.twice(self.twice(x.flatten(1)))))


class Rewriting(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, (self.weight * 2).round(), self.bias)


def test_layers_used_twice_tied_unused_or_rewriting_their_weight():
    counts = count(Odd(), blank((1, 2, 2)))
    assert counts.layers == {"twice": 3 * 16, "unused": 0, "rewritten": 8}
    assert counts.others == 0
    assert counts.parameters == 16 + 9 * 5 + 10


def test_macs_if_zeros_were_free():
    counts = count(built("vit", FASHION), blank(FASHION))
    assert counts.if_zeros_were_free({}) == counts.macs
    assert counts.if_zeros_were_free({f"{n}.weight": 0.0 for n in counts.layers}) == counts.others > 0
    half = counts.if_zeros_were_free({"fc.weight": 0.5})
    assert half == counts.macs - 0.5 * 256 * 10
    with pytest.raises(UserError, match=r"no prunable weight 'fc.weigth'; did you mean fc.weight"):
        counts.if_zeros_were_free({"fc.weigth": 0.5})


def test_a_lone_layer_is_counted():
    counts = count(nn.Linear(5, 3), blank((5,)))
    assert (counts.macs, dict(counts.layers)) == (15, {"": 15})
    assert counts.if_zeros_were_free({"weight": 0.2}) == pytest.approx(3)


def test_counting_refuses_a_shape_in_one_line():
    with pytest.raises(UserError, match="CifarResNet can't take inputs of 1x8x8") as caught:
        count(built("resnet8"), blank(DIGITS))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- shapes and structure


@pytest.mark.parametrize("name", OWN)
def test_every_model_takes_every_dataset(name):
    for shape, classes in ((DIGITS, 10), (FASHION, 10), (CIFAR, 100), ((2, 64, 12), 2)):
        module = on_meta(name, shape=shape, classes=classes)
        assert module(torch.empty(3, *shape, device="meta")).shape == (3, classes)


@pytest.mark.parametrize(
    "name", ["lenet_300_100", "lenet_5", "conv_6", "resnet8", "vgg16", "resnet50", "vit"]
)
def test_channels_last_single_examples_and_no_writing_into_the_input(name):
    module = built(name, FASHION)
    x = torch.randn(4, *FASHION)
    kept = x.clone()
    with torch.no_grad():
        logits = module(x)
        assert torch.equal(x, kept)
        alone = torch.cat([module(one) for one in x.split(1)])
        last = module.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    size = float(logits.abs().max())
    assert torch.allclose(logits, alone, atol=1e-4 * size)
    assert torch.allclose(logits, last, atol=1e-4 * size)


# their norms stand before the convolutions, behind a sum
PREACTIVATED = [n for n in OWN if n.startswith(("wrn", "preact"))]
LARGE = ("resnet110", "vgg19", "resnet44", "resnet56")


@pytest.mark.parametrize("name", [n for n in OWN if n not in (*LARGE, *PREACTIVATED)])
def test_fx_traces_and_every_batch_norm_is_right_behind_its_convolution(name):
    module = on_meta(name)
    traced = torch.fx.symbolic_trace(module)
    parts = dict(traced.named_modules())
    norms = [
        n for n in traced.graph.nodes if n.op == "call_module" and isinstance(parts[n.target], nn.BatchNorm2d)
    ]
    assert len(norms) == sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    for norm in norms:
        (before,) = norm.all_input_nodes
        assert isinstance(parts[before.target], nn.Conv2d)
        assert list(before.users) == [norm]
    called = [n.target for n in traced.graph.nodes if n.op == "call_module"]
    assert len(called) == len(set(called)), "a module called twice can't be quantised or hooked apart"


@pytest.mark.parametrize("name", ["resnet8", "vgg16", "resnet50"])
def test_batch_norm_folds_by_fx(name):
    from torch.fx.experimental.optimization import fuse

    module = built(name, DIGITS)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    folded = fuse(copy.deepcopy(module))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(2, *DIGITS)
    with torch.no_grad():
        expected = module(x)
        assert torch.allclose(folded(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["lenet_5", "conv_2", "resnet8", "resnet18_small", "vit", "preact_resnet20"])
def test_every_parameter_learns(name):
    module = built(name, DIGITS).train()
    nn.functional.cross_entropy(module(torch.randn(8, *DIGITS)), torch.arange(8)).backward()
    still = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_second_derivatives_of_the_vit():
    module = built("vit", DIGITS, depth=1, dim=16, mlp=16)
    named = {k: v.detach() for k, v in module.named_parameters()}
    x, y = torch.randn(4, *DIGITS), torch.arange(4)

    def loss(p):
        return nn.functional.cross_entropy(torch.func.functional_call(module, p, (x,)), y)

    direction = {k: torch.randn_like(v) for k, v in named.items()}
    _, product = torch.func.jvp(torch.func.grad(loss), (named,), (direction,))
    assert all(v.isfinite().all() for v in product.values())


def test_padding_shortcut_keeps_pixels_and_adds_zero_channels():
    block = built("resnet8", shortcut="A").layer2[0].downsample
    x = torch.randn(2, 16, 6, 6)
    y = block(x)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert y.shape == (2, 32, 3, 3)
    assert not y[:, 16:].any()


def test_a_residual_block_by_hand():
    block = built("resnet8").layer2[0]
    x = torch.randn(2, 16, 6, 6)
    inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert torch.allclose(block(x), (inner + block.downsample(x)).relu())
    assert block.conv1.stride == (2, 2)
    assert block.downsample[0].kernel_size == (1, 1)


def test_attention_is_torchs():
    attention = built("vit", DIGITS).blocks[0].attention
    x = torch.randn(2, 5, 256)
    q, k, v = (
        attention.qkv(x)[..., i * 256 : (i + 1) * 256].view(2, 5, 4, 64).transpose(1, 2) for i in range(3)
    )
    fused = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 256)
    assert torch.allclose(attention(x), attention.proj(fused), atol=1e-5)


def test_width_scales_a_cifar_resnet():
    assert built("resnet8", width=4).fc.in_features == 16


# ---------------------------------------------------------------- initial values


def spread(tensor: Tensor) -> float:
    return float(tensor.detach().std())


def test_kaiming_normal_by_default_and_biases_zero():
    for module in (built("resnet20"), built("vgg16"), built("lenet_5", FASHION), built("resnet18_small")):
        large = max(build.prunable(module).values(), key=torch.numel)
        assert spread(large) == pytest.approx(math.sqrt(2 / large[0].numel()), rel=0.03)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.weight.eq(1).all()
            if getattr(part, "bias", None) is not None:
                assert part.bias.eq(0).all()


def test_glorot_normal_for_the_nets_of_the_lottery_ticket_paper():
    lenet, conv = built("lenet_300_100", FASHION), built("conv_6")
    assert spread(lenet.hidden[0].weight) == pytest.approx(math.sqrt(2 / (784 + 300)), rel=0.02)
    largest = max((m for m in conv.modules() if isinstance(m, nn.Conv2d)), key=lambda m: m.weight.numel())
    assert spread(largest.weight) == pytest.approx(math.sqrt(2 / (9 * 256 + 9 * 256)), rel=0.02)
    normal = lenet.hidden[0].weight.detach() / spread(lenet.hidden[0].weight)
    assert float((normal.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.005)


def test_vit_initial_values():
    vit = built("vit")
    assert spread(vit.blocks[0].mlp[0].weight) == pytest.approx(0.02, rel=0.02)
    assert spread(vit.positions) == pytest.approx(0.2, rel=0.05)
    assert not vit.token.any()


def test_another_init_from_a_config():
    init = {"_target_": "torch.nn.init.kaiming_normal_", "_partial_": True}
    lenet = built("lenet_300_100", FASHION, init=init)
    assert spread(lenet.hidden[0].weight) == pytest.approx(math.sqrt(2 / 784), rel=0.02)


@pytest.mark.parametrize("name", ["lenet_300_100", "conv_2", "resnet8", "vit"])
def test_the_global_generator_decides_the_weights(name):
    one, same, other = (built(name, DIGITS, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


# ---------------------------------------------------------------- configs


def test_every_config_has_a_line_a_name_and_checks_out():
    for path in (CONF / "model").rglob("*.yaml"):
        assert path.read_text().startswith(f"# {path.stem}: ")
    for name in OWN:
        config = config_of(name)
        assert set(config) == {"name", "build", "weights"}
        assert (config["name"], config["weights"]) == (name, None)
        specs.check(config["build"], "model.build")


def test_scaled_configs_and_library_models_compose():
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        for scale, depth in (("smoke", 8), ("laptop", 8), ("paper", 20)):
            config = compose(overrides=[f"+model/scaled@model=resnet_{scale}"])
            assert (config.model.name, config.model.build.depth) == (f"resnet{depth}", depth)
        for library in ("torchvision", "timm"):
            config = compose(overrides=[f"+model={library}", "model.build.model_name=some_net"])
            assert config.model.name == f"{library}_some_net"
            specs.check(OmegaConf.to_container(config.model.build, resolve=True), "model.build")
            nameless = compose(overrides=[f"+model={library}"])
            with pytest.raises(OmegaConfBaseException, match=r"model\.build\.model_name"):
                OmegaConf.to_container(nameless, resolve=True, throw_on_missing=True)


def test_anybodys_module_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "their_nets.py").write_text(
        "from torch import nn\n"
        "def net(width, channels, classes):\n"
        "    return nn.Sequential(nn.Conv2d(channels, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(width, classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = {"_target_": "their_nets.net", "width": 5, "channels": 1, "classes": 10}
    with pytest.raises(UserError, match=r"trust=\[their_nets\]"):
        specs.check(spec, "model.build")
    specs.check(spec, "model.build", trusted=["their_nets"])
    counts = count(specs.build(spec), blank(DIGITS))
    assert counts.macs == 36 * 9 * 5 + 50


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CifarResNet(21, CIFAR, 10), "depth must be 6n"),
        (lambda: CifarResNet(2, CIFAR, 10), "depth must be 6n"),
        (lambda: CifarResNet(20, CIFAR, 10, shortcut="C"), "shortcut must be A .* or B"),
        (lambda: CifarResNet(20, CIFAR, 10, width=0), "width must be"),
        (lambda: ImageNetResNet(20, CIFAR, 10), "depth must be one of 18, 34, 50"),
        (lambda: CifarVgg(17, CIFAR, 10), "depth must be one of 11, 13, 16, 19"),
        (lambda: ConvN(3, CIFAR, 10), "depth must be 2, 4 or 6"),
        (lambda: LeNet5((1, 4, 9), 10), "LeNet-5 needs images of at least 5x5; got 4x9"),
        (lambda: LeNet300100((1, 8), 10), r"shape must be \[channels, height, width\]"),
        (lambda: LeNet300100("@shape", 10), r"shape must be \[channels, height, width\]"),
        (lambda: LeNet300100(DIGITS, 0), "classes must be an integer of at least 1"),
        (lambda: LeNet300100(DIGITS, 10, hidden=[300, 0]), "hidden must be widths"),
        (lambda: VisionTransformer((1, 30, 28), 10), "patch 4 does not divide images of 30x28"),
        (lambda: VisionTransformer(CIFAR, 10, heads=3), "heads 3 does not divide dim 256"),
        (lambda: VisionTransformer(CIFAR, 10, depth=0), "depth must be an integer of at least 1"),
    ],
)
def test_bad_arguments_get_one_clear_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- torchvision and timm


def test_torchvision(monkeypatch):
    models = pytest.importorskip("torchvision").models
    for depth, published in ((18, models.ResNet18_Weights.DEFAULT), (50, models.ResNet50_Weights.DEFAULT)):
        ours = ImageNetResNet(depth, IMAGENET, 1000).eval()
        with torch.device("meta"):
            theirs = models.get_model(f"resnet{depth}")
        layout = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
        assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == layout
        assert list(ours.state_dict()) == list(layout)
        assert parameters(ours) == published.meta["num_params"]
        assert round(count(ours, blank(IMAGENET)).macs / 1e9, 3) == published.meta["_ops"]

    torch.manual_seed(0)
    theirs = models.resnet18().eval()
    ours = ImageNetResNet(18, CIFAR, 1000).eval()
    build.load(ours, theirs.state_dict(), "torchvision's weights")
    x = torch.randn(2, *CIFAR)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)

    small = torchvision_model("squeezenet1_1", FASHION, 7).eval()
    assert small(torch.zeros(2, *FASHION)).shape == (2, 7)
    first = next(p for p in small.parameters())
    assert first.shape == (64, 1, 3, 3)
    assert spread(first) == pytest.approx(math.sqrt(2 / 27), rel=0.1)
    with torch.device("meta"):
        vit = torchvision_model("vit_b_16", (3, 32, 32), 5)
        assert vit.eval()(torch.empty(1, 3, 32, 32)).shape == (1, 5)

    with pytest.raises(UserError, match=r"torchvision has no model 'resnet19'; did you mean .*resnet18"):
        torchvision_model("resnet19", CIFAR, 10)
    with pytest.raises(UserError, match="weights is not taken here"):
        torchvision_model("resnet18", CIFAR, 10, weights="DEFAULT")
    with pytest.raises(UserError, match="needs square images; got 16x32"):
        torchvision_model("vit_b_16", (3, 16, 32), 10)
    with pytest.raises(UserError, match=r"torchvision resnet18 can't be built .*no_such_option"):
        torchvision_model("resnet18", CIFAR, 10, no_such_option=1)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(UserError, match=r"can't import torchvision: .*compressbench\[torchvision\]"):
        torchvision_model("resnet18", CIFAR, 10)


def test_timm(monkeypatch):
    pytest.importorskip("timm")
    net = timm_model("resnet10t", FASHION, 7).eval()
    assert net(torch.zeros(2, *FASHION)).shape == (2, 7)
    vit = timm_model("vit_tiny_patch16_224", (1, 32, 32), 4, depth=2).eval()
    counts = count(vit, blank((1, 32, 32)))
    tokens = 2 * 2 + 1
    assert counts.others == 2 * 2 * tokens * tokens * 192
    assert counts.macs - counts.others == sum(by_hooks(vit, (1, 32, 32)).values())

    with pytest.raises(UserError, match=r"timm has no model 'resnet10'; did you mean .*resnet10t"):
        timm_model("resnet10", CIFAR, 10)
    with pytest.raises(UserError, match="timm has no model 'hf-hub:timm/resnet18"):
        timm_model("hf-hub:timm/resnet18.a1_in1k", CIFAR, 10)
    with pytest.raises(UserError, match="pretrained is not taken here"):
        timm_model("resnet10t", CIFAR, 10, pretrained=True)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"can't import timm: .*compressbench\[timm\]"):
        timm_model("resnet10t", CIFAR, 10)


# ---------------------------------------------------------------- checkpoints


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_read_weights_round_trips(tmp_path):
    from safetensors.torch import save_file

    module = built("resnet8", DIGITS)
    own = build.snapshot(module)
    save_file(own, tmp_path / "a.safetensors")
    variants = {
        "plain.pt": own,
        "state.pth": {"state_dict": own, "epoch": 3},
        "module.pt": {f"module.{k}": v for k, v in own.items()},
        "both.pt": {"state_dict": {f"_orig_mod.module.{k}": v for k, v in own.items()}},
        "parameters.pt": {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in own.items()},
    }
    for name, content in variants.items():
        torch.save(content, tmp_path / name)
    for path in (tmp_path / "a.safetensors", *(tmp_path / name for name in variants)):
        fresh = built("resnet8", DIGITS, seed=9)
        found = fitted(read_weights(path), fresh)
        assert same(found, own), path
        assert not any(t.requires_grad for t in found.values())
        build.load(fresh, found, str(path))
        assert same(build.snapshot(fresh), own)


def test_weights_of_another_shape_are_refused(tmp_path):
    torch.save(built("resnet8", DIGITS).state_dict(), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"fc.weight is \(10, 64\), the model has \(7, 64\)"):
        build.load(built("resnet8", DIGITS, classes=7), read_weights(tmp_path / "a.pt"), "a.pt")


class Armed:
    """A pickle that would run code when opened."""

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))  # type: ignore[attr-defined]


def test_a_pickle_of_more_than_tensors_is_not_opened(tmp_path):
    armed = Armed()
    armed.path = str(tmp_path / "ran")
    torch.save({"state_dict": armed}, tmp_path / "armed.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("armed.pt", "module.pt"):
        with pytest.raises(UserError, match="more than tensors and is not opened") as caught:
            read_weights(tmp_path / name)
        assert "safetensors" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_unreadable_checkpoints_get_one_clear_line(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    (tmp_path / "net.onnx").write_bytes(b"onnx")
    (tmp_path / "folder.pt").mkdir()
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"epoch": 3, "w": torch.zeros(1)}, tmp_path / "mixed.pt")
    torch.save({}, tmp_path / "nothing.pt")
    expected = {
        "missing.pt": "there is no file",
        "folder.pt": "there is no file",
        "cut.pt": "damaged or no torch file",
        "empty.pt": "damaged or no torch file",
        "text.pth": "more than tensors|damaged or no torch file",
        "text.safetensors": "damaged or no safetensors file",
        "net.onnx": "unknown format",
        "tensor.pt": "holds no named tensors",
        "mixed.pt": "holds int under 'epoch' instead of a tensor",
        "nothing.pt": "holds no named tensors",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as caught:
            read_weights(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_first_asked_for_in_inference_mode_can_be_trained_with(digits) -> None:
    """Views and benches keep what they make, for whoever comes next."""
    bench = Bench(digits, seed=0, name="init")
    state = drawn(TINY, bench)
    with torch.inference_mode():
        module, feed = build.module_of(state), bench.feed("train")
    (images,), labels = bench.task.encode(feed.head(4)), feed.labels[:4]
    torch.nn.functional.cross_entropy(module(images), labels).backward()
    assert not any(
        t.is_inference() for t in (*module.parameters(), *module.buffers(), feed["images"], feed.labels)
    )
