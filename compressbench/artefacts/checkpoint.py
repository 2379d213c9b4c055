"""A file of weights, and the model that they are loaded into: ``--model model=resnet20``, or ``--model mynet:build``."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.artefacts.artefact import Given, Input, Wanted
from compressbench.artefacts.function import located
from compressbench.artefacts.module import OpenModule, frozen
from compressbench.errors import UserError, reason
from compressbench.files import digest_of

if TYPE_CHECKING:
    from torch import Tensor, nn

FLAG = "--model"
OWN = ("model", "edits", "quantized")
"""What ``compressbench export --to safetensors`` writes beside the tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights in a module.

    Attributes:
        model: what builds it, as data, for its identity: a filled spec, or an import path with its sources' digest.
        kind: of file, in words.
    """

    path: Path
    kind: str
    module: nn.Module
    model: Any
    wants: Wanted

    @property
    def name(self) -> str:
        """The file's."""
        return self.path.name

    @property
    def form(self) -> str:
        """In words."""
        import torch

        return f"{self.kind} in {type(self.module).__name__}, torch {torch.__version__} on the CPU"

    @property
    def files(self) -> tuple[Path, ...]:
        """The weights."""
        return (self.path,)

    @functools.cached_property
    def identity(self) -> str:
        """Of weights and model."""
        return digest_of(self.files, "checkpoint", self.model)

    def open(self, threads: int = 1) -> OpenModule:
        """See ``Artefact``."""
        return OpenModule(self.module, self.wants, self.name, threads)

    def differentiable(self) -> nn.Module | None:
        """The module."""
        return self.module


def safetensors(path: Path, given: Given) -> Checkpoint:
    """A safetensors file; one that ``compressbench export`` wrote tells its own model.

    Raises:
        UserError: no model is given, it can't be built, or the weights don't fit.
    """
    from compressbench.models.checkpoint import read_safetensors

    found = read_safetensors(path)
    if given.model is None and (own := _metadata(path)):
        return _exported(path, own, found, given)
    return _loaded(path, "safetensors weights", found, given)


def torch_file(path: Path, given: Given) -> Checkpoint:
    """A torch file that holds nothing but tensors.

    Raises:
        UserError: see ``safetensors``; or it holds more.
    """
    from compressbench.models.checkpoint import read_torch

    return _loaded(path, "torch weights", read_torch(path), given)


def _loaded(path: Path, kind: str, found: Mapping[str, Tensor], given: Given) -> Checkpoint:
    from compressbench.models.build import load
    from compressbench.models.checkpoint import fitted

    module, model = _module(path, given)
    load(module, fitted(unmasked(found), module), str(path))
    return Checkpoint(path, kind, frozen(module), model, _wants(given))


