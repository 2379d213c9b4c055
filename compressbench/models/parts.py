"""Parts of Transformers that can be taken out whole: attention heads, and hidden units of the feed-forward layers.

They are found by the names that this package's models, and those of transformers, give to their linear layers. Cutting
them needs no trace: widths and counts of heads are read off the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ATTENTION: tuple[tuple[str, str, str, str], ...] = (
    ("query", "key", "value", "proj"),  # ours
    ("self.query", "self.key", "self.value", "output.dense"),  # BERT, RoBERTa, ELECTRA …
    ("attention.query", "attention.key", "attention.value", "output.dense"),  # ViT, older BERTs
    ("query", "key", "value", "dense"),  # ALBERT
    ("q_lin", "k_lin", "v_lin", "out_lin"),  # DistilBERT
    ("q_proj", "k_proj", "v_proj", "out_proj"),  # BART, OPT, CLIP
    ("q_proj", "k_proj", "v_proj", "o_proj"),  # LLaMA and its kin
)
"""Names of the linear layers that make queries, keys and values, and of the one that reads all heads."""
WIDTHS = ("width", "attention_head_size", "head_dim")
"""What a module calls the width of a head."""
FEED_FORWARD: tuple[tuple[tuple[str, ...], str], ...] = (
    (("mlp.0",), "mlp.2"),  # ours
    (("intermediate.dense",), "output.dense"),
    (("ffn.lin1",), "ffn.lin2"),
    (("fc1",), "fc2"),
    (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
)
"""Names of the linear layers that make hidden units, and of the one that reads them."""


@dataclass(frozen=True)
class Row:
    """Parts of one kind, side by side in one layer.

    Attributes:
        name: of the module that they are in.
        units: how many.
        width: how many neighbours make one.
        cuts: tensor -> the dimension along which they lie.
        reader: the linear layer that reads them all; a part's gate is before it.
    """

    name: str
    units: int
    width: int
    cuts: dict[str, int]
    reader: str

    def kept(self, gone: Iterable[int]) -> list[int]:
        """Places along the dimension that stay without some units."""
        out = set(gone)
        return [u * self.width + i for u in range(self.units) if u not in out for i in range(self.width)]

    def edit(self, gone: Sequence[int]) -> dict[str, dict[str, list[int]]]:
        """{tensor: {dimension: kept places}} without some units (``models.cutting``)."""
        return {name: {str(dim): self.kept(gone)} for name, dim in self.cuts.items()} if gone else {}

    def spread(self, values: Tensor, tensor: str, like: Tensor) -> Tensor:
        """(units,) values at each place of a tensor of the row."""
        dim = self.cuts[tensor]
        shape = [-1 if d == dim else 1 for d in range(like.ndim)]
        return values.repeat_interleave(self.width).view(shape).expand(like.shape)


def heads(module: nn.Module) -> list[Row]:
    """The attention heads of a net, a row for each attention, in module order.

    Only where queries, keys and values are made by layers of their own, as many of each.
    """
    found = []
    for name, part in module.named_modules():
        for form in ATTENTION:
            layers = [_linear(part, path) for path in form]
            owner = part if "." not in form[0] else getattr(part, form[0].partition(".")[0], part)
            width = next((w for w in (getattr(owner, n, None) for n in WIDTHS) if isinstance(w, int)), 0)
            row = _row(name, form[:3], form[3], layers, width)
            if row is not None:
                found.append(row)
                break
    return found


def feed_forward(module: nn.Module) -> list[Row]:
    """The hidden units of a net's feed-forward layers, a row for each, in module order."""
    found = []
    for name, part in module.named_modules():
        for makers, reader in FEED_FORWARD:
            row = _row(name, makers, reader, [_linear(part, path) for path in (*makers, reader)], 1)
            if row is not None:
                found.append(row)
                break
    return found


def _linear(module: nn.Module, path: str) -> nn.Linear | None:
    for name in path.split("."):
        inner = module._modules.get(name)
        if inner is None:
            return None
        module = inner
    return module if isinstance(module, nn.Linear) else None


def _row(
    name: str, makers: Sequence[str], reader: str, layers: Sequence[nn.Linear | None], width: int
) -> Row | None:
    found = [layer for layer in layers if layer is not None]
    if len(found) < len(layers) or width < 1:
        return None
    *makes, reads = found
    size = reads.in_features
    if any(layer.out_features != size for layer in makes) or size % width:
        return None
    prefix = f"{name}." if name else ""
    cuts = {}
    for path, layer in zip(makers, makes, strict=True):
        cuts[f"{prefix}{path}.weight"] = 0
        if layer.bias is not None:
            cuts[f"{prefix}{path}.bias"] = 0
    return Row(name, size // width, width, {**cuts, f"{prefix}{reader}.weight": 1}, f"{prefix}{reader}")


COUNTS = ("num_attention_heads", "num_heads", "n_heads")
QUERIES = ("query", "q_lin", "q_proj")


def recount(owner: nn.Module) -> None:
    """Sets what an attention says of its number of heads by its layers' sizes."""
    width = next((w for w in (getattr(owner, n, None) for n in WIDTHS) if isinstance(w, int)), None)
    queries = next((q for n in QUERIES if isinstance(q := owner._modules.get(n), nn.Linear)), None)
    if width is None or queries is None:
        return
    size = queries.out_features
    for name in COUNTS:
        if isinstance(getattr(owner, name, None), int):
            setattr(owner, name, size // width)
    if isinstance(getattr(owner, "all_head_size", None), int):
        owner.all_head_size = size  # type: ignore[assignment]


def closed(module: nn.Module, rows: Sequence[Row], gone: Sequence[Sequence[int]]) -> nn.Module:
    """The same module with the gates of some units at zero: what reads them reads nothing."""
    with torch.no_grad():
        for row, units in zip(rows, gone, strict=True):
            weight = module.get_submodule(row.reader)._parameters["weight"]
            assert weight is not None
            places = torch.ones(weight.shape[1], dtype=torch.bool)
            places[row.kept(units)] = False
            weight[:, places] = 0.0
    return module
