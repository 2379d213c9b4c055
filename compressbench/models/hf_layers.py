"""An encoder of transformers in layers: what comes before them, they themselves, and what comes after (``exits.Layers``).

Its own modules run, in its own order; only who calls whom is different, so that rows can leave in between.
"""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.exits import Layers

if TYPE_CHECKING:
    from compressbench.models.hf import HuggingFace

HOMES = ("encoder.layer", "transformer.layer", "encoder.layers")
"""Where below its base model an encoder has its layers: BERT, RoBERTa, ELECTRA; DistilBERT; others."""
MASK = "attention_mask"


class _Before(nn.Module):
    """The task's inputs to the embeddings, and the mask as layers take it."""

    def __init__(self, embeddings: nn.Module, inputs: tuple[str, ...], additive: bool) -> None:
        super().__init__()
        self.embeddings, self.inputs, self.additive = embeddings, inputs, additive
        known = inspect.signature(embeddings.forward).parameters
        self.taken = tuple(name for name in inputs if name in known)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.inputs, inputs, strict=True))
        hidden = self.embeddings(**{name: named[name] for name in self.taken})
        seen = (named[MASK] != 0)[:, None, None, :]
        if self.additive:
            seen = (~seen).to(hidden.dtype) * torch.finfo(hidden.dtype).min
        return hidden, seen


class _Layer(nn.Module):
    """One layer, as its encoder calls it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        found = self.layer(hidden, seen)
        return found[0] if isinstance(found, tuple) else found


class _Answered(nn.Module):
    """In the place of the base model: what it would have given, of hidden states that are there already."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        pooled = None if self.pooler is None else self.pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


class _After(nn.Module):
    """The net's head, by its own forward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        base = net.get_submodule(_prefix(net))
        self.net = copy.copy(net)
        pooler = getattr(base, "pooler", None)
        self.net.__dict__["_modules"] = {**net._modules, _prefix(net): _Answered(pooler)}

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        found: Tensor = self.net(inputs_embeds=hidden).logits
        return found


def in_layers(module: HuggingFace) -> Layers:
    """How a classifier of transformers is cut between the layers of its encoder.

    Raises:
        UserError: it is no encoder with layers in a row, or attends in a way that isn't known.
    """
    net = module.net
    base = getattr(net, _prefix(net), None)
    home = next((h for h in HOMES if base is not None and _there(base, h)), None)
    embeddings = getattr(base, "embeddings", None)
    kind = type(net).__name__
    if base is None or home is None or embeddings is None or MASK not in module.inputs:
        raise UserError(
            f"exits: {kind} is no encoder with embeddings and layers in a row, as BERT's family is"
        )
    config: Any = net.config
    way = getattr(config, "_attn_implementation", "eager")
    if way not in ("sdpa", "eager"):
        raise UserError(
            f"exits: {kind} attends by {way}; layers can be called one by one with sdpa and eager"
        )
    path = f"net.{_prefix(net)}.{home}"
    row = base.get_submodule(home)
    layers = {f"{path}.{k}": _Layer(layer) for k, layer in enumerate(row.children())}
    return Layers(_Before(embeddings, module.inputs, way == "eager"), layers, _After(net))


def _prefix(net: nn.Module) -> str:
    return str(getattr(net, "base_model_prefix", ""))


def _there(base: nn.Module, path: str) -> bool:
    try:
        return isinstance(base.get_submodule(path), nn.ModuleList)
    except AttributeError:
        return False
