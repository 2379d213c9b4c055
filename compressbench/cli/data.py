"""``compressbench data NAME``: where a data set is looked for, whether it is complete; fetches on demand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.cli.parser import Parser
from compressbench.console import console, say
from compressbench.errors import UserError, nearest
from compressbench.specs.conf import conf_dir, listing
from compressbench.wording import counted

if TYPE_CHECKING:
    from compressbench.data.published import Published


def main(argv: list[str]) -> int:
    """Runs the command.

    Returns:
        0 when the data are there and complete, 1 when they are not.

    Raises:
        UserError: there is no such data set, or it can't be read or fetched.
    """
    parser = Parser(
        prog="compressbench data",
        description="Show where a data set is looked for and whether it is complete; fetch it when told to.",
    )
    parser.add_argument("name", metavar="NAME", help="a data set, as in dataset=NAME")
    parser.add_argument("--download", action="store_true", help="fetch what is missing from the publisher")
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("COMPRESSBENCH_DATA", "data"),
        metavar="DIR",
        help="folder of the data sets (default: $COMPRESSBENCH_DATA, else ./data)",
    )
    parser.add_argument(
        "--config-dir", action="append", default=[], metavar="DIR", help="folder with configs of your own"
    )
    given = parser.parse_intermixed_args(argv)
    from compressbench.specs.compose import config_folder

    folders = [config_folder(folder) / "dataset" for folder in given.config_dir] + [conf_dir() / "dataset"]
    config = read_config(given.name, folders, given.data_dir)
    return _show(config, given.data_dir, given.download)


def read_config(name: str, folders: Sequence[Path], data_dir: str) -> dict[str, Any]:
    """A dataset's config with what it inherits from others of its group, composed without Hydra.

    Raises:
        UserError: there is no such config in the folders, or it can't be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged = OmegaConf.merge(
            *({"dataset": layer} for layer in _layers(name, folders)), {"data_dir": data_dir}
        )
        found = OmegaConf.to_container(merged, resolve=True)["dataset"]  # type: ignore[index,call-overload]
    except (OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"dataset {name}: {reason}") from error
    if not isinstance(found, dict):
        raise UserError(f"dataset {name}: {found!r} is no mapping of settings")
    return found


def _layers(name: str, folders: Sequence[Path], inside: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    import yaml

    if name in inside:
        raise UserError(f"dataset {name}: its defaults go in a circle: {', '.join((*inside, name))}")
    path = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        known = [path.stem for folder in folders for path in folder.glob("*.yaml")]
        raise UserError(f"unknown dataset {name!r}; {nearest(name, known, rest=listing('dataset'))}")
    try:
        own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"can't read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(own, dict):
        raise UserError(f"{path} holds no settings")
    defaults = own.pop("defaults", None) or []
    if not isinstance(defaults, list):
        raise UserError(f"{path}: defaults: {defaults!r} is no list")
    layers = []
    for parent in defaults if "_self_" in defaults else [*defaults, "_self_"]:
        if parent == "_self_":
            layers.append(own)
        elif isinstance(parent, str):
            layers += _layers(parent.removeprefix("/dataset/").partition("@")[0], folders, (*inside, name))
    return layers


def _show(config: Mapping[str, Any], data_dir: str, download: bool) -> int:
    from compressbench import specs

    read = config.get("read") or {}
    if not isinstance(read, Mapping):
        raise UserError(f"dataset.read: {read!r} is no reader; it needs {specs.TARGET}")
    target = str(read.get(specs.TARGET, ""))
    module, _, function = target.rpartition(".")
    known = _published(module) if target.startswith("compressbench.") else {}
    if function not in known:
        return _show_own(config, download)
    published = known[function]
    state, lines = _status(published, data_dir)
    if download and state:
        from compressbench.data.download import fetch

        with _Bar() as bar:
            fetch(published, data_dir, bar)
        state, lines = _status(published, data_dir)
    elif download:
        lines.append("Nothing to fetch.")
    say("\n".join(lines))
    return state


def _published(module: str) -> Mapping[str, Published]:
    import importlib

    try:
        return getattr(importlib.import_module(module), "PUBLISHED", {})
    except ImportError as error:
        raise UserError(f"can't import {module}: {error}") from error


def _status(published: Published, data_dir: str) -> tuple[int, list[str]]:
    """0 or 1, and what to tell."""
    from compressbench.data.published import find, read

    folder = published.folder(data_dir)
    lines = [f"{published.name} (licence: {published.licence})", "Looked for in:"]
    for place in published.places(data_dir):
        mark = "  <- here" if place == folder else ""
        lines.append(f"  {place.absolute()}{mark}")
    good = 0
    for content in published.files:
        path = find(folder, content) if folder is not None else None
        if path is None:
            lines.append(f"  {content.name}: missing")
            continue
        try:
            read(path, content)
        except UserError as error:
            lines.append(f"  {path.name}: {error}")
            continue
        good += 1
        lines.append(f"  {path.name}: {path.stat().st_size:,} bytes, checksum as published")
    if good == len(published.files):
        return 0, [*lines, "Complete."]
    return 1, [
        *lines,
        f"Incomplete: {good} of {counted(len(published.files), 'file')}; {published.remedy(data_dir)}",
    ]


def _show_own(config: Mapping[str, Any], download: bool) -> int:
    from compressbench.data.load import load, remarks

    name = config.get("name")
    if download:
        raise UserError(f"dataset {name} has no publisher to download from; its files are your own")
    dataset = load(config)
    say(f"{name} (licence: {dataset.licence})")
    root = (config.get("read") or {}).get("root")
    if root is not None:
        say(f"Read from {Path(root).expanduser().absolute()}")
    sizes = ", ".join(f"{part} {len(split):,}" for part, split in dataset.splits.items())
    shape = dataset.task.in_words()
    say(f"Complete: {sizes}; {len(dataset.classes)} classes; {shape}.")
    for remark in remarks(dataset):
        say(f"{remark[0].upper()}{remark[1:]}.")
    return 0


class _Bar:
    """Progress on standard error; silent when that is no terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        shown = console(stderr=True)
        self.progress = Progress(*columns, console=shown, disable=not shown.is_terminal)
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done, total=total)
