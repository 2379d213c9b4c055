"""Hostile command lines, configs, run folders, stores and data: each is refused with one line and exit code 2, or works.

Inputs are drawn from a seed (``FUZZ_SEED`` in the environment sets another). A test runs all cases of a kind and names
every one that was not met as it should: no traceback, no fault of ours, no exit 1 for bad input, no hang.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressbench.cli.main import VERBS
from compressbench.cli.main import run as dispatch
from compressbench.cli.run import composed
from compressbench.errors import UserError
from compressbench.runs.experiment import prepare

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("FUZZ_SEED", "19"))
SECONDS = 20
MEMORY = 16 << 30
OURS = "compressbench: "
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
ROOT = os.geteuid() == 0
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
RECIPES = (
    "bits_sweep",
    "cascade",
    "deep_compression",
    "distill_resnet",
    "dnw",
    "early_exit_resnet",
    "edge_popup",
    "ensemble_to_one",
    "exit_criteria",
    "faster",
    "gradual_vs_oneshot",
    "granularity",
    "iterative_finetune",
    "kd_ablation",
    "lth_rewind",
    "msdnet",
    "nm_2_4",
    "obd_lenet",
    "one_shot",
    "online_distillation",
    "qat_resnet",
    "state_of_sparsity",
    "structured_resnet",
    "train_flat_then_prune",
    "which_hardware",
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


NUMBERS = (
    "",
    "x",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "0",
    "1.5",
    "9" * 400,
    "1_000",
    "٣",
    "0x10",
    "1e-400",
)
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "run": {
        "--config-dir": "path",
        "--config-name": "text",
        "--config-path": "path",
        "--cfg": "text",
        "-cd": "path",
    },
    "report": {"--output": "path"},
    "export": {
        "--state": "text",
        "--to": "text",
        "--output": "path",
        "--trust": "text",
        "--config-dir": "path",
        "--outputs": "path",
        "--images": "",
    },
    "advise": {
        "--target": "text",
        "--batch": "number",
        "--max-bytes": "number",
        "--max-latency": "number",
        "--min-accuracy": "number",
        "--min-loyalty": "number",
        "--max-drop": "number",
        "--export": "text",
        "--trust": "text",
        "--config-dir": "path",
        "--outputs": "path",
    },
    "gate": {
        "--state": "text",
        "--max-drop": "number",
        "--max-class-drop": "number",
        "--min-loyalty": "number",
        "--min-accuracy": "number",
        "--max-bytes": "number",
        "--max-latency": "number",
        "--target": "text",
        "--batch": "number",
    },
    "timings": {"--run": "path", "--device": "text", "--state": "text", "--batch": "number"},
    "calibrate": {"--runtime": "text"},
    "list": {"--config-dir": "path"},
    "explain": {"--config-dir": "path"},
    "data": {"--data-dir": "path", "--config-dir": "path"},
    "store": {"--outputs": "path", "--older-than": "number", "--prune": ""},
    "completion": {},
}


WHOLE: Mapping[str, Callable[[str], list[str]]] = {
    "run": lambda run: [*RUN, "--config-dir", "mine"],
    "report": lambda run: ["report", run],
    "export": lambda run: ["export", run, "--state", "dense", "--to", "safetensors"],
    "advise": lambda run: ["advise", run],
    "gate": lambda run: ["gate", run, "--max-drop", "90"],
    "timings": lambda run: [
        "timings",
        "import",
        "t.csv",
        "--run",
        run,
        "--device",
        "phone",
        "--state",
        "dense",
    ],
    "calibrate": lambda run: ["calibrate", "--runtime", "nothing"],
    "list": lambda run: ["list", "recipes"],
    "explain": lambda run: ["explain", "one_shot"],
    "data": lambda run: ["data", "mnist"],
    "store": lambda run: ["store"],
    "completion": lambda run: ["completion", "query"],
}
"""A good command line of each verb."""


def hostile_line(rng: random.Random, verb: str, paths: list[str], run: str) -> list[str]:
    """A good command line of a verb in which one to three things are made wrong."""
    argv = WHOLE[verb](run)
    pools: Mapping[str, tuple[str, ...]] = {"path": tuple(paths), "number": NUMBERS, "text": TEXTS}
    for _ in range(rng.randint(1, 3)):
        way = rng.randrange(6)
        if way < 3 and OPTIONS[verb]:
            name, kind = one_of(rng, OPTIONS[verb].items())
            argv += [name, *([str(one_of(rng, pools[kind]))] if kind and rng.random() < 0.9 else [])]
        elif way == 3 and len(argv) > 1:
            argv[rng.randrange(1, len(argv))] = str(one_of(rng, (*paths, *TEXTS)))
        elif way == 4 and len(argv) > 1 and verb != "run":
            del argv[rng.randrange(1, len(argv))]
        else:
            argv.insert(
                rng.randint(1, len(argv)), str(one_of(rng, (*paths, *TEXTS, "--nothing", "-x", "--", "a=b")))
            )
    if verb == "run" and not {"recipe=tiny", "mine", "scale=smoke", "model=linear"} <= set(argv):
        argv.append("recipe=nothing")  # else the default recipe might be trained
    if verb == "calibrate" and argv[-2:] != ["--runtime", "nothing"]:
        argv += ["--runtime", "nothing"]
    return argv


def test_command_lines(own: Path) -> None:
    rng = drawn("lines")
    paths = [*odd_paths(Path("odd")), str(own), "outputs"]
    cases = [
        line(),
        line("nothing"),
        line(""),
        line("\x1b[31m"),
        line("--debug"),
        line("run", "--nothing"),
        line("run", "recipe=tiny", "--config-dir"),
    ]
    Path("t.csv").write_text("state,batch,ms\ndense,1,2.0\n")
    while len(cases) < 130:
        argv = hostile_line(rng, one_of(rng, VERBS), paths, str(own))
        cases.append(line(*argv, allowed=(0, 1, 2) if argv[0] in ("gate", "advise", "data") else (0, 2)))
    check(cases, 130)


SYNTAX = (
    "a=[",
    "=",
    "a.b",
    "{",
    "}",
    "=1",
    "a=",
    "a==b",
    "a={",
    "a={b:",
    "a='",
    'a="',
    "+",
    "++",
    "~",
    "+=1",
    "++=1",
    "~=1",
    "a.=1",
    ".a=1",
    "a..b=1",
    "a@=1",
    "@a=1",
    "a@b@c=1",
    "a=${",
    "a=${b}",
    "a=${oc.env:NOTHING}",
    "a=${at_scale:1}",
    "a=,",
    "a=1,2",
    "a=range(",
    "a=range(1,2)",
    "a=glob(*)",
    "a=choice(1,2)",
    "a=shuffle(1)",
    "a=\\",
    "a=\t",
    "a=\n",
    "a=\x00",
    "a=\x1b[31m",
    "ü=1",
    "seed=1,",
    "seed=[1,2",
    "seed=${seed}",
    "recipe=",
    "recipe=[]",
    "recipe={}",
    "recipe=[a,b]",
    "recipe=null",
    "recipe=/etc/passwd",
    "recipe@x=one_shot",
    "+recipe=one_shot",
    "~recipe",
    "~model",
    "~dataset",
    "~hardware",
    "~evaluation",
    "~scale",
    "~seed",
    "~outputs",
    "~trust",
    "~sweep",
    "~hydra",
    "~recipe.stages",
    "~recipe.name",
    "~nothing",
    "hydra=null",
    "hydra.nothing=1",
    "hydra/launcher=nothing",
    "hydra/sweeper=nothing",
    "hydra.run.dir=null",
    "hydra.run.dir=",
    "hydra.run.dir=/dev/null/x",
    "hydra.sweep.dir=/dev/null/x",
    "hydra.job.name=null",
    "hydra.searchpath=x",
    "hydra.searchpath=[file:///nowhere]",
    "hydra.searchpath=[pkg://nothing]",
    "hydra.callbacks=null",
    "hydra.callbacks=1",
    "hydra.callbacks={a:1}",
    "hydra.output_subdir=../../x",
    "hydra.mode=NOTHING",
    "hydra.verbose=nothing",
    "+stage/train@recipe.stages.x=nothing",
    "+stage/nothing@recipe.stages.x=sgd",
    "stage/train@recipe.stages.x=sgd",
    "+probe@evaluation.probes.x=nothing",
    "+probe@evaluation.probes.x=accuracy,loyalty",
    "+sweep=nothing",
    "sweep=nothing",
    "scale=nothing",
    "scale.name=nothing",
    "scale=null",
    "model=nothing",
    "model=timm",
    "model=torchvision",
    "dataset=image_folder",
    "dataset=cifar10",
    "hardware=nothing",
    "hardware=cuda",
    "evaluation=nothing",
    "data_dir=null",
    "data_dir=[]",
    "outputs=",
    "outputs=null",
    "outputs=[]",
    "outputs={}",
    "outputs=/dev/null",
    "outputs=/dev/zero/x",
    "outputs=/proc/x",
    "trust=os",
    "trust=[os.]",
    "trust=[1]",
    "trust={a:b}",
    "trust=[[a]]",
    "recipe.name=null",
    "recipe.name=''",
    "recipe.name=[a]",
    "recipe.name=../../x",
    "recipe.name=.",
    "seed=-1",
    "seed=1.5",
    "seed=null",
    "seed=true",
    "seed=1e30",
    "seed=99999999999999999999",
    "checkpoint_seconds=nan",
    "checkpoint_seconds=-1",
    "checkpoint_seconds=inf",
)


def test_broken_overrides(ran: Path) -> None:
    """Hydra's own syntax, deleted keys, groups that aren't there; the whole verb, on a recipe that takes no time."""
    rng = drawn("overrides")
    odd = odd_paths(Path("odd"))
    base = (*RUN, "--config-dir", str(ran / "mine"))
    chosen = rng.sample(SYNTAX, 80)
    cases = [line(*base, word) for word in chosen]
    cases += [line(*base, *rng.sample(SYNTAX, 2)) for _ in range(10)]
    cases += [line(*base, "-m", word) for word in rng.sample(SYNTAX, 6)]
    cases += [
        line(*base, f"{key}={one_of(rng, odd)}")
        for key in ("outputs", "data_dir", "recipe.name", "model.name")
    ]
    cases += [line("explain", "recipe=one_shot", word) for word in rng.sample(SYNTAX, 10)]
    check(cases, 110)


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


def harmless(path: tuple[Any, ...]) -> bool:
    return path[0] not in ("hydra", "sweep") and path != ("outputs",)


def test_leaves() -> None:
    """Any leaf or branch of any shipped recipe's config, replaced or deleted."""
    rng = drawn("leaves")
    cases = []
    for recipe in rng.sample(RECIPES, 12):
        config = composed([f"recipe={recipe}", "scale=smoke"])
        places = [p for p in leaves(config) if harmless(p)]
        for _ in range(14):
            path = one_of(rng, places)
            value = one_of(rng, VALUES) if rng.random() < 0.93 else ...
            changed = change(config, path, value)
            cases.append(prepared(changed, f"recipe={recipe}: {path} = {value!r}"))
    check(cases, 160)


