"""How much memory there is, before it is wanted."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Of a container: where it is told, its limit and what it holds, pages of files among it."""


def available(device: str) -> int | None:
    """Bytes that can still be had on a device; None where the system doesn't tell."""
    if device.startswith("cuda"):
        import torch

        own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )  # torch keeps what it had
        return int(torch.cuda.mem_get_info(device)[0]) + own
    found = [_system(), *(left(*group) for group in GROUPS)]
    return min((x for x in found if x is not None), default=None)


def _system() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, ValueError, LookupError, StopIteration):
        return None


def left(group: Path, limit: str, used: str) -> int | None:
    """Bytes that a control group still grants: its limit less what it holds, but for pages of files that it would drop.

    Args:
        group: its folder.
        limit, used: names of the files there.

    Returns:
        None where there is no limit, or none that can be read.
    """
    try:
        most, held = (int((group / name).read_text(encoding="ascii")) for name in (limit, used))
    except (OSError, ValueError):  # "max": no limit
        return None
    return max(0, most - max(0, held - _droppable(group / "memory.stat")))


def _droppable(stat: Path) -> int:
    """Bytes of files that nobody looked at lately, 0 where it isn't told; of version 1 those of groups below too."""
    try:
        told = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
        return int(told.get("total_inactive_file", told.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0
