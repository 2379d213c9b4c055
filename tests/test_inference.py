"""Inference: prepared modules compute the same function, pass gradients, and leave the given module alone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.models import prepared as inference
from compressbench.models.lenet import LeNet5
from compressbench.models.prepared import prepared
from compressbench.models.resnet import CifarResNet, ImageNetResNet
from compressbench.models.vgg import CifarVgg
from compressbench.models.vit import VisionTransformer
from compressbench.outputs import Outputs, forward

SHAPE = (3, 16, 16)


def lived_in(module: nn.Module) -> nn.Module:
    """With batch norms that do something, as after training."""
    torch.manual_seed(1)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.running_mean is not None:
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.3, 3)
            if m.affine:
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.normal_(m.bias, 0, 0.3)
    return module.eval()


def images(n: int = 8) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """One convolution used twice, once with a batch norm behind: folding would change the other use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(self.bn(self.conv(x)))).mean((2, 3)))


class Tapped(nn.Module):
    """A result before the ReLU that is read again after it, and a sum of which both parts are read again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Outputs:
        a = self.conv1(x)
        b = self.conv2(F.relu(a))
        total = torch.relu(a + b)
        return Outputs(self.head((total + a - b).mean((2, 3))), {"before": a, "after": total})


class PreActivation(nn.Module):
    """The shortcut reads what the first ReLU has overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(self.relu(x))
        y = self.relu(self.bn(y))
        return self.head((x + y).relu().mean((2, 3)))


class Broadcast(nn.Module):
    """Sums whose parts differ in shape, in both orders."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = F.relu(self.gate(x.mean((2, 3), keepdim=True)) + x)
        return self.head(F.relu(x + self.gate(y.mean((2, 3), keepdim=True))).mean((2, 3)))


class Branching(nn.Module):
    """Control flow that depends on the input: can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.head(x.amax((2, 3)) if x.ndim == 4 else x)


class Viewing(nn.Module):
    """``view`` after a convolution: fails on channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bn(self.conv(x))).view(-1, 8 * 16 * 16))


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(3, 8, 3), nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.conv(x), 0.5, self.training)
        return self.head(self.drop(x).mean((2, 3)))


MODULES = {
    "resnet8 A": lambda: CifarResNet(8, shape=SHAPE, classes=4, shortcut="A"),
    "resnet8 B": lambda: CifarResNet(8, shape=SHAPE, classes=4, shortcut="B"),
    "resnet18": lambda: ImageNetResNet(18, shape=SHAPE, classes=4),
    "vgg16": lambda: CifarVgg(16, shape=(3, 32, 32), classes=4),
    "lenet5": lambda: LeNet5(shape=SHAPE, classes=4),
    "vit": lambda: VisionTransformer(shape=SHAPE, classes=4, patch=4, dim=32, depth=2, heads=2),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3, dilation=2, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)
    ),
    "no statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, padding="same", padding_mode="reflect"),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 9), nn.BatchNorm1d(9), nn.ReLU()),
    **{c.__name__: c for c in (Shared, Tapped, PreActivation, Broadcast, Branching, Viewing, Dropping)},
}


@pytest.mark.parametrize("name", MODULES)
def test_same_logits_and_gradients_and_the_module_is_left_alone(name):
    torch.manual_seed(0)
    module = MODULES[name]()
    x = images() if name != "vgg16" else torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        module.eval()(x)
    lived_in(module).train()
    before = copy.deepcopy(module)
    fast = prepared(module, x[:4])

    assert module.training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    for (key, own), old in zip(module.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(own, old), key
        assert own.stride() == old.stride(), key
    assert not any(p.requires_grad for p in fast.parameters())

    module.eval()
    leaf, fast_leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
    wanted = forward(module, leaf).logits
    got = forward(fast, fast_leaf).logits
    (gradient,) = torch.autograd.grad(wanted.square().sum(), leaf)
    (fast_gradient,) = torch.autograd.grad(got.square().sum(), fast_leaf)
    size = float(wanted.detach().abs().max())
    assert torch.allclose(got, wanted, atol=1e-5 * size, rtol=1e-4)
    assert float((fast_gradient - gradient).norm()) <= 1e-3 * float(gradient.norm())
    for n in (1, 3, len(x)):
        with torch.inference_mode():
            result = forward(fast, x[:n])
            assert torch.allclose(result.logits, wanted[:n], atol=1e-5 * size, rtol=1e-4)
            for tap, value in forward(module, x[:n]).taps.items():
                assert torch.allclose(result.taps[tap], value, atol=1e-4), tap


def kinds(module: nn.Module) -> set[str]:
    return {type(m).__name__ for m in module.modules()}


def test_batch_norms_are_folded_and_kernels_joined():
    fast = prepared(lived_in(CifarResNet(8, shape=SHAPE, classes=4)), images())
    assert "BatchNorm2d" not in kinds(fast)
    assert fast.layout == torch.channels_last
    assert "_ConvReLU" in kinds(fast.forward_only)
    assert "relu_" in fast.differentiable.code


def test_what_cannot_be_folded_stays():
    assert "BatchNorm2d" in kinds(prepared(lived_in(Shared()), images()))
    assert "BatchNorm2d" in kinds(prepared(lived_in(Branching()), images()))
    viewing = prepared(lived_in(Viewing()), images())
    assert viewing.layout == torch.contiguous_format
    assert "BatchNorm2d" not in kinds(viewing)


def test_a_wrong_fold_is_not_used(monkeypatch):
    module = lived_in(CifarResNet(8, shape=SHAPE, classes=4))

    def wrong(conv, norm):
        merged = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
        with torch.no_grad():
            merged.bias.mul_(1.05)
        return merged

    monkeypatch.setattr(inference, "fuse_conv_bn_eval", wrong)
    fast = prepared(module, images())
    assert "BatchNorm2d" in kinds(fast)
    with torch.no_grad():
        assert torch.allclose(fast(images()), module(images()), atol=1e-5)


def test_hooks_keep_running():
    module, seen = lived_in(CifarResNet(8, shape=SHAPE, classes=4)), []
    module.conv1.register_forward_hook(lambda *_: seen.append(1))
    fast = prepared(module, images())
    seen.clear()
    with torch.no_grad():
        fast(images())
    assert seen == [1]


def test_evaluation_mode_can_not_be_left():
    fast = prepared(lived_in(Dropping()), images())
    fast.train()
    with torch.no_grad():
        assert torch.equal(fast(images()), fast(images()))


def test_made_under_inference_mode_it_still_passes_gradients():
    with torch.inference_mode():
        module = lived_in(CifarResNet(8, shape=SHAPE, classes=4))
        fast = prepared(module, images())
    leaf = images().requires_grad_()
    fast(leaf).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_a_diverged_module_stays_as_it_is():
    module = lived_in(CifarResNet(8, shape=SHAPE, classes=4))
    with torch.no_grad():
        module.conv1.weight.fill_(float("nan"))
    with torch.no_grad():
        assert prepared(module, images())(images()).isnan().all()
