"""Structural edits: parts taken out of a module, kept as data and replayed whenever the module is rebuilt.

An edit is a JSON mapping of one entry: ``{"cut": {tensor: {dimension: kept indices}}}`` removes rows or columns of
parameters and buffers, and so channels; ``{"drop": [module, ...]}`` puts ``Passed``, the identity, in place of modules;
``{"fold": {convolution: [norm, eps]}}`` makes batch norms part of the convolutions before them, but for the
activation of a norm's class that has one; and
``{"quantize": {layer: …}}`` lets layers round (``models.quantized``), replacing what an earlier one said; and
``{"exits": {"points": {module: head}}}`` puts heads on it (``models.exits``); and
``{"plain": [tensor, ...]}`` takes parametrizations away (``models.plain``), before all others. Nothing
is traced here, so an older state of the same lineage, its masks and its optimiser state are edited the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError, nearest
from compressbench.models.exits import attach
from compressbench.models.parts import recount
from compressbench.models.plain import made_plain
from compressbench.models.quantized import quantize
from compressbench.models.tracing import own_tensors, rest_of

Edit = Mapping[str, Any]
Cut = Mapping[str, Mapping[str, Sequence[int]]]
KINDS = ("cut", "drop", "fold", "quantize", "exits", "plain")


def replay(module: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """The same module with all edits made, in order.

    Raises:
        UserError: an edit that is malformed or fits nothing in the module.
    """
    for edit in edits:
        cut_module(module, edit)
    return module


def cut_module(module: nn.Module, edit: Edit) -> nn.Module:
    """The same module with one edit made.

    Layers' sizes (``in_channels``, ``groups`` …) are read off their new tensors. A tensor that two layers share
    stays shared where both are cut alike.

    Raises:
        UserError: as ``replay``.
    """
    kind, content = _read(edit)
    if kind == "drop":
        for path in content:
            _drop(module, path)
        return module
    if kind == "fold":
        for conv, (norm, _) in content.items():
            _fold(module, conv, norm)
        return module
    if kind == "quantize":
        return quantize(module, content)
    if kind == "exits":
        return attach(module, content)
    if kind == "plain":
        return made_plain(module, content)
    done: dict[tuple[int, str], Tensor] = {}
    cut: dict[str, list[str]] = {}
    for name, dims in content.items():
        path, _, leaf = name.rpartition(".")
        owner = _part(module, path, name)
        tensors = owner._parameters if leaf in owner._parameters else owner._buffers
        tensor = tensors.get(leaf)
        if tensor is None:
            raise UserError(f"edits: the model has no tensor {name!r}")
        cut.setdefault(path, []).append(leaf)
        place = (id(tensor), repr(dims))
        if place not in done:
            new = _selected(name, tensor.detach(), dims)
            done[place] = nn.Parameter(new, tensor.requires_grad) if leaf in owner._parameters else new
        tensors[leaf] = done[place]  # type: ignore[assignment]
        for scales in (f"{leaf}_scale", f"{leaf}_zero") if "0" in dims else ():
            old = owner._buffers.get(scales)
            if old is not None and old.ndim:  # a quantized layer's scales, one for each output channel
                owner._buffers[scales] = _selected(name, old, {"0": dims["0"]})
    for path, leaves in cut.items():
        _refit(module.get_submodule(path), leaves)
        recount(module.get_submodule(path.rpartition(".")[0]))
    return module


def cut_tensors(
    tensors: Mapping[str, Tensor], edit: Edit, like: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The same edit on named tensors of another state or group.

    Args:
        tensors: weights, masks, or entries of an optimiser as ``parameter|entry``.
        like: the weights before the edit; a tensor that hasn't its parameter's shape (an optimiser's step
            count) is left as it is. None where ``tensors`` are the weights.

    Raises:
        UserError: the edit is malformed, or asks for more than a tensor has.
    """
    kind, content = _read(edit)
    if kind in ("quantize", "exits", "plain"):
        return dict(tensors)
    if kind == "fold":
        return _folded(tensors, content) if like is None else _without_norms(tensors, content)
    shapes = {name: t.shape for name, t in (tensors if like is None else like).items()}
    out = {}
    for full, tensor in tensors.items():
        name = full.partition("|")[0]
        if kind == "drop":
            if not any(name == path or name.startswith(f"{path}.") for path in content):
                out[full] = tensor
        elif name in content and tensor.shape == shapes.get(name):
            out[full] = _selected(name, tensor, content[name])
        elif "0" in content.get(name, {}) and tensor.ndim == 1 and tensor.shape[:1] == shapes[name][:1]:
            out[full] = _selected(full, tensor, {"0": content[name]["0"]})  # a scale for each output channel
        else:
            out[full] = tensor
    return out


