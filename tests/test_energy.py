"""Energy by the machine's own counters: a planted one, one that wraps, none."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressbench.hardware.energy import NONE, joules_of


def planted(folder: Path, at: int, most: int) -> Path:
    package = folder / "intel-rapl:0"
    package.mkdir(parents=True)
    (package / "energy_uj").write_text(str(at))
    (package / "max_energy_range_uj").write_text(str(most))
    (folder / "intel-rapl:0:0").mkdir()  # a part of the package, which the package counts already
    (folder / "intel-rapl:0:0" / "energy_uj").write_text("5")
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
