"""``compressbench export RUN --state NAME --to FORM``: a state as a file to deploy, checked, with a model card."""

from __future__ import annotations

from compressbench.cli import trusting
from compressbench.cli.parser import Parser, a_path
from compressbench.console import say
from compressbench.deploying.handing_over import FORMS, export, write_examples
from compressbench.errors import UserError, nearest
from compressbench.paths import own_folder
from compressbench.runs import finished


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: no run, an unknown state or form, a missing package, a net that the form can't hold.
    """
    parser = Parser(prog="compressbench export", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=a_path, help="a run's folder, the one with config.yaml")
    parser.add_argument("--state", required=True, metavar="NAME", help="of the recipe, e.g. dense")
    parser.add_argument("--to", required=True, metavar="FORM", help=", ".join(FORMS))
    parser.add_argument(
        "--images",
        "--examples",
        action="store_true",
        help="beside it the test examples and labels, NAME.test.npz, of texts NAME.test.jsonl",
    )
    parser.add_argument("--output", type=a_path, metavar="DIR", help="RUN/export by default")
    trusting.add_options(parser)
    args = parser.parse_intermixed_args(argv)
    if args.to not in FORMS:
        raise UserError(f"--to: unknown form {args.to!r}; {nearest(args.to, FORMS)}")
    ready = finished.opened(args.run, trusting.of(args))
    view, node = finished.view_of(ready, args.state)
    folder = args.output or own_folder(args.run, "export")
    say(export(ready, view, node, args.to, folder, args.run))
    if args.images:
        say(str(write_examples(view, folder, node)))
    return 0
