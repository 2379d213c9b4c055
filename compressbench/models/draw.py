"""Drawing a model's weights from a seed, and checking that it fits the data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from compressbench import specs
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import fill, left_alone, load, module_of, prunable, snapshot
from compressbench.models.checkpoint import fitted, read_weights
from compressbench.models.counting import count
from compressbench.models.cutting import Edit, replay
from compressbench.models.plain import OLD, computed
from compressbench.models.where import reason_of, watched
from compressbench.outputs import forward
from compressbench.seeds import derive_seed
from compressbench.state import State
from compressbench.wording import noun_of


def drawn(model: Mapping[str, Any], bench: Bench) -> State:
    """A state with weights drawn from (seed, stage name), or read from ``model["weights"]``.

    Raises:
        UserError: the module can't be built, fails on one batch of the data, its outputs don't fit the classes,
            nothing in it can be pruned, the given weights don't fit, it can't be copied, or not built again.
    """
    spec = fill(model["build"], bench.task)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(bench.seed, bench.name))
        module = specs.build(spec, "model.build")
    if not isinstance(module, torch.nn.Module):
        raise UserError(
            f"model.build: {spec[specs.TARGET]} gave a {type(module).__name__}, not a torch.nn.Module"
        )
    name = model.get("name") or type(module).__name__
    _whole(module, name)
    if model.get("weights"):
        load(module, fitted(read_weights(model["weights"]), module), f"model.weights {model['weights']}")
    edits = _plain(module, name) if model.get("remove_parametrizations") else []
    _check(module.eval(), name, bench)
    named = prunable(module)
    counts = count(module, bench.task.blank(1))
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
    own = getattr(module, "as_spec", None)  # of a net from a folder: what builds it again without
    state = State(
        model=own() if own is not None else spec,
        tensors={"weights": snapshot(module)},
        edits=tuple(edits),
        facts=facts,
    )
    _rebuilt(state, module, name, bench)
    return state


def redrawn(state: State, bench: Bench) -> dict[str, Tensor]:
    """Fresh weights for a state's model, from (seed, stage name): drawn for the whole net, then cut by its edits."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(bench.seed, bench.name))
        module = specs.build(state.model, "model.build")
    return snapshot(replay(module, state.edits))


def _plain(module: torch.nn.Module, name: str) -> list[Edit]:
    """Makes all that parametrizations compute plain, and gives the edits that do so."""
    found = computed(module)
    if not found:
        raise UserError(f"model {name}: remove_parametrizations is set, and no tensor of it has any")
    edits: list[Edit] = [{"plain": found}]
    replay(module, edits)
    return edits


def _check(module: torch.nn.Module, name: str, bench: Bench) -> None:
    task, classes = bench.task, len(bench.task.classes)
    inputs = task.blank(2)
    with watched(module) as where, torch.random.fork_rng(devices=[]):
        try:
            logits = forward(module, *inputs).logits
        except UserError:
            raise
        except Exception as error:  # a user's forward may fail in any way at all
            given = ", ".join(f"{n} {tuple(x.shape[1:])}" for n, x in zip(task.inputs, inputs, strict=True))
            raise UserError(
                f"model {name} can't take {bench.dataset.name}'s {given}: {where()}{reason_of(error)}"
            ) from error
    streams = getattr(task, "streams", False)  # then a row of logits for every token
    if (len(logits), logits.shape[-1], logits.ndim) != (2, classes, 3 if streams else 2):
        raise UserError(
            f"model {name} gives {tuple(logits.shape[1:])} outputs of each {noun_of(task)}, "
            f"{bench.dataset.name} has {classes} classes; pass the number on as '@classes' in model.build"
        )
    if not prunable(module):
        hint = (
            "; their weights are computed: set model.remove_parametrizations=true" if computed(module) else ""
        )
        raise UserError(f"model {name} has no prunable layer (convolution or linear){hint}")
    _copied(module, name)


def _whole(module: torch.nn.Module, name: str) -> None:
    """Refuses a net whose tensors aren't there yet, or hold what is no number.

    Raises:
        UserError: naming the tensor.
    """
    for tensors, what in ((module.named_parameters(), "parameter"), (module.named_buffers(), "buffer")):
        for own, tensor in tensors:
            layer = own.rpartition(".")[0]
            if is_lazy(tensor):
                kind = type(module.get_submodule(layer)).__name__
                raise UserError(
                    f"model {name}: {layer or 'the net'} ({kind}) has no shape before a forward, and so can't be drawn "
                    "from a seed; give its sizes, e.g. Linear for LazyLinear"
                )
            if tensor.is_meta or tensor.layout != torch.strided:
                form = "on the meta device" if tensor.is_meta else f"of layout {tensor.layout}"
                raise UserError(f"model {name}: {what} {own} is {form}; a dense tensor with values is wanted")
            numbers = tensor.is_floating_point() and tensor.numel()
            if numbers and bool(tensor.isnan().any() or (what == "parameter" and tensor.isinf().any())):
                raise UserError(
                    f"model {name}: {what} {own} holds what is no finite number; was it initialised?"
                )


def _copied(module: torch.nn.Module, name: str) -> None:
    """Refuses a net that can't be copied after a forward with gradients, as most stages need.

    Raises:
        UserError: naming the innermost part that can't.
    """
    try:
        copy.deepcopy(module)
    except Exception:  # whatever a user's module may raise while it is copied
        parts = list(module.named_modules())
    else:
        return
    for path, part in reversed(parts):
        try:
            copy.deepcopy(part)
        except Exception as error:
            old = [type(h).__name__ for h in part._forward_pre_hooks.values() if type(h) in OLD]
            hint = (
                f"the older torch.nn.utils.{'weight_norm' if old[0] == 'WeightNorm' else 'spectral_norm'}: use that of "
                "torch.nn.utils.parametrizations, or set model.remove_parametrizations=true"
                if old
                else "its attributes must be parameters, buffers, modules and plain data"
            )
            raise UserError(
                f"model {name}: {path or 'the net'} ({type(part).__name__}) can't be copied: {hint} "
                f"({reason_of(error, 80)})"
            ) from error


def _rebuilt(state: State, module: torch.nn.Module, name: str, bench: Bench) -> None:
    """Refuses a net that its parameters and buffers don't make again.

    Raises:
        UserError: it answers otherwise then.
    """
    inputs = bench.task.drawn(2, torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        own, again = forward(module, *inputs).logits, forward(module_of(state), *inputs).logits
    if not torch.allclose(own, again, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise UserError(
            f"model {name}: built again with the same parameters and buffers it answers otherwise; what a forward reads "
            "must be registered (register_buffer) or the same in every build, and evaluation draws nothing at random"
        )
