"""Seeds: equal parts give equal seeds, on every machine."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from any printable parts; equal parts give equal seeds on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
