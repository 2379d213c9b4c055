"""Residual nets (He et al. 2016): the CIFAR family 8 … 110 and the ImageNet family 18 … 152.

Parameter names are torchvision's, so that published ResNet-18 / -50 weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.fit import image_shape
from compressbench.models.initial import Draw, initialise

Shortcut = Callable[[int, int, int], nn.Module]


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)


def projection(before: int, after: int, stride: int) -> nn.Module:
    """Option B: 1 x 1 convolution with stride, then batch norm."""
    return nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))


class Padding(nn.Module):
    """Option A: every ``stride``-th pixel, new channels zero. No parameters, no MACs."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra = after - before

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, after, h / stride, w / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


SHORTCUTS: dict[str, Shortcut] = {"A": Padding, "B": projection}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, the first with the stride; ReLU after the sum."""

    expansion: ClassVar[int] = 1

    def __init__(self, before: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = _conv(before, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        same = stride == 1 and before == width
        self.downsample = nn.Identity() if same else shortcut(before, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, width, h / stride, w / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 with the stride ("v1.5", as torchvision), 1 x 1 four times as wide; ReLU after the sum."""

    expansion: ClassVar[int] = 4

    def __init__(self, before: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        after = width * self.expansion
        self.conv1 = _conv(before, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = _conv(width, after, 1)
        self.bn3 = nn.BatchNorm2d(after)
        same = stride == 1 and before == after
        self.downsample = nn.Identity() if same else shortcut(before, after, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, 4 width, h / stride, w / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + self.downsample(x))


Block = type[BasicBlock] | type[Bottleneck]


def _stage(
    block: Block, before: int, width: int, count: int, stride: int, through: Shortcut
) -> nn.Sequential:
    blocks = [block(before, width, stride, through)]
    blocks += [block(width * block.expansion, width, 1, through) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def cifar_plan(depth: int, shape: Sequence[int], classes: int, width: int) -> tuple[int, int]:
    """(channels of an image, blocks in each of the three stages) of a CIFAR ResNet.

    Raises:
        UserError: a depth other than 6 n + 2, or a shape, width or number of classes below 1.
    """
    if not isinstance(depth, int) or depth < 8 or depth % 6 != 2:
        raise UserError(f"CIFAR ResNet: depth must be 6n + 2 (8, 20, 32, 44, 56, 110 …); got {depth!r}")
    if not isinstance(width, int) or width < 1:
        raise UserError(f"ResNet-{depth}: width must be an integer of at least 1; got {width!r}")
    channels, _, _ = image_shape(shape, classes, f"ResNet-{depth}")
    return channels, depth // 6


class CifarResNet(nn.Module):
    """ResNet for small images: 3 x 3 stem, three stages of basic blocks 16-32-64 wide, global average.

    On CIFAR-10, ResNet-20 has 272,474 parameters with shortcut B (the "ResNet-18" of Frankle & Carbin 2019),
    269,722 with A; ResNet-56 853,018 parameters, 125,485,696 MACs with A; 855,770 and 125,747,840 with B.

    Args:
        depth: 6 n + 2: 8, 20, 32, 44, 56, 110 …
        shape: (channels, height, width) of an image; any size.
        classes: number of logits.
        shortcut: where the shape changes: ``A`` (stride and zero-padded channels, as He et al. on CIFAR) or
            ``B`` (1 x 1 convolution + batch norm, as open_lth).
        width: channels of the first stage; the others have two and four times as many.
        init: fills a weight; Kaiming normal as in open_lth. Biases 0; norms weight 1 (open_lth: uniform).

    Raises:
        UserError: another depth or shortcut, or a shape, width or number of classes below 1.
    """

    def __init__(
        self,
        depth: int,
        shape: Sequence[int],
        classes: int,
        shortcut: str = "B",
        width: int = 16,
        init: Draw = nn.init.kaiming_normal_,
    ) -> None:
        super().__init__()
        channels, count = cifar_plan(depth, shape, classes, width)
        if shortcut not in SHORTCUTS:
            raise UserError(
                f"ResNet-{depth}: shortcut must be A (padding) or B (projection); got {shortcut!r}"
            )
        through = SHORTCUTS[shortcut]
        self.conv1 = _conv(channels, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(BasicBlock, width, width, count, 1, through)
        self.layer2 = _stage(BasicBlock, width, 2 * width, count, 2, through)
        self.layer3 = _stage(BasicBlock, 2 * width, 4 * width, count, 2, through)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


PLANS: dict[int, tuple[Block, tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ImageNetResNet(nn.Module):
    """ResNet for large images: 7 x 7 stem with stride 2, max pooling, four stages 64 … 512 wide, average.

    On 3 x 224 x 224 and 1000 classes: ResNet-18 11,689,512 parameters, ResNet-50 25,557,032.

    Args:
        depth: 18, 34, 50, 101 or 152.
        shape: (channels, height, width) of an image; any size.
        classes: number of logits.
        small_input: a 3 x 3 stem with stride 1 and no pooling, the usual form for CIFAR.
        init: fills a weight; Kaiming normal (fan-in) as in open_lth. Bias 0; norms weight 1, bias 0.

    Raises:
        UserError: another depth, or a shape or number of classes that is no positive integer.
    """

    def __init__(
        self,
        depth: int,
        shape: Sequence[int],
        classes: int,
        small_input: bool = False,
        init: Draw = nn.init.kaiming_normal_,
    ) -> None:
        super().__init__()
        if depth not in PLANS:
            raise UserError(
                f"ImageNet ResNet: depth must be one of {', '.join(map(str, PLANS))}; got {depth!r}"
            )
        channels, _, _ = image_shape(shape, classes, f"ResNet-{depth}")
        block, counts = PLANS[depth]
        self.conv1 = _conv(channels, 64, 3) if small_input else _conv(channels, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small_input else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, 64, 64, counts[0], 1, projection)
        self.layer2 = _stage(block, 64 * block.expansion, 128, counts[1], 2, projection)
        self.layer3 = _stage(block, 128 * block.expansion, 256, counts[2], 2, projection)
        self.layer4 = _stage(block, 256 * block.expansion, 512, counts[3], 2, projection)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, classes)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))