def cut_groups(
    groups: Mapping[str, Mapping[str, Tensor]], edits: Sequence[Edit]
) -> dict[str, dict[str, Tensor]]:
    """All groups of a state's tensors with the edits made, in order; ``weights`` says how large a parameter was."""
    out = {name: dict(group) for name, group in groups.items()}
    for edit in edits:
        like = out["weights"]
        out = {
            name: cut_tensors(group, edit, None if name == "weights" else like) for name, group in out.items()
        }
    return out


def later(edits: Sequence[Edit], before: Sequence[Edit], what: str) -> tuple[Edit, ...]:
    """The edits made since an earlier state of the lineage.

    Raises:
        UserError: that state was edited in another way.
    """
    if tuple(edits[: len(before)]) != tuple(before):
        raise UserError(f"{what}: its net was cut in another way; a state of the same lineage is wanted")
    return tuple(edits[len(before) :])


def _read(edit: Any) -> tuple[str, Any]:
    """(kind, content) of an edit, its form checked: a store file is input."""
    if not isinstance(edit, Mapping) or len(edit) != 1:
        raise UserError("edits: an edit is a mapping of one entry, cut or drop")
    kind, content = next(iter(edit.items()))
    if kind not in KINDS:
        raise UserError(f"edits: unknown edit {kind!r}; {nearest(str(kind), KINDS)}")
    if kind == "drop" and not (
        isinstance(content, list | tuple) and all(isinstance(p, str) and p for p in content)
    ):
        raise UserError("edits: drop names modules in a list, e.g. [layer2.1]")
    if kind == "plain" and not (
        isinstance(content, list | tuple) and all(isinstance(p, str) for p in content)
    ):
        raise UserError("edits: plain names tensors in a list, e.g. [conv.weight]")
    if kind == "cut" and not (
        isinstance(content, Mapping) and all(isinstance(d, Mapping) for d in content.values())
    ):
        raise UserError("edits: cut is a mapping of tensors to {dimension: kept indices}")
    if kind == "fold" and not (
        isinstance(content, Mapping)
        and all(
            isinstance(x, list | tuple) and len(x) == 2 and isinstance(x[0], str) for x in content.values()
        )
        and all(isinstance(eps, float) and eps >= 0 for _, eps in content.values())
    ):
        raise UserError("edits: fold is a mapping of convolutions to [norm, eps]")
    if kind == "quantize" and not isinstance(content, Mapping):
        raise UserError("edits: quantize is a mapping of layers to forms")
    if kind == "exits" and not isinstance(content, Mapping):
        raise UserError("edits: exits is a mapping of points and side")
    return str(kind), content


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    """One batch norm into the convolution before it, on the module."""
    layer, after = _part(module, conv, conv), _part(module, norm, norm)
    if not isinstance(layer, nn.modules.conv._ConvNd) or not isinstance(
        after, nn.modules.batchnorm._BatchNorm
    ):
        raise UserError(f"edits: fold: {conv} and {norm} are not a convolution and a batch norm")
    own = {f"{conv}.{n}": t for n, t in layer.state_dict().items()}
    own |= {f"{norm}.{n}": t for n, t in after.state_dict().items()}
    folded = _folded(own, {conv: [norm, after.eps]})
    layer.weight = nn.Parameter(folded[f"{conv}.weight"], layer.weight.requires_grad)
    layer.bias = nn.Parameter(folded[f"{conv}.bias"], layer.weight.requires_grad)
    rest = rest_of(after)
    if rest is None:
        raise UserError(
            f"edits: fold: {norm} ({type(after).__name__}) does more than normalise and what comes after"
        )
    parent, _, leaf = norm.rpartition(".")
    setattr(module.get_submodule(parent), leaf, rest)


