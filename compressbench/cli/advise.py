"""``compressbench advise RUNS``: which state to take within limits, why not the others, and its file if wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.cli import trusting
from compressbench.cli.parser import Parser, a_path, count, number, percent
from compressbench.console import say
from compressbench.deploying.handing_over import FORMS, export
from compressbench.errors import Unmet, UserError, nearest
from compressbench.paths import own_folder
from compressbench.runs import finished

if TYPE_CHECKING:
    from compressbench.deploying.choice import Choice, Figure
    from compressbench.deploying.choosing import Advice
    from compressbench.report.joint import Gathered
    from compressbench.runs.finished import Trust

HEADS = {
    "accuracy": "top-1 %",
    "drop": "below dense",
    "loyalty": "L-L %",
    "bytes": "bytes",
    "latency": "ms at batch {}",
}


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: no records, an unknown target.
        Unmet: nothing keeps to the limits (naming what comes nearest), or no file that was written does.
        CantTell: nothing is known to keep to them.
    """
    parser = Parser(prog="compressbench advise", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=a_path, help="folders of runs or sweeps")
    parser.add_argument(
        "--target", default="", metavar="T", help="whose latency counts, e.g. cpu_openvino or raspberry_pi_5"
    )
    parser.add_argument("--batch", type=count, default=1, help="of the latency; 1 by default")
    parser.add_argument(
        "--max-bytes",
        type=number,
        metavar="N",
        help="of the file that --export writes or the target reads, else of the shortest encoding",
    )
    parser.add_argument("--max-latency", type=number, metavar="MS", help="milliseconds on the target")
    parser.add_argument("--min-accuracy", type=percent, metavar="PERCENT")
    parser.add_argument("--min-loyalty", type=percent, metavar="PERCENT", help="label loyalty")
    parser.add_argument(
        "--max-drop", type=number, metavar="POINTS", help="of accuracy, below dense of the same seed"
    )
    parser.add_argument(
        "--export",
        metavar="FORM",
        help="writes the first choice that is compressed and whose file keeps to --max-bytes: onnx, openvino, …",
    )
    trusting.add_options(parser)
    args = parser.parse_intermixed_args(argv)
    from compressbench.deploying.choosing import advise
    from compressbench.deploying.latencies import targets_of
    from compressbench.deploying.limits import Limits, encoded_in_words
    from compressbench.deploying.measured import choices
    from compressbench.report.chance import unseen_in_words
    from compressbench.report.joint import gather
    from compressbench.runs.plan import DENSE

    if args.export:
        _check_form(args.export)
    if args.max_latency is not None and not args.target:
        raise UserError("--max-latency: on which target? add --target NAME")
    gathered = gather(args.runs)
    found = choices(gathered.drawn, args.target, args.batch)
    limits = Limits(
        None if args.export else args.max_bytes,  # with --export the written file is weighed, after this
        args.max_latency,
        args.min_accuracy,
        args.min_loyalty,
        args.max_drop,
        needed=("latency",) if args.target else (),
        enough=("latency",),  # what was timed on a phone is one seed's; withheld ratios aren't enough
    )
    advice = advise(found, limits)
    _print(advice, args.target, args.batch)
    for sentence in (*unseen_in_words(gathered.drawn), *encoded_in_words(advice.kept)):
        say(f"note: {sentence}")
    known = targets_of(gathered.records)
    if not args.target and known:
        say(f"no latency asked for; --target takes {', '.join(known)}")
    if args.export:
        picks = [c for c in advice.kept if c.series != DENSE]
        if args.max_bytes is not None:  # a state that others beat may still have the shorter file
            picks += [c for c in advice.beaten if c.series != DENSE]
        if not picks:
            raise Unmet("--export: within the limits nothing compressed is left, only the dense model")
        _export(picks, gathered, args.export, args.max_bytes, trusting.of(args))
    return 0


def _print(advice: Advice, target: str, batch: int) -> None:
    from rich.table import Table

    from compressbench.console import console

    to, kept = console(), advice.kept
    basis = next((c.basis for c in kept if c.basis), "")
    grid = Table(box=None, pad_edge=False)
    grid.add_column("choice")
    grid.add_column("n", justify="right")
    shown = [name for name in HEADS if any(name in c.known for c in kept)]
    for name in shown:
        grid.add_column(HEADS[name].format(batch), justify="right")
    for choice in kept:
        n = len(choice.keys)
        cells = [_text(choice.figure(name), name, n) for name in shown]
        grid.add_row(choice.name, str(n), *cells)
    where = f" on {target} ({basis})" if target else ""
    part = any(0 < len(c.figure("latency").by_seed) < len(c.keys) for c in kept)
    seeds = "every seed (latencies: at those that have one)" if part else "every seed"
    to.print(
        f"Within the limits at {seeds} and beaten by none{where}; means over n seeds:",
        soft_wrap=True,
    )
    to.print(grid)
    for line in (*_spreads(kept), *_sizes(kept)):
        to.print(line, soft_wrap=True)
    if advice.unranked:
        to.print(
            f"Can't tell how fast these are beside all others, for want of ratios in turns with intervals or seeds: "
            f"{', '.join(advice.unranked)}. Absolute latencies are of different moments.",
            soft_wrap=True,
        )
    if advice.out:
        to.print("\nNot chosen:")
        for name, why in advice.out.items():
            to.print(f"  {name}: {why}", soft_wrap=True)


