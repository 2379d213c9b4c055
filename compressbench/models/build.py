"""From a state to a module, and back: specs filled with what a dataset knows, weights loaded, masks applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench import specs
from compressbench.errors import UserError
from compressbench.models.cutting import replay
from compressbench.models.quantized import load_scales
from compressbench.models.theseus import idle

if TYPE_CHECKING:
    from compressbench.state import State
    from compressbench.tasks.task import Task


def fill(spec: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Replaces ``@classes``, ``@shape`` and whatever else the task knows by the data set's own numbers."""
    return filled(spec, task.facts())


def filled(spec: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with each ``@name`` replaced by the fact of that name.

    Raises:
        UserError: one is not known.
    """

    def inner(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: inner(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [inner(v) for v in value]
        if isinstance(value, str) and value.startswith("@"):
            if value not in facts:
                raise UserError(f"model: {value!r} is not known; known: {', '.join(facts) or 'nothing'}")
            return facts[value]
        return value

    return inner(spec)


def module_of(state: State, device: str = "cpu") -> nn.Module:
    """The state's module, its edits made, weights loaded, on the device, in evaluation mode.

    Raises:
        UserError: the stored edits or tensors don't fit the module that the spec builds.
    """
    # Whoever asks first may be in inference mode, whose tensors no later caller's gradient could pass.
    # A weight that was computed becomes a parameter only where gradients are on.
    with torch.inference_mode(False), torch.enable_grad():
        return _module_of(state, device)


def _module_of(state: State, device: str) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            module = replay(specs.build(state.model, "model"), state.edits)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise UserError(f"the stored model can't be rebuilt: {type(error).__name__}: {reason}") from error
    load(module, state.weights, "the state's weights")
    load_scales(module, state.group("scales"))
    with torch.no_grad():  # a tied weight is stored under each of its names, but masked under the first only
        for name, parameter in module.named_parameters():
            if name in state.masks:
                parameter.mul_(state.masks[name])
        return module.to(device).eval()


def load(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Copies named tensors into a module; names and shapes must match exactly.

    Raises:
        UserError: the first name or shape that doesn't.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        raise UserError(
            f"{what} don't fit {type(module).__name__}: "
            + "; ".join(
                f"{word} {', '.join(n[:3])}" for word, n in (("missing", missing), ("unknown", extra)) if n
            )
        )
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            shape = tuple(weights[name].shape)
            raise UserError(f"{what} don't fit: {name} is {shape}, the model has {tuple(tensor.shape)}")
    module.load_state_dict(dict(weights))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as detached, contiguous CPU copies."""
    return copies(module.state_dict())


def copies(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors as detached, contiguous CPU copies."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in named.items()}


def prunable(module: nn.Module) -> dict[str, Tensor]:
    """Weights that pruning may touch: of convolutions and linear layers, in module order; never biases or norms.

    Nor those of blocks that a successor stands in for.
    """
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    names = {
        id(m._parameters["weight"]): f"{n}.weight" if n else "weight"
        for n, m in module.named_modules()
        if isinstance(m, kinds) and m._parameters.get("weight") is not None  # None: computed
    }
    beside = idle(module)
    return {n: p for n, p in module.named_parameters() if id(p) in names and id(p) not in beside}


def left_alone(module: nn.Module) -> dict[str, Tensor]:
    """Parameters of two or more dimensions that are no convolution's or linear layer's weight, in module order.

    Those of recurrent layers, embeddings, ``nn.MultiheadAttention``'s ``in_proj_weight``, parametrised weights, a user's
    own: pruning leaves them dense and quantization in float.
    """
    handled = {id(p) for p in prunable(module).values()} | idle(module)
    return {n: p for n, p in module.named_parameters() if p.ndim > 1 and p.numel() and id(p) not in handled}


def shortened(names: Iterable[str], most: int = 4) -> str:
    """The first few of some names, and how many more there are."""
    known = list(names)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")
