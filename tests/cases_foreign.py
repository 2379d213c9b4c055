"""Nets as others write them, and what their tests have together."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cases_nets
from compressbench.bench import Bench
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
from compressbench.hardware.openvino_cpu import OpenVINOCPU
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.outputs import forward
from compressbench.stages.train import Train
from compressbench.state import State

pytest.importorskip("onnxruntime")


pytest.importorskip("openvino")


TRAIN = Train("2it", 8, 0.01, {"_target_": "torch.optim.SGD", "_partial_": True}, validate=None)
MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
JOINT = {"_target_": "compressbench.training.exits.joint", "_partial_": True, "power": 0.0, "last": True}
TRAIN_EXITS = dataclasses.replace(TRAIN, objective=JOINT)
RUNTIMES = {"onnxruntime": OnnxRuntimeCPU(batches=(1, 4)), "openvino": OpenVINOCPU(batches=(1, 4))}


def state_of(name: str, bench: Bench) -> State:
    """A net of ``cases_nets``, or one of this file, as it is drawn."""
    where = "cases_nets" if hasattr(cases_nets, name) else "cases_foreign"
    build = {"_target_": f"{where}.{name}", "channels": "@channels", "outputs": "@classes"}
    return drawn({"name": name, "build": build}, bench)


def images_of(bench: Bench, count: int) -> Tensor:
    return bench.task.normalised(bench.feed("test")["images"][:count])


def answers(state: State, images: Tensor) -> Tensor:
    with torch.no_grad():
        return forward(module_of(state), images).logits


class Reads(nn.Module):
    """What a net reads as a number while it is traced; ``cases_nets.BufferScalar`` reads a buffer."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.head = cases_nets.cbr(channels, 16), nn.Linear(16, outputs)
        self.register_buffer("clip", torch.tensor(0.5))
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.a(x)).mean((2, 3)))


class AFloat(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x.clamp(max=float(self.clip)) * float(self.scale)


class AnInt(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x / int(self.scale)


class ABranch(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x * 2 if self.scale > 1 else x / 2


class Largest(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x / x.abs().max().item()


class ABranchOnTheInput(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x / 2


class OfTheBatch(Reads):
    def inner(self, x: Tensor) -> Tensor:
        return x.repeat(len(x), 1, 1, 1)[: len(x)] / len(x)


class Answer(NamedTuple):
    logits: Tensor
    beside: Tensor


class Several(nn.Module):
    """Two heads in evaluation too, in a named tuple; the second one is no part of what is deployed."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = cases_nets.cbr(channels, 16), cases_nets.cbr(16, 16)
        self.head, self.two = nn.Linear(16, outputs), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Answer:
        x = self.b(self.a(x)).mean((2, 3))
        return Answer(self.head(x), self.two(x))


class Wrapping(nn.Module):
    """A DataParallel inside, as nets are that were trained in one."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a = nn.DataParallel(cases_nets.cbr(channels, 16))
        self.a.device_ids = []
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).mean((2, 3)))


class Transposing(nn.Module):
    """Decodes by the weight that encodes, read off the layer."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(64 * channels, 32), nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.a(x.flatten(1)))
        return self.head(hidden) + F.linear(hidden, self.a.weight.t()).mean(1, keepdim=True)


class Computed(nn.Module):
    """A spectral norm before, and an orthogonal layer behind the one convolution that is plain."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        spectral, orthogonal = nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.orthogonal
        self.a = spectral(nn.Conv2d(channels, 16, 3, padding=1))
        self.b, self.n = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.q, self.head = orthogonal(nn.Linear(16, 16)), nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n(self.b(F.relu(self.a(x))))).mean((2, 3))
        return self.head(F.relu(self.q(x)))


class BothWays(nn.Module):
    """Tracing fails on its recurrent layer; the convolutions before it are no part of that."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = cases_nets.cbr(channels, 16), cases_nets.cbr(16, 8)
        self.rnn = nn.GRU(64, 16, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.b(self.a(x)).permute(0, 2, 1, 3).flatten(2))[0].mean(1))


class NoOnnx(Reads):
    """ONNX has no such operator."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.a = nn.Sequential(self.a, Bessel())

    def inner(self, x: Tensor) -> Tensor:
        return x


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0e(x)


class Encoder(nn.Module):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8 * channels, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8 * channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.transpose(1, 2).flatten(2)).mean(1))