def unmasked(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors in which what ``torch.nn.utils.prune`` left behind, a weight and its mask, is their product."""
    masked = {
        name.removesuffix("_orig"): tensor * found[mask]
        for name, tensor in found.items()
        if name.endswith("_orig")
        and (mask := f"{name.removesuffix('_orig')}_mask") in found
        and found[mask].shape == tensor.shape
    }
    gone = {f"{name}{end}" for name in masked for end in ("_orig", "_mask")}
    return {**{name: tensor for name, tensor in found.items() if name not in gone}, **masked}


def _wants(given: Given) -> Wanted:
    shape, classes = given.facts.get("@shape"), given.facts.get("@classes")
    inputs = (Input("x", (None, *shape)),) if shape else ()
    return Wanted(inputs, classes, given.preparation)


def _module(path: Path, given: Given) -> tuple[nn.Module, Any]:
    """A freshly built module, and what built it as data."""
    import torch

    if given.model is None:
        raise UserError(
            f"{path}: holds weights alone; {FLAG} model=resnet20 or {FLAG} mynet:build says what they belong to"
        )
    words = [given.model] if isinstance(given.model, str) else list(given.model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module, model = _imported(words[0], given) if _is_path(words) else _composed(words, given)
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{FLAG} {' '.join(words)}: gave a {type(module).__name__}, not a torch.nn.Module")
    return module, model


def _is_path(words: Sequence[str]) -> bool:
    return len(words) == 1 and ":" in words[0] and "=" not in words[0]


def _composed(words: Sequence[str], given: Given) -> tuple[Any, Any]:
    """Of a model config, as ``compressbench run`` would take it."""
    from compressbench import specs
    from compressbench.models.build import filled
    from compressbench.specs.compose import composed

    if not any(w.startswith("model=") for w in words):
        raise UserError(
            f"{FLAG}: {' '.join(words)!r} is neither model=NAME nor an import path like mynet:build"
        )
    folders = given.trust.folders
    build = composed(list(words), str(folders[0]) if folders else None)["model"].get("build")
    if not specs.is_spec(build):
        raise UserError(f"{FLAG} {' '.join(words)}: a model config with a build is wanted")
    specs.check(build, FLAG, given.trust.prefixes, parts=("models",))
    try:
        spec = filled(build, given.facts)
    except UserError as error:
        raise UserError(
            f"{FLAG} {' '.join(words)}: {error}; --data dataset=NAME tells, or e.g. "
            f"{FLAG} {' '.join(words)} model.build.shape=[3,32,32] model.build.classes=10"
        ) from error
    return specs.build(spec, FLAG), [spec, specs.sources_digest(spec)]


def _imported(text: str, given: Given) -> tuple[Any, Any]:
    """Of a function or a class of the user's, called with those facts that it has parameters for."""
    from compressbench.specs import sources_digest

    make = located(text, given)
    if not callable(make):
        raise UserError(f"{FLAG} {text}: is a {type(make).__name__}, nothing that builds a module")
    facts = {name.removeprefix("@"): value for name, value in given.facts.items()}
    try:
        module = make(**_fitting(make, facts))
    except UserError:
        raise
    except Exception as error:  # whatever a user's function does
        raise UserError(f"{FLAG} {text}: can't build it: {type(error).__name__}: {reason(error)}") from error
    return module, [text, facts, sources_digest({"_target_": text.replace(":", ".")})]


def _fitting(make: Callable[..., Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    try:
        names = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}
    return {name: value for name, value in facts.items() if name in names}


def _metadata(path: Path) -> dict[str, Any]:
    """What an exported state's file says of its model; empty of other files."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
    try:
        found = {name: json.loads(notes[name]) for name in OWN if name in notes}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found.get("model"), dict) and isinstance(found.get("edits"), list) else {}


def _exported(path: Path, own: Mapping[str, Any], found: Mapping[str, Tensor], given: Given) -> Checkpoint:
    """A state that was exported: data that names a module, and trusts nobody."""
    import torch

    from compressbench import specs
    from compressbench.models.build import load
    from compressbench.models.cutting import replay
    from compressbench.specs.trust import IN_A_STATE

    if own.get("quantized"):
        raise UserError(
            f"{path}: its weights are integers, and it doesn't tell how inputs are rounded; give RUN::STATE, or an ONNX "
            "export"
        )
    spec = own["model"]
    where = str(path)
    if not specs.is_spec(spec):
        raise UserError(f"{path}: names no model; {FLAG} says what the weights belong to")
    specs.check(spec, where, given.trust.prefixes, parts=IN_A_STATE)
    try:
        with torch.random.fork_rng(devices=[]):
            module = replay(specs.build(spec, where), own["edits"])
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise UserError(f"{path}: the model that it names can't be rebuilt: {reason(error)}") from error
    load(module, found, where)
    shape, classes = spec.get("shape"), spec.get("classes")
    known = isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) for n in shape)
    wants = Wanted(
        (Input("x", (None, *shape)),) if known and shape is not None else (),
        classes if isinstance(classes, int) else None,
        given.preparation,
    )
    return Checkpoint(path, "exported state", frozen(module), own, wants)
