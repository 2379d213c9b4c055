"""Any model of transformers from a folder on disk: the library's own module, called as a task of texts calls one."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError, nearest, reason
from compressbench.files import a_file
from compressbench.models import hf_memory
from compressbench.models.attention import unfused_attention
from compressbench.models.checkpoint import read_safetensors
from compressbench.models.hub import INDEX, WHERE, config_of, files_of, offline, plain_config, weight_files
from compressbench.specs import TARGET

CLASSIFICATION = "sequence_classification"
FORMS: Mapping[str, str] = {
    CLASSIFICATION: "AutoModelForSequenceClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "causal": "AutoModelForCausalLM",
}
"""What a task asks of a model -> the class of transformers that builds one."""
CLASSIFIER = "ForSequenceClassification"
TOKENIZER = "tokenizer.json"
MOST = 64 << 20
"""Bytes of a tokenizer's file."""
UNNAMED = re.compile(r"LABEL_\d+")
SHOWN = 6


class HuggingFace(nn.Module):
    """A module of transformers, ``net``, that takes a task's inputs in their order and returns logits.

    Its weights are drawn by transformers' own rule, from torch's global generator. Names are transformers', below
    ``net``: ``net.bert.encoder.layer.3``.

    Args:
        config: the ``config.json`` of a folder, as data.
        form: a key of ``FORMS``.
        inputs: names of the inputs, in the order of the forward; those that the net doesn't take are left out.
        net: the module, where it is there already.

    Raises:
        UserError: transformers isn't installed, or can't build such a model.
    """

    def __init__(
        self, config: Mapping[str, Any], form: str, inputs: Sequence[str], net: nn.Module | None = None
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise UserError(f"model.build.form: unknown {form!r}; {nearest(str(form), FORMS)}")
        self.config, self.form, self.inputs = dict(config), form, tuple(inputs)
        self.net = _drawn(self.config, form) if net is None else net
        taken = inspect.signature(type(self.net).forward).parameters
        self.taken = tuple(name for name in self.inputs if name in taken)
        self.fixed = {"use_cache": False} if "use_cache" in taken else {}
        self._agreed: dict[int, bool] = {}

    def as_spec(self) -> dict[str, Any]:
        """What builds it again, with other weights, without a folder."""
        return {
            TARGET: f"{__name__}.{type(self).__name__}",
            "config": self.config,
            "form": self.form,
            "inputs": list(self.inputs),
        }

    def forward(self, *inputs: Tensor) -> Tensor:
        """The task's inputs, (n, tokens) each, to logits: (n, classes), or (n, tokens, vocabulary)."""
        named = dict(zip(self.inputs, inputs, strict=True))
        given = {name: named[name] for name in self.taken}
        with _vectorised() if any(map(_is_wrapped, inputs)) else contextlib.nullcontext():
            return self.net(**given, **self.fixed).logits

    @property
    def remembers(self) -> bool:
        """Whether ``step`` goes as ``forward`` does, with ``begin`` (seq2seq) or ``begun`` (causal) before it.

        That is tried once on a few tokens, and again when parts of the net are replaced.
        """
        if self.form == CLASSIFICATION or self.training or not hf_memory.remembers(self.net):
            return False
        kinds = hf_memory.kinds(self.net)
        if kinds not in self._agreed:
            self._agreed[kinds] = hf_memory.agrees(self)
        return self._agreed[kinds]

    def begin(self, input_ids: Tensor, attention_mask: Tensor) -> hf_memory.Remembered:
        """Of a seq2seq net, what is remembered before the first token; see ``decoding.Steps``."""
        return hf_memory.begin(self.net, input_ids, attention_mask)

    def begun(self, input_ids: Tensor) -> tuple[Tensor, hf_memory.Known]:
        """Of a causal net: beginnings (n, tokens) without padding, to logits of the next token, and the memory."""
        return hf_memory.written(self.net, input_ids)

    def step(self, tokens: Tensor, remembered: Any) -> tuple[Tensor, Any]:
        """The token before, ids (n,), to logits of the next one (n, vocabulary), and what is remembered with it."""
        if self.form == "seq2seq":
            return hf_memory.translated(self.net, tokens, remembered)
        return hf_memory.written(self.net, tokens[:, None], remembered)

    def in_layers(self) -> Any:
        """How exits cut the net, see ``models.exits.Layers``."""
        from compressbench.models.hf_layers import in_layers

        return in_layers(self)


def folder(
    folder: str,
    form: str,
    inputs: Sequence[str],
    names: Sequence[str] = (),
    vocabulary: int | None = None,
    length: int | None = None,
    tokenizer: str | None = None,
    new_head: bool = False,
) -> nn.Module:
    """The model of a folder, with its weights: ``config.json`` beside ``model.safetensors``, or several by an index.

    A folder of a bare encoder gets a fresh head of classification, drawn as transformers does; one that was trained for
    classification keeps its own, whose outputs are put in the order of the data's classes by their names (capitals don't
    count; ``LABEL_0`` … are no names, and taken as they stand).

    Args:
        folder: on disk; nothing is fetched, no pickle opened, none of its code run.
        form: what is asked of it, see ``FORMS``; a task's ``@form``.
        inputs: names of what it is called with, ``@inputs``.
        names: of the classes, ``@names``; empty where no classes of examples are asked for.
        vocabulary: how many ids the data have, ``@vocabulary``.
        length: tokens of an example at most, ``@length``.
        tokenizer: SHA-256 of what cuts the data into tokens, ``@tokenizer``; must be the folder's, where it has one.
        new_head: a fresh head of classification, also where the folder has one.

    Raises:
        UserError: the folder holds no such model; classes, tokenizer or length don't fit it.
    """
    if form not in FORMS:
        raise UserError(f"model.build.form: unknown {form!r}; {nearest(str(form), FORMS)}")
    path = files_of(folder)[0].parent
    config = config_of(folder)
    _same_tokens(path, tokenizer)
    kept = any(str(a).endswith(CLASSIFIER) for a in config.get("architectures") or ()) and not new_head
    order = _order(config, names, str(path)) if kept and form == CLASSIFICATION else None
    if form == CLASSIFICATION:
        config |= {
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
        }
        config.pop("num_labels", None)
    config = plain_config(config, str(path))
    fresh = form == CLASSIFICATION and not kept
    net = _loaded(path, config, form, fresh)
    _fits(net, str(path), vocabulary, length)
    if order is not None and order != list(range(len(order))):
        _reorder(net, order, str(path))
    return HuggingFace(config, form, inputs, net)


def _same_tokens(path: Path, tokenizer: str | None) -> None:
    own = path / TOKENIZER
    if tokenizer and own.is_file() and _digest(own) != tokenizer:
        raise UserError(
            f"dataset.task.tokenizer: the data are cut into tokens by another tokenizer than the model's; "
            f"dataset.task.tokenizer={path} is its own"
        )


def _digest(tokenizer: Path) -> str:
    try:
        return hashlib.sha256(a_file(tokenizer, MOST).read_text(encoding="utf-8").encode()).hexdigest()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read {tokenizer}: {error}") from error


def _order(config: Mapping[str, Any], names: Sequence[str], where: str) -> list[int]:
    """For each of the data's classes, the output of the folder's head that answers it.

    Raises:
        UserError: the head answers other classes.
    """
    said = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(int(config.get("num_labels", 2)))}
    labels = [str(said.get(str(i), "")).strip() for i in range(len(said))]
    if len(labels) == len(names) and all(UNNAMED.fullmatch(label) for label in labels):
        return list(range(len(labels)))
    known = [label.casefold() for label in labels]
    wanted = [name.strip().casefold() for name in names]
    if sorted(known) != sorted(wanted) or len(set(known)) < len(known):
        raise UserError(
            f"{where}: its head answers {_shortened(labels)}, and the data's classes are {_shortened(names)}; "
            "model.build.new_head=true draws a fresh one"
        )
    return [known.index(name) for name in wanted]


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" … ({len(names)})" if len(names) > SHOWN else "")


