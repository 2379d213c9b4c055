"""LeNets: the fully connected LeNet-300-100 and the convolutional LeNet-5 (LeCun et al. 1998)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.fit import halved, image_shape
from compressbench.models.initial import Draw, initialise


class LeNet300100(nn.Module):
    """Fully connected with ReLU (LeCun et al. 1998): 266,200 weights, 266,610 parameters on 28 x 28.

    Args:
        shape: (channels, height, width) of an image; any size.
        classes: number of logits.
        hidden: widths of the hidden layers.
        init: fills a weight; Glorot normal as in Frankle & Carbin 2019 (open_lth uses
            ``torch.nn.init.kaiming_normal_``). Biases start at 0.

    Raises:
        UserError: a shape, a width or a number of classes that is no positive integer.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        hidden: Sequence[int] = (300, 100),
        init: Draw = nn.init.xavier_normal_,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape(shape, classes, "LeNet-300-100")
        if not all(isinstance(n, int) and n > 0 for n in hidden):
            raise UserError(f"LeNet-300-100: hidden must be widths of at least 1; got {list(hidden)}")
        sizes = [channels * height * width, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.fc = nn.Linear(sizes[-1], classes)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        return self.fc(self.hidden(x.flatten(1)))


class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max pooling: 61,706 parameters on 1 x 28 x 28 (after LeCun et al. 1998).

    The first convolution pads by 2, so that 28 x 28 gives the maps of the paper's 32 x 32. Where pooling
    would leave less than the next layer needs (images below 10 x 10), it is left out.

    Args:
        shape: (channels, height, width) of an image, at least 5 x 5.
        classes: number of logits.
        init: fills a weight; Kaiming normal. Biases start at 0.

    Raises:
        UserError: images smaller than 5 x 5, or a shape or number of classes that is no positive integer.
    """

    def __init__(self, shape: Sequence[int], classes: int, init: Draw = nn.init.kaiming_normal_) -> None:
        super().__init__()
        channels, height, width = image_shape(shape, classes, "LeNet-5")
        if min(height, width) < 5:
            raise UserError(f"LeNet-5 needs images of at least 5x5; got {height}x{width}")
        size = (height, width)
        layers: list[nn.Module] = [nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU()]
        if smaller := halved(size, least=5):
            size = smaller
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(6, 16, 5), nn.ReLU()]
        size = (size[0] - 4, size[1] - 4)
        if smaller := halved(size):
            size = smaller
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Linear(16 * size[0] * size[1], 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()
        )
        self.fc = nn.Linear(84, classes)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        return self.fc(self.hidden(self.features(x).flatten(1)))
