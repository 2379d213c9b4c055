"""QAT: a quantized state trained further, its ranges kept up with the weights and the inputs, or learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.errors import UserError, nearest
from compressbench.models.quantized import forms_of, quantized
from compressbench.observers.min_max import min_max
from compressbench.observers.observed import Observed
from compressbench.quantizing.ranges import weight_scales
from compressbench.state import State
from compressbench.training.reparametrise import Reparametrisation, Span, check_share

RANGES = ("observed", "learned")


def qat(
    module: nn.Module,
    bench: Bench,
    state: State,
    span: Span,
    ranges: str = "observed",
    momentum: float = 0.99,
    lr: float | None = None,
) -> Reparametrisation:
    """Scales follow the training; the layers round anyway, gradients pass straight through inside the ranges.

    Args:
        ranges: ``observed``: of weights from their smallest to their largest value after every step, of inputs the
            moving average of each batch's extremes (Jacob et al. 2018); ``learned``: scales are trained like
            weights, from where they are, zero points stay (LSQ, Esser et al. 2020).
        momentum: of the moving average.
        lr: peak learning rate of learned scales, null for the training's.

    Raises:
        UserError: the state isn't quantized, or an unknown kind of ranges.
    """
    layers = quantized(module)
    if not layers:
        raise UserError(
            "the state isn't quantized; a stage before does that: - /stage/quantize@stages.q: ptq"
        )
    if ranges not in RANGES:
        raise UserError(f"ranges: unknown {ranges!r}; {nearest(str(ranges), RANGES)}")
    check_share("momentum", momentum)
    return _learned(layers, lr) if ranges == "learned" else _observed(layers, state, momentum)


def _scales(layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The live scales and zero points, by their names in a state."""
    return {
        f"{name}.{part}|{entry}": tensor
        for name, layer in layers.items()
        for part in ("weight", "input")
        for entry in ("scale", "zero")
        if (tensor := layer._buffers.get(f"{part}_{entry}")) is not None
    }


def _learned(layers: dict[str, nn.Module], lr: float | None) -> Reparametrisation:
    parameters: dict[str, nn.Parameter] = {}
    least: dict[str, Tensor] = {}
    for key, tensor in _scales(layers).items():
        full, _, entry = key.partition("|")
        if entry == "scale":
            name, _, part = full.rpartition(".")
            parameters[key] = nn.Parameter(tensor.detach().clone())
            least[key] = 1e-3 * tensor.detach().clone()
            layers[name]._buffers[f"{part}_scale"] = parameters[key]

    def after_step() -> None:
        for key, scale in parameters.items():
            torch.maximum(scale, least[key], out=scale.data)

    return Reparametrisation(
        parameters=parameters, lr=lr, after_step=after_step, groups={"scales": _scales(layers)}
    )


def _observed(layers: dict[str, nn.Module], state: State, momentum: float) -> Reparametrisation:
    before = state.group("ranges")
    extremes: dict[str, Tensor] = {}
    for name, layer in layers.items():
        form, scale = forms_of(layer)["input"], layer._buffers.get("input_scale")
        zero = layer._buffers.get("input_zero")
        if form is None or scale is None or zero is None:
            continue
        ends = torch.tensor([form["low"], form["high"]], device=scale.device)
        key = f"{name}.input"
        extremes[key] = before[key].to(scale.device).clone() if key in before else scale * (ends - zero)
        layer.register_forward_pre_hook(_follower(extremes[key], form, momentum))

    def after_step() -> None:
        for layer in layers.values():
            form: Any = forms_of(layer)["weight"]
            if form and "dtype" not in form:
                weight: Any = layer.weight
                found = weight_scales(weight, form, form["low"] == -form["high"], min_max)
                _put(layer, "weight", *found)

    return Reparametrisation(after_step=after_step, groups={"scales": _scales(layers), "ranges": extremes})


def _follower(extremes: Tensor, form: Any, momentum: float) -> Any:
    """A hook that moves a layer's (smallest, largest) towards those of a training batch, and its scale with them."""

    def follow(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not layer.training:
            return
        with torch.no_grad():
            x = inputs[0].detach()
            here = torch.stack([x.amin(), x.amax()]).to(extremes.dtype)
            extremes.mul_(momentum).add_(here, alpha=1 - momentum)
            low, high = extremes[:1], extremes[1:]
            given = Observed(x, low, high, form["low"], form["high"], form["low"] == -form["high"])
            scale, zero = given.grid(low, high)
            _put(layer, "input", scale[0], zero[0])

    return follow


def _put(layer: nn.Module, part: str, scale: Tensor, zero: Tensor) -> None:
    for entry, value in (("scale", scale), ("zero", zero)):
        there = layer._buffers[f"{part}_{entry}"]
        assert there is not None
        there.copy_(value)