def _reorder(net: nn.Module, order: Sequence[int], where: str) -> None:
    """Puts the outputs of a net's head in another order."""
    base = f"{getattr(net, 'base_model_prefix', '')}."
    heads = [
        part
        for name, part in net.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == len(order) and not name.startswith(base)
    ]
    if not heads:
        raise UserError(
            f"{where}: its outputs stand in another order than the data's classes, and its head is no linear layer; "
            "model.build.new_head=true draws a fresh one"
        )
    with torch.no_grad():
        for tensor in (heads[-1].weight, heads[-1].bias):
            if tensor is not None:
                tensor.copy_(tensor[list(order)].clone())


def _fits(net: nn.Module, where: str, vocabulary: int | None, length: int | None) -> None:
    """Refuses data with more ids than the net has, or longer than its positions."""
    config: Any = net.config
    known = getattr(config, "vocab_size", None)
    if vocabulary is not None and isinstance(known, int) and vocabulary > known:
        raise UserError(
            f"{where}: it knows {known} tokens, and the data's tokenizer has {vocabulary}; "
            f"dataset.task.tokenizer={where} is its own"
        )
    most = getattr(config, "max_position_embeddings", None)
    for name, part in net.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            most = part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
            break
    if length is not None and isinstance(most, int) and 0 < most < length:
        raise UserError(
            f"dataset.task.length is {length} tokens, and the model in {where} has {most} positions; "
            f"dataset.task.length={most} cuts longer texts"
        )


