"""Weight sharing: one-dimensional k-means on each layer's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressbench import masks as masking
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import module_of, prunable
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.stages.share import Share


def share(state: State, bench: Bench, settings: Share) -> State:
    """Applies a ``stages.share.Share``.

    Raises:
        UserError: a pattern fits nothing, or the layers round already.
    """
    if any("quantize" in edit for edit in state.edits):
        raise UserError("share: the state is quantized: its weights are stored as integers already")
    weights = prunable(module_of(state))
    bits: dict[str, Any] = dict.fromkeys(weights, settings.bits)
    try:
        for pattern, own in settings.layers.items():
            bits |= dict.fromkeys(masking.rates_by_tensor(weights, {pattern: 0.0}), own)
    except UserError as error:
        raise UserError(str(error).replace("rates:", "layers:", 1)) from error
    shared: dict[str, Tensor] = {}
    for done, (name, own) in enumerate(bits.items()):
        if own is not None and bool((weight := state.weights[name]).any()):
            values = weight[weight != 0]
            first = _START[settings.start](values, 2**own, bench.generator("share", name))
            found = lloyd(values, first, settings.iterations)
            shared[name] = weight.clone()
            shared[name][weight != 0] = found[nearest_of(values, found)]
        bench.progress.step(done + 1, len(bits))
    return state.settled().with_groups(weights={**state.weights, **shared})


def lloyd(values: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """Centroids after k-means on the line, ascending; one that no value is nearest to stays where it is.

    Args:
        values: (n,).
        centroids: (k,), where they start.
        iterations: at most.
    """
    order = values.double().sort().values
    sums = torch.cat([order.new_zeros(1), order.cumsum(0)])
    now = centroids.double().sort().values
    for _ in range(iterations):
        ends = torch.searchsorted(order, (now[1:] + now[:-1]) / 2)
        edges = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(order))])
        counts = edges.diff()
        means = (sums[edges[1:]] - sums[edges[:-1]]) / counts.clamp(min=1)
        after = torch.where(counts > 0, means, now)
        if torch.equal(after, now):
            break
        now = after
    return now.to(values.dtype)


def nearest_of(values: Tensor, centroids: Tensor) -> Tensor:
    """(n,) index of each value's nearest centroid; centroids ascend."""
    return torch.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)


def _linear(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return torch.linspace(float(values.min()), float(values.max()), count, dtype=torch.float64)


def _density(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = values.double().sort().values
    return order[((torch.arange(count) + 0.5) / count * len(order)).long()]


def _random(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return values.double()[torch.randint(0, len(values), (count,), generator=generator)]


_START = {"linear": _linear, "density": _density, "random": _random}
