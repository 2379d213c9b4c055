"""Gradients with respect to the prunable weights: of the mean loss, and of every example by itself.

The module is in evaluation mode (batch norm as at inference), so an example's gradient depends on no other example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from compressbench.criteria.given import Given
from compressbench.errors import UserError, nearest
from compressbench.inputs import Inputs, rows
from compressbench.models.build import module_of
from compressbench.models.exits import deep_loss
from compressbench.tasks.task import Task

SPLITS = ("train", "validation")
BATCH = 128
CHUNK = 32
CHUNK_WEIGHTS = 2**25

Batch = tuple[Inputs, Any, float]


def differentiable(given: Given) -> tuple[nn.Module, dict[str, Tensor]]:
    """The state's module on the bench's device, and its prunable parameters, which alone take gradients."""
    module = module_of(given.state, given.bench.device).requires_grad_(False)
    named = dict(module.named_parameters())
    parameters = {name: named[name].requires_grad_(True) for name in given.weights}
    return module, parameters


def batches(given: Given, examples: int, split: str = "train", size: int = BATCH) -> Iterator[Batch]:
    """Encoded inputs, labels and share of the whole, of ``examples`` drawn once from (seed, stage), or of all there are.

    Raises:
        UserError: fewer than one example, a split that is not there, or the test split, which chooses nothing.
    """
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise UserError(f"criterion.examples: {examples!r} is not a whole number of at least 1")
    if split not in SPLITS:
        raise UserError(f"criterion.split: unknown {split!r}; {nearest(str(split), SPLITS)}")
    bench = given.bench
    feed = bench.feed(split)
    rows = torch.randperm(len(feed), generator=given.generator("examples"))[:examples]
    if not len(rows):
        raise UserError(f"criterion.split: {split} is empty; use train, or set dataset.validation above 0")
    for part in rows.split(size):
        batch = feed.take(part.to(bench.device))
        yield bench.task.encode(batch), batch.labels, len(part) / len(rows)


def mean_gradients(
    module: nn.Module, parameters: Mapping[str, Tensor], data: Iterable[Batch], task: Task
) -> dict[str, Tensor]:
    """Gradient of the mean loss over all examples, by parameter name, on the CPU."""
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    for inputs, labels, share in data:
        loss = share * deep_loss(task, module, module, inputs, labels)
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(total, found, strict=True):
            if gradient is not None:
                total[name] += gradient
    return {name: t.cpu() for name, t in total.items()}


def per_example(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    data: Iterable[Batch],
    task: Task,
    chunk: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Gradients of each example's own loss, ``{name: (chunk, *shape)}`` at a time, on the device.

    Args:
        chunk: examples at a time; None for 32, fewer where the gradients would take more than 2^25 numbers.

    Raises:
        UserError: the model does something that can't be vectorised over examples.
    """
    plain = {name: p.detach() for name, p in parameters.items()}
    size = chunk or max(1, min(CHUNK, CHUNK_WEIGHTS // max(1, sum(p.numel() for p in plain.values()))))

    def loss(weights: Mapping[str, Tensor], one: Inputs, label: Tensor) -> Tensor:
        def run(*inputs: Tensor) -> Any:
            return functional_call(module, dict(weights), inputs)

        return deep_loss(task, module, run, tuple(x.unsqueeze(0) for x in one), label.unsqueeze(0))

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    for inputs, labels, _ in data:
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            try:
                found = gradients(plain, rows(inputs, part), labels[part])
            except RuntimeError as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(
                    f"criterion: {type(module).__name__} has no gradient per example ({reason}); "
                    "use a criterion that does without, such as taylor or obd_hutchinson"
                ) from error
            yield found


def finite(scores: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The scores, when all of them are finite.

    Raises:
        UserError: a tensor with a score that is not; the loss of such a model is no number either.
    """
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise UserError(f"criterion {what}: scores of {name} are not finite; has the model diverged?")
    return dict(scores)
