"""``compressbench compare REFERENCE OTHER… --data DATA``: what was lost between two artefacts of anybody's."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.cli import trusting
from compressbench.cli.parser import Parser, a_path, count, number
from compressbench.errors import CantTell, UserError
from compressbench.paths import nameless, outputs_folder

if TYPE_CHECKING:
    from compressbench.artefacts.preparation import Preparation
    from compressbench.bench import Progress
    from compressbench.conducting.wishes import Wishes
    from compressbench.showing.account import Account

PREPARING = ("size", "resize", "crop", "mean", "std", "range", "order", "layout", "interpolation")


def main(argv: list[str]) -> int:
    """The verb; 0, or 1 where ``--gate`` sets a limit that is broken.

    Raises:
        UserError: something can't be read, doesn't fit, or isn't known and no flag says it.
        CantTell: no limit is broken, but of one it can't be told.
    """
    args = _parser().parse_intermixed_args(argv)
    from compressbench.comparing.gate import conditions, kept, verdicts

    limits = conditions(args.gate) if args.gate is not None else ()
    outputs = outputs_folder(args.outputs or "outputs")
    wishes = _wishes(args, outputs)
    if args.against is not None:
        return _populations(args, wishes, outputs)
    from compressbench.conducting.conduct import conducted

    command = shlex.join(["compressbench", "compare", *(nameless(a) for a in argv)])
    account, material = conducted(args.artefacts[0], args.artefacts[1:], wishes, _Live(), command)
    if limits:
        found = tuple(tuple(verdicts(limits, c.figures)) for c in account.comparisons)
        account = dataclasses.replace(account, verdicts=found)
    page = _written(account, material, args, outputs)
    _shown(account, page)
    if not limits:
        return 0
    judged = [kept(each) for each in account.verdicts]
    if any(k is False for k in judged):
        return 1
    if any(k is None for k in judged):
        raise CantTell("compare: of a limit it can't be told whether it is kept")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="compressbench compare", description=__doc__)
    add = parser.add_argument
    add(
        "artefacts",
        nargs="+",
        metavar="ARTEFACT",
        help="the reference first: a model's file, a folder, RUN::STATE, module:function, or predictions",
    )
    add(
        "--against",
        nargs="+",
        metavar="PREDICTIONS",
        help="two populations: these nets against those named first, all as predictions (files, folders, patterns)",
    )
    add(
        "--data",
        nargs="+",
        metavar="DATA",
        help="a folder of pictures, .npz or .npy, texts in .csv, .tsv or .jsonl, or dataset=NAME and further overrides",
    )
    add(
        "--attributes",
        type=a_path,
        metavar="FILE",
        help="sub-groups of a folder's pictures: CSV, path and attributes",
    )
    add("--no-labels", action="store_true", help="compare without labels, though the data has some")
    add("--limit", type=count, metavar="N", help="examples at most, as many of each class as its share is")
    add("--classes", metavar="MAP", help="which output each class is: a JSON, CSV or text file, or imagenet")
    add(
        "--model",
        nargs="+",
        metavar="MODEL",
        help="what checkpoints are loaded into: model=NAME and overrides, or module:build",
    )
    add("--output", metavar="NAME", help="which of several outputs are the answers")
    add(
        "--answers",
        choices=("logits", "probabilities"),
        help="what the answers are, where that can't be told",
    )
    add(
        "--preprocess",
        choices=("given", "auto"),
        default="given",
        help="auto takes what fits the labels best",
    )
    add("--size", metavar="H[xW]", help="pictures resized whole to this")
    add("--resize", metavar="N", help="the shorter side resized to this")
    add("--crop", metavar="H[xW]", help="the middle cut out")
    add("--mean", metavar="M[,M,M]", help="taken off, in units of --range")
    add("--std", metavar="S[,S,S]", help="divided by")
    add("--range", metavar="R", help="what pixels become: 0-1, 0-255 or -1..1")
    add("--order", choices=("RGB", "BGR"), help="of the channels")
    add("--layout", choices=("NCHW", "NHWC"), help="of the input")
    add("--interpolation", metavar="I", help="nearest, bilinear, bicubic, lanczos, box or hamming")
    add(
        "--floor",
        metavar="ARTEFACT",
        help="one that nobody compressed, e.g. of another seed, to hold loyalty against",
    )
    add(
        "--margin",
        type=number,
        default=1.0,
        metavar="POINTS",
        help="of accuracy that may be lost; 1 by default",
    )
    add(
        "--gate",
        metavar="LIMITS",
        help='exit code 1 where one is broken: "worse_class<=5,loyalty>=98,accuracy_drop<=1"',
    )
    add("--quick", action="store_true", help="what outputs and files tell; no attacks, no layers")
    add("--json", type=a_path, metavar="FILE", help="all of it, in a documented form")
    add("--junit", type=a_path, metavar="FILE", help="limits and findings as test cases, for CI")
    add("--csv", type=a_path, metavar="FILE", help="every answer that changed")
    add("--threads", type=count, default=1, help="of the runtimes; 1 by default")
    add("--batch", type=count, default=64, help="examples at a time; 64 by default")
    add("--seed", type=int, default=0, help="of all that is drawn")
    trusting.add_options(parser)
    return parser


def _populations(args: argparse.Namespace, wishes: Wishes, outputs: Path) -> int:
    """Many nets against many: screen, page, records, and with ``--json`` the records as one document.

    Raises:
        UserError: see ``conducting.many.populations``; or a flag is given that has no meaning here.
    """
    given = {
        "--no-labels": args.no_labels,
        "--limit": args.limit,
        "--floor": args.floor,
        "--gate": args.gate,
        "--junit": args.junit,
        "--csv": args.csv,
        "--model": args.model,
        "--preprocess": args.preprocess == "auto",
        **{f"--{name}": getattr(args, name) for name in PREPARING},
    }
    odd = next((flag for flag, value in given.items() if value), None)
    if odd is not None:
        raise UserError(
            f"compare: {odd} does nothing beside --against, which takes predictions of populations"
        )
    import json

    from compressbench.conducting.many import populations
    from compressbench.console import console
    from compressbench.paths import write_named
    from compressbench.records import Records, write_csv, write_jsonl
    from compressbench.report.page import write_report
    from compressbench.report.terminal import print_populations

    records = Records(populations(args.artefacts, args.against, wishes))
    place = _new_folder(outputs)
    write_jsonl(records, place / "records.jsonl")
    write_csv(records, place / "records.csv")
    page = write_report(records, place, "Two populations of nets")
    if args.json:
        rows = [{k: v for k, v in row.items() if k != "artefact"} for row in records.dicts()]
        text = json.dumps({"schema": 1, "records": rows}, ensure_ascii=False, allow_nan=False, indent=1)
        write_named(args.json, text + "\n")
    print_populations(records, console())
    console().print(f"page: {page}", markup=False, soft_wrap=True)
    return 0


def _wishes(args: argparse.Namespace, outputs: Path) -> Wishes:
    from compressbench.artefacts.artefact import Given
    from compressbench.conducting.wishes import Wishes

    args.runs = [a_path(name.partition("::")[0]) for name in args.artefacts if "::" in name]
    # --outputs says where results go; a run's states are in the store above it
    trust = dataclasses.replace(trusting.of(args), outputs=None)
    model = args.model[0] if args.model and len(args.model) == 1 else args.model
    return Wishes(
        data=args.data,
        labelled=not args.no_labels,
        attributes=args.attributes,
        limit=args.limit,
        classes=args.classes,
        given=Given(output=args.output, answers=args.answers, model=model, trust=trust),
        preparation=preparation_of({name: getattr(args, name) for name in PREPARING}),
        auto=args.preprocess == "auto",
        floor=args.floor,
        margin=args.margin,
        quick=args.quick,
        threads=args.threads,
        batch=args.batch,
        seed=args.seed,
        keep=outputs / "store" / "compared",
        config_dir=str(trust.folders[0]) if trust.folders else None,
    )


def preparation_of(given: dict[str, str | None]) -> Preparation | None:
    """What flags say of preparing pictures; None where they say nothing.

    Raises:
        UserError: one is out of range, or no such thing.
    """
    from compressbench.artefacts.preparation import RANGES, Preparation
    from compressbench.errors import nearest

    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not said:
        return None
    if "size" in said and "resize" in said:
        raise UserError("--size, --resize: one of them; --resize keeps the sides' ratio")
    found: dict[str, Any] = {}
    for name in ("order", "layout", "interpolation"):
        if name in said:
            found[name] = said[name]
    if "size" in said:
        found["resize"] = _sides(said["size"], "--size")
    if "resize" in said:
        found["resize"] = _sides(said["resize"], "--resize")[0]
    if "crop" in said:
        found["crop"] = _sides(said["crop"], "--crop")
    if "range" in said:
        if said["range"] not in RANGES:
            raise UserError(f"--range {said['range']!r}; {nearest(said['range'], list(RANGES))}")
        found["span"] = RANGES[said["range"]]
    for name in ("mean", "std"):
        if name in said:
            found[name] = _numbers(said[name], f"--{name}")
    if ("mean" in found) != ("std" in found):
        found.setdefault("mean", (0.0,) * len(found.get("std", (0.0,))))
        found.setdefault("std", (1.0,) * len(found["mean"]))
    return Preparation(**found)


def _sides(text: str, flag: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip())
    if not match:
        raise UserError(f"{flag} {text!r}: pixels are wanted, 224 or 224x320")
    high = int(match[1])
    return high, int(match[2] or high)


def _numbers(text: str, flag: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{flag} {text!r}: numbers are wanted, e.g. 0.485,0.456,0.406") from None


class _Live:
    """What is being done, with the time left, on a terminal; nothing elsewhere."""

    @contextmanager
    def working(self, words: str) -> Iterator[Progress]:
        """Around one piece of work."""
        from compressbench.bench import Silent

        if not sys.stderr.isatty():
            yield Silent()
            return
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        from compressbench.console import clean_line, console

        with Bars(
            TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn(),
            console=console(sys.stderr), transient=True,
        ) as bars:  # fmt: skip
            task = bars.add_task(clean_line(words), total=None)

            class Step:
                def step(self, done: int, total: int, **figures: float) -> None:
                    bars.update(task, completed=done, total=total)

            yield Step()


def _written(account: Account, material: Any, args: argparse.Namespace, outputs: Path) -> Path:
    """The folder of a comparison: page, records, JSON, flips; returns the page's path."""
    from compressbench.records import Records, write_csv, write_jsonl
    from compressbench.showing.document import write_document
    from compressbench.showing.flips import write_flips
    from compressbench.showing.junit import write_junit
    from compressbench.showing.page import write_page
    from compressbench.showing.recorded import records_of

    place = _new_folder(outputs)
    records = Records(records_of(account))
    write_jsonl(records, place / "records.jsonl")
    write_csv(records, place / "records.csv")
    write_document(account, place / "comparison.json")
    write_flips(account, place / "flips.csv")
    if args.json:
        write_document(account, args.json)
    if args.junit:
        write_junit(account, args.junit)
    if args.csv:
        write_flips(account, args.csv)
    beside = ("records.jsonl", "records.csv", "comparison.json", "flips.csv")
    return write_page(account, place / "compare.html", material.thumbnail, beside)


def _new_folder(outputs: Path) -> Path:
    """One of its own for this comparison."""
    import time

    folder = outputs / "compared" / time.strftime("%Y%m%d-%H%M%S")
    number = 1
    while (place := folder if number == 1 else folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"outputs: can't write to {place}: {error.strerror}") from error
    return place


def _shown(account: Account, page: Path) -> None:
    from compressbench.console import console
    from compressbench.showing.terminal import print_account

    print_account(account, console(), str(page))
