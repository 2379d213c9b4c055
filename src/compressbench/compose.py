"""Composing configs with Hydra, and turning its complaints into one clear line. Imports neither torch nor torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    found = re.search(r"Could not override '([^']+)'\.", text)
    if found:
        return _unknown_key(found[1], text)
    found = re.search(r"Key '([^']+)' is not in struct", text)
    if found:
        full = re.search(r"full_key: (\S+)", text)
        return _unknown_key(full[1] if full else found[1], text)
    found = re.search(r"Missing mandatory value: (\S+)", text)
    if found:
        return f"{found[1]}: a value is needed"
    first = " ".join(line.strip() for line in text.splitlines() if line.strip() and "full_key" not in line)
    full = re.search(r"full_key: (\S+)", text)
    return f"{full[1]}: {first}" if full and full[1] not in first else first


def _unknown_key(full: str, text: str) -> str:
    known = _known_keys()
    hint = nearest(full, known) if known else ""
    group = full.partition("@")[0]
    if "/" in group or group in GROUPS:
        return f"no config group is overridden by {full!r}; {nearest(group, GROUPS)}"
    last = full.rpartition(".")[2]
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == full.rpartition(".")[0]]
    if siblings:
        hint = nearest(last, siblings)
    return f"unknown key {full!r}; {hint} (a key that is really new is added with +{full}=…)"


_last_known: list[str] = []


def _known_keys() -> list[str]:
    return _last_known


def remember_keys(overrides: list[str], folders: tuple[Path, ...] = ()) -> None:
    """Composes once more without the overrides that are plain values, to know which keys there are."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    kept = [o for o in overrides if re.match(r"[\w/@.]+=", o) and "/" in o.partition("=")[0]]
    kept += [o for o in overrides if o.partition("=")[0] in GROUPS]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            extra = [f"hydra.searchpath=[{','.join(f'file://{f}' for f in folders)}]"] if folders else []
            config = compose("config", overrides=[*dict.fromkeys(kept), *extra])
        _last_known[:] = list(_keys(OmegaConf.to_container(config, resolve=False)))
    except Exception:  # the first error is the one to report; this look is only for a better hint
        _last_known[:] = []
    finally:
        GlobalHydra.instance().clear()


def _keys(value: Any, prefix: str = "") -> list[str]:
    if not isinstance(value, Mapping):
        return []
    out = []
    for name, inner in value.items():
        full = f"{prefix}.{name}" if prefix else str(name)
        out += [full, *_keys(inner, full)]
    return out
