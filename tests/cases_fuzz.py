"""Hostile command lines, configs, run folders, stores and data: each is refused with one line and exit code 2, or works.

Inputs are drawn from a seed (``FUZZ_SEED`` in the environment sets another). A test runs all cases of a kind and names
every one that was not met as it should: no traceback, no fault of ours, no exit 1 for bad input, no hang.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import random
import re
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compressbench.cli.main import run as dispatch
from compressbench.errors import UserError
from compressbench.runs.experiment import prepare

SEED = int(os.environ.get("FUZZ_SEED", "19"))
SECONDS = 20
MEMORY = 16 << 30
OURS = "compressbench: "
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
RUN = (
    "run",
    "scale=smoke",
    "recipe=tiny",
    "model=linear",
    "dataset=digits",
    "evaluation=none",
    "+probe@evaluation.probes.accuracy=accuracy",
    "+probe@evaluation.probes.loyalty=loyalty",
)
TINY = """\
defaults:
  - /stage/init@stages.init: model
  - /stage/train@stages.dense: sgd
  - /stage/prune@stages.pruned: magnitude
  - /stage/train@stages.tuned: sgd
  - _self_
name: tiny
stages:
  dense: {length: 2it, batch_size: 64}
  pruned: {fraction: 0.5}
  tuned: {length: 1it, batch_size: 64, lr: 0.02}
compare:
  reference: dense
  series: {pruned: pruned, tuned: tuned}
"""
TEXTS = (
    "",
    " ",
    "???",
    "${x}",
    "${oc.env:HOME}",
    "${",
    "@classes",
    "@nothing",
    "os.system",
    "compressbench.specs.trust.locate",
    "compressbench.models.lenet",
    "compressbench.stages.train.Train",
    "compressbench.stages..x",
    "torch.nn.Linear",
    "torch.nn.functional.relu",
    "torch.load",
    "_private",
    "__class__",
    "dense",
    "init",
    "prune",
    "tuned",
    "*",
    "[",
    "level*",
    "a*" * 30 + "b",
    "ünïcödé ☃",
    "\x1b[31mred\x07",
    "\x00",
    "a\nb",
    "\ud800",
    "x" * 3000,
    "../../x",
    "/dev/zero",
    "nan",
    "1e400",
    "4ep",
    "0it",
    "-1ep",
    "4 epochs",
    "null",
    "1",
)
VALUES: tuple[Any, ...] = (
    *TEXTS,
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    0.5,
    -0.5,
    1e-300,
    float("inf"),
    -float("inf"),
    float("nan"),
    10**30,
    -(10**30),
    [],
    {},
    [[]],
    [None],
    [1, 2, 3],
    ["dense", 1, None],
    {"a": None},
    {1: 2},
    {"a": {"b": [{"c": "d"}]}},
    {"_target_": "os.system"},
    {"_target_": None},
    {"_target_": ["x"]},
    {"_target_": "torch.nn.Linear"},
    {"_target_": "torch.nn.Linear", "in_features": "@classes", "out_features": -1},
    {"_target_": "compressbench.stages.train.Train"},
    {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True},
    {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": "yes", "nothing": 1},
)


class Hang(BaseException):
    """A case took longer than it may."""


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        words: how to do it again.
        do: does it; returns the exit code.
        allowed: exit codes that are right.
    """

    words: str
    do: Callable[[], int]
    allowed: tuple[int, ...] = (0, 2)


def drawn(kind: str) -> random.Random:
    return random.Random(f"{SEED} {kind}")


def one_of(rng: random.Random, options: Any) -> Any:
    return copy.deepcopy(rng.choice(list(options)))


def line(*argv: Any, allowed: tuple[int, ...] = (0, 2), words: str = "") -> Case:
    """A command line in this process."""
    args = [str(a) for a in argv]
    return Case(f"{words}{args!r}", lambda: dispatch(args), allowed)


def prepared(config: Mapping[str, Any], words: str) -> Case:
    """A resolved config, checked as a whole."""

    def do() -> int:
        try:
            prepare(config)
        except UserError as error:
            return dispatch_like(error)
        return 0

    return Case(words, do)


