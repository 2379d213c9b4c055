"""Quantize: weights and inputs of layers rounded to few bits, which pays only where a runtime has kernels for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench import specs
from compressbench.errors import UserError, nearest
from compressbench.specs import Observer
from compressbench.stages.prune import in_words

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

ROUNDING = ("nearest", "adaptive")
PER = ("channel", "tensor")
DTYPES = ("bfloat16", "float16")
LOWEST, HIGHEST = 1, 16
EXAMPLES = 1024


def _min_max() -> dict[str, Any]:
    return {specs.TARGET: "compressbench.observers.min_max.min_max", specs.PARTIAL: True}


@dataclass(frozen=True)
class Quantize:
    """Rounds convolutions and linear layers after training; weights stay as they are underneath, so that it can go on.

    Attributes:
        weights, inputs: bits, 1..16; null stays float.
        per: a scale for each output ``channel`` of a weight, or one for the ``tensor``.
        symmetric, inputs_symmetric: zero point 0, as many steps below zero as above.
        observer, weight_observer: specs of functions ``(Observed, **settings) -> (low, high)``; a config may give plain
            names: ``min_max``, ``percentile``, ``mse``, ``entropy``.
        examples, split: calibration examples for the inputs' ranges; of ``train`` (said so) where none were held out.
        dynamic: the inputs' ranges are those of each batch, at run time; nothing is calibrated.
        fold: batch norms become part of the convolutions before them, as in every deployed net.
        bias_correction: biases take up what rounding adds to a layer's output on average (Nagel et al. 2019).
        rounding: ``nearest``, or ``adaptive``: up or down as changes a layer's output least (AdaRound, Nagel et
            al. 2020), found in ``rounding_steps`` steps of Adam a layer.
        layers: own bits, ``{pattern: {weights: 4, inputs: 8}}``, or null for a layer that stays float; patterns
            as in ``Prune.rates``, and ``@embeddings``, whose tables stay float otherwise: their weights alone round.
    """

    weights: int | None = 8
    inputs: int | None = 8
    per: str = "channel"
    symmetric: bool = True
    inputs_symmetric: bool = False
    observer: Observer = field(default_factory=_min_max)
    weight_observer: Observer = field(default_factory=_min_max)
    examples: int = EXAMPLES
    split: str = "validation"
    dynamic: bool = False
    fold: bool = True
    bias_correction: bool = False
    rounding: str = "nearest"
    rounding_steps: int = 400
    layers: Mapping[str, Any] = field(default_factory=dict)
    VERSION: ClassVar[int] = 2  # layers of a class derived from a convolution or linear layer round too

    def __post_init__(self) -> None:
        check_bits("weights", self.weights, self.symmetric)
        check_bits("inputs", self.inputs, self.inputs_symmetric)
        check_common(self)
        if self.weights is None and self.inputs is None and not self.layers:
            raise UserError("weights, inputs: null for both leaves the net in float; 8 is usual")
        if not isinstance(self.layers, Mapping):
            raise UserError(f"layers: {self.layers!r} is no mapping of patterns to bits; {{}} for none")
        for pattern, own in self.layers.items():
            check_own(pattern, own, self)

    def describe(self) -> str:
        """The stage in words."""
        weights = _bits("weights", self.weights)
        own = "".join(
            f", {pattern} {'float' if own is None else ' '.join(f'{k} {v}' for k, v in own.items())}"
            for pattern, own in self.layers.items()
        )
        how = "ranges of each batch" if self.dynamic else f"inputs by {in_words(self.observer)}"
        return (
            f"quantize {weights} and {_bits('inputs', self.inputs)}, per {self.per}, "
            f"weights by {in_words(self.weight_observer)}{', ' + how if self.inputs else ''}{_extras(self)}{own}"
        )

    def apply(self, state: State, bench: Bench) -> State:
        """The state whose layers round, with its scales."""
        from compressbench.quantizing import apply

        return apply.quantize(state, bench, self)


@dataclass(frozen=True)
class Mixed:
    """Each layer's weights at bits of their own, as few as a size asks for, where they cost the least loss.

    Each layer is rounded alone to each of the choices and the loss measured on the calibration examples; then, from the
    most bits everywhere, the layer goes down that costs least a bit saved, until the weights fit.

    Attributes:
        choices: bits that a layer may have, 1..16.
        budget: share of the bytes of the float weights, in (0, 1); scales don't count.
        inputs, per, symmetric, inputs_symmetric, observer, weight_observer, examples, split, dynamic, fold,
            bias_correction, rounding, rounding_steps: as in ``Quantize``.
    """

    choices: list[int] = field(default_factory=lambda: [8, 4, 2])
    budget: float = 0.15
    inputs: int | None = 8
    per: str = "channel"
    symmetric: bool = True
    inputs_symmetric: bool = False
    observer: Observer = field(default_factory=_min_max)
    weight_observer: Observer = field(default_factory=_min_max)
    examples: int = EXAMPLES
    split: str = "validation"
    dynamic: bool = False
    fold: bool = True
    bias_correction: bool = False
    rounding: str = "nearest"
    rounding_steps: int = 400
    VERSION: ClassVar[int] = 2  # layers of a class derived from a convolution or linear layer round too

    def __post_init__(self) -> None:
        choices: Any = self.choices
        if not isinstance(choices, list | tuple) or not choices or len(set(choices)) < len(choices):
            raise UserError(f"choices: {self.choices!r} must be different numbers of bits, e.g. [8, 4, 2]")
        for place, bits in enumerate(self.choices):
            if bits is None:
                raise UserError(f"choices[{place}]: null is no number of bits, {LOWEST}..{HIGHEST}")
            check_bits(f"choices[{place}]", bits, self.symmetric)
        if isinstance(self.budget, bool) or not 0 < self.budget < 1:
            raise UserError(f"budget: {self.budget!r} is not in (0, 1); 0.125 are 4 bits of 32")
        check_bits("inputs", self.inputs, self.inputs_symmetric)
        check_common(self)

    def describe(self) -> str:
        """The stage in words."""
        return (
            f"quantize weights to {', '.join(map(str, self.choices))} bits by layer, {self.budget:.4g} of the float "
            f"bytes, and {_bits('inputs', self.inputs)}{_extras(self)}"
        )

    def apply(self, state: State, bench: Bench) -> State:
        """The state whose layers round, with its scales."""
        from compressbench.quantizing import mixed

        return mixed.mixed(state, bench, self)


@dataclass(frozen=True)
class Cast:
    """Rounds weights and inputs of layers to a shorter float type: the mild end of quantization.

    Attributes:
        dtype: ``bfloat16`` or ``float16``.
        fold: batch norms become part of the convolutions before them.
        float32: patterns of layers that stay as they are.
    """

    dtype: str = "bfloat16"
    fold: bool = True
    float32: list[str] = field(default_factory=list)
    VERSION: ClassVar[int] = 2  # layers of a class derived from a convolution or linear layer round too

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"dtype: unknown {self.dtype!r}; {nearest(str(self.dtype), DTYPES)}")
        patterns: Any = self.float32
        if not isinstance(patterns, list | tuple):
            raise UserError(f"float32: {patterns!r} is no list of patterns, e.g. [conv1]")

    def describe(self) -> str:
        """The stage in words."""
        return f"cast weights and inputs to {self.dtype}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state whose layers round to the type."""
        from compressbench.quantizing import apply

        return apply.cast(state, bench, self)


