"""Kernel inducing points: pictures on which kernel ridge regression predicts the training set (Nguyen et al. 2021)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressbench import specs
from compressbench.condensing.distilled import encoded
from compressbench.condensing.outer import learned
from compressbench.condensing.starts import TARGETS, begun, each, examples
from compressbench.data.transfer import carrying, source
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.models.kernel_ridge import (
    MOST,
    answer_macs,
    centred,
    coefficients,
    fit_macs,
    flat,
    ridge_answers,
)
from compressbench.training.spent import Spent

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.examples import Examples
    from compressbench.stages.condense import Inducing
    from compressbench.stages.fit import KernelRidge
    from compressbench.state import State

WHO = "data/inducing"


def inducing(state: State, bench: Bench, settings: Inducing) -> State:
    """Applies a ``stages.condense.Inducing``; the kernel is computed in float64.

    Raises:
        UserError: images that don't fit the classes, or a class with too few pictures to begin with.
        Diverged: the loss is no finite number.
    """
    of_class, classes = each(settings.images, bench, WHO), len(bench.task.classes)
    kernel = specs.build(settings.kernel, "kernel")
    pictures = begun(bench, settings.begin, 1, of_class, settings.draw, WHO).to(bench.device)
    change = torch.zeros_like(pictures.pixels, requires_grad=True)
    targets = centred(pictures.labels, classes)
    leaves = {"change": change}
    if settings.learn_labels:
        leaves["targets"] = targets.requires_grad_()

    def gradient(step: int, real: Examples) -> Tensor:
        (inputs,) = bench.task.encode(real)
        points = flat(encoded(pictures, change, bench).double())
        said = ridge_answers(kernel, points, targets, settings.regulariser, flat(inputs.double()))
        loss = 0.5 * (said - centred(real.labels, classes)).square().sum(1).mean()
        loss.backward(inputs=list(leaves.values()))
        return loss

    curve, seconds = learned(bench, settings, leaves, gradient)
    more = {TARGETS: targets.detach().float()} if settings.learn_labels else {}
    with torch.no_grad():
        made = examples(pictures.changed(change), pictures.labels, **more)
    iterations, count, batch = (int(curve[-1]["step"]) if curve else 0), len(made), settings.batch_size
    size = pictures.pixels[0].numel()
    once = fit_macs(count, size, classes) + answer_macs(batch, count, size, classes)
    spent = Spent(macs=3 * once * iterations, examples=(count + batch) * iterations, seconds=seconds)
    return spent.added_to(carrying(state, made)).with_facts(condensed=curve)


def ridge(bench: Bench, settings: KernelRidge) -> State:
    """Applies a ``stages.fit.KernelRidge``.

    Raises:
        UserError: the state that is named carries no labelled pictures, or too many.
    """
    data = source(bench, settings.data)
    each(None, bench, "fit/kernel_ridge")
    if len(data) > MOST:
        raise UserError(
            f"fit/kernel_ridge: {len(data):,} support points, {MOST:,} at most; data/few takes some of them"
        )
    if not data.labelled:
        raise UserError(
            f"fit/kernel_ridge: some examples of {settings.data} have no label; data/few leaves these out"
        )
    began = time.monotonic()
    points, targets = points_of(data, bench)
    weight = coefficients(specs.build(settings.kernel, "kernel"), points, targets, settings.regulariser)
    weights = {"points.weight": points.float(), "fc.weight": weight.t().float().contiguous()}
    spent = Spent(
        fit_macs(len(points), points[0].numel(), targets.shape[1]), len(points), time.monotonic() - began
    )
    build: dict[str, Any] = {
        specs.TARGET: "compressbench.models.kernel_ridge.KernelRidge",
        "shape": "@shape",
        "classes": "@classes",
        "points": len(points),
        "kernel": settings.kernel,
    }
    return spent.added_to(drawn({"name": "kernel_ridge", "build": build}, bench).with_groups(weights=weights))


def points_of(data: Examples, bench: Bench) -> tuple[Tensor, Tensor]:
    """Support points (n, d) and targets (n, classes) of pictures, float64."""
    (inputs,) = bench.task.encode(data)
    learned_too = data.columns.get(TARGETS)
    targets = centred(data.labels, len(bench.task.classes)) if learned_too is None else learned_too.double()
    return flat(inputs.double()), targets
