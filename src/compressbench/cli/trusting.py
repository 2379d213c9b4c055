"""Trust for verbs that read a run's folder: given on the command line or in the user's own configs, never in the run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressbench.compose import config_folder
from compressbench.errors import UserError
from compressbench.trust import prefixes


@dataclass(frozen=True)
class Trust:
    """Import prefixes of the user's own code, and where else it is looked for."""

    prefixes: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    outputs: str | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--trust``, ``--config-dir`` and ``--outputs``."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="your own code that the run's config may name, again for more",
    )
    parser.add_argument(
        "--config-dir",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="your own configs: what they trust is trusted, and modules are looked for there too",
    )
    parser.add_argument(
        "--outputs", metavar="DIR", help="whose store holds the states, if it lies not above RUN"
    )


def of(args: argparse.Namespace) -> Trust:
    """What these options say.

    Raises:
        UserError: a folder isn't there, or something is no import prefix.
    """
    named = [name.strip("[] ") for text in args.trust for name in text.split(",")]
    folders = tuple(config_folder(given) for given in args.config_dir)
    for folder in folders:
        named += [name for path in sorted(folder.rglob("*.yaml")) for name in _trusted_in(path)]
    return Trust(
        prefixes(dict.fromkeys(n for n in named if n)),
        folders,
        args.outputs,
    )


def _trusted_in(path: Path) -> tuple[str, ...]:
    """The ``trust`` of one of the user's own config files."""
    import yaml

    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: can't be read: {reason}") from error
    return prefixes(found.get("trust")) if isinstance(found, dict) else ()
