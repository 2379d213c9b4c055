"""Wide residual nets (Zagoruyko & Komodakis 2016); of width 1 they are the pre-activation ResNets of He et al. 2016."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.fit import image_shape
from compressbench.models.initial import Draw, initialise
from compressbench.models.resnet import Padding

BASE = 16
"""Channels of the stem, and of the first stage where ``widen`` is 1."""


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)


class WideBlock(nn.Module):
    """Norm, ReLU and 3 x 3 convolution, twice, dropout between, and the sum; nothing follows it.

    Where the shape changes, a projection reads what the first ReLU gives; padding and the plain shortcut read the input.
    """

    def __init__(self, before: int, width: int, stride: int, shortcut: str, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.relu1 = nn.ReLU()
        self.conv1 = _conv(before, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = _conv(width, width, 3)
        same = stride == 1 and before == width
        self.projects = not same and shortcut == "B"
        self.downsample: nn.Module = nn.Identity()
        if not same:
            self.downsample = (
                _conv(before, width, 1, stride) if self.projects else Padding(before, width, stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, width, h / stride, w / stride)."""
        y = self.relu1(self.bn1(x))
        through = self.downsample(y if self.projects else x)
        y = self.relu2(self.bn2(self.conv1(y)))
        return self.conv2(self.dropout(y)) + through


class WideResNet(nn.Module):
    """WRN-depth-widen for small images: 3 x 3 stem of 16, three stages 16, 32, 64 times ``widen`` wide, average.

    On CIFAR-10, WRN-16-8 has 10,961,370 parameters, WRN-28-10 36,479,194. With ``widen`` 1 and shortcut A it is the
    pre-activation ResNet (He et al. 2016b), whose depth is said as 6 n + 2: 22 is its ResNet-20, 269,722 parameters.

    Args:
        depth: 6 n + 4, n blocks a stage: 16, 22, 28, 40 …
        widen: how many times as wide as the thin net.
        shape: (channels, height, width) of an image; any size.
        classes: number of logits.
        shortcut: where the shape changes: ``B`` (1 x 1 convolution, as published) or ``A`` (stride, zero channels).
        dropout: share of a block's inner values that is dropped in training, in [0, 1).
        init: fills a weight; Kaiming normal (fan-in). Bias 0; norms weight 1, bias 0.

    Raises:
        UserError: another depth or shortcut, dropout out of range, or a width, shape or number of classes below 1.
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        shape: Sequence[int],
        classes: int,
        shortcut: str = "B",
        dropout: float = 0.0,
        init: Draw = nn.init.kaiming_normal_,
    ) -> None:
        super().__init__()
        if not isinstance(depth, int) or depth < 10 or depth % 6 != 4:
            raise UserError(f"Wide ResNet: depth must be 6n + 4 (10, 16, 22, 28, 40 …); got {depth!r}")
        name = f"WRN-{depth}-{widen}"
        if not isinstance(widen, int) or isinstance(widen, bool) or widen < 1:
            raise UserError(f"Wide ResNet: widen must be an integer of at least 1; got {widen!r}")
        if shortcut not in ("A", "B"):
            raise UserError(f"{name}: shortcut must be A (padding) or B (projection); got {shortcut!r}")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise UserError(f"{name}: dropout must be a share in [0, 1); got {dropout!r}")
        channels, _, _ = image_shape(shape, classes, name)
        self.conv1 = _conv(channels, BASE, 3)
        widths = [BASE, *(BASE * widen * times for times in (1, 2, 4))]

        def stage(number: int) -> nn.Sequential:
            before, width = widths[number - 1], widths[number]
            blocks = [WideBlock(before, width, 1 if number == 1 else 2, shortcut, dropout)]
            blocks += [WideBlock(width, width, 1, shortcut, dropout) for _ in range(depth // 6 - 1)]
            return nn.Sequential(*blocks)

        self.layer1, self.layer2, self.layer3 = stage(1), stage(2), stage(3)
        self.bn = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], classes)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn(x))).flatten(1))
