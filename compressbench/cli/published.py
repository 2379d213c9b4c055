"""``compressbench published [RUN…]``: published figures with ours beside them, as a Markdown page."""

from __future__ import annotations

from compressbench.cli.parser import Parser, a_path
from compressbench.console import say


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: something that is no record, a file of figures that is none, or a page that can't be written.
    """
    parser = Parser(
        prog="compressbench published",
        description="Published figures, their sources, and ours beside them: a Markdown page made from records.",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="RUN",
        help="runs' folders, sweeps' folders or records.jsonl; none: nothing is run yet",
    )
    parser.add_argument("--write", metavar="FILE", help="the page's file; without it the page is printed")
    parser.add_argument(
        "--any-scale",
        action="store_true",
        help="runs of other scales than paper too; the page says of each which",
    )
    args = parser.parse_intermixed_args(argv)
    paths = [a_path(p) for p in args.paths]
    from compressbench.report.literature_page import page, rows_of, unasked
    from compressbench.report.literature_rows import topics

    known = topics()
    rows, missing = rows_of(paths) if paths else ((), ())
    left_out = (*missing, *unasked(known, rows, args.any_scale))
    text = page(known, rows, args.any_scale, left_out)
    if args.write is None:
        say(text.removesuffix("\n"))
        return 0
    from compressbench.paths import write_text

    write_text(a_path(args.write), text)
    for sentence in left_out:
        say(f"note: {sentence}")
    say(f"page: {args.write}")
    return 0
