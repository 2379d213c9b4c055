"""Quantized layers in torch's own quantize and dequantize operators, which inductor turns into integer kernels.

It is PT2E's form (torchao) without its calibration: the scales are the state's, inputs uint8 and weights int8, as in the
ONNX graph. The patterns that inductor looks for are torchao's, and for x86 processors.
"""

from __future__ import annotations

import copy
import platform
import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.hardware.onnx_graph import is_byte
from compressbench.models.quantized import forms_of, integers, quantized

_OFFSET = 128
_BYTE = (0, 255)
_KERNEL = re.compile(r"_register_quantized_(conv|linear)|onednn\.q(conv|linear)")


def missing() -> str:
    """Why inductor has no integer kernels here, in words; empty where it has them, which are then registered."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"inductor's integer kernels are for x86 processors, not {platform.machine()}"
    try:
        import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    except ImportError as error:
        return f"integer kernels need torchao ({error}): pip install 'compressbench[pt2e]'"
    return ""


def integer_net(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy whose quantized layers compute by torch's quantize and dequantize operators; the names of these layers.

    Other quantized layers go on simulating: dynamic ranges, more bits than a byte, float forms, weights whose zero
    point isn't in the middle (oneDNN's kernels have none), convolutions but over pictures, uncommon padding.
    """
    plain = copy.deepcopy(module)
    done = []
    for name, layer in quantized(plain).items():
        if not _fits(layer):
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(plain.get_submodule(parent), leaf, _Integers(layer))
        done.append(name)
    return plain, tuple(done)


def _fits(layer: Any) -> bool:
    forms = forms_of(layer)
    if not all(is_byte(form) for form in forms.values()) or "input_scale" not in layer._buffers:
        return False
    if isinstance(layer, nn.Conv2d):
        if layer.padding_mode != "zeros" or type(layer).__bases__[0] is not nn.Conv2d:
            return False
    elif type(layer).__bases__[0] is not nn.Linear:
        return False
    return not bool((layer.weight_zero - _move(forms["weight"])).any())


def _move(form: Any) -> int:
    return _OFFSET if form["high"] > 127 else 0


class _Integers(nn.Module):
    """A linear or convolutional layer with integer weights, (out, in, …) int8, its input rounded to uint8."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        forms: Any = forms_of(layer)
        move = _move(forms["weight"])
        steps = integers(layer.weight, forms["weight"], layer.weight_scale, layer.weight_zero) - move
        scale = layer.weight_scale.detach().float().expand(len(steps)).clone()
        self.register_buffer("weight", steps.to(torch.int8))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("weight_zero", torch.zeros(len(steps), dtype=torch.int64))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        up = _OFFSET if forms["input"]["low"] < 0 else 0
        self.scale, self.zero = float(layer.input_scale), int(layer.input_zero) + up
        self.ends = (forms["input"]["low"] + up, forms["input"]["high"] + up)
        for name, end in zip(("smallest", "largest"), self.ends, strict=True):
            self.register_buffer(name, torch.tensor((end - self.zero) * self.scale))
        self.convolution: tuple[Any, ...] | None = None
        if isinstance(layer, nn.Conv2d):
            self.convolution = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        if self.ends != _BYTE:  # clamped before rounding: the kernels clamp to 0..255 and to nothing narrower
            low: Any = self.smallest
            high: Any = self.largest
            x = torch.minimum(torch.maximum(x, low), high)
        steps = ops.quantize_per_tensor.default(x, self.scale, self.zero, *_BYTE, torch.uint8)
        x = ops.dequantize_per_tensor.default(steps, self.scale, self.zero, *_BYTE, torch.uint8)
        weight = ops.dequantize_per_channel.default(
            self.weight, self.weight_scale, self.weight_zero, 0, -128, 127, torch.int8
        )
        bias: Any = self.bias
        if self.convolution is None:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, *self.convolution)


def in_integers(module: nn.Module, names: Sequence[str], graph: Any) -> set[str]:
    """Those of ``integer_net``'s layers that inductor's final graph computes by integer kernels.

    A kernel takes the layer's weight scales, by which it is known here: folding gives all constants new names.
    """
    scales = [
        getattr(graph.owning_module, node.target)
        for node in graph.nodes
        if node.op == "get_attr" and any(_KERNEL.search(str(user.target)) for user in node.users)
    ]
    scales = [s for s in scales if s.layout == torch.strided]  # packed weights are of another
    own: dict[str, Any] = {name: module.get_submodule(name).weight_scale for name in names}
    return {name for name, scale in own.items() if any(torch.equal(scale, s) for s in scales)}
