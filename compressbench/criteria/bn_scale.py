"""Batch-norm scale: a filter is worth the scale of the batch norm behind it (network slimming, Liu et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.criteria.given import Given, Scores
from compressbench.errors import UserError
from compressbench.inputs import Inputs
from compressbench.models.build import module_of
from compressbench.outputs import forward


def scales(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """|gamma| (filters,) of the batch norm that takes a layer's output as it is, by the name of the layer's weight.

    Found in one forward of ``inputs``, whatever the topology. A scale of 1 where the norm has none to learn.
    """
    made: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, Tensor] = {}
    handles = []

    def after(name: str) -> None:
        def hook(layer: nn.Module, taken: tuple[Tensor, ...], output: Tensor) -> None:
            made[id(output)] = (name, output)  # the tensor is held, so that its id stays its own

        handles.append(module.get_submodule(name).register_forward_hook(hook))

    def before(norm: nn.Module, taken: tuple[Tensor, ...]) -> None:
        if taken and id(taken[0]) in made:
            gamma = norm.weight
            found[f"{made[id(taken[0])][0]}.weight"] = (
                torch.ones(taken[0].shape[1]) if gamma is None else gamma.detach().abs().cpu()  # type: ignore[operator]
            )

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and name:
            after(name)
        elif isinstance(layer, _BatchNorm):
            handles.append(layer.register_forward_pre_hook(before))
    try:
        with torch.no_grad():
            forward(module, *inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def bn_scale(given: Given) -> Scores:
    """|gamma| for every weight of a filter; made for the scopes and grains that take whole filters.

    Layers that no batch norm follows get the largest score there is: they go last.

    Raises:
        UserError: no batch norm directly follows a convolution or linear layer.
    """
    bench = given.bench
    feed = bench.feed("train")
    found = scales(module_of(given.state, bench.device), bench.task.encode(feed.head(1)))
    found = {name: gamma for name, gamma in found.items() if name in given.weights}
    if not found:
        raise UserError(
            "criterion bn_scale: no batch norm follows a convolution or linear layer of this model; use magnitude"
        )
    top = max(float(gamma.max()) for gamma in found.values())
    return {
        name: found[name].view(-1, *[1] * (w.ndim - 1)).expand_as(w).contiguous()
        if name in found
        else torch.full_like(w, top)
        for name, w in given.weights.items()
    }