def _text(figure: Figure, name: str, seeds: int) -> str:
    """The mean; with the deviation over seeds, for a latency from the lowest to the highest of seeds and intervals."""
    if not figure.by_seed:
        return "–"
    fewer = f" (n={len(figure.by_seed)})" if len(figure.by_seed) < seeds else ""
    if name == "latency":
        ends = figure.span
        between = f" ({ends[0]:.4g}–{ends[1]:.4g})" if ends and ends[0] < ends[1] else ""
        return f"{figure.mean:.4g}{between}{fewer}"
    sign = ",.0f" if name == "bytes" else ".2f"
    spread = f" ±{figure.sd:{sign}}" if figure.sd else ""
    return f"{figure.mean:{sign}}{spread}{fewer}"


def _spreads(kept: Sequence[Choice]) -> Iterable[str]:
    """What stands behind a mean."""
    figures = [f for c in kept for name, f in c.figures.items() if name != "latency" and f.sd]
    if figures:
        yield "±: standard deviation over seeds, of three or more."
    if any((ends := c.figure("latency").span) and ends[0] < ends[1] for c in kept):
        yield "Latency in brackets: from the lowest to the highest of all seeds and their ratios' 95 % intervals."


def _sizes(kept: Sequence[Choice]) -> Iterable[str]:
    """What bytes are of: an encoder of ours writes no file that anything else reads."""
    for choice in kept:
        figure = choice.figure("bytes")
        if figure.by_seed and figure.words:
            yield f"{choice.name}: {figure.mean:,.0f} bytes, {figure.words}"


def _check_form(form: str) -> None:
    if form not in FORMS:
        raise UserError(f"--export: unknown form {form!r}; {nearest(form, FORMS)}")


def _export(
    picks: Sequence[Choice], gathered: Gathered, form: str, limit: float | None, trust: Trust
) -> None:
    """Writes the first pick whose file keeps to the limit; what is too large is deleted again, and said."""
    least = float("inf")
    for pick in picks:
        folder, key = _run_of(pick, gathered)
        seed = next(s for s, k in pick.keys.items() if k == key)
        size, told = _written(folder, pick.state, form, limit, trust)
        if not told:
            least = min(least, size)
            say(f"{pick.name}, seed {seed}: as {form} {size:,} bytes, above {limit:,.12g}; deleted again")
            continue
        seeds = f" of {', '.join(map(str, sorted(pick.keys)))}" if len(pick.keys) > 1 else ""
        say(f"{pick.name}, seed {seed}{seeds}:\n{told}")
        return
    raise Unmet(
        f"--max-bytes: no state within the limits is that short as {form}; the shortest has {least:,} bytes"
    )


def _run_of(pick: Choice, gathered: Gathered) -> tuple[Path, str]:
    """The folder of the first run that holds a choice, and the key of its state there."""
    from compressbench.records import read_jsonl

    for file in gathered.files:
        if (file.parent / "config.yaml").is_file():
            keys = {r.key for r in read_jsonl(file) if r.state == pick.state}
            if found := next((k for k in pick.keys.values() if k in keys), ""):
                return file.parent, found
    raise UserError(f"--export: no run's folder among these holds {pick.state}; give the run itself")


def _written(run: Path, state: str, form: str, limit: float | None, trust: Trust) -> tuple[int, str]:
    """Bytes of a state's files, and what is to be said of them: nothing, and none is left, where they break the limit."""
    import tempfile

    ready = finished.opened(run, trust)
    view, node = finished.view_of(ready, state)
    folder = own_folder(run, "export")
    with tempfile.TemporaryDirectory(dir=run, prefix=".export-") as aside:  # leaves an earlier export alone
        told = export(ready, view, node, form, Path(aside), run)
        files = sorted(p for p in Path(aside).iterdir() if p.is_file())
        beside: Any = getattr(view.bench.task, "beside", dict)()  # a tokenizer isn't the net's
        size = sum(p.stat().st_size for p in files if p.suffix != ".md" and p.name not in beside)
        if limit is not None and size > limit:
            return size, ""
        folder.mkdir(exist_ok=True)
        for path in files:
            path.replace(folder / path.name)
        return size, told.replace(aside, str(folder))
