"""``compressbench gate RUN``: exit code 1 when a compressed state breaks a limit at any seed, or it can't be told."""

from __future__ import annotations

from compressbench.cli.parser import Parser, a_path, count, number, percent
from compressbench.console import say
from compressbench.errors import CantTell, UserError, nearest


def main(argv: list[str]) -> int:
    """The verb; 0 if every state keeps to every limit at every seed, 1 if one doesn't.

    Raises:
        UserError: no limit, no records, no such state.
        CantTell: no state breaks a limit, but of one it isn't known that it keeps to all.
    """
    parser = Parser(prog="compressbench gate", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=a_path, help="folders of runs or sweeps")
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
    parser.add_argument("--min-loyalty", type=percent, metavar="PERCENT", help="label loyalty")
    parser.add_argument("--min-accuracy", type=percent, metavar="PERCENT")
    parser.add_argument(
        "--max-bytes",
        type=number,
        metavar="N",
        help="of the file that the target reads, else of the shortest encoding",
    )
    parser.add_argument("--max-latency", type=number, metavar="MS", help="on the target")
    parser.add_argument("--target", default="", metavar="T", help="whose latency and file count")
    parser.add_argument("--batch", type=count, default=1, help="of the latency; 1 by default")
    args = parser.parse_intermixed_args(argv)
    from compressbench.deploying.limits import Limits, encoded_in_words, timed_anew, verdicts
    from compressbench.deploying.measured import choices
    from compressbench.report.chance import unseen_in_words
    from compressbench.report.joint import gather
    from compressbench.runs.plan import DENSE
    from compressbench.wording import counted

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
    drawn = gather(args.runs).drawn
    everything = choices(drawn, args.target, args.batch)
    found = [c for c in everything if c.series != DENSE]
    known = list(dict.fromkeys(c.state for c in found))
    for name in args.state or ():
        if name in known:
            continue
        if any(c.state == name for c in everything):
            raise UserError(
                f"--state: {name!r} is the dense model, with which others are compared; name a compressed state; "
                f"{nearest(name, known)}"
            )
        raise UserError(f"--state: no compressed state {name!r} was measured; {nearest(name, known)}")
    chosen = [c for c in found if not args.state or c.state in args.state]
    if not chosen:
        raise UserError("gate: the records hold no compressed state")
    for sentence in unseen_in_words(drawn):
        say(f"note: {sentence}")
    failed, unknown, anew = 0, [], ""
    for choice in chosen:
        told = verdicts(choice, limits)
        broken = [v.words for v in told if v.kept is False]
        open_ = [v.words for v in told if v.kept is None]
        failed += bool(broken)
        label = f"{choice.name} ({choice.state})" if choice.state not in choice.name else choice.name
        if not broken and open_:
            unknown.append(f"{label}: {'; '.join(open_)}")
            anew = anew or timed_anew(choice, limits)
        verdict = "BROKEN" if broken else "can't tell" if open_ else "ok"
        say(f"{verdict:<10} {label}: {'; '.join(broken or open_ or [v.words for v in told])}")
    for sentence in encoded_in_words(chosen if args.max_bytes is not None else ()):
        say(f"note: {sentence}")
    if failed:
        more = f", of {len(unknown)} more it can't be told{anew}" if unknown else ""
        of = counted(len(chosen), "state")
        say(f"{failed} of {of} {'breaks' if failed == 1 else 'break'} a limit{more}")
        return 1
    if unknown:
        more = f"; and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise CantTell(f"can't tell: {unknown[0]}{more}{anew}")
    every = "the one state keeps" if len(chosen) == 1 else f"all {len(chosen)} states keep"
    say(f"{every} to the limits at every seed")
    return 0
