"""VGG with batch norm for small images (Simonyan & Zisserman 2015; CIFAR form as in open_lth)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.fit import halved, image_shape
from compressbench.models.initial import Draw, initialise

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class CifarVgg(nn.Module):
    """Five stages of 3 x 3 convolution + batch norm + ReLU, max pooling between, global average, classifier.

    VGG-19 on 3 channels and 10 classes: 20,018,880 convolution weights and 5,120 of the classifier.
    Convolutions have no bias (open_lth gives them one that batch norm cancels). Where a map is only one
    pixel high or wide, its pooling is left out.

    Args:
        depth: 11, 13, 16 or 19.
        shape: (channels, height, width) of an image; any size.
        classes: number of logits.
        init: fills a weight; Kaiming normal as in open_lth. Biases 0; norms weight 1 (open_lth: uniform).
        width: share of the published widths, 1 for all; 0.25 makes a net that a laptop trains in seconds.

    Raises:
        UserError: another depth, a width that is not above 0, or a shape or number of classes that is not positive.
    """

    def __init__(
        self,
        depth: int,
        shape: Sequence[int],
        classes: int,
        init: Draw = nn.init.kaiming_normal_,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise UserError(f"VGG: depth must be one of {', '.join(map(str, CONVOLUTIONS))}; got {depth!r}")
        if not width > 0:
            raise UserError(f"VGG: width must be above 0, 1 for the published widths; got {width!r}")
        before, high, wide = image_shape(shape, classes, f"VGG-{depth}")
        size = (high, wide)
        layers: list[nn.Module] = []
        widths = [max(1, round(width * full)) for full in WIDTHS]
        for stage, (after, count) in enumerate(zip(widths, CONVOLUTIONS[depth], strict=True)):
            if stage and (smaller := halved(size)):
                size = smaller
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                layers += [
                    nn.Conv2d(before, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                ]
                before = after
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, classes)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        return self.fc(self.pool(self.features(x)).flatten(1))
