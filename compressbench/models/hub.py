"""A folder of a model of transformers, as data: ``config.json`` beside safetensors. Imports no torch.

Local only: nothing is fetched, no code of the folder's is run, and no pickle is opened.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressbench.errors import UserError
from compressbench.files import a_file, json_object
from compressbench.paths import a_folder

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
ASKED = (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("transformers.utils.hub", "_is_offline_mode"))
"""Where libraries keep what they read of their environment once, when they are imported."""
WHERE = "model.build.folder"
CODE = "auto_map"
ROUNDED = "quantization_config"
ELSEWHERE = "transformers_weights"
FETCHED = re.compile(r"\s*(hf[-_]hub|local-dir):", re.I)
"""How names begin that timm, inside transformers, fetches or looks for elsewhere."""
LABELS = ("id2label", "label2id")
DEEPEST = 12
LEFT_OUT = ("transformers_version", "dtype", "torch_dtype", "attn_implementation", "custom_pipelines")
"""What says how a file was written or is to be run, and nothing of the net; nor does a name that begins with ``_``."""


def files_of(folder: str) -> tuple[Path, ...]:
    """The files that a model is read from: its config, then its weights.

    Raises:
        UserError: there is no such folder, it holds no model, or its weights are a pickle.
    """
    path = a_folder(folder, WHERE)
    if not (path / CONFIG).is_file():
        raise UserError(f"{WHERE}: {path} is no model's folder: it has no {CONFIG}")
    if (path / ADAPTER).exists():
        raise UserError(f"{path}: holds an adapter of another model; merge it into its weights and save them")
    return (path / CONFIG, *weight_files(path))


def weight_files(path: Path) -> tuple[Path, ...]:
    """All files of weights of a folder: one, else the index of several and those. It names only what lies beside it.

    Raises:
        UserError: there is none, it is a pickle, or an index that isn't one.
    """
    if (path / WEIGHTS).exists() or not (path / INDEX).is_file():  # one file goes first, as in transformers
        return (weight_file(path),)
    shards = json_object(a_file(path / INDEX).read_bytes(), str(path / INDEX)).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(n, str) for n in shards.values()):
        raise UserError(f"{path / INDEX}: has no weight_map")
    names = sorted(set(shards.values()))
    if odd := next((n for n in names if Path(n).name != n or not n.endswith(".safetensors")), None):
        raise UserError(f"{path / INDEX}: refers to {odd!r}; only .safetensors files beside it are read")
    return (path / INDEX, *(a_file(path / n) for n in names))


def weight_file(path: Path) -> Path:
    """The one file of weights of a folder.

    Raises:
        UserError: there is none, or it is a pickle.
    """
    if (path / WEIGHTS).exists():
        return a_file(path / WEIGHTS)
    if any(path.glob("*.bin")) or any(path.glob("*.pth")):
        raise UserError(f"{path}: its weights are a pickle; save them as {WEIGHTS}")
    raise UserError(f"{path}: has no {WEIGHTS}")


def config_of(folder: str) -> dict[str, Any]:
    """A folder's ``config.json`` as plain data, without what says nothing of the net.

    Raises:
        UserError: there is none, it isn't plain, or the net needs code of the folder's own or weights already rounded.
    """
    path = a_folder(folder, WHERE) / CONFIG
    return plain_config(json_object(a_file(path).read_bytes(), str(path)), str(path))


def plain_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config as data that a state may hold and a net may be built of.

    Raises:
        UserError: it isn't plain, names no model, or the net needs code of its own or weights already rounded.
    """
    from compressbench.specs import check_plain

    if not isinstance(config.get("model_type"), str):
        raise UserError(f"{where}: has no model_type, so it isn't transformers'")
    found = _named(config, where)
    check_plain(found, where)
    return dict(found)


def _named(value: Any, where: str, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise UserError(f"{where}: nested too deeply for a model's config")
    if isinstance(value, Mapping):
        _check_names(value, where)
        return {
            str(k): _labels(v) if k in LABELS and isinstance(v, Mapping) else _named(v, where, depth + 1)
            for k, v in value.items()
            if not str(k).startswith("_") and k not in LEFT_OUT
        }
    if isinstance(value, list | tuple):
        return [_named(v, where, depth + 1) for v in value]
    if isinstance(value, str) and FETCHED.match(value):
        raise UserError(
            f"{where}: names a model elsewhere ({value[:60]!r}), and nothing beyond the folder is read"
        )
    return value


def _labels(names: Mapping[Any, Any]) -> dict[str, Any]:
    """Names of classes, which may be any words."""
    return {str(k): v for k, v in names.items() if not str(k).startswith("_")}


def _check_names(config: Mapping[str, Any], where: str) -> None:
    """Refuses a config, or one inside another, that wants more than to be built and filled."""
    if config.get(CODE):
        raise UserError(f"{where}: the model comes with code of its own ({CODE}), and none is ever run")
    if config.get(ROUNDED):
        raise UserError(
            f"{where}: its weights are quantized already ({ROUNDED}); a folder of plain ones is wanted"
        )
    if config.get(ELSEWHERE):
        raise UserError(f"{where}: names weights of its own ({ELSEWHERE}); only {WEIGHTS} or {INDEX} is read")


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """The network off as far as these libraries go, also where they have asked their environment; then as it was."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    os.environ.update(OFFLINE)
    known = [
        (sys.modules[module], name)
        for module, name in ASKED
        if module in sys.modules and hasattr(sys.modules[module], name)
    ]
    asked = [getattr(module, name) for module, name in known]
    for module, name in known:
        setattr(module, name, True)
    try:
        yield
    finally:
        for (module, name), value in zip(known, asked, strict=True):
            setattr(module, name, value)
        for variable, said in before.items():
            if said is None:
                del os.environ[variable]
            else:
                os.environ[variable] = said
