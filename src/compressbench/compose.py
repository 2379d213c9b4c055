"""Composing configs with Hydra, and turning its complaints into one clear line. Imports neither torch nor torchvision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compressbench.conf import conf_dir
from compressbench.errors import UserError, nearest

SCALES = ("smoke", "laptop", "paper")
GROUPS = ("recipe", "model", "dataset", "hardware", "evaluation", "scale")


def _at_scale(smoke: Any, laptop: Any, paper: Any, *, _root_: DictConfig) -> Any:
    return {"smoke": smoke, "laptop": laptop, "paper": paper}[_root_.scale.name]


def register() -> None:
    """Makes ``${at_scale:smoke,laptop,paper}`` known to the configs."""
    OmegaConf.register_new_resolver("at_scale", _at_scale, replace=True)


def plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as resolved plain data.

    Raises:
        UserError: an interpolation that leads nowhere, or a value that is still missing (``???``).
    """
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    assert isinstance(resolved, dict)
    return {str(k): v for k, v in resolved.items()}


def options(group: str, folders: tuple[Path, ...] = ()) -> list[str]:
    """Names that a config group offers, shipped and in the user's own folders."""
    return sorted(
        path.stem
        for folder in (conf_dir(), *folders)
        for path in (folder / group).glob("*.yaml")
        if not path.stem.startswith("_")
    )


def explain(error: BaseException, folders: tuple[Path, ...] = ()) -> str:
    """One line for an error of composition: what is wrong, where, the nearest names."""
    text = str(error)
    found = re.search(r"[Cc]ould not find '([\w/\-.]+)/([^'/]+)'", text)
    if found:
        group, name = found.groups()
        return f"unknown {group} {name!r}; {nearest(name, options(group, folders))}"
    found = re.search(r"Could not override '([^']+)'\.", text) or re.search(r"full_key: (\S+)", text)
    if found and ("Could not override" in text or "is not in struct" in text):
        return _unknown_key(found[1], _siblings(error))
    found = re.search(r"Missing mandatory value: (\S+)", text)
    if found:
        return f"{found[1]}: a value is needed"
    first = " ".join(line.strip() for line in text.splitlines() if line.strip() and "full_key" not in line)
    full = re.search(r"full_key: (\S+)", text)
    return f"{full[1]}: {first}" if full and full[1] not in first else first


def _unknown_key(full: str, siblings: list[str]) -> str:
    group = full.partition("@")[0]
    if "/" in group or "@" in full or group in GROUPS:
        return f"no config group is overridden by {full!r}; {nearest(group, GROUPS)}"
    last = full.rpartition(".")[2]
    return (
        f"unknown key {full!r}; {nearest(last, siblings)} (a key that is really new is added with +{full}=…)"
    )


def _siblings(error: BaseException) -> list[str]:
    """The keys that stand where the misspelt one was looked for; omegaconf's error knows the place."""
    inner: BaseException | None = error
    while inner is not None:
        parent = getattr(inner, "parent_node", None)
        if isinstance(parent, DictConfig):
            return [str(key) for key in parent]
        inner = inner.__cause__ or inner.__context__
    return []
