"""``compressbench list``: everything that a config may name, a line each, read from the YAML files' first lines."""

from __future__ import annotations

from compressbench.cli.parser import Parser
from compressbench.console import say
from compressbench.errors import UserError, nearest
from compressbench.specs.conf import SECTIONS, conf_dir, entries


def main(argv: list[str]) -> int:
    """The verb; returns an exit code."""
    parser = Parser(prog="compressbench list", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"any of: {', '.join(SECTIONS)}; everything by default")
    parser.add_argument("--config-dir", help="a folder with your own configs, listed too")
    args = parser.parse_intermixed_args(argv)
    folders = [conf_dir()]
    if args.config_dir is not None:
        from compressbench.specs.compose import config_folder

        folders.append(config_folder(args.config_dir))
    for section in args.what or SECTIONS:
        if section not in SECTIONS:
            raise UserError(f"list: unknown {section!r}; {nearest(section, SECTIONS)}")
        lines = [line for folder in folders for line in entries(folder, section)]
        if lines:
            say(f"{section}")
            say("".join(f"  {name:<22} {text}\n" for name, text in lines))
    return 0
