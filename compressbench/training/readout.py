"""A read-out in closed form: ridge regression of the classes on what the last layer reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.data.examples import known, one_class
from compressbench.errors import UserError
from compressbench.models.build import module_of, snapshot
from compressbench.models.representation import last_layer, represented
from compressbench.state import State
from compressbench.training.spent import Spent

if TYPE_CHECKING:
    from compressbench.stages.fit import Ridge

BATCH = 500
SHARPEST = 100.0
"""Scores, of which 0 and 1 are the targets, are multiplied by no more: where all validation examples are right, the
likelihood asks for ever more."""


@dataclass(frozen=True)
class Moments:
    """Sums over examples, all float64: what a ridge regression needs, however many examples there were.

    Attributes:
        count: examples.
        features: (d,) sum of the features.
        targets: (k,) sum of the targets.
        gram: (d, d) sum of f f^T.
        cross: (d, k) sum of f y^T.
    """

    count: int
    features: Tensor
    targets: Tensor
    gram: Tensor
    cross: Tensor


def fitted(state: State, bench: Bench, settings: Ridge) -> State:
    """Applies a ``stages.fit.Ridge``.

    Raises:
        UserError: the net has no last linear layer, it is pruned or the net quantized; no validation examples; labels
            that are not one class an example; features that are no finite numbers.
    """
    began = time.monotonic()
    if any("quantize" in edit for edit in state.edits):
        raise UserError("fit/ridge: the state is quantized; fit its read-out before that")
    if "validation" not in bench.dataset.splits:
        raise UserError(
            "fit/ridge: the penalty is chosen on validation examples, and none are held out; set dataset.validation=0.1"
        )
    for split in ("train", "validation"):
        one_class(bench.dataset.split(split).labels, "fit/ridge")
    module, classes = module_of(state, bench.device), len(bench.task.classes)
    name, layer = _last(module, bench)
    if f"{name}.weight" in state.masks:
        raise UserError(f"fit/ridge: {name} is pruned, and a fit would fill its zeros; prune after it")
    tried = sorted({float(p) for p in settings.penalties}, reverse=True)
    steps = _Steps(bench, ("train", "validation"), len(tried))
    moments = moments_of(_features(module, name, bench, "train", steps.step), classes)
    held = list(_features(module, name, bench, "validation", steps.step))
    rows, labels = torch.cat([f for f, _ in held]), torch.cat([y for _, y in held])
    best: tuple[int, float, Tensor, Tensor] | None = None
    for penalty in tried:
        weight, bias = ridge(moments, penalty, intercept=layer.bias is not None)
        right = int((scores(rows, weight, bias).argmax(dim=1) == labels).sum())
        if best is None or right > best[0]:
            best = (right, penalty, weight, bias)
        steps.step()
    assert best is not None
    right, penalty, weight, bias = best
    factor = sharpened(scores(rows, weight, bias), labels)
    with torch.no_grad():
        layer.weight.copy_(factor * weight)
        if layer.bias is not None:
            layer.bias.copy_(factor * bias)
    n, d = moments.count, len(moments.features)
    forwards = (n + len(labels)) * state.facts["forward_macs"]
    solved = n * d * (d + 1) // 2 + n * d * classes + len(tried) * (d**3 // 3 + 2 * d**2 * classes)
    made = state.settled().with_groups(weights={**state.weights, **_of(name, snapshot(module))})
    spent = Spent(forwards + solved, n, time.monotonic() - began)
    return spent.added_to(made).with_facts(
        readout={
            "features": d,
            "penalty": penalty,
            "factor": factor,
            "validation_top1": 100 * right / len(labels),
        },
    )


def moments_of(parts: Iterator[tuple[Tensor, Tensor]], classes: int) -> Moments:
    """Sums over (features (n, d), labels (n,)) batches; targets are 1 for the class and 0 for the others.

    Raises:
        UserError: there is no example, or a feature that is no finite number.
    """
    sums: Moments | None = None
    for rows, labels in parts:
        wanted = F.one_hot(labels, classes).double()
        found = Moments(len(rows), rows.sum(0), wanted.sum(0), rows.T @ rows, rows.T @ wanted)
        sums = found if sums is None else _added(sums, found)
    if sums is None or not sums.count:
        raise UserError("fit/ridge: there is no example with a label")
    if not bool(torch.isfinite(sums.gram).all()):
        raise UserError("fit/ridge: what the last layer reads is not finite for every example")
    return sums


def ridge(moments: Moments, penalty: float, intercept: bool = True) -> tuple[Tensor, Tensor]:
    """Weight (k, d) and bias (k,) of ``min mean ||W f + b - y||^2 + penalty v ||W||^2``, float64.

    v is the mean variance of the features (without an intercept their mean square), 1 where all are constant.

    Raises:
        UserError: the penalty is too small for these features.
    """
    n = moments.count
    mean, wanted = moments.features / n, moments.targets / n
    if not intercept:
        mean, wanted = torch.zeros_like(mean), torch.zeros_like(wanted)
    spread = moments.gram / n - torch.outer(mean, mean)
    size = float(spread.diagonal().mean().clamp_min(0)) or 1.0
    spread.diagonal().add_(penalty * size)
    factor, failed = torch.linalg.cholesky_ex(spread)
    if int(failed):
        raise UserError(f"fit/ridge: a penalty of {penalty:g} is too small for {len(mean)} features; drop it")
    weight = torch.cholesky_solve(moments.cross / n - torch.outer(mean, wanted), factor).T
    return weight, wanted - weight @ mean


def scores(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(n, k) of features (n, d)."""
    return rows @ weight.T + bias


