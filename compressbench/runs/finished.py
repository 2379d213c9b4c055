"""A finished run, opened again: made ready from its folder, its states from the store, its records from their file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.errors import UserError, nearest
from compressbench.paths import outputs_folder, resolved

if TYPE_CHECKING:
    from compressbench.records import Records
    from compressbench.runs.experiment import Experiment
    from compressbench.runs.plan import Node
    from compressbench.views import View

CONFIG = "config.yaml"
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Trust:
    """Import prefixes of the user's own code, and where else it is looked for."""

    prefixes: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    outputs: str | None = None


NOBODY = Trust()


def opened(run: Path, trust: Trust = NOBODY) -> Experiment:
    """The run made ready again from its ``config.yaml``, which is input: data, that trusts nobody. Nothing is computed.

    Raises:
        UserError: there is none, it names what isn't trusted, or its data or its store are gone.
    """
    from compressbench.runs.experiment import prepare
    from compressbench.specs import let_import_from
    from compressbench.specs.compose import plain_data

    path = run / CONFIG
    if not path.is_file():
        raise UserError(
            f"{run} is no run's folder: it has no config.yaml; a run says where it wrote its report"
        )
    config = plain_data(path)
    if "outputs" not in config or "recipe" not in config:
        raise UserError(f"{path}: not a run's config")
    let_import_from(Path.cwd(), *trust.folders)
    config["trust"] = list(trust.prefixes)
    config["outputs"] = str(_outputs(run, trust.outputs))
    return prepare(config, writable=False)


def _outputs(run: Path, given: str | None) -> Path:
    """The folder whose store holds a run's states: above the run, unless the user names it."""
    if given is not None:
        folder = outputs_folder(given, "--outputs")
        if not (folder / "store").is_dir():
            raise UserError(f"--outputs: no store in {folder}")
        return folder
    above = next((p for p in resolved(run, "RUN").parents if (p / "store").is_dir()), None)
    if above is None:
        raise UserError(f"{run}: no store in a folder above it; --outputs DIR says where it is")
    return above


def view_of(ready: Experiment, name: str) -> tuple[View, Node]:
    """A state of the run, from the store.

    Raises:
        UserError: the recipe has no such state, or the store doesn't hold it any more.
    """
    from compressbench.runs.execute import Executor, Watcher
    from compressbench.store import Damaged
    from compressbench.views import View

    names = [n.name for n in ready.plan.nodes]
    if name not in names:
        raise UserError(f"--state: the run has no state {name!r}; {nearest(name, names)}")
    node = ready.plan.node(name)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    try:
        state = executor.stored(node)
    except Damaged as error:
        raise UserError(f"--state {name}: {error}; the same run makes it again") from error
    if state is None:
        raise UserError(f"--state {name}: not in {ready.store.root}; the same run makes it again")
    return View(state, replace(executor.bench(), device="cpu", feeds={}), name), node


def records_of(run: Path) -> Records:
    """The records that a run wrote, with the types that everything later relies on; none where it wrote none.

    Raises:
        UserError: the file can't be read, or a line is no record.
    """
    from compressbench.records import Records
    from compressbench.report.joint import read

    path = run / RECORDS
    return read(path) if path.is_file() else Records([])
