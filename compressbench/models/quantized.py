"""Layers that compute with quantized weights and inputs, simulated in float; what is quantized, and how, is data.

A quantized state carries an edit ``{"quantize": {layer: {"weight": form, "input": form}}}`` and the numbers in its
tensor group ``scales``: ``conv1.weight|scale``, ``conv1.weight|zero``, ``conv1.input|scale`` … Its weights stay latent:
the layer rounds them in every forward, so that training such a state is quantization-aware training. Gradients pass
straight through inside the clipping range and are zero outside. Of an embedding only the weight rounds, by ``axis`` 0
with a scale for each row: its inputs are numbers of rows.

A form is ``{"bits": 8, "low": -127, "high": 127, "axis": 0}``: q = clip(round(x / scale) + zero, low, high), x^ =
scale (q - zero). ``axis`` 0 has a scale for each output channel, null one for the tensor; ``"dynamic": true`` (inputs)
takes the range of each batch; ``{"dtype": "bfloat16"}`` rounds to that float type instead and has no scales.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError, nearest

Form = Mapping[str, Any]
PARTS = ("weight", "input")
FLOATS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LOWEST, HIGHEST = 1, 16
_TINY = torch.finfo(torch.float32).tiny


def quantize(module: nn.Module, layers: Mapping[str, Mapping[str, Form]]) -> nn.Module:
    """The same module; the named layers round their weights and inputs from now on, with scales of one to be loaded.

    Raises:
        UserError: no such layer, one of another kind, or a malformed form.
    """
    for name, forms in layers.items():
        layer = _layer(module, name)
        _check(name, forms)
        if isinstance(layer, nn.Embedding) and forms.get("input"):
            raise UserError(f"edits: quantize: {name} is an embedding, whose inputs are no numbers to round")
        for part in PARTS:
            form = forms.get(part)
            layer.__dict__.setdefault("_forms", {})[part] = dict(form) if form else None
            for entry in ("scale", "zero"):
                layer._buffers.pop(f"{part}_{entry}", None)  # of an earlier form
            if form and "dtype" not in form and not form.get("dynamic"):
                size = (layer.weight.shape[0],) if part == "weight" and form.get("axis") == 0 else ()
                place = layer.weight.device
                layer.register_buffer(f"{part}_scale", torch.ones(size, device=place), persistent=False)
                layer.register_buffer(
                    f"{part}_zero", torch.zeros(size, dtype=torch.int32, device=place), persistent=False
                )
        layer.__class__ = _rounding(_plain(type(layer)))
    for block in module.modules():
        if isinstance(block, nn.TransformerEncoderLayer) and quantized(block):
            # Turns torch's fused path off, which would use the unrounded weights.
            block.activation_relu_or_gelu = 0
    return module


def quantized(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that round, by name."""
    return {name: part for name, part in module.named_modules() if _rounds(type(part))}


def embeddings(module: nn.Module) -> dict[str, nn.Embedding]:
    """Tables of a module that can round, by name: those whose weight no other layer shares."""
    users: dict[int, int] = {}
    for part in module.modules():
        weight = part._parameters.get("weight")
        users[id(weight)] = users.get(id(weight), 0) + 1
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Embedding) and users[id(part.weight)] == 1 and not unfit(part)
    }


def shared_weights(module: nn.Module) -> dict[str, str]:
    """Convolutions and linear layers whose weight is another one's: their name, and that of the first."""
    first: dict[int, str] = {}
    found = {}
    for name, part in module.named_modules():
        if isinstance(part, LAYERS) and part._parameters.get("weight") is not None:
            other = first.setdefault(id(part._parameters["weight"]), name)
            if other != name:
                found[name] = other
    return found


def forms_of(layer: nn.Module) -> dict[str, Form | None]:
    """What a rounding layer does to its ``weight`` and ``input``."""
    return dict(layer.__dict__["_forms"])


def bits_of(module: nn.Module, layer: str) -> tuple[int, int]:
    """Bits that a layer's weight and its inputs are rounded to; 32 where they are float."""
    part = module.get_submodule(layer)
    forms = forms_of(part) if _rounds(type(part)) else {}
    weight, inputs = (_bits(forms.get(p)) for p in PARTS)
    return weight, inputs


