"""Trust for verbs that read a run's folder: given on the command line or in the user's own configs, never in the run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressbench.cli.parser import a_path
from compressbench.errors import UserError
from compressbench.paths import resolved
from compressbench.runs.finished import Trust
from compressbench.specs.compose import config_folder
from compressbench.specs.conf import conf_dir
from compressbench.specs.trust import prefixes


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
        type=a_path,
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
    folders = tuple(config_folder(given) for given in args.config_dir)
    for folder in folders:
        _refuse_runs(folder, args)
    return Trust(given_or_in(args.trust, folders), folders, args.outputs)


def given_or_in(given: Sequence[str], folders: Sequence[Path]) -> tuple[str, ...]:
    """Import prefixes that were given on the command line, and those that the user's own configs trust.

    Raises:
        UserError: one is none, or a config can't be read.
    """
    named = [name.strip("[] ") for text in given for name in text.split(",")]
    named += [name for folder in folders for path in configs(folder) for name in _trusted_in(path)]
    return prefixes(dict.fromkeys(n for n in named if n))


def _refuse_runs(folder: Path, args: argparse.Namespace) -> None:
    """A folder of configs that lies in the run that is read would let the run trust itself."""
    for run in args.runs if hasattr(args, "runs") else [args.run]:
        if folder.is_relative_to(resolved(run, "RUN")):
            raise UserError(
                f"--config-dir: {folder} lies in {run}, which is read and trusts nobody; give your own"
            )


def configs(folder: Path) -> list[Path]:
    """The config files that Hydra would find there: those in config groups, not whatever else lies below."""
    groups = [p.name for p in conf_dir().iterdir() if p.is_dir()]
    return sorted(p for group in groups for p in (folder / group).rglob("*.yaml") if p.is_file())


def _trusted_in(path: Path) -> tuple[str, ...]:
    """The ``trust`` of one of the user's own config files."""
    import yaml

    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: can't be read: {reason}") from error
    return prefixes(found.get("trust")) if isinstance(found, dict) else ()
