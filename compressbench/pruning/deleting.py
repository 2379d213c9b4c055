"""Deleting for a try: hidden units or weights that answer nothing any more, as new weights of the same net.

A unit (a neuron of a linear layer, a channel of a convolution) is deleted by setting to zero all weights that read it,
wherever they are: what the net then computes is what it computes without the unit, whatever its activation and its bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressbench.inputs import Inputs
from compressbench.pruning.structured import separate


@dataclass(frozen=True)
class Hidden:
    """Units that can be deleted one by one: those of a layer, with all channels that they are summed with.

    Attributes:
        layer: that makes them.
        units: how many.
        read: by the name of a weight that reads them, which unit each of its entries reads: int64, -1 for none, of a
            shape that broadcasts to the weight's.
    """

    layer: str
    units: int
    read: Mapping[str, Tensor]


def hidden_units(module: nn.Module, sample: Inputs) -> tuple[list[Hidden], list[str]]:
    """(all units of a net that can be deleted, group by group; why others can't).

    Raises:
        UserError: the net can't be traced, or has no such units.
    """
    coupled, why = separate(module, sample)
    found = []
    for group in coupled:
        read: dict[str, Tensor] = {}
        for name, inputs, channels in group.readers:
            own = _reading(module.get_submodule(name), inputs, channels % len(group.scores))
            known = read.get(f"{name}.weight")
            read[f"{name}.weight"] = own if known is None else torch.maximum(own, known)
        found.append(Hidden(group.root, len(group.scores), read))
    return found, why


def _reading(layer: nn.Module, inputs: Tensor, units: Tensor) -> Tensor:
    """Which unit each entry of a layer's weight reads, given those of some of its input channels."""
    weight = layer.get_parameter("weight")
    rest = [1] * (weight.ndim - 2)
    if not isinstance(layer, nn.modules.conv._ConvNd):
        line = torch.full((weight.shape[1],), -1)
        line[inputs] = units
        return line.view(1, -1)
    line = torch.full((layer.in_channels,), -1)
    line[inputs] = units
    if layer.transposed:
        return line.view(-1, 1, *rest)
    groups = line.view(layer.groups, 1, -1).expand(-1, layer.out_channels // layer.groups, -1)
    return groups.reshape(layer.out_channels, -1, *rest) if layer.groups > 1 else line.view(1, -1, *rest)


def without_units(
    weights: Mapping[str, Tensor], hidden: Sequence[Hidden], lost: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The weights that read lost units, with these entries at zero.

    Args:
        weights: by name, as the net has them.
        lost: (units,) bool for each group.
    """
    out: dict[str, Tensor] = {}
    for group, gone in zip(hidden, lost, strict=True):
        known = torch.cat([gone, torch.zeros(1, dtype=torch.bool)])  # the last is what -1 finds
        for name, units in group.read.items():
            weight = out.get(name, weights[name])
            out[name] = weight.masked_fill(known[units].to(weight.device), 0)
    return out


def first(order: Tensor, share: float) -> Tensor:
    """(n,) bool: the first ``share`` of an order, rounded to the nearest number; a larger share holds a smaller one."""
    gone = torch.zeros(len(order), dtype=torch.bool)
    gone[order[: round(share * len(order))]] = True
    return gone


def without_weights(weight: Tensor, order: Tensor, share: float) -> Tensor:
    """A weight without a share of its entries that aren't zero, in an order of these: (nonzero,) int64, a permutation."""
    left = weight.reshape(-1).nonzero().squeeze(1)
    gone = left[first(order, share).to(left.device)]
    return weight.reshape(-1).index_fill(0, gone, 0).view(weight.shape)