def sharpened(found: Tensor, labels: Tensor) -> float:
    """The factor, above 0 and at most ``SHARPEST``, by which scores (n, k) have the least negative log-likelihood.

    That is convex in the factor; its slope is the mean of ``sum_k p_k z_k - z_label``, and bisected for 0.
    """
    low, high = 1 / SHARPEST, SHARPEST
    own = found.gather(1, labels[:, None])[:, 0]
    for _ in range(100):
        middle = (low * high) ** 0.5
        slope = float((((middle * found).softmax(dim=1) * found).sum(1) - own).mean())
        low, high = (middle, high) if slope < 0 else (low, middle)
    return (low * high) ** 0.5


def _added(one: Moments, other: Moments) -> Moments:
    return Moments(
        one.count + other.count,
        one.features + other.features,
        one.targets + other.targets,
        one.gram.add_(other.gram),
        one.cross + other.cross,
    )


def _last(module: nn.Module, bench: Bench) -> tuple[str, nn.Linear]:
    sample = bench.task.encode(bench.feed("train").head(8))
    name = last_layer(module, sample, len(bench.task.classes))
    layer = module.get_submodule(name) if name else None
    if not isinstance(layer, nn.Linear):
        raise UserError(
            "fit/ridge: no single linear layer gives the net's answers, so there is no read-out to fit"
        )
    return name, layer


def _features(
    module: nn.Module, name: str, bench: Bench, split: str, step: Callable[[], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """(n, d) float64 what the layer reads, and the labels, of the labelled examples, batch by batch."""
    for batch in bench.feed(split).batches(BATCH):
        some = batch.take(known(batch.labels))
        if len(some):
            with torch.no_grad():
                yield represented(module, bench.task.encode(some), name).double(), some.labels
        step()


def _of(layer: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in weights.items() if n in (f"{layer}.weight", f"{layer}.bias")}


class _Steps:
    """Progress over batches and penalties."""

    def __init__(self, bench: Bench, splits: tuple[str, ...], penalties: int) -> None:
        self.bench, self.done = bench, 0
        self.total = penalties + sum(-(-len(bench.dataset.split(s)) // BATCH) for s in splits)

    def step(self) -> None:
        self.done += 1
        self.bench.progress.step(self.done, self.total)
