"""Small nets, each with a structure that users bring and compression tools trip over. Shapes: digits, (n, 1, 8, 8)."""

import torch
import torch.nn.functional as F
from torch import nn


def cbr(i, o, k=3, s=1, g=1):
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), nn.ReLU())


class BufferScalar(nn.Module):
    """A registered clipping level that the forward reads as a number."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.a, self.b, self.head = cbr(channels, 16), cbr(16, 16), nn.Linear(16, outputs)
        self.register_buffer("clip", torch.tensor(6.0))

    def forward(self, x):
        return self.head(self.b(self.a(x).clamp(max=self.clip.item())).mean((2, 3)))


class Lstm(nn.Module):
    """Rows of the picture as a sequence. Own count: 41,280 MACs; 5,280 matrix weights."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8 * channels, 32, batch_first=True), nn.Linear(32, outputs)

    def forward(self, x):
        return self.head(self.rnn(x.flatten(1, 1).transpose(1, 2).flatten(2))[0][:, -1])


class Mha(nn.Module):
    """A transformer block with nn.MultiheadAttention: its in_proj_weight belongs to no nn.Linear."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.patch, self.cls = nn.Conv2d(channels, 16, 2, 2), nn.Parameter(torch.zeros(1, 1, 16))
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)
        self.n1, self.n2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.f1, self.f2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, outputs)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        y = self.n1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        x = x + self.f2(F.gelu(self.f1(self.n2(x))))
        return self.head(x[:, 0])


class WeightNormed(nn.Module):
    """Parametrised weights: what module.weight gives is computed, and is no parameter."""

    def __init__(self, channels, outputs):
        super().__init__()
        normed = nn.utils.parametrizations.weight_norm
        self.a, self.b = (
            normed(nn.Conv2d(channels, 16, 3, padding=1)),
            normed(nn.Conv2d(16, 16, 3, padding=1)),
        )
        self.head = nn.Linear(16, outputs)

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


class OldWeightNormed(WeightNormed):
    """The same by the older torch.nn.utils.weight_norm, which deepcopy can't copy after a forward."""

    def __init__(self, channels, outputs):
        nn.Module.__init__(self)
        normed = nn.utils.weight_norm
        self.a, self.b = (
            normed(nn.Conv2d(channels, 16, 3, padding=1)),
            normed(nn.Conv2d(16, 16, 3, padding=1)),
        )
        self.head = nn.Linear(16, outputs)


class TiedWeight(nn.Module):
    """Two convolutions whose weight is one parameter."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.a, self.c, self.d = (
            cbr(channels, 16),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
        )
        self.d.weight = self.c.weight
        self.n1, self.n2, self.head = nn.BatchNorm2d(16), nn.BatchNorm2d(16), nn.Linear(16, outputs)

    def forward(self, x):
        x = F.relu(self.n1(self.c(self.a(x))))
        return self.head(F.relu(self.n2(self.d(x))).mean((2, 3)))


class AuxInTraining(nn.Module):
    """GoogLeNet's way: a head of its own in training, that evaluation never runs."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.a, self.b, self.head, self.aux = (
            cbr(channels, 16),
            cbr(16, 16),
            nn.Linear(16, outputs),
            nn.Linear(16, outputs),
        )

    def forward(self, x):
        x = self.a(x)
        out = self.head(self.b(x).mean((2, 3)))
        return (out, self.aux(x.mean((2, 3)))) if self.training else out


class Wrapped(nn.Module):
    """A wrapper whose only child is called "module"; its own state_dict must load."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.module = nn.Sequential(
            cbr(channels, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, outputs)
        )

    def forward(self, x):
        return self.module(x)


class FirstDouble(nn.Module):
    """A float64 temperature is the first parameter, the rest is float32."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.a, self.head = cbr(channels, 16), nn.Linear(16, outputs)

    def forward(self, x):
        return self.head(self.a(x).mean((2, 3))) / self.temperature.float()


class BufferGrid(nn.Module):
    """A positional buffer expanded to the batch: it branches on nothing."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.a, self.b, self.head = cbr(channels + 1, 16), cbr(16, 16), nn.Linear(16, outputs)
        self.register_buffer("grid", torch.linspace(-1, 1, 8).view(1, 1, 1, 8).repeat(1, 1, 8, 1))

    def forward(self, x):
        x = torch.cat([x, self.grid.expand(x.shape[0], -1, -1, -1)], 1)
        return self.head(self.b(self.a(x)).mean((2, 3)))


class ActivatedNorm(nn.BatchNorm2d):
    """A batch norm that also activates (timm's BatchNormAct2d): a subclass, exact type checks miss it."""

    def forward(self, x):
        return F.relu(super().forward(x))


class TimmLike(nn.Module):
    def __init__(self, channels, outputs):
        super().__init__()
        self.a, self.n = nn.Conv2d(channels, 16, 3, padding=1, bias=False), ActivatedNorm(16)
        self.b, self.m, self.head = (
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            ActivatedNorm(16),
            nn.Linear(16, outputs),
        )

    def forward(self, x):
        return self.head(self.m(self.b(self.n(self.a(x)))).mean((2, 3)))


class GoogLeNet(nn.Module):
    """torchvision's, its heads of the training on; digits enlarged."""

    def __init__(self, channels, outputs):
        from torchvision.models import googlenet

        super().__init__()
        self.net = googlenet(weights=None, num_classes=outputs, aux_logits=True, init_weights=False)

    def forward(self, x):
        return self.net(F.interpolate(x.expand(-1, 3, -1, -1), 64))
