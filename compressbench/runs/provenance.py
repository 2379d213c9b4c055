"""What a figure was made with: versions, machine. Nothing heavy is imported for it."""

from __future__ import annotations

import functools
import os
import platform
from importlib import metadata
from pathlib import Path


@functools.cache
def versions() -> str:
    """Package, torch, numpy and Python versions, one line."""
    parts = [f"{name} {_version(name)}" for name in ("compressbench", "torch", "numpy")]
    return ", ".join([*parts, f"python {platform.python_version()}"])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def processor() -> str:
    """The processor's name and the number of its cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {cores} cores"
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()}, {cores} cores"


def machine(device: str, threads: int) -> str:
    """Processor (or GPU), device and threads, one line. Asks torch only for a GPU's name."""
    if device.startswith("cuda"):
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU found"
        return f"{name} ({device}); {processor()}"
    return f"{processor()}, {threads} thread{'s' if threads != 1 else ''}"