class VisionTransformer(nn.Module):
    def __init__(self, channels: int, outputs: int) -> None:
        from torchvision.models import VisionTransformer as Theirs

        super().__init__()
        self.net = Theirs(8, 2, 1, 2, 16, 32, num_classes=outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


class Recurrent(nn.Module):
    """Two layers, both directions: each cell reads its input and its state."""

    def __init__(self, channels: int, outputs: int, kind: str = "GRU") -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(8 * channels, 16, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.transpose(1, 2).flatten(2))[0][:, -1])


class Products(nn.Module):
    """Custom parameters, in products of several kinds."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        size = 64 * channels
        self.einsum, self.vector = nn.Parameter(torch.randn(size, 12)), nn.Parameter(torch.randn(5, 12))
        self.two, self.table = nn.Bilinear(12, 12, 3), nn.Embedding(7, 12)
        self.head = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("ni,io->no", x.flatten(1), self.einsum)  # 768 for one picture
        x = x + self.table(torch.tensor([3]))  # 0
        y = torch.cdist(x, self.vector).sum(1, keepdim=True)  # 60
        z = self.two(x, x).sum(1, keepdim=True)  # 3 * 12 * 12 = 432
        return self.head(x + y + z + torch.mv(self.vector, x[0]).sum())  # 60, and 120 of the head


class Hidden(nn.Module):
    """What multiplies and has no formula: element by element, and a Fourier transform."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.inner = Elementwise(64 * channels)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(torch.fft.rfft2(x).abs().sum() + x))


class Elementwise(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.own, self.scale = nn.Parameter(torch.randn(4, size)), nn.Parameter(torch.ones(1, size))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) * self.scale).unsqueeze(1) * self.own).sum(2)


class Spectral(nn.Module):
    """A spectral norm, an orthogonal layer, and a parametrization of the user's own on a plain parameter."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        spectral, orthogonal = nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.orthogonal
        self.a = spectral(nn.Conv2d(channels, 16, 3, padding=1))
        self.b, self.head = orthogonal(nn.Linear(16, 16)), nn.Linear(16, outputs)
        nn.utils.parametrize.register_parametrization(self.head, "weight", Twice())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)).mean((2, 3)))))


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Lazy(nn.Module):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(channels, 8, 3), nn.LazyLinear(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).flatten(1))


class Unfinished(Reads):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra = nn.Parameter(torch.full((3, 3), float("nan")))

    def inner(self, x: Tensor) -> Tensor:
        return x


class Nowhere(Unfinished):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra = nn.Parameter(torch.empty((3, 3), device="meta"))


class Unregistered(Unfinished):
    """A tensor that its state_dict doesn't know."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra, self.noise = None, torch.rand(16, 1, 1)

    def inner(self, x: Tensor) -> Tensor:
        return x * self.noise


class Keeps(Unfinished):
    """It keeps what a forward computed."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra = None
        self.b = Remembering()

    def inner(self, x: Tensor) -> Tensor:
        return self.b(x)


class Remembering(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        return x


class Half(Unfinished):
    """It asks for an attribute that nobody made."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.extra, self.b = None, nn.Sequential(nn.Identity(), Asking())

    def inner(self, x: Tensor) -> Tensor:
        return self.b(x)