def as_override(value: Any) -> str:
    """A value as Hydra's grammar has it."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{as_override(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_override, value)) + "]"
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, int | float) or isinstance(value, bool)
        else str(value)
    )


def lengthy(value: Any) -> bool:
    """Whether a value may be a training of weeks, which nothing refuses."""
    return isinstance(value, int | float) and abs(value) > 1e6


def test_whole_runs(ran: Path) -> None:
    """One leaf of a recipe that takes no time, replaced; what passes the checks is run to the end."""
    rng = drawn("whole")
    base = (*RUN, "--config-dir", str(ran / "mine"), "hydra.run.dir=outputs/runs/one")
    config = composed([*RUN[1:]], str(ran / "mine"))
    places = [p for p in leaves(config) if p[0] in ("recipe", "model", "dataset", "hardware", "evaluation")]
    places = [p for p in places if all(isinstance(n, str) and re.fullmatch(r"\w+", n) for n in p)]
    cases = []
    while len(cases) < 40:
        path, value = one_of(rng, places), one_of(rng, VALUES)
        shown = ".".join(path)
        way = rng.choice(("", "", "++"))
        cases.append(line(*base, f"{way}{shown}={as_override(value)}"))
    check(cases, 40)


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
GROUPS = {
    "recipe": ("recipe=odd",),
    "model": ("model=odd",),
    "dataset": ("dataset=odd",),
    "hardware": ("hardware=odd",),
    "evaluation": ("evaluation=odd",),
    "scale": ("scale=odd",),
    "sweep": ("+sweep=odd",),
    "probe": ("+probe@evaluation.probes.odd=odd",),
    "stage/prune": ("stage/prune@recipe.stages.pruned=odd",),
}


def test_config_folders(ran: Path) -> None:
    """A ``--config-dir`` with one broken file, by every verb that takes one."""
    rng = drawn("folders")
    cases = []
    for number, (name, content) in enumerate(YAMLS.items()):
        group, words = one_of(rng, GROUPS.items())
        folder = Path(f"conf{number}")
        shutil.copytree(ran / "mine", folder)
        (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / group / "odd.yaml").write_bytes(content)
        cases.append(line(*RUN, "--config-dir", folder, *words, words=f"{name} as {group}: "))
        other = one_of(
            rng,
            (
                ("data", "odd", "--config-dir", folder),
                ("explain", "recipe=odd", "--config-dir", folder),
                ("list", "--config-dir", folder),
                (
                    "export",
                    next((ran / "outputs/runs").iterdir()),
                    "--state",
                    "nothing",
                    "--to",
                    "onnx",
                    "--config-dir",
                    folder,
                ),
            ),
        )
        if other[0] in ("data", "explain"):
            kind = "dataset" if other[0] == "data" else "recipe"
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / "odd.yaml").write_bytes(content)
        allowed = (0, 1, 2) if other[0] == "data" else (0, 2)
        cases.append(line(*other, words=f"{name} in {group}: ", allowed=allowed))
    check(cases, 90)


def stage(target: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"compressbench.stages.{target}", **settings}


def test_wrong_recipes(ran: Path) -> None:
    """Recipes that are none: no stages, circles, later references, stages that are none, wrong parts, wrong compare."""
    rng = drawn("recipes")
    config = composed([*RUN[1:]], str(ran / "mine"))
    good = config["recipe"]["stages"]
    init, train = good["init"], good["dense"]
    repeat = stage("repeat.Repeat", times=2, stages={"x": train})
    sets: list[Any] = [
        {},
        None,
        [],
        "dense",
        {"init": None},
        {"init": {}},
        {"init": "model"},
        {"init": [init]},
        {"dense": train},
        {"init": init, "dense": {**train, "from": "dense"}},
        {"init": init, "a": {**train, "from": "b"}, "b": {**train, "from": "a"}},
        {"init": init, "a": {**train, "from": "nothing"}},
        {"init": init, "a": {**train, "from": []}},
        {"init": init, "a": {**train, "from": {"x": 1}}},
        {"init": init, "a": {**train, "from": 1}},
        {"init": init, "a": {**train, "from": "*"}},
        {"init": init, "a": {**train, "data": "init"}},
        {"init": init, "a": {**train, "data": ["init", "a"]}},
        {"init": init, "a": {**train, "only": 1}},
        {"init": init, "a/b": train},
        {"init": init, "": train},
        {"init": init, 1: train},
        {"init": init, None: train},
        {"init": init, "a@seed1": train},
        {"init": init, "\x1b[31m": train},
        {"init": init, "x" * 5000: train},
        {"init": {**init, "model": {}}},
        {"init": {**init, "model": None}},
        {"init": {**init, "model": {"build": None}}},
        {"init": {**init, "model": {"build": {"_target_": "torch.nn.Linear"}}}},
        {"init": {**init, "model": {"build": {"_target_": "compressbench.stages.train.Train"}}}},
        {"init": init, "a": {"_target_": "compressbench.probes.accuracy.Accuracy"}},
        {"init": init, "a": {"_target_": "torch.nn.ReLU"}},
        {"init": init, "a": {"_target_": 1}},
        {"init": init, "a": {"_target_": "compressbench.stages.prune"}},
        {"init": init, "a": {**train, "_partial_": True}},
        {"init": init, "a": {**train, "objective": {**init}}},
        {
            "init": init,
            "a": {**train, "objective": {"_target_": "compressbench.training.objectives.nothing"}},
        },
        {"init": init, "a": {**train, "reparametrise": {"x": train}}},
        {"init": init, "a": {**train, "reparametrise": [1]}},
        {"init": init, "a": {**train, "reparametrise": {1: 2}}},
        {"init": init, "a": {**train, "optimizer": {"_target_": "torch.nn.Linear", "_partial_": True}}},
        {"init": init, "a": {**train, "checkpoint": "/dev/zero"}},
        {"init": init, "a": {**train, "checkpoint": ["x"]}},
        {"init": init, "a": {**train, "checkpoint": "."}},
        {"init": init, "a": {**repeat, "times": -1}},
        {"init": init, "a": {**repeat, "times": 10**9}},
        {"init": init, "a": {**repeat, "times": "x"}},
        {"init": init, "a": {**repeat, "stages": {}}},
        {"init": init, "a": {**repeat, "stages": None}},
        {"init": init, "a": {**repeat, "stages": [1]}},
        {"init": init, "a": {**repeat, "stages": {"x": None}}},
        {"init": init, "a": {**repeat, "stages": {"x": {"_target_": 1}}}},
        {"init": init, "a": stage("repeat.ForEach", values=[], set="x.lr", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=[1, 1], set="x.lr", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=1, set="x.lr", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=[1], set="y.lr", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=[1], set="x", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values=[1], set=None, stages={"x": train})},
        {
            "init": init,
            "a": stage("repeat.ForEach", values=[{"a": []}, None], set="x.lr", stages={"x": train}),
        },
        {"init": init, "a": stage("repeat.ForEach", values=[1], set="x.lr.y.z", stages={"x": train})},
        {"init": init, "a": stage("repeat.ForEach", values={"a": 1}, set="x.lr", stages={"x": train})},
    ]
    compares: list[Any] = [
        None,
        1,
        [],
        {"reference": None},
        {"reference": ["dense"]},
        {"reference": "nothing"},
        {"reference": "dense", "series": 1},
        {"reference": "dense", "series": ["pruned"]},
        {"reference": "dense", "series": {"dense": "pruned"}},
        {"reference": "dense", "series": {"x": None}},
        {"reference": "dense", "series": {"x": 1}},
        {"reference": "dense", "series": {"x": []}},
        {"reference": "dense", "series": {"x": {"a": 1}}},
        {"reference": "dense", "series": {"": "pruned"}},
        {"reference": "dense", "series": {"\x1b[31m": "pruned"}},
        {"reference": "dense", "series": {"\ud800": "pruned"}},
        {"reference": "dense", "series": {1: "pruned"}},
        {"reference": "dense", "floor": "x"},
        {"reference": "dense", "floor": [1]},
        {"reference": "dense", "moments": 1},
        {"reference": "dense", "moments": ["early"]},
        {"reference": "dense", "moments": {"early": 1}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": 1}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": "accuracy"}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": [None]}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": [["x"]]}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "probes": {"a": 1}}}},
        {"reference": "dense", "moments": {"early": {"reference": "init", "series": {"x": ["pruned", 1]}}}},
        {"reference": "dense", "published": 1},
        {"reference": "dense", "published": [1]},
        {"reference": "dense", "published": [{"a": 1}]},
        {"reference": "dense", "published": {"a": {"b": 1}}},
    ]
    cases = [prepared(change(config, ("recipe", "stages"), s), f"recipe.stages = {s!r}") for s in sets]
    cases += [prepared(change(config, ("recipe", "compare"), c), f"recipe.compare = {c!r}") for c in compares]
    for key in ("recipe", "model", "dataset", "hardware", "evaluation", "scale", "trust", "seed", "data_dir"):
        for value in rng.sample(VALUES, 4):
            cases.append(prepared(change(config, (key,), value), f"{key} = {value!r}"))
    check(cases, 120)


def verbs_on(run: Path, rng: random.Random) -> list[Any]:
    """A verb that reads a run's folder."""
    Path("t.csv").write_text("state,batch,ms\ndense,1,2.0\n")
    return list(
        one_of(
            rng,
            (
                ("report", run),
                ("gate", run, "--max-drop", "100"),
                ("gate", run, "--max-bytes", "1e9"),
                ("advise", run),
                ("advise", run, "--min-accuracy", "0", "--export", "safetensors"),
                ("export", run, "--state", "dense", "--to", "safetensors"),
                ("timings", "import", "t.csv", "--run", run, "--device", "phone"),
            ),
        )
    )


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, or something else altogether."""
    way = rng.randrange(8)
    if way == 0:
        return content[: rng.randrange(len(content))] if content else b""
    if way == 1:
        return b""
    if way == 2:
        return content + bytes(rng.randrange(256) for _ in range(20))
    if way == 3:
        return bytes(rng.randrange(256) for _ in range(200))
    if way == 4 and content:
        at = rng.randrange(len(content))
        return content[:at] + content[at + rng.randrange(1, 50) :]
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 5, 100))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def test_run_folders(own: Path) -> None:
    """A run's folder with a hostile ``config.yaml``: leaves replaced, bytes flipped, other YAML, no file."""
    import yaml

    rng = drawn("runs")
    text = (own / "config.yaml").read_text()
    config = yaml.safe_load(text)
    places = list(leaves(config))
    cases = []
    for number in range(50):
        run = own.parent / f"copy{number}"
        shutil.copytree(own, run)
        path = run / "config.yaml"
        way = rng.randrange(10)
        if way < 4:
            where, value = one_of(rng, places), one_of(rng, VALUES)
            words = f"config.yaml: {where} = {value!r}: "
            path.write_text(
                yaml.safe_dump(change(config, where, value), allow_unicode=False, sort_keys=False)
            )
        elif way < 6:
            path.write_bytes(damaged(text.encode(), rng))
            words = f"damaged {path.read_bytes()[:300]!r}: "
        elif way < 9:
            name, content = one_of(rng, YAMLS.items())
            path.write_bytes(content)
            words = f"config.yaml is {name}: "
        else:
            path.unlink()
            odd = rng.randrange(4)
            if odd == 0:
                path.mkdir()
            elif odd == 1:
                os.mkfifo(path)
            elif odd == 2:
                path.symlink_to("config.yaml")
            words = f"no config.yaml ({odd}): "
        argv = verbs_on(run, rng)
        if argv[0] in ("gate", "timings", "report"):
            argv = ["export", run, "--state", one_of(rng, ("dense", "tuned", "x")), "--to", "safetensors"]
        cases.append(line(*argv, words=words, allowed=(0, 1, 2) if argv[0] == "advise" else (0, 2)))
    check(cases, 50)