def _bits(form: Form | None) -> int:
    if not form:
        return 32
    return 16 if "dtype" in form else int(form["bits"])


def unrounded(module: nn.Module) -> nn.Module:
    """The same module; its layers compute in float from now on."""
    for layer in quantized(module).values():
        layer.__dict__["_forms"] = dict.fromkeys(PARTS)
    return module


def load_scales(module: nn.Module, scales: Mapping[str, Tensor]) -> None:
    """Fills the scales and zero points of rounding layers.

    Raises:
        UserError: one is missing, unknown, of another shape, or not a positive finite number.
    """
    own = {
        f"{name}.{part}|{entry}": (layer, f"{part}_{entry}")
        for name, layer in quantized(module).items()
        for part in PARTS
        for entry in ("scale", "zero")
        if f"{part}_{entry}" in layer._buffers
    }
    if own.keys() != scales.keys():
        odd = sorted(own.keys() ^ scales.keys())
        raise UserError(f"the state's scales don't fit its quantized layers: {', '.join(odd[:3])}")
    for key, (layer, slot) in own.items():
        here, there = layer._buffers[slot], scales[key]
        if here is None or here.shape != there.shape or here.dtype != there.dtype:
            raise UserError(f"the state's scales don't fit: {key} is {there.dtype} {tuple(there.shape)}")
        if slot.endswith("_scale") and not bool((there.isfinite() & (there > 0)).all()):
            raise UserError(f"the state's scales don't fit: {key} has a scale that is no positive number")
        here.copy_(there)


def scales_of(module: nn.Module) -> dict[str, Tensor]:
    """The group ``scales`` of a module as detached CPU copies; see ``load_scales``."""
    return {
        f"{name}.{part}|{entry}": tensor.detach().to("cpu", copy=True).contiguous()
        for name, layer in quantized(module).items()
        for part in PARTS
        for entry in ("scale", "zero")
        if (tensor := getattr(layer, f"{part}_{entry}", None)) is not None
    }


def rounded(
    x: Tensor, form: Form, scale: Tensor | None, zero: Tensor | None, examples: bool = False
) -> Tensor:
    """x^ of a tensor; of weights where ``scale`` has an entry for each output channel.

    Args:
        examples: whether the tensor's first dimension are examples: a scale that learns serves one of them.
    """
    if "dtype" in form:
        return _Cast.apply(x, FLOATS[form["dtype"]])
    low, high = form["low"], form["high"]
    if form.get("dynamic"):
        found = affine(x.detach().amin(), x.detach().amax(), low, high)
        return torch.fake_quantize_per_tensor_affine(x, *found, low, high)
    assert scale is not None
    assert zero is not None
    if scale.requires_grad:
        result: Tensor = _Learned.apply(
            x, scale, zero, low, high, x.numel() // (x.shape[0] if examples or scale.ndim else 1)
        )
        return result
    if scale.ndim:
        return torch.fake_quantize_per_channel_affine(x, scale, zero, 0, low, high)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, low, high)


def integers(x: Tensor, form: Form, scale: Tensor, zero: Tensor) -> Tensor:
    """q of a tensor as int32, by the same rounding (half to even) as ``rounded``."""
    shape = (-1, *[1] * (x.ndim - 1)) if scale.ndim else ()
    steps = torch.round(x.detach() * (1.0 / scale).view(shape)).to(torch.int32) + zero.view(shape)
    return steps.clamp(form["low"], form["high"])


