"""``compressbench advise RUNS``: which state to take within limits, why not the others, and its file if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.cli.parser import Parser, count, number
from compressbench.errors import UserError

if TYPE_CHECKING:
    from compressbench.choosing import Choice
    from compressbench.records import Records


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: no records, an unknown target, limits that nothing keeps to (naming what comes nearest).
    """
    parser = Parser(prog="compressbench advise", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folders of runs or sweeps")
    parser.add_argument(
        "--target", default="", metavar="T", help="whose latency counts, e.g. cpu_openvino or raspberry_pi_5"
    )
    parser.add_argument("--batch", type=count, default=1, help="of the latency; 1 by default")
    parser.add_argument("--max-bytes", type=number, metavar="N", help="on disk, of the shortest encoding")
    parser.add_argument("--max-latency", type=number, metavar="MS", help="milliseconds on the target")
    parser.add_argument("--min-accuracy", type=number, metavar="PERCENT")
    parser.add_argument("--min-loyalty", type=number, metavar="PERCENT", help="label loyalty")
    parser.add_argument(
        "--max-drop", type=number, metavar="POINTS", help="of accuracy, below dense of the same seed"
    )
    parser.add_argument(
        "--export", metavar="FORM", help="writes the first choice that is compressed: onnx, openvino, …"
    )
    args = parser.parse_args(argv)
    from compressbench.choosing import DENSE, Limits, advise, choices, targets_of
    from compressbench.report.joint import gather

    if args.export:
        _check_form(args.export)
    if args.max_latency is not None and not args.target:
        raise UserError("--max-latency: on which target? add --target NAME")
    gathered = gather(args.runs)
    records = gathered.records
    found = choices(records, args.target, args.batch)
    needed = ("latency",) if args.target else ()
    limits = Limits(
        args.max_bytes, args.max_latency, args.min_accuracy, args.min_loyalty, args.max_drop, needed=needed
    )
    advice = advise(found, limits)
    _print(advice.kept, advice.out, args.target, args.batch)
    known = targets_of(records)
    if not args.target and known:
        print(f"no latency asked for; --target takes {', '.join(known)}")
    if args.export:
        pick = next((c for c in advice.kept if c.series != DENSE), None)
        if pick is None:
            raise UserError("--export: within the limits nothing compressed is left, only the dense model")
        _export(pick, gathered.files, args.export)
    return 0


def _print(kept: Sequence[Choice], out: Mapping[str, str], target: str, batch: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    basis = next((c.basis for c in kept if c.basis), "")
    heads = ("accuracy", "drop", "loyalty", "bytes", "latency")
    names = {
        "accuracy": "top-1 %",
        "drop": "below dense",
        "loyalty": "L-L %",
        "bytes": "bytes",
        "latency": f"ms at batch {batch}",
    }
    grid = Table(box=None, pad_edge=False)
    grid.add_column("choice")
    shown = [h for h in heads if any(h in c.figures for c in kept)]
    for head in shown:
        grid.add_column(names[head], justify="right")
    for choice in kept:
        grid.add_row(choice.name, *(_text(choice.figures.get(h), h) for h in shown))
    where = f" on {target} ({basis})" if target else ""
    seeds = min(c.seeds for c in kept)
    over = f"means over {seeds} seed{'s' if seeds > 1 else ''}"
    console.print(f"Within the limits and beaten by none{where}; {over}:", markup=False, soft_wrap=True)
    console.print(grid)
    if out:
        console.print("\nNot chosen:", markup=False)
        for name, why in out.items():
            console.print(f"  {name}: {why}", markup=False, soft_wrap=True)


def _text(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if kind == "bytes" else f"{value:.4g}" if kind == "latency" else f"{value:.2f}"


def _check_form(form: str) -> None:
    from compressbench.cli.export import FORMS
    from compressbench.errors import nearest

    if form not in FORMS:
        raise UserError(f"--export: unknown form {form!r}; {nearest(form, FORMS)}")


def _export(pick: Choice, files: Sequence[Path], form: str) -> None:
    from compressbench.cli.export import experiment_of, export, view_of

    for file in files:
        if (file.parent / "config.yaml").is_file() and _has(file, pick):
            ready = experiment_of(file.parent)
            view, node = view_of(ready, pick.state)
            print(export(ready, view, node, form, file.parent / "export", file.parent))
            return
    raise UserError(f"--export: no run's folder among these holds {pick.state}; give the run itself")


def _has(file: Path, pick: Choice) -> bool:
    from compressbench.records import read_jsonl

    rows: Records = read_jsonl(file)
    return any(r.recipe == pick.recipe and r.state == pick.state for r in rows)
