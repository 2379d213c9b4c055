"""Training as a function that can be differentiated: plain gradient steps, a graph through each (Wang et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Loss = Callable[[Weights, Tensor, Tensor], Tensor]
"""Named weights, inputs and labels to a mean loss."""


def trained(
    loss: Loss, start: Weights, sets: Sequence[tuple[Tensor, Tensor]], rates: Tensor, graph: bool = True
) -> dict[str, Tensor]:
    """Weights after one gradient step on each set, pass after pass: w - rate * gradient.

    Args:
        loss: of the weights on a set.
        start: the weights before the first step; those that want no gradient stay.
        sets: (inputs, labels) of each step of a pass, in order.
        rates: (passes, sets), the step sizes.
        graph: whether the result can be differentiated by inputs and rates, second order through every step; memory
            then grows with the number of steps.

    Returns:
        The weights; without ``graph`` none of them has a history.
    """
    now = {name: w if w.requires_grad else w.detach().requires_grad_() for name, w in start.items()}
    for of_pass in rates.unbind():
        for (inputs, labels), rate in zip(sets, of_pass.unbind(), strict=True):
            gradients = torch.autograd.grad(
                loss(now, inputs, labels), tuple(now.values()), create_graph=graph, materialize_grads=True
            )
            now = {name: w - rate * g for (name, w), g in zip(now.items(), gradients, strict=True)}
            if not graph:
                now = {name: w.detach().requires_grad_() for name, w in now.items()}
    return now


def saved_bytes(make: Callable[[], object]) -> int:
    """Bytes of all tensors that a computation keeps for its backward, each memory counted once."""
    seen: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = tensor, storage.nbytes()  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = make()
    del held
    return sum(size for _, size in seen.values())