def affine(smallest: Tensor, largest: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point (int32) by which [smallest, largest] and 0 fit into low..high; 0 is met exactly."""
    smallest, largest = smallest.clamp(max=0), largest.clamp(min=0)
    scale = ((largest - smallest) / (high - low)).clamp(min=_TINY)
    zero = (low - torch.round(smallest / scale)).clamp(low, high).to(torch.int32)
    return scale, zero


def symmetric(largest: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point (0) by which [-largest, largest] fits into low..high, which has both signs."""
    scale = (largest.abs() / min(high, -low)).clamp(min=_TINY)
    return scale, torch.zeros_like(scale, dtype=torch.int32)


class _Cast(torch.autograd.Function):
    """To another float type and back; the gradient passes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Learned(torch.autograd.Function):
    """Fake quantization whose scale learns (LSQ, Esser et al. 2020); the values are those of the plain one.

    The scale's gradient is that of each entry: round(x / s) - x / s inside the range, the clipped integer outside,
    summed and divided by sqrt(entries * largest integer).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, entries: int
    ) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 1)) if scale.ndim else ()
        s, z = scale.view(shape), zero.view(shape)
        exact = x.float() * (1.0 / s)
        steps = torch.round(exact)
        kept = (steps + z).clamp(low, high) - z
        ctx.save_for_backward(exact, steps, kept)
        ctx.factor = (entries * max(high, -low)) ** -0.5
        ctx.axes = list(range(1, x.ndim)) if scale.ndim else None
        return (kept * s).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        exact, steps, kept = ctx.saved_tensors
        inside = steps == kept
        by_scale = gradients[0].float() * torch.where(inside, steps - exact, kept)
        total = by_scale.sum() if ctx.axes is None else by_scale.sum(ctx.axes)
        return gradients[0] * inside, total * ctx.factor, None, None, None, None


def _rounded_part(layer: nn.Module, part: str, x: Tensor) -> Tensor:
    form = layer.__dict__["_forms"][part]
    if not form:
        return x
    scale, zero = getattr(layer, f"{part}_scale", None), getattr(layer, f"{part}_zero", None)
    return rounded(x, form, scale, zero, part == "input")


class QuantizedLinear(nn.Linear):
    """A linear layer that rounds its weight and its input."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        weight = _rounded_part(self, "weight", self.weight)
        return nn.functional.linear(_rounded_part(self, "input", input), weight, self.bias)


class QuantizedConv1d(nn.Conv1d):
    """A convolution that rounds its weight and its input."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, l) to (n, d, l')."""
        weight = _rounded_part(self, "weight", self.weight)
        return self._conv_forward(_rounded_part(self, "input", input), weight, self.bias)


class QuantizedConv2d(nn.Conv2d):
    """A convolution that rounds its weight and its input."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w) to (n, d, h', w')."""
        weight = _rounded_part(self, "weight", self.weight)
        return self._conv_forward(_rounded_part(self, "input", input), weight, self.bias)


class QuantizedConv3d(nn.Conv3d):
    """A convolution that rounds its weight and its input."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, d, h, w) to (n, e, d', h', w')."""
        weight = _rounded_part(self, "weight", self.weight)
        return self._conv_forward(_rounded_part(self, "input", input), weight, self.bias)


class QuantizedEmbedding(nn.Embedding):
    """A table whose rows are rounded as they are looked up: the whole of it is rarely read."""

    def forward(self, input: Tensor) -> Tensor:
        """(…) int64 to (…, dim)."""
        found = super().forward(input)
        form = self.__dict__["_forms"]["weight"]
        if not form:
            return found
        scale, zero = getattr(self, "weight_scale", None), getattr(self, "weight_zero", None)
        if scale is None or zero is None or not scale.ndim:
            return rounded(found, form, scale, zero)
        flat = found.reshape(-1, found.shape[-1])
        return rounded(flat, form, scale[input].reshape(-1), zero[input].reshape(-1)).view_as(found)


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Embedding: QuantizedEmbedding,
    nn.Linear: QuantizedLinear,
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
}


