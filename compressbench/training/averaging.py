"""Averaging of weights on the way, for the one loop: what ``averagers`` decide is done here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressbench.data.examples import Examples
from compressbench.models.build import copies
from compressbench.models.exits import every_exit
from compressbench.models.reached import modes_kept
from compressbench.outputs import forward
from compressbench.training.averagers import Averager
from compressbench.training.held import Held

Encoded = Callable[[Examples], tuple[Tensor, ...]]
BLOCK = 256
TAKEN = "|taken"  # no parameter has such a name


@dataclass
class Average:
    """The average so far.

    Attributes:
        share: the averager: which share the current weights get, or None.
        weights: by parameter, empty before the first.
        taken: how many weights are in it.
        read: examples read to make batch-norm statistics anew.
    """

    share: Averager
    weights: dict[str, Tensor] = field(default_factory=dict)
    taken: int = 0
    read: int = 0

    @classmethod
    def begun(cls, share: Averager, tensors: Mapping[str, Tensor]) -> Average:
        """Where an earlier part of the training left it."""
        weights = {name: t.clone() for name, t in tensors.items() if name != TAKEN}
        return cls(share, weights, int(tensors[TAKEN]) if TAKEN in tensors else 0)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as CPU copies, for a checkpoint or a state that stops short; empty before the first."""
        if not self.taken:
            return {}
        return copies(self.weights) | {TAKEN: torch.tensor(self.taken)}

    def take(self, named: Mapping[str, nn.Parameter], step: int, total: int, per_epoch: int) -> None:
        """Takes the weights after iteration ``step`` in, if it is their turn."""
        share = self.share(step=step, total=total, per_epoch=per_epoch, taken=self.taken)
        if share is None:
            return
        with torch.no_grad():
            if self.taken:
                for name, weight in self.weights.items():
                    weight.copy_(weight.to(named[name].device).lerp(named[name], share))
            else:
                self.weights = {name: p.detach().clone() for name, p in named.items()}
        self.taken += 1

    def settle(
        self,
        named: Mapping[str, nn.Parameter],
        held: Held,
        module: nn.Module,
        computing: Callable[[], contextlib.AbstractContextManager[None]],
        feed: Examples,
        encoded: Encoded,
    ) -> None:
        """Puts the average, masked, in the parameters' place; statistics of norms are made anew from the training set."""
        if not self.taken:
            return
        with torch.no_grad():
            for name, weight in self.weights.items():
                named[name].copy_(weight)
            held.apply()
            with computing():
                self.read = restated(module, feed, encoded)


def restated(module: nn.Module, feed: Examples, encoded: Encoded) -> int:
    """Statistics of norms as the mean over equal parts of the training set; returns how many examples that read.

    Nothing is read where no module in training mode has such statistics: a frozen part keeps its own. The examples are
    the set's own, not augmented; all else is in evaluation mode.

    Args:
        encoded: from examples to the module's inputs, laid out as it trains.
    """
    norms = [
        m
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None and m.training
    ]
    if not norms:
        return 0
    before = [norm.momentum for norm in norms]
    with modes_kept(module):
        module.eval()
        for norm in norms:
            norm.train()
        for place, examples in enumerate(feed.split(-(-len(feed) // BLOCK))):
            for norm in norms:
                norm.momentum = 1 / (place + 1)
            with every_exit(module):
                forward(module, *encoded(examples))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return len(feed)