def dispatch_like(error: UserError) -> int:
    from compressbench.cli.main import _fail

    return _fail(str(error), error.code)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises ``Hang`` in what takes longer; memory beyond ``MEMORY`` is refused."""

    def ring(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def faults(case: Case, seconds: float = SECONDS) -> str:
    """What is wrong with how a case was met; empty if nothing is."""
    out, err = io.StringIO(), io.StringIO()
    path = list(sys.path)
    code: Any
    try:
        with (
            at_most(seconds),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("default")
            try:
                code = case.do()
            except SystemExit as stop:
                code = stop.code
    except Hang:
        return f"took more than {seconds} s"
    except BaseException as error:
        return f"raised {type(error).__name__}: {str(error)[:300]!r} {_where(error)}"
    finally:
        sys.path[:] = path
    return judged(case, code, out.getvalue(), err.getvalue())


def _where(error: BaseException) -> str:
    at = error.__traceback__
    places = []
    while at is not None:
        places.append(f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}")
        at = at.tb_next
    return " < ".join(reversed(places[-6:]))


def judged(case: Case, code: Any, out: str, err: str) -> str:
    """What is wrong with an exit code and two streams; empty if nothing is."""
    lines = err.splitlines()
    if code not in case.allowed:
        return f"exit {code}, not {case.allowed}: {err[-400:]!r} {out[-200:]!r}"
    if "Traceback" in out + err or "a fault in" in out + err:
        return f"a fault: {err[-400:]!r} {out[-200:]!r}"
    if STEERS.search(out + err):
        return f"control characters reach the terminal: {(STEERS.search(out + err) or [''])[0]!r}"
    if code == 1 and out and not err:  # an answer: no, or incomplete
        return ""
    several = "'-m'" in case.words  # a line a job
    if code and (
        (len(lines) != 1 and not several)
        or any(len(x) < len(OURS) + 8 or not x.startswith(OURS) for x in lines)
    ):
        return f"exit {code} with {len(lines)} lines on standard error: {err[:600]!r}"
    if not code and err:
        return f"exit 0, but standard error says {err[:400]!r}"
    return ""


def check(cases: list[Case], least: int) -> None:
    """Fails with all the cases that were not met as they should."""
    found = [(case, told) for case in cases if (told := faults(case))]
    report = "\n".join(f"- {case.words[:1500]}\n    {told}" for case, told in found)
    if found:
        pytest.fail(f"FUZZ_SEED={SEED}: {len(found)} of {len(cases)} cases\n{report}", pytrace=False)
    assert len(cases) >= least


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to work in, another as home; afterwards nothing lies beside the two."""
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("COMPRESSBENCH_OUTPUTS", "COMPRESSBENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    yield
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "work"]
    assert {p.name for p in (tmp_path / "home").iterdir()} <= {".cache", ".config"}  # matplotlib's


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``mine`` (configs), ``outputs`` with one tiny run, made once."""
    place = tmp_path_factory.mktemp("ran")
    (place / "mine" / "recipe").mkdir(parents=True)
    (place / "mine" / "recipe" / "tiny.yaml").write_text(TINY)
    case = line(*RUN, "--config-dir", place / "mine", f"outputs={place}/outputs", allowed=(0,))
    before = Path.cwd()
    try:
        os.chdir(place)
        assert not (told := faults(case, 180)), told  # imports torch
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def own(ran: Path) -> Path:
    """A copy of that folder's ``mine`` and ``outputs`` in the current folder; returns the run's folder in it."""
    shutil.copytree(ran, Path.cwd(), dirs_exist_ok=True)
    (run,) = Path("outputs/runs").iterdir()
    return run


def odd_paths(folder: Path) -> list[str]:
    """Paths that are not what is wanted: missing, folders, files, pipes, devices, loops, unreadable, unwritable."""
    folder.mkdir(exist_ok=True)
    (folder / "a_folder").mkdir(exist_ok=True)
    (folder / "a_file").write_text("text\n")
    (folder / "empty").write_bytes(b"")
    (folder / "binary").write_bytes(bytes(range(256)) * 8)
    (folder / "a_file.yaml").write_text("a: [1")
    with contextlib.suppress(FileExistsError):
        os.mkfifo(folder / "pipe")
    for name, to in (("loop", "loop"), ("dangling", "nowhere"), ("elsewhere", "/")):
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(to)
    closed = folder / "closed"
    closed.mkdir(exist_ok=True)
    closed.chmod(0)
    names = (
        "missing",
        "a_folder",
        "a_file",
        "empty",
        "binary",
        "a_file.yaml",
        "pipe",
        "loop",
        "dangling",
        "closed",
        "a_file/inside",
    )
    more = (
        "",
        " ",
        "x" * 300,
        "\x1b[2J",
        "ü" * 200,
        "/dev/zero",
        "/dev/null",
        "-",
        "~nobody/x",
        "a\nb",
        "\ud800",
    )
    return [*(str(folder / n) for n in names), *more]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all leaves and of all that holds leaves."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from leaves(part, (*path, name))


def change(config: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy in which one place has another value, or is gone for ``...``."""
    out = copy.deepcopy(config)
    at = out
    for name in path[:-1]:
        at = at[name]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return out