RECORDS: tuple[bytes, ...] = (
    b"",
    b"\n",
    b"\n\n\n",
    b"null\n",
    b"[]\n",
    b"{}\n",
    b"7\n",
    b'"x"\n',
    b"{\n",
    b"\xff\xfe\n",
    b"\x00\n",
    b"[" * 100_000 + b"\n",
    b'{"schema": 1}\n',
    b'{"schema": NaN}\n',
    b"1" * 5000 + b"\n",
)


def test_records(own: Path) -> None:
    """A run's folder with a hostile ``records.jsonl``: wrong types or figures, no lines, no file; and timings files."""
    rng = drawn("records")
    content = (own / "records.jsonl").read_bytes()
    rows = [json.loads(one) for one in content.decode().splitlines()]
    cases = []
    for number in range(60):
        run = own.parent / f"copy{number}"
        shutil.copytree(own, run)
        path = run / "records.jsonl"
        way = rng.randrange(10)
        if way < 6:
            changed = copy.deepcopy(rows)
            told = []
            column, value = one_of(rng, rows[0]), one_of(rng, VALUES)
            for row in changed if rng.random() < 0.5 else [rng.choice(changed)]:
                row[column] = value
            told.append((column, value))
            path.write_text("".join(json.dumps(r) + "\n" for r in changed))
            words = f"records: {told!r}: "
        elif way < 7:
            path.write_bytes(damaged(content, rng))
            words = f"damaged records (seed, number {number}): "
        elif way < 9:
            path.write_bytes(one_of(rng, RECORDS))
            words = f"records are {path.read_bytes()[:40]!r}: "
        else:
            path.unlink()
            odd = rng.randrange(4)
            if odd == 0:
                path.mkdir()
            elif odd == 1:
                os.mkfifo(path)
            elif odd == 2:
                path.symlink_to("records.jsonl")
            words = f"no records.jsonl ({odd}): "
        argv = verbs_on(run, rng)
        cases.append(line(*argv, words=words, allowed=(0, 1, 2) if argv[0] in ("advise", "gate") else (0, 2)))
    tables = (
        b"",
        b"state,batch,ms\n",
        b"state,batch,ms\ndense,1\n",
        b"state,batch,ms\ndense,1,nan\n",
        b"state,batch,ms\ndense,-1,1\n",
        b"state,batch,ms\ndense,1,1e400\n",
        b"state,batch,ms\n\x1b[31m,1,1\n",
        b"state,batch,ms\ndense,1,1,2,3,4\n",
        b"a,b,c\n1,2,3\n",
        b"[]",
        b"{}",
        b"[1]",
        b"[" * 50_000,
        b'[{"state": 1, "batch": [], "ms": {}}]',
        b'[{"state": "dense", "batch": true, "ms": "1"}]',
        b"[Step 1/1]\nLatency\n",
        b"Total inference requests: x\n",
        b"\xff\xff\xff",
        b"\x00" * 100,
        b'state,batch,ms\n"dense,1,1\n',
        b"state,batch,ms\ndense," + b"9" * 5000 + b",1\n",
        b"x" * 200_000,
    )
    for number, table in enumerate(tables):
        Path(f"table{number}").write_bytes(table)
        argv = [
            "timings",
            "import",
            f"table{number}",
            "--run",
            own,
            "--device",
            one_of(rng, ("phone", *TEXTS)),
        ]
        cases.append(line(*argv, words=f"{table[:60]!r}: "))
    check(cases, 80)


