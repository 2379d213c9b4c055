"""Classification of images: single label, uint8 pixels, normalised by channel."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.errors import UserError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from compressbench.data.examples import Examples
    from compressbench.inputs import Inputs
    from compressbench.outputs import Outputs
    from compressbench.tasks.task import Pieces, Placed, Surface

IMAGES = "images"
AUGMENT = ("pad", "flip")


@dataclass(frozen=True)
class Classification:
    """Single-label classification of uint8 images, the column ``images`` (n, channels, height, width).

    Attributes:
        classes: names in label order.
        mean, std: per channel, of pixels in [0, 1].
        shape: (channels, height, width) of an image; the size is asked for by models, counting and exports.
        augment: how training varies images, ``{"pad": 4, "flip": True}``; empty for not at all.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int] = (1, 1, 1)
    augment: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "top1"
    inputs: tuple[str, ...] = (IMAGES,)

    def encode(self, examples: Examples, variation: Inputs | None = None) -> Inputs:
        """Float32 (n, c, h, w): pixels in [0, 1], normalised per channel; cropped and mirrored as ``variation`` says."""
        images = examples[IMAGES]
        if variation is not None and self.varies():
            from compressbench.tasks.images.augment import pad_crop_flip

            mirrored, offsets = variation
            images = pad_crop_flip(images, mirrored, offsets, *self._augmented())
        return (self.normalised(images),)

    def variation(self, n: int, generator: torch.Generator) -> Inputs:
        """int64 (n,), 1 where an image is mirrored, and (n, 2), its offset in the padded one."""
        if not self.varies():
            return ()
        from compressbench.tasks.images.augment import crops_and_flips

        return crops_and_flips(n, generator, *self._augmented())

    def _augmented(self) -> tuple[int, bool]:
        return int(self.augment.get("pad", 0)), bool(self.augment.get("flip", False))

    def normalised(self, images: Tensor) -> Tensor:
        """Pixels (n, c, h, w), uint8 or, of pictures that were learned, float32, as float32, normalised per channel."""
        import torch

        by, minus = _of_channels(self.mean, self.std, str(images.device))
        return images.to(torch.float32, copy=True).mul_(by).sub_(minus)

    def varies(self) -> bool:
        """Whether training crops or mirrors."""
        return bool(self.augment.get("pad") or self.augment.get("flip"))

    def blank(self, n: int) -> Inputs:
        """Float zeros (n, c, h, w)."""
        import torch

        return (torch.zeros(n, *self.shape),)

    def drawn(self, n: int, generator: torch.Generator) -> Inputs:
        """Gaussian noise (n, c, h, w)."""
        import torch

        return (torch.randn(n, *self.shape, generator=generator),)

    def placed(self, module: nn.Module) -> Placed:
        """``channels_last``, but for nets that would crash in it (see ``tasks.images.layout``)."""
        from compressbench.tasks.images.layout import training_layout
        from compressbench.tasks.task import Placed

        layout = training_layout(module, self.shape)

        def inputs(given: Inputs) -> Inputs:
            return tuple(x.contiguous(memory_format=layout) for x in given)

        return Placed(module.to(memory_format=layout), inputs)

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Mean cross-entropy in nats."""
        import torch.nn.functional as F

        return F.cross_entropy(outputs.logits, labels)

    def log_probs(self, outputs: Outputs, labels: Tensor) -> Pieces:
        """(n, classes) log-probabilities; piece i is of example i."""
        import torch
        import torch.nn.functional as F

        from compressbench.tasks.task import Pieces

        found = F.log_softmax(outputs.logits.float(), dim=-1)
        return Pieces(found, torch.arange(len(found), device=found.device), labels)

    def answers(self, outputs: Outputs) -> Tensor:
        """(n,) the most probable class; -1, which is no class, where a logit is no number."""
        from compressbench.metrics import named

        return named(outputs.logits)

    def right(self, answers: Tensor, labels: Tensor) -> Tensor:
        """(n,) bool, the class is the label."""
        return answers == labels

    def surface(self, device: str = "cpu") -> Surface:
        """Bounds of valid pixels and the size of one pixel unit (1.0 = full range), both in encoded units."""
        import torch

        from compressbench.tasks.task import Surface

        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        return Surface(low=(0 - mean) / std, high=(1 - mean) / std, scale=1 / std)

    def facts(self) -> Mapping[str, Any]:
        """``@classes``, ``@shape``, ``@channels``, ``@height``, ``@width``."""
        channels, height, width = self.shape
        return {
            "@classes": len(self.classes),
            "@shape": [channels, height, width],
            "@channels": channels,
            "@height": height,
            "@width": width,
        }

    def feeding(self) -> tuple[str, list[str]]:
        """Pixels normalised per channel."""
        return (
            f"Input `{IMAGES}`: float32 (n, {', '.join(map(str, self.shape))}), pixels in [0, 1] minus the mean, over "
            "the standard deviation, per channel:"
        ), [
            "import numpy",
            f"mean = {list(self.mean)}",
            f"std = {list(self.std)}",
            "# pixels: uint8 (n, c, h, w)",
            "x = (pixels * (1 / (255 * numpy.array(std))).astype('float32')[:, None, None]",
            "     - (numpy.array(mean) / std).astype('float32')[:, None, None]).astype('float32')",
            f'inputs = {{"{IMAGES}": x}}',
        ]

    def in_words(self) -> str:
        """Channels x height x width."""
        return " x ".join(map(str, self.shape))

    def identity(self) -> tuple[Any, ...]:
        """As data sets were fingerprinted before there were other tasks."""
        return (self.classes, self.mean, self.std, sorted(self.augment.items()))


@functools.lru_cache(maxsize=64)
def _of_channels(mean: tuple[float, ...], std: tuple[float, ...], device: str) -> tuple[Tensor, Tensor]:
    """Factor and offset of each channel, kept on the device: a copy to it would stop a GPU's recording."""
    import torch

    scale, shift = [1 / (255 * s) for s in std], [m / s for m, s in zip(mean, std, strict=True)]
    with torch.inference_mode(False):
        by, minus = (torch.tensor(part, device=device).view(1, -1, 1, 1) for part in (scale, shift))
    return by, minus


