"""A net whose blocks are being replaced by fewer (BERT-of-Theseus, Xu et al., EMNLP 2020)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.cutting import Passed, replay

HEADS = "exits"
"""Where a net's early exits are (``models.exits``): no blocks in a row."""

Groups = Mapping[str, Sequence[str]]
"""The block that stays and becomes the successor, with those that go: ``{"layer1.0": ["layer1.1"]}``."""


class Replaceable(nn.Module):
    """Blocks of the predecessor and the one that is to do their work.

    In training each forward takes the successor with probability ``min(1, start + growth * forwards so far)``; the
    predecessor's blocks are frozen and in evaluation mode. In evaluation the successor alone computes.
    """

    steps: Tensor

    def __init__(self, old: Sequence[nn.Module], start: float, growth: float) -> None:
        super().__init__()
        self.new = copy.deepcopy(old[0])
        self.old = (
            nn.Sequential(*old).requires_grad_(False).eval()
        )  # not called as such: blocks take several inputs
        self.start, self.growth = start, growth
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> Replaceable:
        """Training mode of the successor; the predecessor stays in evaluation mode."""
        super().train(mode)
        self.old.eval()
        return self

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        """As the blocks: ``x`` through all of them, what comes with it (a mask) to each."""
        if not self.training:
            return self.new(x, *others, **named)
        rate = min(1.0, self.start + self.growth * int(self.steps))
        self.steps += 1
        if float(torch.rand(())) < rate:
            return self.new(x, *others, **named)
        result = x
        for block in self.old:
            result = block(result, *others, **named)
        # Where no block is replaced in a step nothing is trained, and ``backward`` would fail on a loss without a graph.
        return result if result.requires_grad or not torch.is_grad_enabled() else result.requires_grad_()


def theseus(
    predecessor: nn.Module,
    groups: Groups,
    edits: Sequence[Mapping[str, Any]] = (),
    start: float = 0.3,
    growth: float = 0.0006,
) -> nn.Module:
    """The predecessor with a ``Replaceable`` at the first block of each group and nothing at the others; ends frozen.

    Args:
        predecessor: a net that the call may change.
        groups: see ``Groups``.
        edits: made to it first.
        start, growth: of the probability that a block is replaced, at the first step and more at every further one.
    """
    module = replay(predecessor, edits).requires_grad_(False)
    for first, others in groups.items():
        parts = [module.get_submodule(name) for name in (first, *others)]
        _put(module, first, Replaceable(parts, start, growth))
        for name in others:
            _put(module, name, Passed())
    for part in module.modules():
        if isinstance(part, Replaceable):
            part.new.requires_grad_(True)
    return module


def idle(module: nn.Module) -> set[int]:
    """ids of parameters that no evaluation computes with: of the blocks that successors stand in for."""
    return {
        id(p) for part in module.modules() if isinstance(part, Replaceable) for p in part.old.parameters()
    }


def groups_of(module: nn.Module, every: int, blocks: str | None = None) -> dict[str, list[str]]:
    """Consecutive blocks in runs of ``every``, the first of each with the others; shorter runs at the end stay alone.

    Blocks are members of an ``nn.Sequential`` or ``nn.ModuleList`` that have parts of their own; the outermost count.

    Args:
        blocks: the name of one container, for all of them.

    Raises:
        UserError: there are no two such blocks in a row, or no such container.
    """
    found = {
        names[at]: names[at + 1 : at + every]
        for names in rows_of(module, blocks)
        for at in range(0, len(names) - every + 1, every)
    }
    if not found:
        raise UserError(none_in_a_row(every, blocks))
    return found


def none_in_a_row(every: int, blocks: str | None = None) -> str:
    """What is said of a net without so many blocks in a row."""
    where = f" in {blocks!r}" if blocks else ""
    return (
        f"every: the net has no {every} blocks in a row{where}; a deeper one, or a smaller number is wanted"
    )


def rows_of(module: nn.Module, blocks: str | None = None) -> list[list[str]]:
    """The names of blocks in a row, a list a container: see ``groups_of``."""
    found: list[list[str]] = []
    inside: list[str] = []
    for path, part in module.named_modules():
        if not isinstance(part, nn.Sequential | nn.ModuleList) or any(path.startswith(p) for p in inside):
            continue
        if (blocks is not None and path != blocks) or path == HEADS:
            continue
        names = [
            f"{path}.{n}" if path else n for n, c in part.named_children() if any(True for _ in c.children())
        ]
        if not path or len(names) < len(list(part.children())):
            continue
        inside.append(f"{path}.")
        found.append(names)
    return found


def first_ones(module: nn.Module, every: int, blocks: str | None = None) -> dict[str, str]:
    """The blocks that successors begin as in the published code, by the first block of each group (see ``groups_of``).

    Of the k-th group in a row that is the k-th block of the row: ``{"layers.0": "layers.0", "layers.2": "layers.1"}``.
    """
    return {
        names[at]: names[at // every]
        for names in rows_of(module, blocks)
        for at in range(0, len(names) - every + 1, every)
    }


def begun(
    tensors: Mapping[str, Tensor], groups: Groups, begins: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """A predecessor's tensors by the names of the net in replacement.

    Args:
        begins: the block that each group's successor begins as, by the group's first; that one itself without.
    """
    begins = begins if begins is not None else {first: first for first in groups}
    successors = {block: first for first, block in begins.items()}
    out: dict[str, Tensor] = {}
    places = {
        name: f"{first}.old.{k}"
        for first, others in groups.items()
        for k, name in enumerate((first, *others))
    }
    for name, tensor in tensors.items():
        block = next((b for b in places if name.startswith(f"{b}.")), None)
        if block is None:
            out[name] = tensor
            continue
        rest = name.removeprefix(f"{block}.")
        out[f"{places[block]}.{rest}"] = tensor
        if block in successors:
            out[f"{successors[block]}.new.{rest}"] = tensor
    return out


def renamed(sizes: Mapping[str, int], groups: Groups, before: str, after: str) -> dict[str, int]:
    """Sizes by name, those of blocks that stay under another one: ``layer1.0.new.conv1.weight`` for ``after=".new"``."""
    out = {}
    for name, size in sizes.items():
        block = next((b for b in groups if name.startswith(f"{b}{before}.")), None)
        rest = name if block is None else name.removeprefix(f"{block}{before}.")
        out[rest if block is None else f"{block}{after}.{rest}"] = size
    return out


def taken(tensors: Mapping[str, Tensor], groups: Groups) -> dict[str, Tensor]:
    """The successor's tensors, by the names of the predecessor without the blocks that go."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        block = next((b for b in groups if name.startswith(f"{b}.")), None)
        if block is None:
            out[name] = tensor
        elif name.startswith(f"{block}.new."):
            out[f"{block}.{name.removeprefix(f'{block}.new.')}"] = tensor
    return out


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(parent), leaf, part)
