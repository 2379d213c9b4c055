"""Whether anything is lost or wrong: kills at random moments, flips, swaps, pruning beside runs, several processes.

    python benchmarks/lasting.py [--kills 200] [--seed 0]

A small recipe (trainings with checkpoints, prunings, probes) runs again and again on one store, in forked processes
that are killed by SIGKILL at a random moment, some as soon as something is being written. Between kills entries are
removed, flipped or swapped, and others prune at the same time. Whenever a run ends its records must be those of an
undisturbed run, bit for bit but for timings; an entry that was whole before a kill must be whole after it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from compressbench.cli.main import run as command
from compressbench.records import read_jsonl
from compressbench.runs.provenance import processor, versions
from compressbench.store import Damaged, Store

COST = {"train_seconds", "forward_seconds"}


def main() -> int:
    """Runs the campaign; exit code 1 if anything was wrong or lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; {versions()}; {args.kills} kills, seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return campaign(Path(folder), args.kills, random.Random(args.seed))


def campaign(folder: Path, kills: int, rng: random.Random) -> int:
    """Prints what happened, and returns the exit code."""
    began = time.monotonic()
    whole = folder / "whole"
    wait(fork(lambda: go(whole)))
    expected = rows(whole)[0]
    length = time.monotonic() - began
    outputs = folder / "broken"
    told: Counter[str] = Counter()
    while told["kills"] < kills:
        harm(outputs, rng, told)
        before = intact(outputs)
        children = [fork(lambda: go(outputs)) for _ in range(rng.choice((1, 1, 1, 2, 3, 4)))]
        told["several processes"] += len(children) > 1
        pruner = fork(lambda: prune(outputs)) if rng.random() < 0.2 else None
        told["pruning beside"] += pruner is not None
        in_a_write = rng.random() < 0.3
        end = time.monotonic() + rng.uniform(0, 1.2 * length)
        while time.monotonic() < end:
            if in_a_write and any((outputs / "store" / "aside").glob("*")):
                told["kills in a write"] += 1
                break
            time.sleep(0.0005)
        for child in children:
            ended = os.waitpid(child, os.WNOHANG)
            if ended[0]:
                told["runs that ended"] += 1
                told["WRONG exit codes"] += os.waitstatus_to_exitcode(ended[1]) != 0
            else:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                told["kills"] += 1
        if pruner is not None:
            wait(pruner)
        else:
            told["LOST entries"] += len(before - intact(outputs))
        check(outputs, expected, told)
    children = [fork(lambda: go(outputs)) for _ in range(4)]
    told["WRONG exit codes"] += sum(wait(child) != 0 for child in children)
    found = rows(outputs)
    told["LOST runs"] += len(found) < 4
    check(outputs, expected, told)
    wait(fork(lambda: command(["store", "--prune", "--outputs", str(outputs)])))
    left = [p for n in ("aside", "locks", "plans", "checkpoints") for p in (outputs / "store" / n).iterdir()]
    left += list(outputs.rglob("*.part"))
    told["LEFT behind"] += len([p for p in left if p.name != "plans"])
    for name, count in sorted(told.items()):
        print(f"{count:6} {name}")
    print(f"{time.monotonic() - began:.0f} s; an undisturbed run takes {length:.1f} s")
    return int(any(count for name, count in told.items() if name.split()[0].isupper()))


def go(outputs: Path) -> int:
    """One run of the recipe."""
    return command(
        [
            "run",
            "recipe=one_shot",
            "model=lenet_300_100",
            "scale=smoke",
            "hardware=cpu1",
            "recipe.length=60it",
            "recipe.finetune=20it",
            "recipe.fractions=[0.5,0.9]",
            "evaluation=none",
            "+probe@evaluation.probes.accuracy=accuracy",
            "+probe@evaluation.probes.loyalty=loyalty",
            "+probe@evaluation.probes.structure=structure",
            "checkpoint_seconds=0.01",
            f"outputs={outputs}",
        ]
    )


def prune(outputs: Path) -> int:
    """Another process that makes the store smaller, again and again."""
    code = 0
    for _ in range(5):
        if (outputs / "store").is_dir():
            code |= command(["store", "--prune", "--older-than", "0", "--outputs", str(outputs)])
        time.sleep(0.05)
    return code


def fork(work: Callable[[], int]) -> int:
    """Starts work in a child with no output; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        log = os.open(Path(tempfile.gettempdir()) / "lasting.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = work()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def rows(outputs: Path) -> list[list[tuple[Any, ...]]]:
    """Records of all runs that ended, without what no two runs share."""
    found = []
    for path in sorted((outputs / "runs").glob("*/records.jsonl")) if (outputs / "runs").is_dir() else ():
        kept = [r for r in read_jsonl(path) if not r.is_timing and r.metric not in COST]
        found.append(
            [(r.series, r.state, r.order, r.probe, r.metric, r.group, r.value, r.n, r.key) for r in kept]
        )
    return found


def check(outputs: Path, expected: list[tuple[Any, ...]], told: Counter[str]) -> None:
    """Compares what ended; a run that was killed while it wrote its report has whole records or none."""
    for found in rows(outputs):
        told["compared"] += 1
        told["WRONG records"] += found != expected
    shutil.rmtree(outputs / "runs", ignore_errors=True)


def intact(outputs: Path) -> set[str]:
    """Keys of the entries whose bytes are those that were written."""
    store, found = Store(outputs / "store", writable=False), set()
    for part, read in (("states", store.read_facts), ("results", store.load_result)):
        for path in (outputs / "store" / part).glob("*"):
            with contextlib.suppress(Damaged):
                if read(path.name.removesuffix(".json")) is not None:
                    found.add(f"{part}/{path.name}")
    return found


def harm(outputs: Path, rng: random.Random, told: Counter[str]) -> None:
    """Removes some entries, so that there is something to do; at times flips a bit or swaps two entries."""
    entries = sorted(p for part in ("states", "results") for p in (outputs / "store" / part).glob("*"))
    for path in rng.sample(entries, len(entries) // 2):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    files = sorted(p for p in (outputs / "store").rglob("*") if p.is_file() and p.stat().st_size)
    if files and rng.random() < 0.4:
        path = rng.choice(files)
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        told["flips"] += 1
    part = rng.choice(("states", "results"))
    entries = sorted((outputs / "store" / part).glob("*"))
    if len(entries) > 1 and rng.random() < 0.3:
        one, other = rng.sample(entries, 2)
        aside = one.with_name("swap")
        one.rename(aside)
        other.rename(one)
        aside.rename(other)
        told["swaps"] += 1


if __name__ == "__main__":
    raise SystemExit(main())
