"""Energy of this machine while something runs, by its own counters; where none can be read, nothing is guessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
LEAST = 0.3
NONE = "energy not measured: no RAPL counter that can be read here"


def joules_of(
    run: Callable[[], object], seconds: float = LEAST, powercap: Path = POWERCAP
) -> tuple[float | None, int, str]:
    """(joules of one call, calls, what is to be said), of all processor packages, idle power included.

    Args:
        run: is called over and over for ``seconds``.
        powercap: where Linux shows RAPL (Intel and AMD).
    """
    counters = [p for p in sorted(powercap.glob("*-rapl:*")) if _name(p).startswith("package")]
    before = [_read(p / "energy_uj") for p in counters]
    if not counters or any(b is None for b in before):
        return None, 0, NONE
    calls = _repeat(run, seconds)
    total = 0.0
    for place, old in zip(counters, before, strict=True):
        now, most = _read(place / "energy_uj"), _read(place / "max_energy_range_uj")
        if now is None or old is None:
            return None, 0, NONE
        total += (now - old) % (most + 1) if most else now - old
    return total / 1e6 / calls, calls, "RAPL, the whole processor, idle power included"


def joules_of_gpu(run: Callable[[], object], seconds: float = LEAST) -> tuple[float | None, int, str]:
    """The same of the first NVIDIA GPU, by NVML's counter (Volta and later); ``run`` must wait for the GPU."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        calls = _repeat(run, seconds)
        spent = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before
    except Exception as error:  # no package, no driver, a GPU without the counter
        return None, 0, f"energy not measured: NVML says {type(error).__name__}"
    return spent / 1000 / calls, calls, "NVML, the whole GPU, idle power included"


def _repeat(run: Callable[[], object], seconds: float) -> int:
    """Calls over and over, at least once; how often."""
    calls, begin = 0, time.perf_counter()
    while not calls or time.perf_counter() - begin < seconds:
        run()
        calls += 1
    return calls


def _name(place: Path) -> str:
    """What a counter counts; a whole platform (psys) holds the packages, which hold cores and memory."""
    try:
        return (place / "name").read_text().strip()
    except OSError:
        return ""


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
