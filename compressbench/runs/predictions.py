"""Predictions: what a state answers on a split, in the few bytes that they are kept in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressbench.store import Damaged, digest

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.runs.plan import Context

LABELS = "labels"
LOG_PROBS = "log_probs"
VERSION = 1
NO_ANSWER = 255
"""The code of an answer that is no number, where labels are kept in a byte; -1 where they need more."""


def predictions_key(state: str, context: Context, what: str, split: str = "test", task: str = "") -> str:
    """Content address of a state's labels or log-probabilities on a split.

    Args:
        state: the state's key.
        task: its name; that of pictures to be told apart, the first there was, stays empty.
    """
    return digest(
        {
            "state": state,
            "context": context.digest(),
            "split": split,
            "task": task,
            "predictions": what,
            "version": VERSION,
        }
    )


def packed_labels(labels: Tensor, classes: int) -> Tensor:
    """(n,) labels as uint8 where there are at most 255 classes, else as int16 or int32; below 0 stands for no answer."""
    import torch

    if classes <= NO_ANSWER:
        return labels.masked_fill(labels < 0, NO_ANSWER).to(torch.uint8)
    return labels.to(torch.int16 if classes <= 2**15 else torch.int32)


def unpacked_labels(packed: Tensor, count: int, classes: int) -> Tensor:
    """(n,) int64, -1 for no answer: the inverse of ``packed_labels``.

    Raises:
        Damaged: these are no labels of so many examples and classes.
    """
    import torch

    whole = packed.dtype in (torch.uint8, torch.int16, torch.int32)
    labels = packed.long()
    if packed.dtype is torch.uint8:
        labels = labels.masked_fill(labels == NO_ANSWER, -1)
    if not whole or labels.shape != (count,) or bool(((labels < -1) | (labels >= classes)).any()):
        raise Damaged(f"these are no labels of {count} examples of {classes} classes")
    return labels


def checked_log_probs(kept: Tensor, count: int, classes: int) -> Tensor:
    """(n, classes) float16 as kept.

    Raises:
        Damaged: it is anything else.
    """
    import torch

    if kept.dtype is not torch.float16 or kept.shape != (count, classes):
        raise Damaged(f"these are no log-probabilities of {count} examples of {classes} classes")
    return kept
