"""Representation: what the last layer of a net reads, and where the classes lie in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.inputs import Inputs
from compressbench.models.classifier import classifier
from compressbench.outputs import forward

TOLERANCE = 1e-4
NOWHERE = 1e-9


@dataclass(frozen=True)
class ClassMeans:
    """Means of a representation over the examples of each class.

    Attributes:
        layer: name of the layer that reads the representation; empty where none was found, and the logits stand for it.
        means: (classes, d) float64 on the CPU, zero for a class without examples.
        counts: (classes,) examples of each class.
    """

    layer: str
    means: Tensor
    counts: Tensor

    @property
    def words(self) -> str:
        """What was averaged, for a note."""
        return (
            f"means of what {self.layer} reads"
            if self.layer
            else "means of the logits, which no single layer gives"
        )


def class_means(module: nn.Module, batches: Iterable[tuple[Inputs, Tensor]], classes: int) -> ClassMeans:
    """Means over (inputs, labels) batches; examples without a label, -1, are left out."""
    layer: str | None = None
    sums, counts = torch.zeros(0), torch.zeros(classes, dtype=torch.int64)
    with torch.inference_mode():
        for inputs, labels in batches:
            if layer is None:
                layer = last_layer(module, inputs, classes)
            rows, labels = represented(module, inputs, layer).cpu().double(), labels.cpu()
            rows, labels = rows[labels >= 0], labels[labels >= 0]
            sums = torch.zeros(classes, rows.shape[1], dtype=torch.float64) if not sums.numel() else sums
            sums.index_add_(0, labels, rows)
            counts += torch.bincount(labels, minlength=classes)
    return ClassMeans(layer or "", sums / counts.clamp(min=1).unsqueeze(1), counts)


def last_layer(module: nn.Module, inputs: Inputs, classes: int) -> str:
    """Name of the layer whose output is the module's logits, but for a constant an example; empty if there is none.

    An ensemble has several last layers, and none of them gives the logits.
    """
    found = classifier(module, classes)
    if found is None:
        return ""
    logits, _, given = _watched(module, inputs, found[0])
    same = given is not None and given.shape == logits.shape
    if not same or not torch.allclose(_answer(given), _answer(logits), atol=TOLERANCE):
        return ""
    return found[0]


def represented(module: nn.Module, inputs: Inputs, layer: str) -> Tensor:
    """(n, d) what the layer reads, each example flattened; the logits for an empty name."""
    logits, read, _ = (
        _watched(module, inputs, layer) if layer else (forward(module, *inputs).logits, None, None)
    )
    return logits if read is None else read


def relations(means: Tensor) -> Tensor:
    """(k, k) cosines between class means (k, d), about the mean of these; symmetric, 1 on the diagonal.

    Not-a-number for a class that lies at that mean, and so in no direction from it.
    """
    away = means - means.mean(dim=0)
    length = away.norm(dim=1, keepdim=True)
    nowhere = length <= NOWHERE * means.norm(dim=1).max()
    away = away / length.masked_fill(nowhere, torch.nan)
    found = away @ away.T
    return ((found + found.T) / 2).clamp(-1, 1)


def _watched(module: nn.Module, inputs: Inputs, layer: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Logits, and what the layer read and gave at its last call, each example flattened."""
    seen: list[Tensor] = []

    def note(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # copied: what comes later may overwrite it
        seen[:] = [x.flatten(1).clone() for x in (*args[:1], output)]

    hook = module.get_submodule(layer).register_forward_hook(note)
    try:
        logits = forward(module, *inputs).logits
    finally:
        hook.remove()
    read, given = seen if len(seen) == 2 else (None, None)
    return logits, read, given


def _answer(logits: Tensor | None) -> Tensor:
    assert logits is not None
    return logits.float().log_softmax(dim=1)
