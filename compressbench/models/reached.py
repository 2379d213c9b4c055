"""What a forward in training reaches beside one in evaluation: heads of its own, as GoogLeNet has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressbench.inputs import Inputs
from compressbench.models.exits import every_exit
from compressbench.outputs import tensors_of

_AS_IN_EVALUATION = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Inside, parts may change between training and evaluation; afterwards each is in the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def as_in_training(module: nn.Module) -> Iterator[None]:
    """Inside, a net goes the way of its training; norms keep their statistics and dropouts drop nothing."""
    with modes_kept(module), torch.random.fork_rng(devices=[]):
        module.train()
        for part in module.modules():
            if isinstance(part, _AS_IN_EVALUATION):
                part.training = False
        torch.default_generator.manual_seed(0)
        yield


@dataclass(frozen=True)
class Ways:
    """By which forwards all is reached that an evaluation or a training reaches.

    Attributes:
        evaluation: whether the one in evaluation is needed.
        training: whether the one in training is.
    """

    evaluation: bool = True
    training: bool = False

    def outputs(self, module: nn.Module, inputs: Inputs) -> list[Tensor]:
        """All tensors, as rows (n, …), that these forwards answer; of a net with exits those of all exits."""
        found: list[Tensor] = []
        if self.evaluation:
            with every_exit(module):
                found += tensors_of(module(*inputs))
        if self.training:
            with as_in_training(module):
                found += tensors_of(module(*inputs))
        return [tensor.flatten(1) for tensor in found if tensor.ndim and len(tensor) == len(inputs[0])]


def ways_of(module: nn.Module, inputs: Inputs) -> Ways:
    """The forwards that reach all of a net; a training that fails, as it would without us, is none."""
    evaluated = ran(module, inputs).keys()
    try:
        with as_in_training(module):
            trained = ran(module, inputs).keys()
    except Exception:  # whatever a user's forward may raise
        return Ways()
    if trained <= evaluated:
        return Ways()
    return Ways(evaluation=not evaluated <= trained, training=True)


def ran(module: nn.Module, inputs: Inputs) -> dict[str, None]:
    """Names of the parts with parameters or buffers of their own that a forward runs, in order of their first run."""
    found: dict[str, None] = {}
    handles = [
        part.register_forward_pre_hook(lambda *_, n=name: found.setdefault(n))
        for name, part in module.named_modules()
        if name and (part._parameters or part._buffers)
    ]
    try:
        with torch.no_grad(), every_exit(module):
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
