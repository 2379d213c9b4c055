"""compressbench: an experiment runner for model compression."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressbench.records import Records

__version__ = "0.2.0.dev0"


def run(*overrides: str, config_dir: str | None = None) -> Records:
    """Runs one experiment and returns its records as a table, e.g. ``run("recipe=lth_resnet", "seed=1")``.

    Args:
        overrides: what would stand behind ``compressbench run`` on the command line.
        config_dir: a folder with your own configs, as ``--config-dir``.

    Raises:
        compressbench.errors.UserError: bad input, one clear line.
    """
    from compressbench.cli.run import run_once

    return run_once(list(overrides), config_dir)
