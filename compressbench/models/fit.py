"""What a model and its settings, and an image model and its images, must agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressbench.errors import UserError


def image_shape(shape: Sequence[int], classes: int, who: str) -> tuple[int, int, int]:
    """The (channels, height, width) of an image, all positive, for a model with ``classes`` outputs.

    Raises:
        UserError: other than three positive integers, or fewer than one class.
    """
    if isinstance(shape, str) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise UserError(f"{who}: shape must be [channels, height, width], all at least 1; got {shape!r}")
    if not isinstance(classes, int) or classes < 1:
        raise UserError(f"{who}: classes must be an integer of at least 1; got {classes!r}")
    channels, height, width = shape
    return channels, height, width


def halved(size: tuple[int, int], least: int = 1) -> tuple[int, int] | None:
    """(height, width) after 2 x 2 pooling, None where a side would fall below ``least``."""
    height, width = size[0] // 2, size[1] // 2
    return (height, width) if min(height, width) >= least else None


def whole_sizes(who: str, sizes: Mapping[str, Any]) -> None:
    """Refuses a size that is no integer of at least 1.

    Raises:
        UserError: naming the model and the setting.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise UserError(f"{who}: {name} must be an integer of at least 1; got {size!r}")


def heads_divide(who: str, heads: int, dim: int) -> None:
    """Refuses a width that can't be shared out among attention heads.

    Raises:
        UserError: naming the model and both.
    """
    if dim % heads:
        raise UserError(f"{who}: heads {heads} does not divide dim {dim}; choose one that does")