def classification(
    train: Examples,
    classes: tuple[str, ...],
    name: str = "dataset",
    augment: Mapping[str, Any] | None = None,
    normalise: Mapping[str, Any] | None = None,
) -> Classification:
    """The task of a data set of pictures: normalised by its training split, or as ``normalise`` says.

    Args:
        train: the training split, with a column ``images``.
        augment: ``{pad: pixels, flip: bool}``.
        normalise: ``{mean: [...], std: [...]}`` of pixels in [0, 1], as a net with published weights wants it.

    Raises:
        UserError: a setting is out of range, or the pixels of a channel are all equal.
    """
    images = train[IMAGES]
    channels, height, width = (int(n) for n in images.shape[1:])
    given = normalised_by(normalise)
    if given and any(len(values) != channels for values in given):
        raise UserError(f"dataset.normalise: {name} has {channels} channels; one number each")
    mean, std = given or moments(images)
    if min(std) == 0:
        raise UserError(f"dataset {name}: all pixels of a channel are equal; are these pictures?")
    return Classification(classes, mean, std, (channels, height, width), augmented_by(augment))


def moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in [0, 1], from uint8 (n, c, h, w).

    Counted in integers, so that every machine gets the same floats.
    """
    values = np.arange(256)
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), 4096):
            counts += np.bincount(images[start : start + 4096, channel].reshape(-1), minlength=256)
        n, total, squares = int(counts.sum()), int(counts @ values), int(counts @ values**2)
        means.append(total / n / 255)
        deviations.append(math.sqrt(n * squares - total * total) / n / 255)
    return tuple(means), tuple(deviations)


def normalised_by(given: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, std) of ``dataset.normalise``, None where it says nothing.

    Raises:
        UserError: it is no such mapping.
    """
    if given is None:
        return None
    right = (
        "dataset.normalise: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}, of pixels in [0, 1]"
    )
    if not isinstance(given, Mapping) or set(given) != {"mean", "std"}:
        raise UserError(f"{right}; not {given!r}")
    mean, std = (tuple(v) if isinstance(v, Sequence) else () for v in (given["mean"], given["std"]))
    if not mean or not std or not all(_is_number(v) and math.isfinite(v) for v in (*mean, *std)):
        raise UserError(f"{right}; not {given!r}")
    if min(std) <= 0:
        raise UserError(f"dataset.normalise.std: {list(std)} must be above 0")
    return tuple(map(float, mean)), tuple(map(float, std))


def augmented_by(given: Any) -> dict[str, Any]:
    """``dataset.augment`` as the task holds it.

    Raises:
        UserError: a key is unknown or out of range.
    """
    augment = given or {}
    if not isinstance(augment, Mapping):
        raise UserError(f"dataset.augment={augment!r} is no mapping such as {{pad: 4, flip: true}}")
    for key in augment:
        if key not in AUGMENT:
            raise UserError(f"dataset.augment: unknown key {key!r}; {nearest(str(key), AUGMENT)}")
    pad, flip = augment.get("pad", 0), augment.get("flip", False)
    if type(pad) is not int or pad < 0 or type(flip) is not bool:
        raise UserError(
            f"dataset.augment: pad={pad!r}, flip={flip!r}; pad is pixels, 0 or more, flip is true or false"
        )
    return {"pad": pad, "flip": flip} if pad or flip else {}


def check_pictures(examples: Examples, place: str) -> None:
    """Refuses columns that are no pictures.

    Raises:
        UserError: there is no column of uint8 (n, channels, height, width).
    """
    images = examples.columns.get(IMAGES)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        what = f"images are {images.dtype} {images.shape}" if isinstance(images, np.ndarray) else "no images"
        raise UserError(f"{place}: {what}, not uint8 (n, channels, height, width)")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
