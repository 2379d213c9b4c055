"""Thumbnails as addresses that a page can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressbench.png import strip

if TYPE_CHECKING:
    import numpy as np

SIDE = 112
"""Pixels of a thumbnail's longer side, at most."""


def address(image: np.ndarray) -> str:
    """A ``data:image/png;base64,`` address of an image, made smaller by whole factors where it is larger than ``SIDE``.

    Args:
        image: uint8 (h, w) or (h, w, c); of one channel or two the first is shown, of four the first three.

    Raises:
        ValueError: another shape or type.
    """
    import numpy as np

    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"a thumbnail is uint8 (h, w) or (h, w, c), and this is {image.dtype} {image.shape}")
    whole = image[:, :, None] if image.ndim == 2 else image
    whole = whole[:, :, :3] if whole.shape[2] in (3, 4) else whole[:, :, :1]
    return strip(smaller(whole).transpose(2, 0, 1)[None])


def smaller(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(h, w, c) uint8 with no side longer than ``side``: means of squares; what is left over at the edges is cut off."""
    import numpy as np

    height, width, channels = image.shape
    factor = -(-max(height, width) // side)
    if factor <= 1:
        return image
    down, across = min(factor, height), min(factor, width)
    tall, wide = height // down, width // across
    cut = image[: tall * down, : wide * across].astype(np.float32)
    means = cut.reshape(tall, down, wide, across, channels).mean(axis=(1, 3))
    return means.round().astype(np.uint8)