def _folded(weights: Mapping[str, Tensor], pairs: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
    """Weights after folding: W gamma / sqrt(var + eps), (b - mean) gamma / sqrt(var + eps) + beta; norms gone.

    Raises:
        UserError: a tensor is missing, or the norm keeps no running statistics.
    """
    out = dict(weights)
    for conv, (norm, eps) in pairs.items():
        try:
            weight, mean, variance = (
                out[f"{conv}.weight"],
                out[f"{norm}.running_mean"],
                out[f"{norm}.running_var"],
            )
        except KeyError as error:
            raise UserError(f"edits: fold: there is no {error.args[0]}") from error
        factor = out.get(f"{norm}.weight", torch.ones_like(mean)) / torch.sqrt(variance + eps)
        bias = out.get(f"{conv}.bias", torch.zeros_like(mean)) - mean
        out[f"{conv}.weight"] = weight * factor.view(-1, *[1] * (weight.ndim - 1))
        out[f"{conv}.bias"] = bias * factor + out.get(f"{norm}.bias", torch.zeros_like(mean))
    return _without_norms(out, pairs)


def _without_norms(tensors: Mapping[str, Tensor], pairs: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
    gone = {name for norm, _ in pairs.values() for name in own_tensors(norm)}
    return {name: t for name, t in tensors.items() if name.partition("|")[0] not in gone}


def _selected(name: str, tensor: Tensor, dims: Mapping[str, Sequence[int]]) -> Tensor:
    for dim, kept in dims.items():
        if not (isinstance(dim, str) and dim.isdecimal() and int(dim) < tensor.ndim):
            raise UserError(f"edits: {name} has no dimension {dim!r}")
        size = tensor.shape[int(dim)]
        whole = isinstance(kept, list | tuple) and bool(kept) and all(type(i) is int for i in kept)
        if not whole or kept[0] < 0 or kept[-1] >= size or any(a >= b for a, b in zip(kept, kept[1:])):  # noqa: B905, RUF007
            raise UserError(
                f"edits: {name}: what stays of dimension {dim} must be increasing indices below {size}"
            )
        tensor = tensor.index_select(int(dim), torch.tensor(kept, device=tensor.device))
    return tensor.contiguous()


def _part(module: nn.Module, path: str, name: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        known = [n for n, _ in module.named_modules() if n]
        raise UserError(f"edits: the model has no {name!r}; {nearest(path, known)}") from error


def _drop(module: nn.Module, path: str) -> None:
    gone = _part(module, path, path)
    for part in list(module.modules()):
        for name, child in part.named_children():
            if child is gone:
                setattr(part, name, Passed())


class Passed(nn.Identity):
    """What stands in for a layer that was left out: gives back its first input, whatever else it is called with."""

    def forward(self, input: Tensor, *others: Any, **named: Any) -> Tensor:
        """The first input."""
        return input


def _refit(layer: nn.Module, cut: Sequence[str]) -> None:
    """A layer's own idea of its sizes, from its new tensors; ``cut`` names those that were cut."""
    one = getattr(layer, cut[0])
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.modules.conv._ConvNd):
        if layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels:
            layer.groups = layer.weight.shape[0]
        first, second = layer.weight.shape[:2]
        sizes = (first, second * layer.groups)
        layer.in_channels, layer.out_channels = sizes if layer.transposed else sizes[::-1]
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        layer.num_features = len(one)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = len(one)
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(one.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(one)
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = layer.weight.shape
