"""Quantization of a state by a stage's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compressbench import masks as masking
from compressbench import specs
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import left_alone, module_of, prunable, shortened
from compressbench.models.quantized import embeddings, shared_weights
from compressbench.models.quantized import unfit as unfit_layer
from compressbench.quantizing import calibration, correction, ranges
from compressbench.quantizing.folding import folded
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.stages.quantize import Cast, Mixed, Quantize

Bits = tuple[int | None, int | None]
"""Of a layer's weights and inputs; None stays float."""
SHOWN = 12
TABLES = "@embeddings"


def quantize(state: State, bench: Bench, settings: Quantize) -> State:
    """Applies a ``stages.quantize.Quantize``; an earlier quantization of the state is replaced.

    Raises:
        UserError: a pattern fits no layer, there are no calibration examples, or no layer can be quantized.
    """
    base, flags = prepared(state, bench, settings.fold)
    bits, unfit = bits_by_layer(module_of(base), settings.weights, settings.inputs, settings.layers)
    return with_bits(state, base, bits, bench, settings, [*flags, *unfit])


def with_bits(
    state: State,
    base: State,
    bits: Mapping[str, Bits],
    bench: Bench,
    settings: Quantize | Mixed,
    flags: list[str],
) -> State:
    """The state with layers of these bits, ranges and roundings by the settings.

    Args:
        base: the state in float, see ``prepared``.
    """
    module = module_of(base, bench.device)
    forms = forms_by_layer(bits, settings)
    scales = weight_scales(module, forms, settings)
    static = [n for n, f in forms.items() if f["input"] and not f["input"].get("dynamic")]
    adaptive = settings.rounding == "adaptive"
    if static or adaptive or settings.bias_correction:
        data = calibration.drawn(bench, settings.split, settings.examples)
        flags = [*flags, *data.flags]
    if static:
        found, unseen = input_scales(module, bench, data, {n: forms[n]["input"] for n in static}, settings)
        scales |= found
        for name in unseen:
            forms[name]["input"] = None
        if unseen:
            names = ", ".join(unseen)
            flags.append(f"inputs left in float, the layers never ran on calibration examples: {names}")
    if adaptive:
        rounded, left = adapted_weights(module, bench, data, forms, scales, settings.rounding_steps)
        base = base.with_groups(weights={**base.weights, **rounded})
        if left:
            flags.append(
                f"rounded to nearest, too large, of three dimensions or of a class of their own: {', '.join(left)}"
            )
    result = with_forms(base, state, forms, scales, flags)
    if settings.bias_correction:
        rounding = module_of(result, bench.device)
        errors = correction.mean_errors(module, rounding, bench, data, list(forms))
        biases = {f"{n}.bias": result.weights[f"{n}.bias"] - e for n, e in errors.items()}
        result = result.with_groups(weights={**result.weights, **biases})
    return result


def adapted_weights(
    module: nn.Module,
    bench: Bench,
    data: calibration.Drawn,
    forms: Mapping[str, Any],
    scales: Mapping[str, Tensor],
    steps: int,
) -> tuple[dict[str, Tensor], list[str]]:
    """(weights that round as changes their layers' outputs least, layers for which that isn't done)."""
    wanted = [n for n, f in forms.items() if f["weight"]]
    grams = correction.grams(module, bench, data, wanted)
    out: dict[str, Tensor] = {}
    for done, (name, gram) in enumerate(grams.items()):
        layer: Any = module.get_submodule(name)
        scale, zero = (scales[f"{name}.weight|{e}"].to(gram.device) for e in ("scale", "zero"))
        weight = correction.adapted(layer.weight.detach(), forms[name]["weight"], scale, zero, gram, steps)
        out[f"{name}.weight"] = weight.cpu().contiguous()
        bench.progress.step(done + 1, len(grams))
    return out, [n for n in wanted if n not in grams]


def cast(state: State, bench: Bench, settings: Cast) -> State:
    """Applies a ``stages.quantize.Cast``."""
    base, flags = prepared(state, bench, settings.fold)
    bits, unfit = bits_by_layer(module_of(base), 16, 16, dict.fromkeys(settings.float32))
    form = {"dtype": settings.dtype}
    forms = {
        name: {"weight": dict(form) if w else None, "input": dict(form) if i else None}
        for name, (w, i) in bits.items()
    }
    return with_forms(base, state, forms, {}, [*flags, *unfit])


def prepared(state: State, bench: Bench, fold: bool) -> tuple[State, list[str]]:
    """The state in float, its batch norms folded if wanted, and what is to be said of them."""
    plain = floating(state)
    return folded(plain, bench) if fold else (plain, [])


def floating(state: State) -> State:
    """The state without rounding: its latent weights as they are."""
    edits = tuple(e for e in state.edits if "quantize" not in e)
    return replace(state, edits=edits, key="").settled().with_groups(scales={}, ranges={})


