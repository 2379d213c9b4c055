"""Short trainings for the tests, and whether two of them ended alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressbench.stages.train import Train
from compressbench.state import State

PLAIN = {"_target_": "torch.optim.SGD", "_partial_": True}
SGD = {**PLAIN, "momentum": 0.9}
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True}


def train(length: str, **changes: Any) -> Train:
    """SGD at a rate of 0.05 on batches of 50, but for what is changed."""
    return Train(**{"length": length, "batch_size": 50, "lr": 0.05, "optimizer": SGD, **changes})


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two groups hold the same tensors, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def equal(one: State, other: State) -> bool:
    """Whether two states hold the same groups of the same tensors."""
    return one.tensors.keys() == other.tensors.keys() and all(
        same(group, other.tensors[name]) for name, group in one.tensors.items()
    )