def _drawn(config: Mapping[str, Any], form: str) -> nn.Module:
    """A net of fresh weights."""
    library = _library()
    with offline(), _quiet(library):
        try:
            settings = library.AutoConfig.for_model(**plain_config(config, "model.build.config"))
            net = getattr(library, FORMS[form]).from_config(settings, trust_remote_code=False)
        except UserError:
            raise
        except Exception as error:  # whatever the library says of a config that is input
            raise UserError(
                f"transformers can't build a {config.get('model_type')}: {reason(error)}"
            ) from error
    return net.float()


def _loaded(path: Path, config: Mapping[str, Any], form: str, fresh: bool) -> nn.Module:
    """A net with the folder's weights, all of them but those of a fresh head.

    Raises:
        UserError: transformers can't load it, or weights are missing.
    """
    library = _library()
    auto = getattr(library, FORMS[form])
    tensors = _tensors(path)
    with offline(), _quiet(library):
        try:
            settings = library.AutoConfig.for_model(**config)
            net, said = _read(auto, settings, tensors, fresh)
            base = f"{net.base_model_prefix}."
            if fresh:
                drawn = auto.from_config(settings, trust_remote_code=False).state_dict()
                with torch.no_grad():
                    for name, tensor in net.state_dict().items():
                        if not name.startswith(base):
                            tensor.copy_(drawn[name])
        except Exception as error:  # whatever the library says of a folder that is input
            raise UserError(f"{path}: transformers can't load it: {reason(error)}") from error
    lacking = {str(name) for name in said["missing_keys"]} | {str(k[0]) for k in said["mismatched_keys"]}
    own = sorted(n for n in lacking if not fresh or (n.startswith(base) and ".pooler." not in n))
    if own:
        raise UserError(
            f"{path}: its weights lack {_shortened(own)}, or in another shape; is config.json another model's?"
        )
    return net.float()


def for_comparing(path: Path, config: Mapping[str, Any], auto: str) -> nn.Module:
    """The net of a folder with its own head, as transformers reads it: weights that lack are drawn.

    Args:
        config: see ``hub.plain_config``.
        auto: the class of transformers that builds it.

    Raises:
        UserError: transformers isn't installed, or can't load it.
    """
    library = _library()
    tensors = _tensors(path)
    with offline(), _quiet(library):
        try:
            settings = library.AutoConfig.for_model(**config)
            net, _ = _read(getattr(library, auto), settings, tensors, fresh=False)
        except Exception as error:  # whatever the library says of a folder that is input
            raise UserError(f"{path}: transformers can't load it: {reason(error)}") from error
    return net.float()


def _tensors(path: Path) -> dict[str, Tensor]:
    """A folder's weights by their names in its files, which are those that its key is of."""
    files = [file for file in weight_files(path) if file.name != INDEX]
    return {name: tensor for file in files for name, tensor in read_safetensors(file).items()}


def _read(auto: Any, settings: Any, tensors: dict[str, Tensor], fresh: bool) -> tuple[Any, dict[str, Any]]:
    """A net and what transformers says of its loading. It is told no folder, so it finds no code nor other weights."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        shape = auto.from_config(settings, trust_remote_code=False)
    net, said = type(shape).from_pretrained(  # the class's own: that of Auto wants a folder
        None,
        config=shape.config,
        state_dict=tensors,
        local_files_only=True,
        ignore_mismatched_sizes=fresh,
        output_loading_info=True,
        dtype=torch.float32,
    )
    return net, said


def _library() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{WHERE}: transformers isn't installed ({error}): pip install 'compressbench[text]'"
        ) from error
    return transformers


def _is_wrapped(tensor: Any) -> bool:
    """Whether ``torch.func`` is at work on a tensor, ``vmap`` over examples for one."""
    return isinstance(tensor, Tensor) and bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


@contextlib.contextmanager
def _vectorised() -> Iterator[None]:
    """transformers without its branches on what a mask holds, which no vectorisation over examples can take."""
    from transformers import masking_utils

    asked = masking_utils.is_tracing
    masking_utils.is_tracing = lambda tensor=None: True
    try:
        with unfused_attention():
            yield
    finally:
        masking_utils.is_tracing = asked


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No bars, and of what the library tells its users errors alone."""
    told, torch_log = library.utils.logging, logging.getLogger("torch.utils._pytree")
    before, bars, level = told.get_verbosity(), told.is_progress_bar_enabled(), torch_log.level
    told.set_verbosity(logging.CRITICAL)
    told.disable_progress_bar()
    torch_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        told.set_verbosity(before)
        torch_log.setLevel(level)
        if bars:
            told.enable_progress_bar()
