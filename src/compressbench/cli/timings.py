"""``compressbench timings import FILE --run RUN --device NAME``: latencies measured elsewhere become records."""

from __future__ import annotations

import re
from pathlib import Path

from compressbench.cli.parser import Parser, count
from compressbench.errors import UserError


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: an unreadable file, none of the known forms, another state's timings, no run.
    """
    parser = Parser(prog="compressbench timings", description=__doc__)
    parser.add_argument("action", choices=["import"])
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="CSV, JSON, or benchmark_app's or perf_test's output"
    )
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--device", required=True, metavar="NAME", help="where it was measured, e.g. 'Pixel 8'"
    )
    parser.add_argument(
        "--state", default="", metavar="NAME", help="that was timed, where the file doesn't say"
    )
    parser.add_argument("--batch", type=count, metavar="N", help="where a tool's output doesn't say")
    args = parser.parse_args(argv)
    from dataclasses import replace

    from compressbench.elsewhere import read, records
    from compressbench.records import read_jsonl, write_csv, write_jsonl

    source = args.run / "records.jsonl"
    if not source.is_file():
        raise UserError(f"--run: {args.run} holds no records.jsonl; give a finished run's folder")
    slug = re.sub(r"[^A-Za-z0-9]+", "-", args.device).strip("-").lower()
    if not slug or "/" in args.device:
        raise UserError(f"--device: {args.device!r} is no name; letters and digits are wanted, no slash")
    try:
        text = args.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{args.file}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    found = read(text, args.file.name)
    if args.batch:
        found = [replace(one, batch=args.batch) for one in found]
    run = [r for r in read_jsonl(source) if r.moment == "final" and r.series != "floor"]
    made = records(found, run, args.state, args.device, args.file.name)
    folder = args.run / "timings" / slug
    path = folder / "records.jsonl"
    if path.is_file():  # what is imported again replaces what was
        fresh = {(r.state, r.metric) for r in made}
        made = [r for r in read_jsonl(path) if (r.state, r.metric) not in fresh] + made
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(made, path)
    write_csv(made, folder / "records.csv")
    latencies = sum(r.metric.startswith("latency") for r in made)
    print(
        f"{path}: {latencies} latencies on {args.device}; compressbench report {args.run} shows them beside the others"
    )
    return 0
