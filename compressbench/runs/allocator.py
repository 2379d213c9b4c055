"""Keeping freed memory: large tensors freed and made anew each step otherwise cost page faults each time."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tells glibc to reuse large blocks instead of returning them to the kernel; False where there is no glibc.

    Worth about a tenth of a training step on CPUs (benchmarks/training.py measures it); results are unchanged.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