_OF_SUBCLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _rounding(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that computes as ``kind`` does, on a rounded weight and input."""
    if kind in _KINDS:
        return _KINDS[kind]
    if kind not in _OF_SUBCLASSES:

        def forward(self: nn.Module, input: Tensor) -> Any:
            # Python finds what stands in __dict__ before it asks the module for a parameter of the name.
            self.__dict__["weight"] = _rounded_part(self, "weight", self.weight)  # type: ignore[arg-type]
            try:
                return kind.forward(self, _rounded_part(self, "input", input))
            finally:
                del self.__dict__["weight"]

        _OF_SUBCLASSES[kind] = type(f"Quantized{kind.__name__}", (kind,), {"forward": forward})
    return _OF_SUBCLASSES[kind]


def _rounds(kind: type[nn.Module]) -> bool:
    return kind in _KINDS.values() or kind in _OF_SUBCLASSES.values()


def _plain(kind: type[nn.Module]) -> type[nn.Module]:
    return kind.__bases__[0] if _rounds(kind) else kind


def _has_a_kind(kind: type[nn.Module]) -> bool:
    return kind in _KINDS or (issubclass(kind, LAYERS) and not kind.__module__.startswith("torch."))


def unfit(layer: nn.Module) -> str:
    """Why a layer can't round its weight and input; empty if it can.

    A subclass of a convolution or linear layer can if its output, less the bias, is proportional to its weight and to
    its input: then rounding both is what an integer kernel does. That is tried on a random input.
    """
    kind = _plain(type(layer))
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return f"{kind.__name__} with max_norm, which changes its weight as it runs"
    if kind in _KINDS:
        return ""
    if not _has_a_kind(kind):
        return kind.__name__
    try:
        fits = _proportional(copy.deepcopy(layer).cpu().eval().requires_grad_(False), kind)
    except Exception:  # whatever a user's forward may raise on an input of another size
        return f"{kind.__name__}, which takes no input of another size"
    return "" if fits else f"{kind.__name__}, whose output isn't proportional to its weight and input"


def _proportional(layer: Any, kind: type[nn.Module]) -> bool:
    weight = layer._parameters.get("weight")
    if weight is None:
        return False
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Linear):
        shape = [2, layer.in_features]
    else:
        sizes = zip(layer.kernel_size, layer.dilation, strict=True)
        shape = [2, layer.in_channels, *(3 * ((k - 1) * d + 1) for k, d in sizes)]
    x = torch.rand(shape, generator=generator, dtype=weight.dtype)
    own = kind.forward(layer, x)
    none = kind.forward(layer, torch.zeros_like(x))
    scaled = kind.forward(layer, 4 * x)
    weight.mul_(0.25)
    back = kind.forward(layer, 4 * x)
    if not all(isinstance(y, Tensor) for y in (own, none, scaled, back)):
        return False
    near = 1e-4 * float((own - none).abs().max())
    return bool(
        near > 0
        and torch.allclose(scaled - none, 4 * (own - none), atol=4 * near)
        and torch.allclose(back, own, atol=near)
    )


def _layer(module: nn.Module, name: str) -> Any:
    try:
        layer = module.get_submodule(name)
    except AttributeError as error:
        known = [n for n, part in module.named_modules() if isinstance(part, (*LAYERS, nn.Embedding))]
        raise UserError(
            f"edits: quantize: the model has no layer {name!r}; {nearest(name, known)}"
        ) from error
    if not _has_a_kind(_plain(type(layer))):
        raise UserError(
            f"edits: quantize: {name} is a {type(layer).__name__}, not a convolution, linear layer or embedding"
        )
    return layer


def _check(name: str, forms: Any) -> None:
    if not isinstance(forms, Mapping) or not set(forms) <= set(PARTS):
        raise UserError(f"edits: quantize: {name}: a mapping of {' and '.join(PARTS)} to forms is wanted")
    for part, form in forms.items():
        if form is None:
            continue
        if isinstance(form, Mapping) and set(form) == {"dtype"} and form["dtype"] in FLOATS:
            continue
        whole = isinstance(form, Mapping) and all(type(form.get(k)) is int for k in ("bits", "low", "high"))
        if not whole or not LOWEST <= form["bits"] <= HIGHEST or not form["low"] < form["high"]:
            raise UserError(f"edits: quantize: {name}.{part}: malformed form {form!r}")
        if form["high"] - form["low"] >= 2 ** form["bits"] or not form["low"] <= 0 <= form["high"]:
            raise UserError(
                f"edits: quantize: {name}.{part}: {form['low']}..{form['high']} doesn't fit {form['bits']} bits"
            )
