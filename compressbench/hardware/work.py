"""Work: what each layer of a state computes for one example, as a model of a device wants to know it."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compressbench.models.counting import count
from compressbench.models.quantized import bits_of, quantized, unrounded
from compressbench.outputs import forward

if TYPE_CHECKING:
    from compressbench.views import View

CONVOLUTION, POINTWISE, DEPTHWISE, LINEAR, OTHER = "convolution", "pointwise", "depthwise", "linear", "other"
DENSE, UNSTRUCTURED, TWO_OF_FOUR = "dense", "unstructured", "2:4"


@dataclass(frozen=True)
class Layer:
    """One layer, for one example.

    Attributes:
        name: of the module; ``products`` for matrix products outside of any (attention).
        kind: ``convolution``, ``pointwise`` (1 x 1), ``depthwise``, ``linear`` or ``other``.
        macs: multiply-accumulates, zeros counted.
        weights: entries of the weight.
        nonzero: those that aren't zero.
        pattern: ``dense``, ``2:4`` (along the inputs) or ``unstructured``.
        inputs: entries read.
        outputs: entries written.
        channels: inputs and outputs that the weight mixes, for hardware that pads them.
        weight_bits: of what it computes with; 32 is float.
        input_bits: likewise.
        half: ``bfloat16`` or ``float16`` where it was cast to it; empty for integers and float32.
        ranges: ``static``, or ``dynamic`` where the range of the inputs is taken anew for each batch.
        calls: how often a forward runs it.
    """

    name: str
    kind: str
    macs: int
    weights: int
    nonzero: int
    pattern: str
    inputs: int
    outputs: int
    channels: tuple[int, int]
    weight_bits: int = 32
    input_bits: int = 32
    half: str = ""
    ranges: str = "static"
    calls: int = 1

    @property
    def density(self) -> float:
        """Share of the weight that isn't zero."""
        return self.nonzero / self.weights if self.weights else 1.0


@dataclass(frozen=True)
class Work:
    """A net's layers in order of execution, and what it holds at once.

    Attributes:
        layers: with weights; norms and activations count as part of the layer before them.
        activations: the most entries alive at one time, for one example.
        others: entries of parameters outside of ``layers`` (biases, norms, tables of embeddings), as many as take their
            place at 32 bits each; what is looked up in a table isn't counted as moved.
    """

    layers: tuple[Layer, ...]
    activations: int
    others: int


def work_of(view: View) -> Work:
    """Reads a state's module on one blank example.

    Raises:
        UserError: the net can't take an example.
    """
    from compressbench.models.build import module_of

    module = module_of(view.state, "cpu")
    blank = view.bench.task.blank(1)
    counts = count(module, blank)
    seen: dict[str, tuple[int, int, int]] = {}
    peak = _Alive()
    # Rounded weights would count as activations: the copy computes in float.
    with torch.no_grad(), _watching(plain := unrounded(copy.deepcopy(module)), counts.layers, seen), peak:
        forward(plain, *(x.clone() for x in blank))  # copies made here: inputs are alive too
    layers = [_layer(name, module.get_submodule(name), counts.layers[name], *seen[name]) for name in seen]
    if counts.others:
        layers.append(Layer("products", OTHER, counts.others, 0, 0, DENSE, 0, 0, (0, 0)))
    held = sum(x.weights for x in layers) + sum(
        round(part.weight.numel() * (1 - _bits("", part)[0] / 32))
        for part in quantized(module).values()
        if isinstance(part, nn.Embedding)
    )
    return Work(tuple(layers), peak.most, max(0, counts.parameters - held))


def pattern_of(weight: Tensor) -> str:
    """``2:4`` if of every four neighbouring inputs at most two have a weight, ``unstructured`` for other zeros."""
    zeros = weight.numel() - int(weight.count_nonzero())
    if not zeros:
        return DENSE
    if weight.ndim > 1 and weight.shape[1] % 4 == 0:
        rows = weight.detach().movedim(1, -1).reshape(-1, 4)
        if int((rows != 0).sum(dim=1).max()) <= 2:
            return TWO_OF_FOUR
    return UNSTRUCTURED


def _layer(name: str, part: Any, macs: int, inputs: int, outputs: int, calls: int) -> Layer:
    weight = part.weight.detach()
    if isinstance(part, nn.Linear):
        kind = LINEAR
    else:
        kind = POINTWISE if weight[0, 0].numel() == 1 else CONVOLUTION
        if part.groups > 1 and weight.shape[1] == 1:
            kind = DEPTHWISE
    weight_bits, input_bits = _bits(name, part)
    forms: Mapping[str, Any] = part.__dict__.get("_forms") or {}
    dynamic = bool((forms.get("input") or {}).get("dynamic"))
    return Layer(
        name,
        kind,
        macs,
        weight.numel(),
        int(weight.count_nonzero()),
        pattern_of(weight),
        inputs,
        outputs,
        (weight.shape[1] if weight.ndim > 1 else 1, weight.shape[0]),
        weight_bits,
        input_bits,
        str((forms.get("weight") or {}).get("dtype", "")),
        "dynamic" if dynamic else "static",
        calls,
    )


def _bits(name: str, part: nn.Module) -> tuple[int, int]:
    holder = nn.Module()
    holder.add_module("layer", part)
    return bits_of(holder, "layer")


@contextmanager
def _watching(
    module: nn.Module, names: Mapping[str, int], seen: dict[str, tuple[int, int, int]]
) -> Iterator[None]:
    """Notes how many entries each named layer reads and writes; a layer that runs twice adds up."""

    def note(name: str, inputs: Sequence[Any], output: Any) -> None:
        before = seen.get(name, (0, 0, 0))
        seen[name] = (before[0] + inputs[0].numel(), before[1] + output.numel(), before[2] + 1)

    handles = [
        module.get_submodule(name).register_forward_hook(lambda _, i, o, n=name: note(n, i, o))
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Alive(TorchDispatchMode):
    """Counts the entries of all results that are alive at once; views and results in place are no new ones."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.most = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {a.untyped_storage()._cdata for a in args if isinstance(a, Tensor)}
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._born(tensor)
        return result

    def _born(self, tensor: Tensor) -> None:
        size = tensor.numel()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size
