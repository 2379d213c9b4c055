"""Where pictures begin: noise, real ones or the means of classes; and what a picture is for those who learn it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressbench.data.examples import Examples, one_class, order
from compressbench.errors import UserError
from compressbench.seeds import derive_seed
from compressbench.tasks.images.classification import IMAGES

if TYPE_CHECKING:
    from compressbench.bench import Bench

RATES, TARGETS = "rates", "targets"
"""Columns of a data set that was learned: step sizes (n, passes), and answers (n, classes) where these were too."""


@dataclass(frozen=True)
class Pictures:
    """Pictures to be learned: ``pixels + change * unit``, which are exactly ``pixels`` as long as nothing is learned.

    Attributes:
        pixels: float32 (n, channels, height, width) from 0 to 255, without bounds once they are learned.
        labels: int64 (n,).
        unit: pixels that make one unit of a net's input, by channel.
    """

    pixels: Tensor
    labels: Tensor
    unit: Tensor

    def changed(self, change: Tensor) -> Tensor:
        """The pixels after a change in units of a net's input."""
        return self.pixels + change * self.unit

    def to(self, device: str) -> Pictures:
        """On a device."""
        return Pictures(self.pixels.to(device), self.labels.to(device), self.unit.to(device))


def each(images: int | None, bench: Bench, who: str) -> int:
    """Pictures of each class in a set.

    Raises:
        UserError: the examples are no pictures of one class each, or ``images`` is less than the classes or no multiple.
    """
    train, classes = bench.dataset.split("train"), len(bench.task.classes)
    if list(train.columns) != [IMAGES] or str(train[IMAGES].dtype).rpartition(".")[2] != "uint8":
        raise UserError(
            f"{who} learns pictures, and the examples of {bench.dataset.name} are {bench.task.in_words()}"
        )
    one_class(train.labels, who)
    if images is None:
        return 1
    if images < classes:
        raise UserError(
            f"{who}: images: {images} is less than the {classes} classes of {bench.dataset.name}; "
            "one of each is the least"
        )
    if images % classes:
        raise UserError(
            f"{who}: images: {images} is no multiple of the {classes} classes of {bench.dataset.name}; "
            f"{images // classes * classes} or {(images // classes + 1) * classes}"
        )
    return images // classes


def begun(bench: Bench, begin: str, sets: int, of_class: int, draw: str, who: str) -> Pictures:
    """Pictures to begin with, set after set, in each set class after class.

    Args:
        begin: ``noise`` (normal in units of a net's input), ``real`` training pictures, or ``means`` of classes.
        sets: of ``of_class`` pictures of each class.
        draw: name that, with the seed, draws noise and real pictures.

    Raises:
        UserError: a class has too few training pictures to begin with.
    """
    from compressbench.tasks.task import Surface

    train, classes = bench.dataset.split("train").to("cpu"), len(bench.task.classes)
    surface = bench.task.surface()
    assert isinstance(surface, Surface), "the task is of pictures"
    unit = 255 / torch.as_tensor(surface.scale)
    labels = torch.arange(classes).repeat_interleave(of_class).repeat(sets)
    images, wanted = train[IMAGES], sets * of_class
    seed = derive_seed(bench.seed, draw, "begin", begin)
    if begin == "noise":
        zero = 255 * -torch.as_tensor(surface.low) / torch.as_tensor(surface.scale)  # the pixel of input 0
        noise = torch.randn(len(labels), *images.shape[1:], generator=torch.Generator().manual_seed(seed))
        return Pictures(zero + noise * unit, labels, unit)
    found = torch.empty(len(labels), *images.shape[1:])
    for k in range(classes):
        own = torch.nonzero(train.labels == k).squeeze(1)
        needed = wanted if begin == "real" else 1
        if len(own) < needed:
            raise UserError(
                f"{who}: class {bench.task.classes[k]} has {len(own)} training pictures, and {needed} are wanted to "
                "begin with; begin: noise, or fewer images"
            )
        if begin == "real":
            found[labels == k] = images[own[order(len(own), derive_seed(seed, k))[:wanted]]].float()
        else:
            found[labels == k] = images[own].double().mean(0).float()
    return Pictures(found, labels, unit)


def examples(pixels: Tensor, labels: Tensor, **more: Tensor) -> Examples:
    """Pictures as a data set; ``more`` are columns beside them."""
    return Examples({IMAGES: pixels, **more}, labels, torch.arange(len(labels), device=labels.device))
