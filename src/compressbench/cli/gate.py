"""``compressbench gate RUN``: exit code 1 when a compressed state breaks a limit, for a CI of yours."""

from __future__ import annotations

from pathlib import Path

from compressbench.cli.parser import Parser, count, number
from compressbench.errors import UserError, nearest


def main(argv: list[str]) -> int:
    """The verb; 0 if every state keeps to every limit, 1 if one doesn't.

    Raises:
        UserError: no limit, no records, no such state.
    """
    parser = Parser(prog="compressbench gate", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folders of runs or sweeps")
    parser.add_argument(
        "--state",
        action="append",
        metavar="NAME",
        help="only this one, again for more; else all but dense",
    )
    parser.add_argument(
        "--max-drop", type=number, metavar="POINTS", help="of accuracy, below dense of the same seed"
    )
    parser.add_argument(
        "--max-class-drop", type=number, metavar="POINTS", help="of recall, of the class that loses most"
    )
    parser.add_argument("--min-loyalty", type=number, metavar="PERCENT", help="label loyalty")
    parser.add_argument("--min-accuracy", type=number, metavar="PERCENT")
    parser.add_argument("--max-bytes", type=number, metavar="N", help="on disk, of the shortest encoding")
    parser.add_argument("--max-latency", type=number, metavar="MS", help="on the target")
    parser.add_argument("--target", default="", metavar="T", help="whose latency counts")
    parser.add_argument("--batch", type=count, default=1, help="of the latency; 1 by default")
    args = parser.parse_args(argv)
    from compressbench.choosing import DENSE, Limits, broken, choices
    from compressbench.report.joint import gather

    limits = Limits(
        args.max_bytes,
        args.max_latency,
        args.min_accuracy,
        args.min_loyalty,
        args.max_drop,
        args.max_class_drop,
    )
    if not limits.asked:
        raise UserError("gate: no limit given, e.g. --max-drop 1.0")
    if args.max_latency is not None and not args.target:
        raise UserError("--max-latency: on which target? add --target NAME")
    found = [c for c in choices(gather(args.runs).records, args.target, args.batch) if c.series != DENSE]
    known = list(dict.fromkeys(c.state for c in found))
    for name in args.state or ():
        if name not in known:
            raise UserError(f"--state: no compressed state {name!r} was measured; {nearest(name, known)}")
    chosen = [c for c in found if not args.state or c.state in args.state]
    if not chosen:
        raise UserError("gate: the records hold no compressed state")
    failed = 0
    for choice in chosen:
        faults = broken(choice, limits)
        failed += bool(faults)
        print(f"{'BROKEN' if faults else 'ok':<7} {choice.name}: {'; '.join(faults) or 'within all limits'}")
    print(
        f"{failed} of {len(chosen)} states break a limit"
        if failed
        else f"all {len(chosen)} states keep to the limits"
    )
    return 1 if failed else 0