def test_stores(own: Path) -> None:
    """A store whose files are flipped, cut, swapped, gone or something else: made again, or refused."""
    rng = drawn("stores")
    cases = []
    base = (*RUN, "--config-dir", "mine")
    for number in range(26):
        outputs = Path(f"o{number}")
        shutil.copytree("outputs", outputs)
        files = sorted(p for p in (outputs / "store").rglob("*") if p.is_file())
        path = one_of(rng, files)
        way = rng.randrange(6)
        if way < 3:
            path.write_bytes(damaged(path.read_bytes(), rng))
        elif way == 3:
            other = one_of(rng, [p for p in files if p.suffix == path.suffix])
            shutil.copyfile(other, outputs / "aside")
            path.write_bytes((outputs / "aside").read_bytes())
            (outputs / "aside").unlink()
        elif way == 4:
            path.unlink()
        else:
            path.unlink()
            odd = rng.randrange(3)
            if odd == 0:
                path.mkdir()
            elif odd == 1:
                os.mkfifo(path)
            else:
                path.symlink_to(path.name)
        words = f"store, way {way}, {path.relative_to(outputs)}: "
        run = outputs / "runs" / own.name
        argv = one_of(
            rng,
            (
                ("store", "--outputs", outputs),
                ("store", "--outputs", outputs, "--prune"),
                ("export", run, "--state", "dense", "--to", "safetensors"),
                ("export", run, "--state", "tuned", "--to", "safetensors"),
                (*base, f"outputs={outputs}"),
                (*base, f"outputs={outputs}"),
            ),
        )
        cases.append(line(*argv, words=words))
    check(cases, 26)


