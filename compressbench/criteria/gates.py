"""Gates: how much the loss feels a gate on a part, mean over examples of |d loss / d gate| (Michel et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compressbench.criteria.given import Given, Scores
from compressbench.criteria.gradients import batches, differentiable, finite
from compressbench.errors import UserError
from compressbench.models.exits import deep_loss
from compressbench.models.parts import Row, feed_forward, heads

Seen = dict[str, list[tuple[Tensor, Tensor]]]


def gates(given: Given, examples: int = 1024, split: str = "train", normalise: bool = True) -> Scores:
    """Every weight's score is that of the part that it belongs to: the importance of a gate, at one, on its output.

    Parts are attention heads, hidden units of feed-forward layers and, of all other weights, the layer without its bias.
    The gradient is that of each example's own share of the loss; where a task has several labels an example, of their
    sum, divided by the batch's mean number.

    Args:
        examples: how many are drawn; all there are if fewer.
        split: ``train`` or ``validation``.
        normalise: divides heads' and units' by the root of the sum of their squares in each layer, as Michel et al. do.

    Raises:
        UserError: see ``gradients.batches``; scores that are not finite; a layer whose outputs are no examples'.
    """
    module, parameters = differentiable(given)
    rows = [*heads(module), *feed_forward(module)]
    readers = {row.reader: row for row in rows}
    layers = {name.rpartition(".")[0]: p for name, p in parameters.items()}
    totals: dict[str, Tensor] = {}
    seen: Seen = {}

    def watch(name: str) -> Any:
        def note(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            seen.setdefault(name, []).append((inputs[0], output))

        return note

    hooks = [module.get_submodule(name).register_forward_hook(watch(name)) for name in layers]
    try:
        for inputs, labels, share in batches(given, examples, split):
            seen.clear()
            loss = deep_loss(given.bench.task, module, module, inputs, labels)
            calls = [(name, x, y) for name, found in seen.items() for x, y in found]
            slopes = torch.autograd.grad(loss, [y for _, _, y in calls], allow_unused=True)
            now: dict[str, Tensor] = {}
            for (name, x, y), slope in zip(calls, slopes, strict=True):
                if slope is not None:
                    felt = _felt(
                        module.get_submodule(name), readers.get(name), x, y, slope, len(labels), name
                    )
                    now[name] = now[name] + felt if name in now else felt
            for name, felt in now.items():  # of the batch's mean loss, of which an example's own is 1 / n
                totals[name] = totals.get(name, 0.0) + share * felt.abs().sum(0)
    finally:
        for hook in hooks:
            hook.remove()
    return finite(_spread(given, rows, totals, normalise), "gates")


def _felt(
    layer: nn.Module, row: Row | None, x: Tensor, y: Tensor, slope: Tensor, n: int, name: str
) -> Tensor:
    """(n, gates) derivative by the gates on a layer's inputs, unit by unit; or by one gate on its output."""
    if y.shape[0] % n:
        raise UserError(f"criterion gates: {name} gives {tuple(y.shape)}, which are no {n} examples")
    with torch.no_grad():
        if row is not None:
            products = x * (slope @ layer.weight)  # type: ignore[operator]
            return products.reshape(n, -1, row.units, row.width).sum((1, 3))
        bias = layer._parameters.get("bias")
        if bias is not None:
            linear = isinstance(layer, nn.Linear)
            y = y - bias.view([-1 if d == (y.ndim - 1 if linear else 1) else 1 for d in range(y.ndim)])
        return (y * slope).reshape(n, -1).sum(1, keepdim=True)


def _spread(given: Given, rows: list[Row], totals: dict[str, Tensor], normalise: bool) -> dict[str, Tensor]:
    scores = {}
    for name, weight in given.weights.items():
        whole = totals.get(name.rpartition(".")[0])
        scores[name] = torch.full_like(weight, float(whole.sum()) if whole is not None else 0.0)
    for row in rows:
        found = totals.get(row.reader, torch.zeros(row.units)).cpu().to(torch.float32)
        length = float(found.norm())
        found = found / length if normalise and length > 0 else found
        for tensor in row.cuts:
            if tensor in scores:
                scores[tensor] = row.spread(found, tensor, scores[tensor]).contiguous()
    return scores
