"""The project's CUDA tests: each that passed, failed or was skipped, as soon as it is over."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import carry
from benchmarks.gpu.rows import Sheet

OUTCOMES = ("passed", "failed", "skipped")
WORDS = 300


def run(sheet: Sheet) -> None:
    """All tests with the marker ``cuda``."""
    tell(sheet, sorted((carry.ROOT / "tests").glob("test_cuda*.py")))


def tell(sheet: Sheet, files: Sequence[Path]) -> None:
    """A row of each test of some files that has the marker ``cuda``, then how many passed, failed and were skipped."""
    told = Told(sheet)
    if files:
        asked = ["-p", "no:cacheprovider", "-p", "no:xdist", "-m", "cuda", *map(str, files)]
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            pytest.main(asked, plugins=[told])
    if not told.counts:
        sheet.failed("tests", "there is no test with the marker cuda")
    for outcome in OUTCOMES:
        sheet.add("all", f"tests {outcome}", told.counts[outcome], "1", n=told.counts.total())


class Told:
    """A plug-in of pytest that writes rows."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.counts: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """What compiles comes last: it takes longest, and a cut loses the last ones."""
        items.sort(key=lambda item: "compiled" in item.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test's own report, or that of a fixture that failed or skipped it."""
        if report.passed and report.when != "call":
            return
        self.counts[report.outcome] += 1
        name = report.nodeid.rpartition("/")[2]
        self.sheet.add(name, report.outcome, round(report.duration, 2), "s", note=why(report)[:WORDS])

    def pytest_collectreport(self, report: Any) -> None:
        """A file that couldn't be read is a failure too."""
        if report.failed:
            self.counts["failed"] += 1
            self.sheet.add(report.nodeid.rpartition("/")[2], "failed", None, "", note=why(report)[:WORDS])


def why(report: Any) -> str:
    """Why a test failed or was skipped, in a line; empty where it passed."""
    if report.passed:
        return ""
    said = report.longrepr
    if isinstance(said, tuple):
        return str(said[2]).removeprefix("Skipped: ")
    crash = getattr(said, "reprcrash", None)
    return crash.message if crash else str(said).strip().splitlines()[-1]
