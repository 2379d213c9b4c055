"""Preparation: what pictures become before a model is asked. Where it is known, in words, and the usual other ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.errors import UserError, nearest

if TYPE_CHECKING:
    from compressbench.artefacts.artefact import Wanted
    from compressbench.tasks.task import Task

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)
"""Mean and standard deviation, the second in the order blue, green, red, of pixels from 0 to 255."""
RANGES: Mapping[str, tuple[float, float]] = {"0-1": (0.0, 1.0), "0-255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
ORDERS, LAYOUTS = ("RGB", "BGR"), ("NCHW", "NHWC")
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""In the order of Pillow's numbers for them, which configs hold."""
MOST = 65_536
"""Pixels of a side."""
Sides = tuple[int, int]


@dataclass(frozen=True)
class Preparation:
    """From uint8 pictures to what a model is called with, in this order.

    Attributes:
        resize: the shorter side's pixels, or (height, width); None: not at all. Antialiased, as Pillow does it.
        crop: (height, width) from the middle; a picture that is smaller gets a black border. None: not at all.
        span: what 0 and 255 become.
        mean, std: taken off, then divided by, one number each or one for each channel in ``order``.
        order: RGB as pictures are, or BGR.
        layout: NCHW or NHWC.
        channels: 1 (grey, as Pillow weighs colours) or 3; None: as they are.
        interpolation: one of ``INTERPOLATIONS``.
        dtype: numpy's name; pixels stay integers where nothing is computed and it is ``uint8``.
        floor: where the middle lies between two pixels it begins at the first, as transformers takes it; else at the even
            one, as torchvision does.

    Raises:
        UserError: one of them is out of range.
    """

    resize: int | Sides | None = None
    crop: Sides | None = None
    span: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: str = "RGB"
    layout: str = "NCHW"
    channels: int | None = None
    interpolation: str = "bilinear"
    dtype: str = "float32"
    floor: bool = False

    def __post_init__(self) -> None:
        short = [] if self.resize is None else [self.resize]
        sides = [*(self.crop or ()), *(self.resize if isinstance(self.resize, tuple) else short)]
        if not all(type(n) is int and 0 < n <= MOST for n in sides):
            raise UserError(
                f"preprocessing: size {self.resize} and crop {self.crop} must be 1 to {MOST:,} pixels"
            )
        numbers = (*self.span, *self.mean, *self.std)
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers) or min(self.std) <= 0:
            raise UserError(
                f"preprocessing: mean {self.mean} and std {self.std} must be numbers, std above 0"
            )
        if len(self.mean) != len(self.std):
            raise UserError(f"preprocessing: {len(self.mean)} means and {len(self.std)} standard deviations")
        for what, value, known in (
            ("channel order", self.order, ORDERS),
            ("layout", self.layout, LAYOUTS),
            ("interpolation", self.interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise UserError(f"preprocessing: {what} {value!r}; {nearest(str(value), known)}")

    @property
    def size(self) -> Sides | None:
        """(height, width) of what comes out; None where that is the picture's own affair."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    @property
    def raw(self) -> bool:
        """Whether pixels stay as they are."""
        return self.span == (0, 255) and set(self.mean) == {0} and set(self.std) == {1}

    def apply(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """What the model is called with.

        Args:
            images: uint8 (n, height, width, channels), or a sequence of (height, width, channels) of different sizes.

        Returns:
            (n, channels, height, width) or (n, height, width, channels), of ``dtype``.

        Raises:
            UserError: they are no such pictures, have other channels than the mean, or end up in different sizes.
        """
        if not isinstance(images, np.ndarray):
            return self._laid(self._scaled(self._together(images)))
        if images.ndim != 4 or images.dtype != np.uint8:
            raise UserError(
                f"preprocessing: {images.dtype} {images.shape} are no pictures; uint8 (n, h, w, c) is wanted"
            )
        as_they_are = self._leaves(images.shape[1:3]) and self.channels in (None, images.shape[3])
        return self._laid(self._scaled(images if as_they_are else self._together(images)))

    def _together(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Pictures in one size, uint8 (n, height, width, channels)."""
        made = [self._shaped(picture) for picture in images]
        sizes = sorted({m.shape for m in made})
        if len(sizes) > 1:
            raise UserError(
                f"preprocessing: pictures of {sizes[0]} and {sizes[1]}; a size or a crop makes them alike"
            )
        return np.stack(made) if made else np.zeros((0, 1, 1, self.channels or 3), np.uint8)

    def _leaves(self, size: Sequence[int]) -> bool:
        """Whether pictures of a size keep it."""
        have = (int(size[0]), int(size[1]))
        scaled = have if self.resize is None else _target(have, self.resize)
        return scaled == have and self.crop in (None, have)

    def _shaped(self, picture: np.ndarray) -> np.ndarray:
        """One picture in its size and its number of channels, uint8 (height, width, channels)."""
        from PIL import Image

        if picture.ndim != 3 or picture.dtype != np.uint8 or picture.shape[2] not in (1, 3):
            raise UserError(
                f"preprocessing: {picture.dtype} {picture.shape} is no picture of uint8 (height, width, 1 or 3 channels)"
            )
        image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
        if self.channels is not None and self.channels != picture.shape[2]:
            image = image.convert("L" if self.channels == 1 else "RGB")
        if self.resize is not None:
            height, width = _target((image.height, image.width), self.resize)
            if (height, width) != (image.height, image.width):
                image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        pixels = np.asarray(image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        return pixels if self.crop is None else _middle(pixels, self.crop, self.floor)

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        if self.order == "BGR" and pixels.shape[-1] == 3:
            pixels = pixels[..., ::-1]
        if self.raw:
            return pixels.astype(self.dtype)
        if np.dtype(self.dtype).kind != "f":
            raise UserError(f"preprocessing: {self.in_words()} gives no {self.dtype}; pixels as they are do")
        if len(self.mean) not in (1, pixels.shape[-1]):
            raise UserError(
                f"preprocessing: {len(self.mean)} means for pictures of {pixels.shape[-1]} channels; one number each"
            )
        low, high = self.span
        by = np.array([(high - low) / (255 * s) for s in self.std], np.float32)
        minus = np.array([(m - low) / s for m, s in zip(self.mean, self.std, strict=True)], np.float32)
        found = pixels.astype(np.float32)
        found *= by
        found -= minus
        return found.astype(self.dtype, copy=False)

    def _laid(self, pixels: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if self.layout == "NCHW" else pixels)

    def in_words(self) -> str:
        """For one line."""
        return ", ".join(
            [
                *self.size_in_words(),
                self.range_in_words(),
                *([] if self.channels == 1 else [self.order]),
                self.layout,
            ]
        )

    def size_in_words(self) -> list[str]:
        """Resized how, cropped how; empty where pictures keep their size."""
        words = []
        if isinstance(self.resize, tuple):
            words.append(f"resized to {self.resize[0]} x {self.resize[1]} ({self.interpolation})")
        elif self.resize is not None:
            words.append(f"shorter side resized to {self.resize} ({self.interpolation})")
        if self.crop is not None:
            words.append(f"{self.crop[0]} x {self.crop[1]} cropped from the middle")
        return words

    def range_in_words(self) -> str:
        """Range, mean and standard deviation."""
        span = next(
            (name for name, v in RANGES.items() if v == self.span), f"{self.span[0]:g} to {self.span[1]:g}"
        )
        if set(self.mean) == {0} and set(self.std) == {1}:
            return f"pixels {span}"
        if (self.mean, self.std) == IMAGENET and span == "0-1":
            return "ImageNet's mean and std"
        mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std))
        return f"pixels {span} minus ({mean}) over ({std})"


def _target(size: Sides, resize: int | Sides) -> Sides:
    """(height, width) after resizing, as torchvision rounds it."""
    if isinstance(resize, tuple):
        return resize
    height, width = size
    longer = int(resize * max(size) / min(size))
    return (longer, resize) if width <= height else (resize, longer)


def _middle(pixels: np.ndarray, crop: Sides, floor: bool) -> np.ndarray:
    """The middle, as torchvision's CenterCrop takes it, or transformers."""
    short = [max(c - n, 0) for c, n in zip(crop, pixels.shape, strict=False)]
    if any(short):
        pixels = np.pad(pixels, [*((s // 2, (s + 1) // 2) for s in short), (0, 0)])
    rest = [n - c for c, n in zip(crop, pixels.shape, strict=False)]
    top, left = (n // 2 if floor else round(n / 2.0) for n in rest)
    return pixels[top : top + crop[0], left : left + crop[1]]


def fitted(given: Preparation, wants: Wanted) -> Preparation:
    """The same for an input whose layout, type or channels are told by its shape.

    One of uint8 takes pixels as they are, so that nothing is computed for it.
    """
    if not wants.inputs:
        return given
    picture = wants.picture
    changes: dict[str, Any] = {"layout": wants.layout or given.layout, "dtype": wants.inputs[0].dtype}
    if picture is not None and picture[0] in (1, 3):
        changes["channels"] = picture[0]
    if wants.inputs[0].dtype == "uint8":
        changes |= {"span": (0.0, 255.0), "mean": (0.0,), "std": (1.0,)}
    if picture is not None and picture[1] and picture[2] and given.size is None and given.resize is None:
        changes["resize"] = (picture[1], picture[2])
    return replace(given, **changes)


def of_task(task: Task) -> Preparation | None:
    """Of a task of pictures that normalises them by channel; None of another."""
    from compressbench.tasks.images.classification import Classification

    if not isinstance(task, Classification):
        return None
    channels, height, width = task.shape
    return Preparation(
        resize=(height, width),
        mean=tuple(task.mean),
        std=tuple(task.std),
        channels=channels if channels in (1, 3) else None,
    )


def of_timm(config: Mapping[str, Any]) -> Preparation | None:
    """Of timm's ``pretrained_cfg``; None where it tells none, or one that isn't done here (a border, an oblong).

    Raises:
        UserError: its numbers are out of range.
    """
    size, share = config.get("input_size"), config.get("crop_pct") or 0.875
    mode = config.get("crop_mode") or "center"
    if not isinstance(size, list | tuple) or len(size) != 3 or not all(isinstance(n, int) for n in size):
        return None
    channels, height, width = size
    if mode not in ("center", "squash") or (mode == "center" and height != width) or not _positive(share):
        return None
    scaled = (math.floor(height / share), math.floor(width / share))
    mean, std = (
        _numbers(config.get(k), default) for k, default in zip(("mean", "std"), IMAGENET, strict=True)
    )
    return Preparation(
        resize=scaled if mode == "squash" else scaled[0],
        crop=(height, width),
        mean=mean,
        std=std,
        channels=channels if channels in (1, 3) else None,
        interpolation=str(config.get("interpolation") or "bilinear"),
    )


def of_hugging_face(config: Mapping[str, Any]) -> Preparation | None:
    """Of a ``preprocessor_config.json``; None where it is none of pictures.

    Raises:
        UserError: its numbers are out of range.
    """
    if not any(k in config for k in ("image_mean", "do_rescale", "do_resize", "image_processor_type")):
        return None
    resize, crop = _sides(config.get("size")), _sides(config.get("crop_size"))
    if not config.get("do_resize", resize is not None):
        resize = None
    if not config.get("do_center_crop", False):
        crop = None
    elif isinstance(crop, int):
        crop = (crop, crop)
    share: Any = config.get("crop_pct")
    if isinstance(resize, int) and _positive(share) and resize < 384:  # ConvNext's: cropped to it
        crop, resize = (resize, resize), int(resize / share)
    elif isinstance(resize, int) and share is not None:
        resize = (resize, resize)
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if not _positive(factor):
        raise UserError(f"preprocessing: rescale_factor {factor!r} is no number above 0")
    normalised = config.get("do_normalize", "image_mean" in config)
    mean, std = (
        _numbers(config.get(f"image_{k}"), default) if normalised else (value,)
        for k, default, value in zip(("mean", "std"), IMAGENET, (0.0, 1.0), strict=True)
    )
    number = config.get("resample", 2)
    known = isinstance(number, int) and 0 <= number < len(INTERPOLATIONS)
    high = 255 * factor
    return Preparation(
        resize=resize,
        crop=crop if isinstance(crop, tuple) else None,
        span=(0.0, 1.0 if math.isclose(high, 1) else high),
        mean=mean,
        std=std,
        order="BGR" if config.get("do_flip_channel_order") else "RGB",
        interpolation=INTERPOLATIONS[number] if known else "bilinear",
        floor=isinstance(crop, tuple),
    )


def _sides(value: Any) -> int | Sides | None:
    """As these configs write a size: a number, [h, w], {height, width} or {shortest_edge}."""
    if isinstance(value, Mapping):
        if "shortest_edge" in value:
            return _pixels(value["shortest_edge"])
        value = [value.get("height"), value.get("width")]
    if isinstance(value, list | tuple):
        return (_pixels(value[0]), _pixels(value[1])) if len(value) == 2 and None not in value else None
    return None if value is None else (_pixels(value), _pixels(value))


def _pixels(value: Any) -> int:
    if type(value) is not int:
        raise UserError(f"preprocessing: {value!r} is no number of pixels")
    return value


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _numbers(value: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(v, int | float) for v in values):
        raise UserError(f"preprocessing: {value!r} are no numbers, one for each channel")
    return tuple(float(v) for v in values)


def variants(
    given: Preparation, wants: Wanted, channels: int = 3, size: Sides | None = None
) -> Iterator[Preparation]:
    """The usual ones for the same model, the given one first, then those nearest to it; none twice.

    Ranges and means (0-1, 0-255, -1..1, ImageNet's, Caffe's), RGB and BGR, resized whole or the middle cropped, and the
    layout where the input's shape doesn't tell it. An input of integers has one range.

    Args:
        channels: of the pictures; of grey ones there are no orders, and no means of three.
        size: what the model takes, where neither its shape nor the given preparation tells.
    """
    scales = {
        "given": (given.span, given.mean, given.std),
        "0-1": (RANGES["0-1"], (0.0,), (1.0,)),
        "0-255": (RANGES["0-255"], (0.0,), (1.0,)),
        "-1..1": (RANGES["-1..1"], (0.0,), (1.0,)),
    }
    if channels == 3:
        scales |= {"ImageNet": (RANGES["0-1"], *IMAGENET), "Caffe": (RANGES["0-255"], *CAFFE)}
    floats = not wants.inputs or np.dtype(wants.inputs[0].dtype).kind == "f"
    orders = [given.order, *(o for o in ORDERS if o != given.order)] if channels == 3 else [given.order]
    layouts = [given.layout]
    picture = wants.picture
    if wants.layout is None and len(wants.inputs[0].shape if wants.inputs else ()) in (0, 4):
        layouts += [other for other in LAYOUTS if other != given.layout]
    height, width = (picture[1], picture[2]) if picture is not None else (None, None)
    sides = given.size or size or ((height, width) if height and width else None)
    geometries: list[tuple[int | Sides | None, Sides | None]] = [(given.resize, given.crop)]
    if sides is not None:
        short = min(sides)
        geometries += [(sides, None), (math.floor(short / 0.875), sides), (short, sides)]
    seen = set()
    choices = (list(scales.values()) if floats else [scales["given"]], orders, layouts, geometries)
    places = itertools.product(*(range(len(c)) for c in choices))
    for scale, order, layout, geometry in sorted(places, key=lambda p: (sum(n > 0 for n in p), p)):
        span, mean, std = choices[0][scale]
        resize, crop = geometries[geometry]
        found = replace(
            given,
            span=span,
            mean=mean,
            std=std,
            order=orders[order],
            layout=layouts[layout],
            resize=resize,
            crop=crop,
        )
        if found not in seen:
            seen.add(found)
            yield found
