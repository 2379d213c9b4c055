"""Shared pieces of the tests: one torch thread, a small bench on digits, the command as a subprocess."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compressbench.bench import Bench
from compressbench.data.load import load
from compressbench.models.draw import drawn
from compressbench.specs import trust
from compressbench.state import State
from compressbench.store import digest

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

torch.set_num_threads(1)


class _Own(dict[str, tuple[str, ...]]):
    """What the gate let pass, and beside it the tests' own modules."""

    def get(self, target: str, default: Any = ()) -> Any:
        module = target.partition(".")[0]
        own = module == "tiny" or module.startswith(("test_", "cases_"))
        return super().get(target, (module,) if own else default)


trust._let_pass = _Own()
Command = Callable[..., subprocess.CompletedProcess[str]]


class Killed(Exception):
    """A training was killed."""


@dataclasses.dataclass
class Bomb:
    """Progress that kills a training when it tells of an iteration."""

    at: int

    def step(self, done: int, total: int, **figures: float) -> None:
        if done == self.at:
            raise Killed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked ``cuda`` needs a card."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: torch finds none"))


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """Nothing here pulls the plug, so nothing waits for the disk: thousands of small files are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Whatever a run or a test sets is gone after it."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _alone() -> Iterator[None]:
    """Tests time things beside each other: no ratio is withheld because others disturb it, so none lasts to tell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compressbench.hardware.turns.others", lambda: lambda: 0.0)
        patch.setattr("compressbench.hardware.turns.LEAST_TICKS", 0)
        yield


def kill(stage: Any, start: State, bench: Bench, folder: Path, at: int) -> None:
    """Begins a training that checkpoints into a folder, and kills it after so many iterations."""
    broken = dataclasses.replace(bench, checkpoints=folder, checkpoint_seconds=0.0, progress=Bomb(at))
    with pytest.raises(Killed):
        stage.apply(start, broken)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session have together."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def first(shared: Path) -> Callable[[str], bool]:
    """Whether a text is asked for the first time in this session, by any worker."""

    def claim(text: str) -> bool:
        try:
            (shared / f"first-{digest(text)}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    return claim


@pytest.fixture(scope="session")
def digits():
    from compressbench.cli.run import composed

    return load(composed(["scale=smoke"])["dataset"])


@pytest.fixture
def bench(digits) -> Bench:
    return Bench(digits, seed=0, name="init")


@pytest.fixture(scope="module")
def place(digits) -> Bench:
    """One bench for a whole module of tests, which says nothing."""
    return Bench(digits, seed=0, name="init", say=lambda text: None)


@pytest.fixture(scope="module")
def dense(place: Bench) -> State:
    """The tiny net as it is drawn, for a whole module."""
    from tiny import TINY

    return drawn(TINY, place)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs ``compressbench ARGS`` in an empty folder, in this process (torch is imported once, not a hundred times)."""
    from compressbench.cli.main import run as dispatch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = dispatch(list(args))
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
        return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())

    return run
