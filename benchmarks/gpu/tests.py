"""The project's CUDA tests: how many passed, and each that didn't, with its reason."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from benchmarks.gpu import carry
from benchmarks.gpu.rows import Sheet

OUTCOMES = ("passed", "failed", "skipped")


def run(sheet: Sheet) -> None:
    """One row of each outcome, one of each test that failed or was skipped."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.xml"
        subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "cuda", "tests/test_cuda.py",
                        f"--junitxml={found}"], cwd=carry.ROOT, stdout=subprocess.DEVNULL)  # fmt: skip
        if not found.exists():
            raise SystemExit("pytest left no report")
        tell(sheet, found.read_text(encoding="utf-8"))


def tell(sheet: Sheet, report: str) -> None:
    """Rows of a JUnit report."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    if not cases:
        sheet.failed("tests/test_cuda.py", "there is no test with the marker cuda")
    counts: Counter[str] = Counter()
    for case in cases:
        outcome, why = "passed", ""
        for part in case:
            if part.tag in ("failure", "error", "skipped"):
                outcome = "skipped" if part.tag == "skipped" else "failed"
                why = part.get("message") or part.text or ""
        counts[outcome] += 1
        if outcome != "passed":
            sheet.add(case.get("name") or "", outcome, None, "", n=0, note=why[:300])
    for outcome in OUTCOMES:
        sheet.add("tests/test_cuda.py", f"tests {outcome}", counts[outcome], "1", n=len(cases))
