"""Weights from a file: safetensors, or a torch file that holds nothing but tensors. Nothing is executed."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compressbench.errors import UserError

TORCH = (".pt", ".pth")
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
UNDER = ("state_dict", "model_state_dict", "model")
AVERAGED = "n_averaged"
LATER = "num_batches_tracked"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a checkpoint, on the CPU, ready for ``compressbench.models.build.load``.

    A torch file may hold them under ``state_dict``, ``model_state_dict`` or ``model``. The names are the file's own, see
    ``fitted``.

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
        return read_safetensors(file)
    if file.suffix in TORCH:
        return read_torch(file)
    raise UserError(
        f"weights: {file} has an unknown format; use .safetensors, or {' / '.join(TORCH)} with tensors only"
    )


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file, whatever it is called.

    Raises:
        UserError: see ``read_weights``.
    """
    try:
        return _unwrapped(load_file(file), file)
    except SafetensorError as error:
        raise UserError(f"weights: {file} is damaged or no safetensors file: {error}") from error
    except OSError as error:
        raise UserError(f"weights: can't read {file}: {error}") from error


def read_torch(file: Path) -> dict[str, Tensor]:
    """Named tensors of a torch file that holds nothing but tensors, whatever it is called.

    Raises:
        UserError: see ``read_weights``.
    """
    return _unwrapped(_read_torch(file), file)


def _read_torch(file: Path) -> Any:
    try:
        with warnings.catch_warnings():  # torch's, on tensors that are refused below
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights: {file} holds more than tensors and is not opened, since that would run code; "
            "save model.state_dict() alone, or convert it to .safetensors"
        ) from error
    except Exception as error:  # what is cut off in the middle fails wherever torch happens to be
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"weights: can't read {file}, it is damaged or no torch file: {reason}") from error


def _unwrapped(found: Any, file: Path) -> dict[str, Tensor]:
    for under in UNDER:
        if isinstance(found, Mapping) and isinstance(found.get(under), Mapping):
            found = found[under]
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"weights: {file} holds no named tensors; save model.state_dict() alone")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"weights: {file} holds {type(value).__name__} under {name!r} instead of a tensor; "
                "save model.state_dict() alone"
            )
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            what = "no values (a meta tensor)" if value.is_meta else f"a {value.layout} tensor"
            what = "a quantized tensor" if value.is_quantized else what
            raise UserError(
                f"weights: {file} holds {what} under {name!r}; save dense ones: "
                "{n: t.to_dense() for n, t in model.state_dict().items()}, of a net with its weights in it"
            )
        if value.is_floating_point() and bool(value.isnan().any()):
            lost = f"{int(value.isnan().sum())} of {value.numel()} values"
            raise UserError(
                f"weights: {file}: {name} holds {lost} that are no numbers (NaN); a training that diverged? Take an "
                "earlier checkpoint"
            )
    return {name: value.detach() for name, value in found.items()}


def fitted(found: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """A file's tensors by the names of a module, as far as they fit; those that fit best where none do.

    Taken off, but only where the names then fit: what ``DataParallel``, ``torch.compile``, FSDP and averaged models put
    before names or in them, and one prefix that all names share (``model.``). Of norms written before
    ``num_batches_tracked`` was, that is the module's own. Names that torch's modules once wrote (``weight_g``) become
    today's by the modules' own rules.
    """
    own = module.state_dict()
    best: dict[str, Tensor] = dict(found)
    for names in _readings(found):
        lacking, odd = own.keys() - names.keys(), names.keys() - own.keys()
        if not odd and all(name.rpartition(".")[2] == LATER for name in lacking):
            return {**{name: own[name].detach() for name in lacking}, **names}
        if (current := _by_torch(names, module)) is not None:
            return current
        if len(own.keys() ^ names.keys()) < len(own.keys() ^ best.keys()):
            best = names
    return best


def _readings(found: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The names as they are, and with more and more of what wrappers add taken off."""
    names = dict(found)
    yield names
    if AVERAGED in names:
        names = {n: t for n, t in names.items() if n != AVERAGED}
        yield names
    bare = names
    for wrapper in WRAPPERS[
        1:
    ]:  # torch.compile and FSDP wrap parts of a net too; "module" may be its own name
        bare = {n.replace(wrapper, ""): t for n, t in bare.items()}
    if bare.keys() != names.keys() and len(bare) == len(names):
        yield bare
    while len(first := {n.partition(".")[0] for n in bare}) == 1 and all("." in n for n in bare):
        bare = {n.removeprefix(f"{next(iter(first))}."): t for n, t in bare.items()}
        yield bare


def _by_torch(names: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor] | None:
    """What a copy of the module makes of names that its own hooks know; None where any is left over."""
    if not any(part._load_state_dict_pre_hooks for part in module.modules()):
        return None
    trial = copy.deepcopy(module)
    try:
        result = trial.load_state_dict(dict(names), strict=False)
    except RuntimeError:  # of another shape
        return None
    if result.missing_keys or result.unexpected_keys:
        return None
    return {name: tensor.detach() for name, tensor in trial.state_dict().items()}
