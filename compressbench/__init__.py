"""compressbench: an experiment runner for model compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from compressbench.records import Records
    from compressbench.showing.account import Account

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


def compare(
    reference: str | Path | Callable[..., Any],
    *others: str | Path | Callable[..., Any],
    data: str | Path | Sequence[str] | None = None,
    **wishes: Any,
) -> Account:
    """What was lost between a reference and others: what ``compressbench compare`` shows, as data.

    Args:
        reference, others: paths as on the command line, or any function from a batch (arrays, or tensors for a
            ``torch.nn.Module``) to logits (n, classes).
        data: a folder of pictures, a ``.npz`` or ``.npy``, or ``dataset=NAME``.
        wishes: see ``compressbench.conducting.wishes.Wishes``; ``quick=True`` leaves attacks and layers out.

    Raises:
        compressbench.errors.UserError: bad input, one clear line.
    """
    from compressbench.conducting.conduct import conducted
    from compressbench.conducting.wishes import Wishes
    from compressbench.errors import UserError, nearest

    known = Wishes.__dataclass_fields__
    for name in wishes:
        if name not in known:
            raise UserError(f"compare: unknown {name!r}; {nearest(name, list(known))}")
    return conducted(reference, others, Wishes(data=data, **wishes))[0]
