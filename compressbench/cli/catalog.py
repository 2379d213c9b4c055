"""``compressbench list``: everything that a config may name, a line each, read from the YAML files' first lines."""

from __future__ import annotations

from pathlib import Path

from compressbench.cli.parser import Parser
from compressbench.console import say
from compressbench.errors import UserError, nearest
from compressbench.specs.conf import SECTIONS, conf_dir, headline


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


def entries(folder: Path, section: str) -> list[tuple[str, str]]:
    """(name, one line) of a section's YAML files in one conf folder; for stages those of all their kinds."""
    base = folder / SECTIONS[section]
    paths = sorted(base.glob("*/*.yaml") if section == "stages" else base.glob("*.yaml"))
    found = [(p, headline(p)) for p in paths if not p.stem.startswith("_")]
    if section == "stages":
        return [(f"{p.parent.name}/{name}", text) for p, (name, text) in found if p.parent.name != "prune"]
    return [line for _, line in found]
