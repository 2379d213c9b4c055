"""A forest of decision trees as tensors, walked by a module: what is asked of nets can be asked of it, and it is data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError

LEAST = float(torch.finfo(torch.float32).eps)
"""Probability that stands for none: the logarithm of 0 is no number. Float32's eps is a choice of ours: a forest's
negative log-likelihood depends on it where a true class has a share of 0 (scikit-learn's ``log_loss`` clips float64
probabilities at 2.2e-16, so that such an example costs 36 there and 16 here)."""


class Forest(nn.Module):
    """Trees that split by ``input <= threshold``; the answer is the mean over trees of the shares in their leaves.

    Nodes of all trees stand one after the other, and so do leaves. A leaf's children are itself, so that every
    example takes ``depth`` steps. Logits are logarithms of the mean shares, of 0 that of ``LEAST``; a forest is constant
    almost everywhere, and no gradient passes from them to the inputs.

    Args:
        inputs: numbers an example has, all its dimensions together.
        classes: number of logits.
        trees: how many.
        nodes: of all trees together, leaves among them.
        leaves: of all trees together.
        depth: of the deepest tree; 0 for stumps that never split.

    Attributes:
        root: int32 (trees,), left, right, feature, leaf: int32 (nodes,), leaf the row in ``share`` of what is a leaf.
        threshold: float64 (nodes,).
        share: float64 (leaves * classes,), a row a leaf: of the training examples there, those of each class.

    Raises:
        UserError: a size that is no whole number in its range; tensors loaded later that point outside the forest.
    """

    def __init__(self, inputs: int, classes: int, trees: int, nodes: int, leaves: int, depth: int) -> None:
        super().__init__()
        for name, value, least in (
            ("inputs", inputs, 1), ("classes", classes, 1), ("trees", trees, 1), ("nodes", nodes, 1),
            ("leaves", leaves, 1), ("depth", depth, 0),
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"forest: {name} must be a whole number of {least} or more; got {value!r}")
        self.inputs, self.classes, self.trees, self.depth = inputs, classes, trees, depth
        self.root: Tensor
        self.left: Tensor
        self.right: Tensor
        self.feature: Tensor
        self.leaf: Tensor
        self.register_buffer("root", torch.zeros(trees, dtype=torch.int32))
        for name in ("left", "right", "feature", "leaf"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.int32))
        self.threshold = nn.Parameter(torch.zeros(nodes, dtype=torch.float64))
        self.share = nn.Parameter(torch.full((leaves * classes,), 1 / classes, dtype=torch.float64))
        self.register_load_state_dict_post_hook(_sound)

    def probabilities(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, classes) float64: the mean over trees of the shares in the leaves that are reached."""
        x = x.flatten(1).float()
        at = self.root.long().expand(len(x), self.trees)
        left, right, feature = self.left.long(), self.right.long(), self.feature.long()
        for _ in range(self.depth):
            goes_left = x.gather(1, feature[at]) <= self.threshold[at]
            at = torch.where(goes_left, left[at], right[at])
        return self.share.view(-1, self.classes)[self.leaf.long()[at]].mean(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to logits (n, classes)."""
        return self.probabilities(x).clamp_min(LEAST).log().float()


def _sound(forest: Any, _: Any) -> None:
    """Refuses loaded tensors that point outside the forest: a state is read from a file."""
    nodes, leaves = len(forest.left), len(forest.share) // forest.classes
    ends = {"root": nodes, "left": nodes, "right": nodes, "feature": forest.inputs, "leaf": leaves}
    for name, end in ends.items():
        found = getattr(forest, name)
        if bool(((found < 0) | (found >= end)).any()):
            raise UserError(f"the stored forest is damaged: {name} points outside 0..{end - 1}")


def packed(
    trees: Sequence[Any], columns: Sequence[int], inputs: int, classes: int
) -> tuple[dict[str, int], dict[str, Tensor]]:
    """A forest's arguments and tensors, of trees as scikit-learn has them after fitting.

    Args:
        trees: each with ``children_left``, ``children_right`` (-1 at a leaf), ``feature``, ``threshold``, ``value``
            (nodes, 1, classes seen) and ``max_depth``: ``estimator.tree_``.
        columns: the class that each column of ``value`` is of; classes that weren't seen have a share of 0.
        inputs: numbers an example has.
        classes: how many there are.
    """
    import numpy as np

    parts: dict[str, list[Any]] = {
        n: [] for n in ("root", "left", "right", "feature", "leaf", "threshold", "share")
    }
    nodes = leaves = 0
    for tree in trees:
        ends = np.asarray(tree.children_left) < 0
        own = np.arange(len(ends))
        parts["root"].append([nodes])
        for name, children in (("left", tree.children_left), ("right", tree.children_right)):
            parts[name].append(np.where(ends, own, children) + nodes)
        parts["feature"].append(np.where(ends, 0, tree.feature))
        parts["threshold"].append(np.where(ends, 0.0, tree.threshold))
        parts["leaf"].append(np.where(ends, np.cumsum(ends) - 1 + leaves, 0))
        share = np.zeros((int(ends.sum()), classes))
        share[:, list(columns)] = np.asarray(tree.value)[ends, 0]
        parts["share"].append(share.reshape(-1))
        nodes, leaves = nodes + len(ends), leaves + len(share)
    tensors = {
        name: torch.from_numpy(np.concatenate(found).astype("f8" if name in ("threshold", "share") else "i4"))
        for name, found in parts.items()
    }
    sizes = {"inputs": inputs, "classes": classes, "trees": len(trees), "nodes": nodes, "leaves": leaves}
    return {**sizes, "depth": max(int(tree.max_depth) for tree in trees)}, tensors
