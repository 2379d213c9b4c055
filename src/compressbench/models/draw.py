"""Drawing a model's weights from a seed, and checking that it fits the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressbench import specs
from compressbench.bench import Bench, derive_seed
from compressbench.errors import UserError
from compressbench.models.build import fill, left_alone, load, prunable, snapshot
from compressbench.models.checkpoint import read_weights
from compressbench.models.counting import count
from compressbench.models.cutting import replay
from compressbench.outputs import forward
from compressbench.state import State


def drawn(model: Mapping[str, Any], bench: Bench) -> State:
    """A state with weights drawn from (seed, stage name), or read from ``model["weights"]``.

    Raises:
        UserError: the module can't be built, fails on one batch of the data, its outputs don't fit the classes,
            nothing in it can be pruned, or the given weights don't fit.
    """
    spec = fill(model["build"], bench.dataset)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(bench.seed, bench.name))
        module = specs.build(spec, "model.build")
    if not isinstance(module, torch.nn.Module):
        raise UserError(
            f"model.build: {spec[specs.TARGET]} gave a {type(module).__name__}, not a torch.nn.Module"
        )
    if model.get("weights"):
        load(module, read_weights(model["weights"]), f"model.weights {model['weights']}")
    _check(module.eval(), model, bench)
    named = prunable(module)
    counts = count(module, bench.dataset.shape)
    facts = {
        "density": 1.0,
        "prunable": {name: p.numel() for name, p in named.items()},
        "drawn": {name: p.numel() for name, p in named.items()},
        "whole": sum(p.numel() for p in named.values()),
        "whole_parameters": counts.parameters,
        "forward_macs": counts.macs,
        "examples": 0,
        "macs": 0,
        "seconds": 0.0,
        "flags": [],
    }
    if other := left_alone(module):
        facts["left_alone"] = {name: p.numel() for name, p in other.items()}
    return State(model=spec, tensors={"weights": snapshot(module)}, facts=facts)


def redrawn(state: State, bench: Bench) -> dict[str, Tensor]:
    """Fresh weights for a state's model, from (seed, stage name): drawn for the whole net, then cut by its edits."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(bench.seed, bench.name))
        module = specs.build(state.model, "model.build")
    return snapshot(replay(module, state.edits))


def _check(module: torch.nn.Module, model: Mapping[str, Any], bench: Bench) -> None:
    name = model.get("name") or type(module).__name__
    shape, classes = bench.dataset.shape, len(bench.dataset.classes)
    with torch.no_grad():
        try:
            logits = forward(module, torch.zeros(2, *shape)).logits
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"model {name} can't take {bench.dataset.name}'s images {shape}: {reason}"
            ) from error
    if tuple(logits.shape) != (2, classes):
        raise UserError(
            f"model {name} gives {tuple(logits.shape[1:])} outputs an image, {bench.dataset.name} has {classes} "
            "classes; pass the number on as '@classes' in model.build"
        )
    if not prunable(module):
        raise UserError(f"model {name} has no prunable layer (convolution or linear)")
