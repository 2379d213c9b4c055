"""Whole recipes at laptop scale, as a user runs them: training, probes and timings on the card."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.gpu import carry, nets
from benchmarks.gpu.rows import Sheet

RECIPES = ("one_shot", "early_exit_resnet", "loyalty_table")
SMOKE = ["scale=smoke", "hardware=cpu1", "recipe.fractions=[0.9]", "recipe.length=1ep"]
METRICS = ("top1", "label_loyalty", "latency_median_b1", "latency_median_b64", "speedup_b1", "speedup_b64")


def run(sheet: Sheet) -> None:
    """One after the other."""
    for recipe in RECIPES[:1] if sheet.smoke else RECIPES:
        nets.tried(sheet, recipe, partial(one, sheet, recipe))


def one(sheet: Sheet, recipe: str) -> None:
    """Rows of a recipe's records, and what it took.

    Raises:
        RuntimeError: with the last line that it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        how = SMOKE if sheet.smoke else ["scale=laptop", "hardware=cuda"]
        command = [
            sys.executable,
            "-m",
            "compressbench",
            "run",
            f"recipe={recipe}",
            *how,
            f"outputs={folder}",
        ]
        began = time.perf_counter()
        found = subprocess.run(command, cwd=carry.ROOT, capture_output=True, text=True)
        took = time.perf_counter() - began
        if found.returncode:
            said = [line for line in (found.stderr or found.stdout).splitlines() if line.strip()]
            raise RuntimeError(said[-1] if said else f"exit code {found.returncode}")
        sheet.add(recipe, "whole recipe, report included", took, "s", note=" ".join(how))
        for path in Path(folder).rglob("records.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["metric"] in METRICS and not row["group"]:
                    sheet.add(f"{recipe}, {row['series'] or row['state']}, {row['state']}", row["metric"],
                              row["value"], row["unit"], n=row["n"], seed=row["seed"], note=row["note"])  # fmt: skip
