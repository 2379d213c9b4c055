"""Weights from a file: safetensors, or a torch file that holds nothing but tensors. Nothing is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compressbench.errors import UserError

TORCH = (".pt", ".pth")
WRAPPERS = ("module.", "_orig_mod.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a checkpoint, on the CPU, ready for ``compressbench.models.build.load``.

    A torch file may hold them under ``state_dict``. The prefixes that ``DataParallel`` and ``torch.compile``
    put before every name (``module.``, ``_orig_mod.``) are taken off.

    Args:
        path: a ``.safetensors`` file, or a ``.pt`` / ``.pth`` file of ``torch.save(model.state_dict(),
            path)``.

    Raises:
        UserError: no such file, another format, a damaged file, a pickle of more than tensors, no tensors, or a tensor
            that holds what is no number.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"weights: there is no file {file}")
    if file.suffix == ".safetensors":
        try:
            return _unwrapped(load_file(file), file)
        except SafetensorError as error:
            raise UserError(f"weights: {file} is damaged or no safetensors file: {error}") from error
        except OSError as error:
            raise UserError(f"weights: can't read {file}: {error}") from error
    if file.suffix in TORCH:
        return _unwrapped(_read_torch(file), file)
    raise UserError(
        f"weights: {file} has an unknown format; use .safetensors, or {' / '.join(TORCH)} with tensors only"
    )


def _read_torch(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights: {file} holds more than tensors and is not opened, since that would run code; "
            "save model.state_dict() alone, or convert it to .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"weights: can't read {file}, it is damaged or no torch file: {reason}") from error


def _unwrapped(found: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"weights: {file} holds no named tensors; save model.state_dict() alone")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"weights: {file} holds {type(value).__name__} under {name!r} instead of a tensor; "
                "save model.state_dict() alone"
            )
        if value.is_floating_point() and bool(value.isnan().any()):
            lost = f"{int(value.isnan().sum())} of {value.numel()} values"
            raise UserError(
                f"weights: {file}: {name} holds {lost} that are no numbers (NaN); a training that diverged? Take an "
                "earlier checkpoint"
            )
    tensors = {name: value.detach() for name, value in found.items()}
    while prefix := next((w for w in WRAPPERS if all(name.startswith(w) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