def picture(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB", form: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    made = Image.fromarray(noise) if mode != "I;16" else Image.new(mode, size)
    (made.convert(mode) if mode != "I;16" else made).save(path, format=form)


def folder_of(root: Path, size: tuple[int, int] = (8, 8)) -> Path:
    """Pictures of two classes, six each."""
    for name in ("a", "b"):
        for number in range(6):
            picture(root / name / f"{number}.png", size)
    return root


def spoil(root: Path, way: int, rng: random.Random) -> str:
    """One thing in a folder of pictures made wrong; says which."""
    one = root / "a" / "0.png"
    good = one.read_bytes()
    ways: list[tuple[str, Callable[[], Any]]] = [
        ("empty picture", lambda: one.write_bytes(b"")),
        ("cut picture", lambda: one.write_bytes(good[: rng.randrange(1, len(good))])),
        ("flipped picture", lambda: one.write_bytes(damaged(good, rng))),
        ("text as picture", lambda: one.write_text("hello")),
        ("other size", lambda: picture(one, (9, 8))),
        ("huge size", lambda: one.write_bytes(_png_header(60_000, 60_000))),
        ("no size", lambda: one.write_bytes(_png_header(0, 0))),
        ("16 bits", lambda: picture(one, mode="I;16")),
        ("floats", lambda: picture(one, mode="F", form="TIFF")),
        ("palette", lambda: picture(one, mode="P")),
        ("cmyk", lambda: picture(one.with_suffix(".jpg"), mode="CMYK")),
        ("gif inside png", lambda: picture(one, form="GIF")),
        ("folder as picture", lambda: (one.unlink(), one.mkdir())),
        ("pipe as picture", lambda: (one.unlink(), os.mkfifo(one))),
        ("loop as picture", lambda: (one.unlink(), one.symlink_to("0.png"))),
        ("link outside", lambda: (one.unlink(), one.symlink_to("/etc/hostname"))),
        ("zeros as picture", lambda: (one.unlink(), one.symlink_to("/dev/zero"))),
        ("empty class", lambda: (root / "c").mkdir()),
        ("one class", lambda: shutil.rmtree(root / "b")),
        ("no class", lambda: (shutil.rmtree(root / "a"), shutil.rmtree(root / "b"))),
        ("class is a file", lambda: (shutil.rmtree(root / "b"), (root / "b").write_text("x"))),
        ("only train", lambda: folder_of(root / "train")),
        (
            "other classes in test",
            lambda: (folder_of(root / "train"), picture(root / "test" / "c" / "1.png")),
        ),
        ("name is no UTF-8", lambda: _copied(root / "a", os.fsencode(root) + b"/caf\xe9")),
        ("name of a picture is no UTF-8", lambda: os.rename(one, os.fsencode(root) + b"/a/\xff.png")),
        ("name with control characters", lambda: (root / "a").rename(root / "\x1b[31m")),
        ("name with a line feed", lambda: (root / "a").rename(root / "a\nb")),
        ("one picture a class", lambda: [p.unlink() for p in root.rglob("*.png") if p.stem != "1"]),
    ]
    name, do = ways[way % len(ways)]
    do()
    return name


def _copied(source: Path, target: bytes) -> None:
    shutil.copytree(os.fsencode(source), target)


def _png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def idx(array: np.ndarray) -> bytes:
    import struct

    return (
        struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


def test_data_sets(ran: Path) -> None:
    """Folders of pictures that are odd, settings of data sets, published files that are not as published."""
    rng = drawn("data")
    base = composed([*RUN[1:]], str(ran / "mine"))
    cases = []
    for way in range(28):
        root = folder_of(Path(f"pictures{way}"))
        words = spoil(root, way, rng)
        read = {
            "_target_": "compressbench.data.folder.image_folder",
            "root": str(root),
            "channels": rng.choice((1, 3)),
            "test_fraction": 0.3,
        }
        if rng.random() < 0.3:
            read["size"] = rng.choice((8, [8, 8], 16))
        cases.append(prepared({**base, "dataset": {"name": "x", "read": read}}, f"{words}: {read!r}"))
    root = folder_of(Path("pictures"))
    good = {
        "_target_": "compressbench.data.folder.image_folder",
        "root": str(root),
        "size": 8,
        "channels": 3,
        "test_fraction": 0.3,
        "split_seed": 0,
        "licence": "mine",
        "labels": {"a": 0, "b": 1},
        "outputs": 2,
    }
    odd = odd_paths(Path("odd"))
    for key in good:
        for value in (*rng.sample(VALUES, 5), *(rng.sample(odd, 5) if key == "root" else ())):
            read = {**good, key: value}
            cases.append(
                prepared({**base, "dataset": {"name": "x", "read": read}}, f"dataset.read.{key} = {value!r}")
            )
    settings = (
        "name",
        "train_size",
        "test_size",
        "subset_seed",
        "imbalance",
        "validation",
        "augment",
        "normalise",
    )
    for key in (*settings, "nothing"):
        for value in (*rng.sample(VALUES, 4), {"mean": [0], "std": [1e-320]}, {"pad": 10**9, "flip": True}):
            dataset = {**base["dataset"], key: value}
            cases.append(prepared({**base, "dataset": dataset}, f"dataset.{key} = {value!r}"))
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    images, labels = idx(np.zeros((5, 28, 28))), idx(np.zeros(5))
    for number in range(6):
        for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
            (raw / name).write_bytes(damaged(images, rng))
        for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.xz"):
            (raw / name).write_bytes(damaged(labels, rng))
        cases.append(line(*RUN, "dataset=mnist", "--config-dir", ran / "mine", words=f"mnist {number}: "))
        cases.append(
            line(
                "data",
                one_of(rng, ("mnist", "cifar10", *TEXTS)),
                "--data-dir",
                one_of(rng, odd),
                allowed=(0, 1, 2),
            )
        )
    check(cases, 130)


def command(argv: list[str], env: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compressbench", *argv],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_commands(own: Path) -> None:
    """As commands, where the environment is hostile too."""
    rng = drawn("commands")
    Path("t.csv").write_text("state,batch,ms\ndense,1,2.0\n")
    paths = [p for p in odd_paths(Path("odd")) if "\ud800" not in p]
    environments: tuple[dict[str, str], ...] = (
        {},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
        {"TERM": "dumb"},
        {"TERM": ""},
        {"COLUMNS": "1"},
        {"COLUMNS": "nothing", "LINES": "-1"},
        {"HOME": "/nowhere"},
        {"COMPRESSBENCH_OUTPUTS": ""},
        {"COMPRESSBENCH_OUTPUTS": "odd/a_file"},
        {"COMPRESSBENCH_OUTPUTS": "/dev/null"},
        {"COMPRESSBENCH_DATA": ""},
        {"COMPRESSBENCH_DATA": "odd/a_file"},
        {"COMP_LINE": "compressbench run recipe=", "COMP_POINT": "x"},
        {"OMP_NUM_THREADS": "nothing"},
        {"TMPDIR": "/nowhere"},
    )
    lines: list[list[str]] = [
        [*RUN, "--config-dir", "mine", "recipe.name=ünïcödé ☃"],
        [*RUN, "--config-dir", "mine", "seed=-1"],
        [*RUN, "--config-dir", "mine", "model=nothing ☃"],
        [*RUN, "--config-dir", "mine", "dataset=cifar10"],
        ["report", str(own)],
        ["gate", str(own), "--max-drop", "0"],
        ["advise", str(own)],
        ["export", str(own), "--state", "dense", "--to", "safetensors"],
        ["store"],
        ["list"],
        ["explain", "one_shot"],
        ["data", "mnist"],
        ["completion", "query"],
    ]
    told = []
    count = 42
    for number in range(count):
        env = environments[number % len(environments)]
        argv = one_of(rng, lines) if number % 3 else hostile_line(rng, one_of(rng, VERBS), paths, str(own))
        argv = [a for a in argv if "\x00" not in a and "\ud800" not in a]
        allowed = (0, 1, 2) if argv[0] in ("gate", "advise", "data") else (0, 2)
        case = Case(f"{env} {argv!r}", lambda: 0, allowed)
        try:
            ended = command(argv, env, Path.cwd())
        except subprocess.TimeoutExpired:
            told.append(f"- {case.words}\n    took more than 60 s")
            continue
        if fault := judged(case, ended.returncode, ended.stdout, ended.stderr):
            told.append(f"- {case.words[:1500]}\n    {fault}")
    if told:
        pytest.fail(f"FUZZ_SEED={SEED}: {len(told)} of {count} commands\n" + "\n".join(told), pytrace=False)