def check_bits(name: str, bits: Any, symmetric: bool = False) -> None:
    """Refuses bits outside 1..16, and one bit where both signs are wanted.

    Raises:
        UserError: naming the range.
    """
    if bits is None:
        return
    if isinstance(bits, bool) or not isinstance(bits, int) or not LOWEST <= bits <= HIGHEST:
        raise UserError(f"{name}: {bits!r} is not in {LOWEST}..{HIGHEST} bits; null stays float")
    if bits == 1 and symmetric:
        flag = "inputs_symmetric" if name.endswith("inputs") else "symmetric"
        raise UserError(f"{name}: 1 bit, symmetric, holds nothing but 0; 2 bits or {flag}: false")


def check_common(settings: Quantize | Mixed) -> None:
    """Refuses what ``Quantize`` and ``Mixed`` both can't take.

    Raises:
        UserError: saying what would be right.
    """
    if settings.per not in PER:
        raise UserError(f"per: unknown {settings.per!r}; {nearest(str(settings.per), PER)}")
    for name in ("observer", "weight_observer"):
        spec = getattr(settings, name)
        if not (isinstance(spec, Mapping) and specs.TARGET in spec):
            raise UserError(
                f"{name}: {spec!r} is no spec with {specs.TARGET} (a config takes plain names: min_max)"
            )
    if settings.split == "test":
        raise UserError("split: test examples choose nothing, ranges neither; validation or train")
    if settings.examples < 0:
        raise UserError(f"examples: {settings.examples} is below 0")
    if settings.dynamic and settings.inputs_symmetric:
        raise UserError("inputs_symmetric: ranges of each batch (dynamic: true) have a zero point; false")
    if settings.rounding not in ROUNDING:
        raise UserError(
            f"rounding: unknown {settings.rounding!r}; {nearest(str(settings.rounding), ROUNDING)}"
        )
    if settings.rounding_steps < 1:
        raise UserError(f"rounding_steps: {settings.rounding_steps} is less than 1")


def check_own(pattern: str, own: Any, settings: Quantize | Mixed) -> None:
    """Refuses a layer's own bits that are no mapping of weights and inputs to bits.

    Raises:
        UserError: naming the pattern.
    """
    if own is None:
        return
    if not isinstance(own, Mapping) or not set(own) <= {"weights", "inputs"}:
        raise UserError(f"layers.{pattern}: {own!r} is no {{weights: bits, inputs: bits}}; null stays float")
    check_bits(f"layers.{pattern}.weights", own.get("weights"), settings.symmetric)
    check_bits(f"layers.{pattern}.inputs", own.get("inputs"), settings.inputs_symmetric)


def _bits(name: str, bits: int | None) -> str:
    return f"{name} in float" if bits is None else f"{name} to {bits} bit{'s' if bits > 1 else ''}"


def _extras(settings: Quantize | Mixed) -> str:
    rounding = ", rounding adapted" if settings.rounding == "adaptive" else ""
    return f"{rounding}{', biases corrected' if settings.bias_correction else ''}"
