"""A model's folder on disk, as timm and Hugging Face save it: ``config.json`` beside ``model.safetensors``.

Local only: nothing is fetched, no code of the folder's is run, and no pickle is opened.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.artefacts import preparation, reading
from compressbench.artefacts.artefact import Given, Input, Wanted
from compressbench.artefacts.module import OpenModule, frozen
from compressbench.errors import UserError, nearest, reason
from compressbench.files import a_file, digest_of, json_of
from compressbench.models.hub import ADAPTER, CONFIG, plain_config, weight_file, weight_files

if TYPE_CHECKING:
    from torch import nn

    from compressbench.artefacts.preparation import Preparation
    from compressbench.artefacts.reading import Reading

HEADS = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}
"""How architectures end that are read, and by which of transformers' classes."""


@dataclass(frozen=True)
class Folder:
    """A model that a library builds from a folder.

    Attributes:
        library: and its version, in words.
        reading: how it reads texts; None where it has no ``tokenizer.json``.
        class_names: of its outputs, in order; empty where its config tells none.
    """

    path: Path
    library: str
    module: nn.Module
    wants: Wanted
    files: tuple[Path, ...]
    reading: Reading | None = None
    class_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's."""
        return self.path.resolve().name

    @property
    def form(self) -> str:
        """In words."""
        import torch

        return f"{self.library} folder, torch {torch.__version__} on the CPU"

    @functools.cached_property
    def identity(self) -> str:
        """Of config and weights, and of the library's version, which builds the rest."""
        return digest_of(self.files, self.library)

    def open(self, threads: int = 1) -> OpenModule:
        """See ``Artefact``."""
        return OpenModule(self.module, self.wants, self.name, threads)

    def differentiable(self) -> nn.Module | None:
        """The module."""
        return self.module


def read(path: Path, given: Given) -> Folder:
    """The model of a folder.

    Raises:
        UserError: it holds none that is read, its library isn't installed, or weights and config don't fit.
    """
    if not (path / CONFIG).is_file():
        raise UserError(f"{path}: no model's folder: it has no {CONFIG}; RUN::STATE names a state of a run")
    config = json_of(a_file(path / CONFIG))
    if "architecture" in config:
        return _timm(path, config)
    if isinstance(config.get("architectures"), list) or "model_type" in config:
        return _transformers(path, config)
    raise UserError(f"{path}: {CONFIG} names neither timm's architecture nor transformers' architectures")


def _timm(path: Path, config: Mapping[str, Any]) -> Folder:
    from compressbench.models.build import load
    from compressbench.models.checkpoint import fitted, read_safetensors

    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"{path}: timm isn't installed ({error}): pip install 'compressbench[timm]'"
        ) from error
    name = str(config["architecture"])
    if name not in timm.list_models():
        raise UserError(
            f"{path}: timm {timm.__version__} has no model {name!r}; {nearest(name, timm.list_models())}"
        )
    weights = weight_file(path)
    told = config.get("pretrained_cfg")
    settings: dict[str, Any] = told if isinstance(told, dict) else config  # type: ignore[assignment]
    classes = config.get("num_classes", settings.get("num_classes"))
    options = _plain(config.get("model_args") or {}, path)
    options |= {"num_classes": classes} if isinstance(classes, int) else {}
    try:
        module = timm.create_model(name, pretrained=False, **options)
    except Exception as error:  # a builder's own errors, of options that came from a file
        raise UserError(
            f"{path}: timm can't build {name}: {type(error).__name__}: {reason(error)}"
        ) from error
    load(module, fitted(read_safetensors(weights), module), str(weights))
    known = preparation.of_timm(settings)
    size = settings.get("input_size")
    channels = size[0] if isinstance(size, list) and len(size) == 3 and isinstance(size[0], int) else 3
    fixed = known is not None and settings.get("fixed_input_size")
    height, width = known.size if fixed and known is not None and known.size else (None, None)
    inputs = (Input("x", (None, options.get("in_chans", channels), height, width)),)
    wants = Wanted(inputs, module.num_classes if isinstance(module.num_classes, int) else None, known)
    return Folder(path, f"timm {timm.__version__}", frozen(module), wants, (path / CONFIG, weights))


REFUSED = (
    "pretrained",
    "checkpoint",
    "cache",
    "file",
    "path",
    "url",
    "hf_",
    "features_only",
    "scriptable",
    "device",
)
"""Parts of names of options that reach beyond a model's shape."""


def _plain(options: Any, path: Path) -> dict[str, Any]:
    """Options of a builder as far as they are numbers, words and lists of those."""
    if not isinstance(options, dict):
        raise UserError(f"{path}: model_args of {CONFIG} are no mapping")
    for name, value in options.items():
        inner = value if isinstance(value, list) else [value]
        paths = any(isinstance(v, str) and "/" in v for v in inner)
        known = all(isinstance(v, bool | int | float | str | None) for v in inner) and not paths
        if not name.isidentifier() or not known or any(part in name for part in REFUSED):
            raise UserError(
                f"{path}: {CONFIG} passes {name}={str(value)[:60]!r} to the model's builder; not read"
            )
    return dict(options)


def _transformers(path: Path, config: Mapping[str, Any]) -> Folder:
    names = config.get("architectures") or [""]
    architecture = str(names[0]) if isinstance(names, list) else ""
    head = next((auto for end, auto in HEADS.items() if architecture.endswith(end)), None)
    if head is None:
        raise UserError(
            f"{path}: holds a {architecture or config.get('model_type')}, which answers no classes; read are "
            f"{' and '.join(HEADS)}"
        )
    if (path / ADAPTER).exists():
        raise UserError(f"{path}: holds an adapter of another model; merge it into its weights and save them")
    files = (path / CONFIG, *weight_files(path))
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{path}: transformers isn't installed ({error}): pip install 'compressbench[text]'"
        ) from error
    from compressbench.models.hf import for_comparing

    module: Any = for_comparing(path, plain_config(config, str(path / CONFIG)), head)
    classes = getattr(module.config, "num_labels", None)
    known = _processor(path)
    if head == "AutoModelForImageClassification":
        channels = getattr(module.config, "num_channels", 3)
        inputs: tuple[Input, ...] = (Input("pixel_values", (None, channels, None, None)),)
    else:
        third = list(inspect.signature(module.forward).parameters)[2:3]  # they are given in this order
        kinds = third == [reading.KINDS] and (getattr(module.config, "type_vocab_size", 0) or 0) > 1
        names = (reading.IDS, reading.MASK, *((reading.KINDS,) if kinds else ()))
        inputs = tuple(Input(n, (None, None), "int64") for n in names)
    wants = Wanted(inputs, classes, known)
    library = f"transformers {transformers.__version__}"
    own = None if head == "AutoModelForImageClassification" else _reading(path, module.config)
    told = getattr(module.config, "id2label", None) or {}
    called = tuple(str(told[k]) for k in sorted(told)) if all(isinstance(k, int) for k in told) else ()
    return Folder(path, library, frozen(module), wants, files, own, called)


def _reading(path: Path, config: Any) -> Reading | None:
    most = getattr(config, "max_position_embeddings", None)
    return reading.of_folder(path, most if isinstance(most, int) else None)


def _processor(path: Path) -> Preparation | None:
    file = path / "preprocessor_config.json"
    return preparation.of_hugging_face(json_of(file)) if file.is_file() else None
