"""``compressbench store``: what the store holds, and how to make it smaller."""

from __future__ import annotations

import os

from compressbench.cli.parser import Parser, number
from compressbench.console import say
from compressbench.errors import UserError
from compressbench.paths import drop_parts, outputs_folder
from compressbench.store import Store, Usage
from compressbench.wording import counted


def main(argv: list[str]) -> int:
    """The verb; returns an exit code."""
    parser = Parser(prog="compressbench store", description=__doc__)
    parser.add_argument(
        "--outputs", default=os.environ.get("COMPRESSBENCH_OUTPUTS", "outputs"), help="as in a run"
    )
    parser.add_argument("--prune", action="store_true", help="drop what killed runs left behind")
    parser.add_argument(
        "--older-than",
        type=number,
        metavar="DAYS",
        help="with --prune: states, results and predictions as well",
    )
    args = parser.parse_intermixed_args(argv)
    outputs = outputs_folder(args.outputs, "--outputs")
    root = outputs / "store"
    if not root.is_dir():
        raise UserError(f"no store in {outputs}; a run makes one, --outputs FOLDER names another")
    if args.older_than is not None and (not args.prune or args.older_than < 0):
        raise UserError("--older-than DAYS goes with --prune and is 0 or more")
    store = Store(root, writable=args.prune)
    if args.prune:
        say(f"dropped  {_words(store.prune(args.older_than))}")
        gone = drop_parts([outputs / "runs", outputs / "sweeps"])
        if gone:
            say(f"dropped  {counted(gone, 'half-written file')} of killed runs")
    say(f"{root}  {_words(store.usage())}")
    return 0


def _words(usage: Usage) -> str:
    return (
        f"{counted(usage.states, 'state')} {_size(usage.state_bytes)}, "
        f"{counted(usage.results, 'result')} {_size(usage.result_bytes)}, "
        f"{counted(usage.predictions, 'prediction')} {_size(usage.prediction_bytes)}, "
        f"{counted(usage.leftovers, 'checkpoint or leftover', 'checkpoints and leftovers')} {_size(usage.leftover_bytes)}"
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
