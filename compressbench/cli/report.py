"""``compressbench report PATH…``: one report of one run, a sweep, or many of either."""

from __future__ import annotations

from pathlib import Path

from compressbench.cli.parser import Parser, a_path
from compressbench.console import console


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: nothing to report, something that is no record, or a folder that can't be written.
    """
    parser = Parser(
        prog="compressbench report",
        description="Draws one report of many runs, recipes and seeds on the same axes.",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a run's folder, a sweep's, or a records.jsonl"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="where to write it (the folder itself if one is given, else ./report)"
    )
    args = parser.parse_intermixed_args(argv)
    paths = [a_path(p) for p in args.paths]
    from compressbench.report.joint import gather, write_joint

    gathered = gather(paths)
    page = write_joint(gathered, _output(paths, args.output))

    from compressbench.report.terminal import print_tables

    shown = console()
    for folder in gathered.empty:
        shown.print(f"skipped {folder}: it holds no records", soft_wrap=True)
    print_tables(gathered.drawn, shown)
    for sentence in gathered.missing:
        shown.print(f"note: {sentence}", style="yellow", markup=False)
    shown.print(f"report: {page}", soft_wrap=True)
    return 0


def _output(paths: list[Path], given: str | None) -> Path:
    if given is not None:
        return a_path(given)
    if len(paths) == 1:
        return paths[0] if paths[0].is_dir() else paths[0].parent
    return Path("report")
