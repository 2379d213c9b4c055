"""``compressbench timings import FILE --run RUN --device NAME``: latencies measured elsewhere become records."""

from __future__ import annotations

import hashlib
import re

from compressbench.cli.parser import Parser, a_path, count
from compressbench.console import say
from compressbench.errors import UserError
from compressbench.paths import own_folder
from compressbench.wording import counted

LONGEST = 80
TOOLS = ("OpenVINO", "ONNX Runtime, perf_test")


def _folder(device: str) -> str:
    """A folder's name for a device: readable, and another one for every other name.

    Raises:
        UserError: no letters or digits, or what no file system should see.
    """
    slug = re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-").lower()
    if not slug or not device.isprintable() or set("/\\") & set(device) or len(device) > LONGEST:
        said = f"letters and digits are wanted, no slash, at most {LONGEST} characters"
        raise UserError(f"--device: {device[:LONGEST]!r} is no name; {said}")
    return f"{slug}-{hashlib.sha256(device.encode()).hexdigest()[:6]}"


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: an unreadable file, none of the known forms, another state's timings, no run.
    """
    parser = Parser(prog="compressbench timings", description=__doc__)
    parser.add_argument("action", choices=["import"])
    parser.add_argument(
        "file", type=a_path, metavar="FILE", help="CSV, JSON, or benchmark_app's or perf_test's output"
    )
    parser.add_argument("--run", type=a_path, required=True, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--device", required=True, metavar="NAME", help="where it was measured, e.g. 'Pixel 8'"
    )
    parser.add_argument(
        "--state", default="", metavar="NAME", help="that was timed, where the file doesn't say"
    )
    parser.add_argument("--batch", type=count, metavar="N", help="where a tool's output doesn't say")
    args = parser.parse_intermixed_args(argv)
    from dataclasses import replace

    from compressbench.deploying.elsewhere import derived, read, records
    from compressbench.records import write_csv, write_jsonl
    from compressbench.runs.finished import RECORDS, records_of

    if not (args.run / RECORDS).is_file():
        raise UserError(f"--run: {args.run} holds no {RECORDS}; give a finished run's folder")
    run = [r for r in records_of(args.run) if r.moment == "final" and r.series != "floor"]
    folder = own_folder(args.run, "timings") / _folder(args.device)
    own = {r.group for r in run if r.probe in ("targets", "deployed")} | {r.hardware for r in run}
    if args.device in own:
        raise UserError(
            f"--device: {args.device!r} is a target of this run already; another name tells them apart"
        )
    try:
        if not args.file.is_file():
            raise UserError(f"{args.file}: there is no such file")
        text = args.file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{args.file}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    found = read(text, args.file.name)
    if args.batch:
        if not found[0].runtime.startswith(TOOLS):
            raise UserError("--batch: the file says its batches itself")
        found = [replace(one, batch=args.batch) for one in found]
    made = records(found, run, args.state, args.device, args.file.name)
    path = folder / RECORDS
    if path.is_file():  # what is imported again replaces what was
        fresh = {(r.state, r.metric) for r in made}
        before = [r for r in records_of(folder) if r.metric.startswith("latency_b")]
        made = [r for r in before if (r.state, r.metric) not in fresh] + made
    rows = derived(made)
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(rows, path)
    write_csv(rows, folder / "records.csv")
    latencies = counted(len(made), "latency", "latencies")
    say(f"{path}: {latencies} on {args.device}; compressbench report {args.run} shows them beside the others")
    return 0