class Asking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Normed(nn.Module):
    """Two convolutions, each followed by a norm of some class."""

    def __init__(self, channels: int, outputs: int, norm: Any) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(channels, 16, 3, padding=1, bias=False), norm(16)
        self.b, self.m = nn.Conv2d(16, 16, 3, padding=1, groups=2), norm(16)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.m(self.b(self.n(self.a(x)))).mean((2, 3)))


class OfTimm(Normed):
    def __init__(self, channels: int, outputs: int) -> None:
        from timm.layers import BatchNormAct2d

        super().__init__(channels, outputs, lambda n: BatchNormAct2d(n, act_layer=nn.PReLU))


class Residual(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class WithResidual(Normed):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, Residual)


class Before(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


class WithBefore(Normed):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, Before)


def shaken(state: State) -> State:
    """Norms with statistics and factors that matter."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in state.weights.items():
        if name.rpartition(".")[0] in ("n", "m") and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return state


class AuxInADict(nn.Module):
    """In training a dictionary, and a head that reads the middle through a convolution of its own."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.head = (
            cases_nets.cbr(channels, 16),
            cases_nets.cbr(16, 16),
            nn.Linear(16, outputs),
        )
        self.aux = nn.Sequential(nn.Conv2d(16, 12, 1), nn.ReLU(), nn.Dropout(0.5))
        self.said = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        out = self.head(self.b(x).mean((2, 3)))
        if not self.training:
            return out
        return {"logits": out, "more": [self.said(self.aux(x).mean((2, 3)))]}


class Replaced(nn.Module):
    """In training another head altogether: neither forward reaches all of the net."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = cases_nets.cbr(channels, 16), cases_nets.cbr(16, 16)
        self.one, self.two = nn.Linear(16, outputs), nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return (self.one if self.training else self.two)(self.b(self.a(x)).mean((2, 3)))


class TiedApart(nn.Module):
    """Two layers with one weight, of which only one reads the channels of ``a``: those stay, others can go."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = cases_nets.cbr(channels, 16), cases_nets.cbr(channels, 16)
        self.c, self.d = (
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
        )
        self.d.weight = self.c.weight
        self.e, self.f = cases_nets.cbr(16, 12), nn.Conv2d(12, 16, 1)
        self.head = nn.Linear(32 * 16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.softmax(self.d(self.b(x)), 1)  # where no channel can go
        x = torch.cat([self.f(self.e(self.c(self.a(x)))), mixed], 1)
        return self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))


class Numbered(nn.Module):
    """The output depends on how many channels there are: without some it differs from them being zero."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.c = cases_nets.cbr(channels, 16), cases_nets.cbr(16, 16), cases_nets.cbr(16, 12)
        self.head = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        return self.head(self.c(y).mean((2, 3)) + 1.0 / y.shape[1])


class Windows(nn.Module):
    """torchvision's swin, tiny: its windows are rolled and cut apart, and tracing takes that for channels."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        models = pytest.importorskip("torchvision.models")
        self.net = models.SwinTransformer([2, 2], 12, [2, 2], [3, 3], [2, 2], num_classes=outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(F.interpolate(x, size=(16, 16)).repeat(1, 3, 1, 1))


class Numbers(Numbered):
    def forward(self, x: Tensor) -> Tensor:
        x, y = self.a(x), self.b(self.a(x))
        z = self.c(y)
        return self.head(z.mean((2, 3)) + 1.0 / x.shape[1] + 1.0 / y.shape[1] + 1.0 / z.shape[1])


class Beginning(nn.Module):
    """Float64 in its first half alone."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.head = (
            cases_nets.cbr(channels, 16),
            cases_nets.cbr(16, 16),
            nn.Linear(16, outputs),
        )
        self.a.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x.double()).float()).mean((2, 3)))


class Doubles(nn.Module):
    """All of it is float64."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.a, self.head = cases_nets.cbr(channels, 16), nn.Linear(16, outputs)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x.double()).mean((2, 3))).float()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(x * 2 if x.sum() > 0 else x)


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(4, 64))
