"""Masks that hold during a training: parameters, and what they are multiplied by after every iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressbench.errors import UserError


@dataclass
class Held:
    """Parameters with a mask and the masks as multipliers, memory laid out alike.

    Attributes:
        version: how often tensors were replaced: what was recorded of the earlier ones is void.
    """

    params: list[Tensor] = field(default_factory=list)
    by: list[Tensor] = field(default_factory=list)
    version: int = 0
    _names: tuple[str, ...] = ()

    def put(self, named: Mapping[str, nn.Parameter], masks: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes new masks, in the tensors that are there where they are of the same parameters.

        Args:
            masks: of one net; or of several, whose parameters ``named`` holds on top of each other, a mask for each.

        Raises:
            UserError: a mask of a parameter that isn't there.
        """
        names = tuple(dict.fromkeys(n for each in masks for n in each))
        unknown = set(names) - set(named)
        if unknown:
            raise UserError(f"masks for {', '.join(sorted(unknown))}, which the model does not have")
        if names != self._names:
            self.params = [named[n] for n in names]
            self.by = [torch.ones_like(p) for p in self.params]
            self._names = names
            self.version += 1
        with torch.no_grad():
            for name, multiplier in zip(names, self.by, strict=True):
                places = [multiplier] if len(masks) == 1 else list(multiplier.unbind())
                for place, each in zip(places, masks, strict=True):
                    if name in each:
                        place.copy_(each[name])
                    else:
                        place.fill_(1)

    def apply(self) -> None:
        """Zeroes what is masked."""
        if self.params:
            with torch.no_grad():
                torch._foreach_mul_(self.params, self.by)
