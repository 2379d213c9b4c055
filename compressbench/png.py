"""PNG: a few small images side by side, as an address that a page or a record can hold."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

PREFIX = "data:image/png;base64,"
GAP = 2


def strip(images: np.ndarray) -> str:
    """A row of images, white between them.

    Args:
        images: (n, c, h, w) uint8, of one channel or three; others show their first.

    Returns:
        A ``data:image/png;base64,`` address.
    """
    import numpy as np

    count, channels, height, width = images.shape
    shown = images if channels == 3 else images[:, :1]
    row = np.full((shown.shape[1], height, count * (width + GAP) - GAP), 255, dtype=np.uint8)
    for place, image in enumerate(shown):
        at = place * (width + GAP)
        row[:, :, at : at + width] = image
    lines = row.transpose(1, 2, 0).reshape(height, -1)
    packed = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines), 9)
    kind = 2 if shown.shape[1] == 3 else 0
    head = struct.pack(">IIBBBBB", row.shape[2], height, 8, kind, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    return PREFIX + base64.b64encode(content).decode()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