YAMLS: Mapping[str, bytes] = {
    "empty": b"",
    "null": b"null\n",
    "text": b"just text\n",
    "list": b"- 1\n- 2\n",
    "number": b"7\n",
    "open": b"a: [1, 2\n",
    "tabs": b"a:\n\t- b\n",
    "binary": bytes(range(256)),
    "nul": b"a: \x00\n",
    "utf16": "a: b\n".encode("utf-16"),
    "latin": b"name: caf\xe9\n",
    "tag": b"a: !!python/object/apply:os.system ['true']\n",
    "tag2": b"a: !nothing b\n",
    "twice": b"a: 1\na: 2\n",
    "two": b"a: 1\n---\nb: 2\n",
    "date": b"name: 2020-01-01\n",
    "bytes": b"name: !!binary aGVsbG8=\n",
    "set": b"name: !!set {a, b}\n",
    "deep": b"a: " + b"[" * 3000 + b"]" * 3000 + b"\n",
    "deep_map": b"a: " + b"{a: " * 1500 + b"1" + b"}" * 1500 + b"\n",
    "bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % ((98 + i, 98 + i) + (97 + i,) * 9)
        for i in range(9)
    ),
    "self": b"a: &a\n  b: *a\n",
    "alias": b"a: *nothing\n",
    "keys": b"? [1, 2]\n: 3\n",
    "intkeys": b"1: 2\nnull: 3\ntrue: 4\n1.5: 2\n",
    "long": b"a: " + b"x" * 200_000 + b"\n",
    "interpolation": b"name: ${x}\n",
    "loop": b"name: ${recipe.name}\n",
    "env": b"name: ${oc.env:NOTHING_SUCH}\n",
    "broken_interpolation": b"name: ${\n",
    "defaults": b"defaults: 1\n",
    "defaults_null": b"defaults: [null]\n",
    "defaults_missing": b"defaults: [nothing]\n",
    "defaults_group": b"defaults:\n  - /stage/nothing@stages.x: sgd\n",
    "defaults_self": b"defaults: [_self_, _self_]\n",
    "defaults_deep": b"defaults:\n  - {a: {b: c}}\n",
    "defaults_loop": b"defaults: [odd]\n",
    "defaults_override": b"defaults:\n  - override /model: nothing\n",
    "merge": b"<<: 1\n",
    "merge_list": b"<<: [1, {a: b}]\n",
    "bom": b"\xef\xbb\xbfname: x\n",
    "crlf": b"name: x\r\nstages:\r\n  a: b\r\n",
    "control": b'name: "\\x1b[31m"\n',
    "huge": b"name: 1" + b"0" * 5000 + b"\n",
    "inf": b"name: .inf\nlength: .nan\n",
    "package": b"# @package nothing.such\nname: x\n",
    "package_bad": b"# @package\nname: x\n",
}
