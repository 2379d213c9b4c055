"""Optimal Brain Surgeon (Hassibi & Stork 1993) with a block-diagonal inverse Fisher (WoodFisher, Singh & Alistarh 2020).

What stays is moved so that the quadratic model of the loss rises least. Memory: 8 x ``block`` bytes a weight.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.criteria.given import Given, Saliency
from compressbench.criteria.gradients import batches, differentiable, finite, per_example
from compressbench.errors import UserError

MOST_BYTES = 8 * 2**30


def inverse_identity(weights: Tensor, damping: float) -> Tensor:
    """(blocks, size, size) float64 for weights (blocks, size): the inverse before any gradient, I / damping."""
    return (torch.eye(weights.shape[1], dtype=torch.float64) / damping).repeat(len(weights), 1, 1)


def add_gradients(inverse: Tensor, gradients: Tensor, examples: int) -> None:
    """Updates the inverse of F to that of F + G^T G / ``examples``, in place (Sherman-Morrison-Woodbury).

    With one gradient at a time it is the recursion F^-1 - F^-1 g g^T F^-1 / (examples + g^T F^-1 g) of the paper.

    Args:
        inverse: (blocks, size, size), symmetric, float64.
        gradients: G of each block, (blocks, k, size).
        examples: how many there are in all.
    """
    along = torch.bmm(gradients, inverse)
    core = torch.bmm(along, gradients.transpose(1, 2))
    core.diagonal(dim1=1, dim2=2).add_(examples)
    inverse.baddbmm_(along.transpose(1, 2), torch.linalg.solve(core, along), alpha=-1)


def saliency(inverse: Tensor, weights: Tensor) -> Tensor:
    """w_q^2 / (2 [F^-1]_qq): the rise of the loss when q goes and all others of its block make up for it.

    Args:
        inverse: (blocks, size, size).
        weights: (blocks, size).
    """
    return weights.square() / (2 * inverse.diagonal(dim1=1, dim2=2))


def update(inverse: Tensor, weights: Tensor, removed: Tensor) -> Tensor:
    """dw = -F^-1[:, Q] (F^-1[Q, Q])^-1 w_Q for the removed Q of each block; for one q it is the rule of 1993.

    Args:
        inverse: (blocks, size, size).
        weights: (blocks, size).
        removed: bool (blocks, size).
    """
    gone = removed.to(inverse.dtype)
    both = gone.unsqueeze(2) * gone.unsqueeze(1)
    system = inverse * both + torch.diag_embed(1 - gone)
    solved = torch.linalg.solve(system, (weights * gone).unsqueeze(2)) * gone.unsqueeze(2)
    return -torch.bmm(inverse, solved).squeeze(2)


def in_blocks(flat: Tensor, size: int) -> Tensor:
    """(..., n) to (..., blocks, size), float64 on the CPU, the last block filled up with zeros."""
    padded = F.pad(flat.to("cpu", torch.float64), (0, -flat.shape[-1] % size))
    return padded.unflatten(-1, (-1, size))


def woodfisher(
    given: Given, block: int | None = 64, damping: float = 1e-5, examples: int = 512, split: str = "train"
) -> Saliency:
    """w^2 / (2 [F^-1]_qq), F = damping I + empirical Fisher, block by block of a layer's weights in their order.

    What was pruned before has no part in F and stays zero.

    Args:
        block: weights a block; null for one block a layer (Optimal Brain Surgeon, small layers only).
        damping: what is added to the diagonal.
        examples: how many are drawn; all there are if fewer.
        split: ``train`` or ``validation``.

    Raises:
        UserError: a setting out of range, more than 8 GiB wanted; see ``gradients.batches``, ``.per_example``.
    """
    if block is not None and (isinstance(block, bool) or not isinstance(block, int) or block < 1):
        raise UserError(f"criterion.block: {block!r} is not a whole number of at least 1, or null")
    if isinstance(damping, bool) or not isinstance(damping, int | float) or not damping > 0:
        raise UserError(f"criterion.damping: {damping!r} is not above 0")
    sizes = {name: min(block or w.numel(), w.numel()) for name, w in given.weights.items()}
    wanted = sum(8 * -(-w.numel() // sizes[name]) * sizes[name] ** 2 for name, w in given.weights.items())
    if wanted > MOST_BYTES:
        whole = sum(w.numel() for w in given.weights.values())
        raise UserError(
            f"criterion: an inverse Fisher in blocks of {block or 'whole layers'} takes {wanted / 2**30:.1f} GiB, at "
            f"most {MOST_BYTES >> 30} are allowed; use woodfisher with block: {MOST_BYTES // (8 * whole)} or less"
        )
    weights = {name: in_blocks(w.reshape(-1), sizes[name]) for name, w in given.weights.items()}
    inverse = {name: inverse_identity(w, damping) for name, w in weights.items()}
    count = min(examples, len(given.bench.feed(split)))
    module, parameters = differentiable(given)
    for chunk in per_example(module, parameters, batches(given, examples, split), given.bench.task):
        for name, g in chunk.items():
            kept = g.cpu() * given.masks[name]
            add_gradients(inverse[name], in_blocks(kept.flatten(1), sizes[name]).transpose(0, 1), count)

    def back(blocks: Tensor, name: str) -> Tensor:
        like = given.weights[name]
        return blocks.reshape(-1)[: like.numel()].view(like.shape).to(like.dtype)

    def compensate(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = {}
        for name, weight in weights.items():
            gone = given.masks[name] & ~masks[name]
            moved = update(inverse[name], weight, in_blocks(gone.reshape(-1), sizes[name]).bool())
            out[name] = back(weight + moved, name) * masks[name]
        return out

    scores = {name: back(saliency(inverse[name], w), name) for name, w in weights.items()}
    return Saliency(finite(scores, "woodfisher"), compensate, predicts_loss=True)
