"""Residual nets of cheap convolutions (Xie et al. 2019): each 3 x 3 convolution becomes a spatial op and a 1 x 1 one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.initial import Draw, initialise
from compressbench.models.resnet import cifar_plan, projection

Spatial = Callable[[int, int], nn.Module]
"""(channels, stride) to a module that maps (n, channels, h, w) to (n, channels, h / stride, w / stride), rounded up."""

# Elements of a tensor without gradient up to which indexing is faster than calling a oneDNN kernel.
FEW = 32_768


def grouped(channels: int, stride: int, groups: int) -> nn.Module:
    """3 x 3 group convolution without bias.

    Raises:
        UserError: groups don't divide the channels.
    """
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1 or channels % groups:
        raise UserError(f"groups: {groups!r} does not divide the {channels} channels of a convolution")
    return nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def depthwise(channels: int, stride: int) -> nn.Module:
    """3 x 3 convolution of every channel by itself, without bias."""
    return grouped(channels, stride, channels)


def shifted(channels: int, stride: int) -> nn.Module:
    """3 x 3 shift: no parameters, no multiplication."""
    return Shift(channels, stride)


class Shift(nn.Module):
    """Every channel moved by at most one pixel in each direction (Wu et al. 2018), zeros coming in.

    Channel c of the first 9 * (channels // 9) reads one pixel further by (c mod 3 - 1, c // 3 mod 3 - 1) in (x, y);
    the others stay. With a stride every ``stride``-th pixel of that is kept.
    """

    kernel: Tensor

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("kernel", one_hot(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, channels, h / stride, w / stride), rounded up."""
        return shift(x, self.kernel, self.stride)


def one_hot(channels: int) -> Tensor:
    """(channels, 1, 3, 3): the depthwise kernel, of one 1 for each channel, that moves as ``Shift`` does."""
    moved = channels - channels % 9
    kernel = torch.zeros(channels, 9)
    for c in range(channels):
        kernel[c, c % 9 if c < moved else 4] = 1.0
    return kernel.view(channels, 1, 3, 3)


def shift(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Moves channels as a depthwise convolution with ``kernel`` would, by the fastest means for the tensor at hand.

    A few elements are moved by an index; many on the CPU, or those that a gradient passes, by oneDNN's depthwise kernel,
    the fastest mover there is in ``channels_last``, to which exporters and compilers get no alternative; elsewhere, and
    under a counter of operations, by a view. All three are exact.

    Args:
        x: (n, channels, h, w).
        kernel: of ``one_hot``.

    Raises:
        RuntimeError: x has other channels than the kernel.
    """
    if x.shape[1] != kernel.shape[0]:
        raise RuntimeError(f"a shift of {kernel.shape[0]} channels got {x.shape[1]}")
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _convolved(x, kernel, stride)
    if x.device.type != "cpu" or torch._C._len_torch_dispatch_stack():
        return _viewed(x, stride)
    if x.numel() <= FEW and not (x.requires_grad and torch.is_grad_enabled()):
        return _gathered(x, stride)
    return _convolved(x, kernel, stride)


# Not traced through, so that ``models.prepared`` sees one call: the fastest way to shift depends on the tensor.
torch.fx.wrap("shift")


def _convolved(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, kernel.to(x.dtype), stride=stride, padding=1, groups=kernel.shape[0])


def _gathered(x: Tensor, stride: int) -> Tensor:
    last = not x.is_contiguous() and x.permute(0, 2, 3, 1).is_contiguous()
    flat = (x.permute(0, 2, 3, 1) if last else x).reshape(-1)
    places = _places(tuple(x.shape), stride, last)
    moved = torch.cat((x.new_zeros(1), flat)).index_select(0, places)
    n, c, h, w = x.shape
    h, w = -(-h // stride), -(-w // stride)
    return moved.view(n, h, w, c).permute(0, 3, 1, 2) if last else moved.view(n, c, h, w)


@functools.lru_cache(maxsize=64)
def _places(shape: tuple[int, int, int, int], stride: int, last: bool) -> Tensor:
    """For each element of the result, in memory order, its source's place in memory, from 1; 0 for what comes in."""
    n, c, h, w = shape
    with torch.inference_mode(False), torch.no_grad():
        places = torch.arange(1, n * c * h * w + 1, dtype=torch.float64)
        before = places.view(n, h, w, c).permute(0, 3, 1, 2) if last else places.view(shape)
        after = _convolved(before, one_hot(c), stride)
        return (after.permute(0, 2, 3, 1) if last else after).reshape(-1).long()


def _viewed(x: Tensor, stride: int) -> Tensor:
    """One view of the padded tensor: in c = 9q + 3j + i the place of what is read is linear in q, j and i."""
    n, c, h, w = x.shape
    triples = c // 9
    still = x[:, 9 * triples :, ::stride, ::stride]
    if not triples:
        return still
    h, w = still.shape[2:]
    padded = F.pad(x[:, : 9 * triples], (1, 1, 1, 1))
    example, channel, row, column = padded.stride()
    strides = (example, 9 * channel, 3 * channel + row, channel + column, stride * row, stride * column)
    view = padded.as_strided((n, triples, 3, 3, h, w), strides)
    return torch.cat((view.reshape(n, 9 * triples, h, w), still), dim=1)


class CheapBlock(nn.Module):
    """Spatial op, 1 x 1 convolution, batch norm, ReLU, twice; the second op has the stride; no ReLU after the sum."""

    def __init__(self, before: int, width: int, stride: int, spatial: Spatial) -> None:
        super().__init__()
        self.spatial1 = spatial(before, 1)
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.spatial2 = spatial(width, stride)
        self.conv2 = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        same = stride == 1 and before == width
        self.downsample = nn.Identity() if same else projection(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, width, h / stride, w / stride)."""
        y = self.relu1(self.bn1(self.conv1(self.spatial1(x))))
        y = self.relu2(self.bn2(self.conv2(self.spatial2(y))))
        return y + self.downsample(x)


class CheapResNet(nn.Module):
    """CIFAR ResNet whose blocks' 3 x 3 convolutions are cheap ones; the stem is a standard convolution.

    On 3 x 32 x 32 and 10 classes ResNet-56 has 154,378 parameters and 23,347,840 MACs with 16 groups, 119,818 and
    20,140,672 depthwise, 102,106 and 15,385,216 with shifts. The published code strides in the second 1 x 1
    convolution but counts as here, where what is counted is what runs.

    Args:
        depth: 6 n + 2: 8, 20, 32, 44, 56, 110 …
        shape: (channels, height, width) of an image; any size.
        classes: number of logits.
        spatial: makes a block's spatial op from (channels, stride), e.g. ``grouped`` with its groups bound,
            ``depthwise``, ``shifted``.
        width: channels of the first stage; the others have two and four times as many.
        init: fills a weight, as in ``models.resnet``.

    Raises:
        UserError: another depth, a shape, width or number of classes below 1, or what ``spatial`` refuses.
    """

    def __init__(
        self,
        depth: int,
        shape: Sequence[int],
        classes: int,
        spatial: Spatial,
        width: int = 16,
        init: Draw = nn.init.kaiming_normal_,
    ) -> None:
        super().__init__()
        channels, count = cifar_plan(depth, shape, classes, width)
        if not callable(spatial):
            raise UserError(
                f"ResNet-{depth}: spatial must be a function of (channels, stride), given with _partial_: true; "
                f"got {spatial!r}"
            )
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, count, 1, spatial)
        self.layer2 = _stage(width, 2 * width, count, 2, spatial)
        self.layer3 = _stage(2 * width, 4 * width, count, 2, spatial)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(before: int, width: int, count: int, stride: int, spatial: Spatial) -> nn.Sequential:
    blocks = [CheapBlock(before, width, stride, spatial)]
    blocks += [CheapBlock(width, width, 1, spatial) for _ in range(count - 1)]
    return nn.Sequential(*blocks)