def bits_by_layer(
    module: nn.Module, weights: int | None, inputs: int | None, own: Mapping[str, Any]
) -> tuple[dict[str, Bits], list[str]]:
    """(bits by layer in module order, what is to be said of layers that can't be quantized).

    Args:
        own: ``{pattern: {weights: bits, inputs: bits}}``; what isn't given is the stage's, null stays float. The pattern
            ``@embeddings`` is all tables of embeddings, which stay float otherwise and whose weights alone round.

    Raises:
        UserError: a pattern fits nothing.
    """
    named = prunable(module)
    tables = {} if TABLES not in own else embeddings(module)
    if TABLES in own and not tables:
        raise UserError(f"layers: {TABLES}: the net has no embedding whose weight is its own")
    found: dict[str, dict[str, int | None]] = {n: {"weights": weights, "inputs": inputs} for n in named}
    for pattern, given in own.items():
        if pattern == TABLES:
            continue
        try:
            names = masking.rates_by_tensor(named, {pattern: 0.0})
        except UserError as error:
            raise UserError(str(error).replace("rates:", "layers:", 1)) from error
        for name in names:
            found[name].update({"weights": None, "inputs": None} if given is None else given)
    fit: dict[str, Bits] = {}
    unfit = []
    for name, bits in found.items():
        layer = name.removesuffix("weight").removesuffix(".")
        part = module.get_submodule(layer)
        # a linear layer's weight that is an embedding's too goes by the embedding's name
        table = isinstance(part, nn.Embedding)
        why = "Embedding" if table else unfit_layer(part) if layer else "the net itself"
        if why:
            unfit.append(f"{layer} ({why})")
        else:
            fit[layer] = (bits["weights"], bits["inputs"])
    unfit += [f"{name} (it shares the weight of {first})" for name, first in shared_weights(module).items()]
    entries = (own.get(TABLES) or {}).get("weights", weights if own.get(TABLES) is not None else None)
    fit |= {name: (entries, None) for name in tables if entries}
    unfit += [
        f"{name} (of no convolution or linear layer)"
        for name in left_alone(module)
        if name.removesuffix(".weight") not in fit
    ]
    if not fit:
        raise UserError("quantize: the net has no convolution or linear layer that can be quantized")
    return fit, [f"layers left in float: {shortened(unfit, SHOWN)}"] if unfit else []


def forms_by_layer(bits: Mapping[str, Bits], settings: Quantize | Mixed) -> dict[str, dict[str, Any]]:
    """``{layer: {"weight": form, "input": form}}``."""
    return {
        name: {
            "weight": ranges.weight_form(w, settings.symmetric, settings.per) if w else None,
            "input": ranges.input_form(i, settings.inputs_symmetric, settings.dynamic) if i else None,
        }
        for name, (w, i) in bits.items()
    }


def weight_scales(
    module: nn.Module, forms: Mapping[str, Any], settings: Quantize | Mixed
) -> dict[str, Tensor]:
    """The weights' part of the group ``scales``."""
    observer = specs.build(settings.weight_observer, "weight_observer")
    out: dict[str, Tensor] = {}
    for name, form in forms.items():
        if form["weight"]:
            weight: Any = module.get_submodule(name).weight
            scale, zero = ranges.weight_scales(weight, form["weight"], settings.symmetric, observer)
            out[f"{name}.weight|scale"], out[f"{name}.weight|zero"] = scale, zero
    return out


def input_scales(
    module: nn.Module,
    bench: Bench,
    data: calibration.Drawn,
    forms: Mapping[str, Any],
    settings: Quantize | Mixed,
) -> tuple[dict[str, Tensor], list[str]]:
    """(the inputs' part of the group ``scales``, layers that never ran)."""
    observer = specs.build(settings.observer, "observer")
    seen = calibration.inputs_of(module, bench, data, forms)
    out: dict[str, Tensor] = {}
    for name, what in seen.items():
        scale, zero = ranges.input_scales(what, forms[name], settings.inputs_symmetric, observer)
        out[f"{name}.input|scale"], out[f"{name}.input|zero"] = scale, zero
    return out, [n for n in forms if n not in seen]


def with_forms(
    base: State, before: State, forms: Mapping[str, Any], scales: Mapping[str, Tensor], flags: list[str]
) -> State:
    """The float state ``base`` with layers that round; it continues the edits of the state ``before``.

    Layers that an earlier quantization rounded and this one doesn't know are float again.
    """
    fold = base.edits[len(floating(before).edits) :]
    edits = (*before.edits, *fold, {"quantize": dict(forms)})
    result = replace(base, edits=edits, key="").settled().with_groups(scales=dict(scales), ranges={})
    return result.with_facts(flags=[*base.facts.get("flags", []), *flags], predicted_loss_increase=None)
