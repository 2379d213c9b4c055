"""From bits and values to forms and scales; see ``models.quantized`` for what these are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from compressbench.observers.observed import Observed, Range
from compressbench.quantizing.calibration import Seen

Observer = Callable[[Observed], Range]
Scales = tuple[Tensor, Tensor]


def whole(bits: int, symmetric: bool) -> tuple[int, int]:
    """The integers of a grid: ±(2^(b-1) - 1), so that the two signs are alike, or 0..2^b - 1."""
    if symmetric:
        return 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def weight_form(bits: int, symmetric: bool, per: str) -> dict[str, Any]:
    """Of a weight; asymmetric ones are signed too (-128..127), as runtimes want them."""
    low, high = whole(bits, symmetric)
    shift = 0 if symmetric else 2 ** (bits - 1)
    return {"bits": bits, "low": low - shift, "high": high - shift, "axis": 0 if per == "channel" else None}


def input_form(bits: int, symmetric: bool, dynamic: bool) -> dict[str, Any]:
    """Of a layer's input."""
    low, high = whole(bits, symmetric)
    form = {"bits": bits, "low": low, "high": high, "axis": None}
    return {**form, "dynamic": True} if dynamic else form


def observed_weight(weight: Tensor, form: dict[str, Any], symmetric: bool) -> Observed:
    """The weight as rows, one for each scale."""
    rows = weight.detach().float().cpu()
    rows = rows.flatten(1) if form["axis"] == 0 else rows.reshape(1, -1)
    return Observed(rows, rows.amin(1), rows.amax(1), form["low"], form["high"], symmetric)


def weight_scales(weight: Tensor, form: dict[str, Any], symmetric: bool, observer: Observer) -> Scales:
    """(scale, zero point), (out,) or () by the form's axis."""
    given = observed_weight(weight, form, symmetric)
    scale, zero = given.grid(*observer(given))
    return (scale, zero) if form["axis"] == 0 else (scale[0], zero[0])


def input_scales(seen: Seen, form: dict[str, Any], symmetric: bool, observer: Observer) -> Scales:
    """(scale, zero point), each ()."""
    given = Observed(seen.values, seen.smallest, seen.largest, form["low"], form["high"], symmetric)
    scale, zero = given.grid(*observer(given))
    return scale[0], zero[0]
