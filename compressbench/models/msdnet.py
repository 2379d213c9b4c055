"""A small multi-scale dense net (Huang et al., ICLR 2018): coarse features from the first layer on, for early exits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.exit_heads.convolved import convolved
from compressbench.models.fit import image_shape, whole_sizes


class MSDNet(nn.Module):
    """Features at several scales, each layer seeing all before it at its scale and the finer one's.

    As published: new features of a scale are a convolution of that scale's and a strided one of the next finer scale's,
    each behind a 1x1 bottleneck; coarser scales grow faster by 2 each. Left out: the narrowing between blocks and the
    finest scales' early end. Exits go to ``ends.0`` … ``ends.{blocks - 2}``, the coarsest features after a block, with
    ``side: ["*"]``: the finer ones are carried along. What only a later exit needs is computed after the earlier one.

    Args:
        shape: (channels, height, width) of an image.
        classes: number of logits.
        blocks: with an exit after each; the last one's is the net's own answer.
        step: layers of a block.
        scales: each of half the height and width.
        base: channels of the finest scale at first.
        growth: channels that a layer adds to the finest scale.
        head: width of the classifier's convolutions.

    Raises:
        UserError: a number below 1, or images too small for the scales.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        blocks: int = 4,
        step: int = 2,
        scales: int = 3,
        base: int = 16,
        growth: int = 6,
        head: int = 64,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape(shape, classes, "MSDNet")
        sizes = {
            "blocks": blocks,
            "step": step,
            "scales": scales,
            "base": base,
            "growth": growth,
            "head": head,
        }
        whole_sizes("MSDNet", sizes)
        if growth % 2:
            raise UserError(f"MSDNet: growth must be even, half comes from the finer scale; got {growth}")
        if min(height, width) < 2 ** (scales - 1):
            raise UserError(f"MSDNet: images of {height}x{width} are too small for {scales} scales")
        widths = [base * 2**s for s in range(scales)]
        before = [channels, *widths]
        self.stem = nn.ModuleList(
            _convolution(before[s], widths[s], 3, 1 if s == 0 else 2) for s in range(scales)
        )
        self.layers = nn.ModuleList()
        for place in range(blocks * step):
            least = max(
                0, scales - blocks * step + place
            )  # finer scales are dropped once no classifier is reached from them
            self.layers.append(_Layer(widths, growth, least))
            widths = [w + growth * 2**s if s >= least else w for s, w in enumerate(widths)]
        self.step = step
        self.ends = nn.ModuleList(nn.Identity() for _ in range(blocks))
        self.head = convolved((widths[-1], 1, 1), classes, head)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes) of the last classifier."""
        features = []
        for part in self.stem:
            x = part(x)
            features.append(x)
        for place, layer in enumerate(self.layers):
            features = layer(features)
            if (place + 1) % self.step == 0:
                features[-1] = self.ends[place // self.step](features[-1])
        return self.head(features[-1])


class _Layer(nn.Module):
    """One layer: what each scale from ``least`` on gets anew, put beside what it has."""

    def __init__(self, widths: Sequence[int], growth: int, least: int) -> None:
        super().__init__()
        self.same, self.down = nn.ModuleDict(), nn.ModuleDict()
        for scale, width in list(enumerate(widths))[least:]:
            new = growth * 2**scale
            self.same[str(scale)] = _bottleneck(width, new if scale == 0 else new // 2, 1)
            if scale:
                self.down[str(scale)] = _bottleneck(widths[scale - 1], new // 2, 2)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """A tensor a scale, to the same with more channels."""
        out = list(features)
        for name, part in self.same.items():
            scale = int(name)
            new = [part(features[scale])]
            if scale:
                new.append(self.down[name](features[scale - 1]))
            out[scale] = torch.cat([features[scale], *new], dim=1)
        return out


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _bottleneck(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    middle = min(inputs, 4 * outputs)
    return nn.Sequential(_convolution(inputs, middle, 1, 1), _convolution(middle, outputs, 3, stride))
