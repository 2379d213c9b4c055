"""Energy by the machine's own counters, and a runtime's peak memory: planted figures, and what can't be had."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compressbench.hardware import memory
from compressbench.hardware.energy import NONE, joules_of, joules_of_gpu


def planted(folder: Path, at: int, most: int) -> Path:
    package = folder / "intel-rapl:0"
    package.mkdir(parents=True)
    (package / "name").write_text("package-0\n")
    (package / "energy_uj").write_text(str(at))
    (package / "max_energy_range_uj").write_text(str(most))
    for other, what in (
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:1", "psys"),
    ):  # parts of it, and what holds it
        (folder / other).mkdir()
        (folder / other / "name").write_text(what)
        (folder / other / "energy_uj").write_text("no number")
    return package / "energy_uj"


@pytest.mark.parametrize(("at", "most"), [(0, 10**12), (10**6 - 500_000, 10**6 - 1)])
def test_joules_of_a_call(at: int, most: int, tmp_path: Path) -> None:
    """Half a joule a call, also where the counter begins anew."""
    counter = planted(tmp_path, at, most)
    spent = [at]

    def run() -> None:
        spent[0] = (spent[0] + 500_000) % (most + 1)
        counter.write_text(str(spent[0]))

    joules, calls, said = joules_of(run, seconds=1e-9, powercap=tmp_path)
    assert (joules, calls) == (0.5, 1)
    assert said.startswith("RAPL")


def test_no_counter_is_said(tmp_path: Path) -> None:
    assert joules_of(lambda: None, powercap=tmp_path) == (None, 0, NONE)
    counter = planted(tmp_path, 0, 1)
    counter.write_text("not a number")
    assert joules_of(lambda: None, powercap=tmp_path) == (None, 0, NONE)


def test_a_gpus_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted NVML that counts 2 J a call; and none."""
    spent = [7000]
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: spent[0],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    joules, calls, said = joules_of_gpu(lambda: spent.__setitem__(0, spent[0] + 2000), seconds=1e-9)
    assert (joules, calls) == (2.0, 1)
    assert said.startswith("NVML")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert joules_of_gpu(lambda: None) == (None, 0, "energy not measured: NVML says ModuleNotFoundError")


PLANTED = """
def load(package, path, shapes):
    held = [bytearray(b"x" * int(open(path, "rb").read()))]
    return lambda xs: held.append(xs[0].sum())
"""


def test_peak_memory_is_what_loading_and_running_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that holds as many bytes as its file says: 200 MB are seen, and half of them are half."""
    monkeypatch.setitem(memory.PROGRAMS, "json", PLANTED)
    found = [
        memory.peak_bytes("json", str(size).encode(), (torch.zeros(1, 2),))[0]
        for size in (100_000_000, 200_000_000)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1] - found[0] == pytest.approx(200_000_000, rel=0.3), (
        "the copy is alive beside it for a moment"
    )


def test_a_runtime_that_fails_is_said() -> None:
    found, said = memory.peak_bytes("onnxruntime", b"no model", (torch.zeros(1, 1, 2, 2),))
    assert found is None
    assert said.startswith("peak memory not measured: ")
