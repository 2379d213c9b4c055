"""Shared pieces of the tests: one torch thread, a small bench on digits, the command as a subprocess."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compressbench.bench import Bench
from compressbench.data.load import load
from compressbench.tasks.classification import Classification

torch.set_num_threads(1)

DIGITS = {
    "name": "digits",
    "read": {"_target_": "compressbench.data.idx.digits"},
    "validation": 0.1,
}
MLP = {
    "name": "mlp",
    "build": {"_target_": "compressbench.models.lenet.LeNet300100", "shape": "@shape", "classes": "@classes"},
}
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def digits():
    from compressbench.cli.run import composed

    return load(composed(["scale=smoke"])["dataset"])


@pytest.fixture
def bench(digits) -> Bench:
    return Bench(digits, Classification(digits.classes, digits.mean, digits.std), seed=0, name="init")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs ``compressbench ARGS`` in an empty folder; one thread, one core's worth of work."""

    def run(*args: str, timeout: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "compressbench", *args],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **env},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
