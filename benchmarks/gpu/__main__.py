"""Everything that is to be measured on a GPU, in one command of at most nine minutes.

    python -m benchmarks.gpu [--part training,forms] [--smoke] [--out FOLDER]     # make gpu
    python -m benchmarks.gpu --carry DATA_DIR                                     # make gpu-carry
    python -m benchmarks.gpu --table FILE...                                      # fills docs/gpu.md from results

Parts stand in the order of their worth: a cut loses the last ones. Each runs in a process of its own and has at least the
seconds below; what earlier ones leave is added. Results are appended to FOLDER/gpu.jsonl as soon as they are there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import carry
from benchmarks.gpu.rows import CUT, Sheet, clean, read, table

WHOLE = 540.0
"""Seconds of everything together: ten minutes, less what starting and sending files takes."""


@dataclass(frozen=True)
class Part:
    """One question.

    Attributes:
        seconds: that it has at least; a module of this name in this folder answers it.
        question: in a line, for the table.
        asked: runs only when it is named.
    """

    seconds: float
    question: str
    asked: bool = False


PARTS = {
    "tests": Part(60, "do the CUDA tests pass?"),
    "training": Part(105, "how fast is a training step, eager and captured, against a bare loop?"),
    "lanes": Part(70, "what do 4, 8 and 16 seeds in one program bring?"),
    "agreement": Part(45, "does the CPU say the same of states that the card made? do lanes and graphs train alike?"),
    "forms": Part(75, "what do fewer bits, 2:4, fewer channels and early exits bring, by batch size and launch?"),
    "exits": Part(40, "are early exits better suited to the CPU than to the GPU?"),
    "compiled": Part(55, "how fast is a compiled training step?"),
    "recipes": Part(60, "do whole recipes run, and what do they time?"),
    "whole": Part(0, "how long does a whole training of 160 epochs take, and how good is the net?", asked=True),
    "whole_lanes": Part(0, "the same of 4 seeds in lanes?", asked=True),
}  # fmt: skip
DOC = carry.ROOT / "docs" / "gpu.md"
MARK = "<!-- what follows is written by: python -m benchmarks.gpu --table FILE -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", default="", help="names, with commas between them")
    parser.add_argument("--smoke", action="store_true", help="tiny, on the CPU; what it gives are no results")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "outputs/gpu"))
    parser.add_argument(
        "--carry", type=Path, metavar="DATA_DIR", help="fill .gpu for a machine without network"
    )
    parser.add_argument("--table", type=Path, nargs="*", metavar="FILE", help="write docs/gpu.md's tables")
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--about", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        import torch

        torch.backends.cudnn.allow_tf32 = False  # as runs have it
        sheet = Sheet(args.out / "gpu.jsonl", args.inside, args.about)
        importlib.import_module(f"benchmarks.gpu.{args.inside}").run(sheet)
        return 0
    try:
        if args.table is not None:
            tell([row for path in args.table for row in read(path)])
        elif args.carry:
            carry.fill(args.carry)
        else:
            measure(chosen(args.part, args.smoke), args.out, args.smoke)
    except carry.Lacking as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def chosen(names: str, smoke: bool) -> list[str]:
    """The parts that are named, in their order; where none is, all that needn't be asked for, and in a smoke run all."""
    named = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in named if name not in PARTS]:
        raise carry.Lacking(f"make gpu: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return [name for name, part in PARTS.items() if (name in named if named else smoke or not part.asked)]


def measure(names: Sequence[str], out: Path, smoke: bool) -> None:
    """Runs parts one after the other, each at most so long that those after it keep their seconds."""
    end = time.monotonic() + WHOLE
    carry.ready()
    facts = about(smoke)
    print(f"{facts['card'] or facts['processor']}; results go to {out / 'gpu.jsonl'}", flush=True)
    for place, name in enumerate(names):
        later = sum(PARTS[other].seconds for other in names[place + 1 :])
        began = time.monotonic()
        said = part(name, Sheet(out / "gpu.jsonl", name, facts), end - began - later)
        print(f"{name}: {said or 'done'}, {time.monotonic() - began:.0f} s", flush=True)


def about(smoke: bool) -> dict[str, Any]:
    """What every row carries.

    Raises:
        Lacking: there is no card, and no smoke run is wanted.
    """
    ask = (
        "import json, torch; there = torch.cuda.is_available(); print(json.dumps([there, torch.__version__, "
        "torch.version.cuda, torch.cuda.get_device_name() if there else '']))"
    )
    found = subprocess.run([sys.executable, "-c", ask], env=surroundings(), capture_output=True, text=True)
    if found.returncode:
        raise carry.Lacking(f"make gpu: torch can't be used: {clean(found.stderr.strip().splitlines()[-1])}")
    there, torch, cuda, card = json.loads(found.stdout.strip().splitlines()[-1])
    if not there and not smoke:
        raise carry.Lacking(
            f"make gpu: torch {torch} finds no CUDA device on this machine; make gpu SMOKE=1 tries all on the CPU"
        )
    from compressbench.runs.provenance import processor

    return {
        "device": "cpu" if smoke else "cuda",
        "card": "" if smoke else card,
        "driver": "" if smoke else driver(),
        "torch": torch,
        "cuda": cuda or "",
        "python": platform.python_version(),
        "processor": processor(),
        "commit": carry.commit(),
        "smoke": smoke,
    }


def driver() -> str:
    """The driver's version; empty where ``nvidia-smi`` doesn't say it."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(ask, capture_output=True, text=True, timeout=20).stdout.strip().split("\n")[0]
    return ""


def surroundings() -> dict[str, str]:
    """The environment of a part: the tree and carried wheels importable, all that is kept outside of the tree."""
    paths = [str(carry.ROOT), str(carry.SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(carry.CACHE / "inductor"),
        "COMPRESSBENCH_DATA": os.environ.get("COMPRESSBENCH_DATA") or str(carry.DATA),
    }


def part(name: str, sheet: Sheet, seconds: float, command: Sequence[str] = ()) -> str:
    """One part in a process of its own; what went wrong, which is a row too. Empty if nothing did."""
    inside = [sys.executable, "-m", "benchmarks.gpu", "--inside", name, "--out", str(sheet.path.parent),
              "--about", json.dumps(sheet.about)]  # fmt: skip
    if seconds < 1:
        sheet.add("", CUT, 0.0, "s", note="no time was left for it")
        return "no time was left"
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command or inside, cwd=carry.ROOT, env=surroundings(), stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # what a part started goes with it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    if code is None:
        sheet.add("", CUT, round(seconds, 1), "s", note="its time was over; rows before this one count")
        return f"cut after {seconds:.0f} s"
    if code == 0:
        return ""
    reason = clean(said[-1]) if said else "it said nothing"
    sheet.failed("", f"{f'killed by signal {-code}' if code < 0 else f'exit code {code}'}: {reason}")
    return f"failed: {reason}"


def tell(rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the tables into the page."""
    head, mark, _ = DOC.read_text(encoding="utf-8").partition(MARK)
    questions = {name: part.question for name, part in PARTS.items()}
    DOC.write_text(head + mark + "\n" + table(rows, questions), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
