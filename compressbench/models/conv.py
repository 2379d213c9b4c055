"""Conv-2, Conv-4, Conv-6: the small VGG-like nets of the lottery ticket paper (Frankle & Carbin 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.fit import halved, image_shape
from compressbench.models.initial import Draw, initialise

WIDTHS = (64, 128, 256)


class ConvN(nn.Module):
    """Pairs of 3 x 3 convolutions (64, 128, 256 wide), 2 x 2 max pooling after each, then 256-256-classes.

    Weights (without biases) on 3 x 32 x 32, 10 classes: Conv-2 4,300,992, Conv-4 2,425,024, Conv-6 2,261,184.
    Where a map is only one pixel high or wide, its pooling is left out.

    Args:
        depth: number of convolutions: 2, 4 or 6.
        shape: (channels, height, width) of an image; any size.
        classes: number of logits.
        init: fills a weight; Glorot normal as in the paper. Biases start at 0.

    Raises:
        UserError: another depth, or a shape or number of classes that is no positive integer.
    """

    def __init__(
        self, depth: int, shape: Sequence[int], classes: int, init: Draw = nn.init.xavier_normal_
    ) -> None:
        super().__init__()
        if depth not in (2, 4, 6):
            raise UserError(f"Conv-N: depth must be 2, 4 or 6; got {depth!r}")
        before, height, width = image_shape(shape, classes, f"Conv-{depth}")
        size = (height, width)
        layers: list[nn.Module] = []
        for after in WIDTHS[: depth // 2]:
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.ReLU()]
            before = after
            if smaller := halved(size):
                size = smaller
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Linear(before * size[0] * size[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
        )
        self.fc = nn.Linear(256, classes)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        return self.fc(self.hidden(self.features(x).flatten(1)))
