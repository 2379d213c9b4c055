"""Hostile command lines and overrides, in this process and as commands: one clear line, nothing harmed."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cases_fuzz import RUN, SEED, TEXTS, Case, _home, check, drawn, judged, line, odd_paths, one_of, own, ran  # noqa: F401
from compressbench.cli.main import VERBS

pytestmark = pytest.mark.slow


# lines ----------------------------------------------------------------------------------------------------------------


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
    "compare": {
        "--data": "path",
        "--limit": "number",
        "--margin": "number",
        "--gate": "text",
        "--size": "text",
        "--mean": "text",
        "--range": "text",
        "--answers": "text",
        "--classes": "path",
        "--floor": "path",
        "--output": "text",
        "--threads": "number",
        "--trust": "text",
        "--config-dir": "path",
    },
    "published": {"--write": "path", "--any-scale": ""},
    "tour": {"--write": "path", "--only": "text", "--outputs": "path"},
    "timings": {"--run": "path", "--device": "text", "--state": "text", "--batch": "number"},
    "calibrate": {"--runtime": "text"},
    "list": {"--config-dir": "path"},
    "explain": {"--config-dir": "path"},
    "data": {"--data-dir": "path", "--config-dir": "path"},
    "store": {"--outputs": "path", "--older-than": "number", "--prune": ""},
    "check": {"--config-dir": "path", "--trust": "text", "--seconds": "number"},
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
    "compare": lambda run: ["compare", f"{run}::dense", "nothing.npz"],
    "published": lambda run: ["published", run],
    "tour": lambda run: ["tour", "--only", "viola_jones"],
    "calibrate": lambda run: ["calibrate", "--runtime", "nothing"],
    "list": lambda run: ["list", "recipes"],
    "explain": lambda run: ["explain", "one_shot"],
    "data": lambda run: ["data", "mnist"],
    "store": lambda run: ["store"],
    "check": lambda run: ["check", "--config-dir", "mine", "nothing"],
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
    if verb == "tour" and not str(argv[1] if len(argv) > 1 else "").startswith("-"):
        argv.insert(1, "--only")  # else a number would run a slide
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
        cases.append(
            line(*argv, allowed=(0, 1, 2) if argv[0] in ("gate", "advise", "data", "check") else (0, 2))
        )
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


# commands -------------------------------------------------------------------------------------------------------------


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
        # what the OpenMP runtime says of its own variable, when torch loads it, isn't ours
        own_words = re.sub(r"\nlibgomp: .*\n", "", ended.stderr)
        if fault := judged(case, ended.returncode, ended.stdout, own_words):
            told.append(f"- {case.words[:1500]}\n    {fault}")
    if told:
        pytest.fail(f"FUZZ_SEED={SEED}: {len(told)} of {count} commands\n" + "\n".join(told), pytrace=False)
