"""A device that isn't here, priced by a roofline: every figure of it is modelled, never measured.

Time of a layer = max(operations / peak, bytes / bandwidth) + overhead (Williams, Waterman, Patterson 2009), summed over
layers; operations are 2 x multiply-accumulates. A feature that the device lacks brings no gain: the layer is priced as
what would run instead, and the reason is said. One YAML describes a device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.hardware.target import LayerTime, Lowered, Timing, Unsupported
from compressbench.hardware.torch_cpu import check_batches
from compressbench.hardware.units import RATES, SIZES, SPEEDS, quantity

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.hardware.work import Layer, Work
    from compressbench.inputs import Inputs
    from compressbench.views import View

TYPES = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8}
FEATURES = ("int8", "2:4", "unstructured", "structured", "exits")
INDEX_BITS = 16
METADATA_BITS = 2
UNVERIFIED = "peak unverified"


@dataclass(frozen=True)
class Modelled:
    """A roofline of a device.

    Attributes:
        name: of the device, in words.
        family: of hardware, for the table of choices: ``cpu``, ``gpu``, ``tpu``, ``mcu`` …
        peaks: type -> operations a second, e.g. ``{fp32: 48 GFLOP/s, int8: 0.1 TOP/s}``.
        bandwidth: of the memory that holds what no cache does.
        memory: what weights and activations must fit into.
        supports: feature -> true, or a sentence why it brings nothing here; ``unstructured`` may be the density
            below which zeros are skipped with profit. Features: int8, 2:4, unstructured, structured, exits.
        sources: what the figures rest on, e.g. ``{peaks: ..., bandwidth: ...}``.
        storage: what weights must fit into where they are not kept in ``memory`` (flash).
        cache: bytes next to the cores; ``cache_bandwidth`` is that of what fits.
        power: watts at work, for a bound on energy.
        overhead: seconds a layer, e.g. ``5 us``: what is spent whatever its size.
        call: seconds a forward, beside those of its layers.
        pad: channels are rounded up to a multiple of this.
        fitted: kind of layer (``convolution``, ``pointwise``, ``depthwise``, ``linear``; ``int8 convolution`` … where
            integers differ) -> pairs of width (the root of channels in x channels out) and share of the peak, as
            ``compressbench calibrate`` measures them; 1 where nothing is said.
        batches: sizes to price.
    """

    VERSION: ClassVar[int] = 1
    name: str
    family: str
    peaks: Mapping[str, Any]
    bandwidth: Any
    memory: Any
    supports: Mapping[str, Any]
    sources: Mapping[str, str] = field(default_factory=dict)
    storage: Any = None
    cache: Any = None
    cache_bandwidth: Any = None
    power: Any = None
    overhead: Any = "1 us"
    call: Any = None
    pad: int = 1
    fitted: Mapping[str, Any] = field(default_factory=dict)
    batches: tuple[int, ...] = (1, 64)

    def __post_init__(self) -> None:
        check_batches(self.batches)
        self.device  # noqa: B018 - reads and checks every quantity

    @property
    def device(self) -> Device:
        """The figures in base units.

        Raises:
            UserError: the first that is malformed.
        """
        where = f"target {self.name}"
        check_mappings(
            where, peaks=self.peaks, supports=self.supports, sources=self.sources, fitted=self.fitted
        )
        for kind in self.peaks:
            if kind not in TYPES:
                raise UserError(f"{where}: peaks: unknown type {kind!r}; {nearest(str(kind), TYPES)}")
        if not self.peaks:
            raise UserError(f"{where}: peaks: at least one is wanted, e.g. {{fp32: 48 GFLOP/s}}")
        check_supports(where, self.supports)
        if self.supports["int8"] is True and "int8" not in self.peaks:
            raise UserError(
                f"{where}: supports.int8 is true, but peaks has no int8; give it, or a sentence why not"
            )
        if isinstance(self.pad, bool) or not isinstance(self.pad, int) or self.pad < 1:
            raise UserError(f"{where}: pad is {self.pad!r}, must be a whole number, 1 or more")

        def read(value: Any, what: str, units: Sequence[str], small: bool = False) -> float | None:
            return None if value is None else quantity(value, f"{where}: {what}", units, small)

        cache = read(self.cache, "cache", SIZES)
        beside = read(self.cache_bandwidth, "cache_bandwidth", SPEEDS)
        if (cache is None) != (beside is None):
            raise UserError(f"{where}: cache and cache_bandwidth go together; give both or none")
        return Device(
            peaks={k: quantity(v, f"{where}: peaks.{k}", RATES) for k, v in self.peaks.items()},
            bandwidth=quantity(self.bandwidth, f"{where}: bandwidth", SPEEDS),
            memory=quantity(self.memory, f"{where}: memory", SIZES),
            storage=read(self.storage, "storage", SIZES),
            cache=cache or 0.0,
            cache_bandwidth=beside or 0.0,
            power=read(self.power, "power", ("W",), small=True),
            overhead=quantity(self.overhead, f"{where}: overhead", ("s",), small=True),
            call=read(self.call, "call", ("s",), small=True) or 0.0,
            pad=self.pad,
            supports=dict(self.supports),
            shares={k: _points(v, f"{where}: fitted.{k}") for k, v in self.fitted.items()},
        )

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state's layers as this device would execute them; unsupported where it doesn't fit or lacks a type."""
        from compressbench.hardware.work import work_of

        work, device = work_of(view), self.device
        if why := unfit(work, device, min(self.batches)):
            return Unsupported(f"modelled {self.name}: {why}")
        runs = [as_run(layer, device) for layer in work.layers]
        if odd := next((run.why for run in runs if not run.type), ""):
            return Unsupported(f"modelled {self.name}: {odd}")
        peaks = sorted({run.type for run in runs})
        source = self.sources.get("peaks") or UNVERIFIED
        words = f"modelled: {self.name}, {'+'.join(peaks)}; peaks: {source}"
        if self.supports["structured"] is not True:
            words += f"; fewer parts: {self.supports['structured']}"
        price = Roofline(work, device)
        return Lowered(
            executes_nothing(self.name),
            no_inputs(view),
            words,
            skips_zeros=any(run.skips for run in runs),
            price=price,
        )

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Modelled seconds of a forward at one batch size."""
        return [priced(x, batch, self.device.power, self.device.call) for x in lowered]


def priced(lowered: Lowered, batch: int, power: float | None, call: float = 0.0) -> Timing:
    """What a modelled device takes for a forward: its layers' seconds, and ``call`` beside them; joules at ``power``."""
    assert lowered.price is not None
    layers = tuple(lowered.price(batch))
    seconds = call + sum(layer.seconds for layer in layers)
    joules = power * seconds if power else None
    return Timing(batch, (seconds,), basis="modelled", layers=layers, joules=joules)


def check_mappings(where: str, **given: Any) -> None:
    """Refuses what a YAML gives as a list, a word or nothing where names and values are wanted.

    Raises:
        UserError: the first.
    """
    for name, value in given.items():
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: {name}: {value!r} is no mapping of names to values")


def check_supports(where: str, supports: Mapping[str, Any]) -> None:
    """Every feature is true or a sentence; for ``unstructured`` a density or a sentence.

    Raises:
        UserError: a feature that is unknown, left out, or neither.
    """
    for feature, said in supports.items():
        if feature not in FEATURES:
            raise UserError(
                f"{where}: supports: unknown feature {feature!r}; {nearest(str(feature), FEATURES)}"
            )
        words = isinstance(said, str) and said.strip()
        if feature == "unstructured":
            number = isinstance(said, int | float) and not isinstance(said, bool) and 0 < said <= 1
            if not (words or number):
                raise UserError(
                    f"{where}: supports.unstructured: {said!r}; the density in (0, 1] below which zeros are skipped with "
                    "profit, or a sentence why they aren't"
                )
        elif said is not True and not words:
            raise UserError(f"{where}: supports.{feature}: {said!r}; true or a sentence why not is wanted")
    if missing := [f for f in FEATURES if f not in supports]:
        raise UserError(
            f"{where}: supports: {', '.join(missing)} left out; true or a sentence why not is wanted"
        )


def _points(given: Any, where: str) -> tuple[tuple[float, float], ...]:
    kinds = ("convolution", "pointwise", "depthwise", "linear")
    if where.rpartition("fitted.")[2].split(" ")[-1] not in kinds:
        raise UserError(
            f"{where}: unknown kind of layer; {', '.join(kinds)} are known, with a type before or not"
        )
    try:
        points = tuple((float(width), float(part)) for width, part in given)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{where}: pairs of width and share are wanted, e.g. [[16, 0.5], [64, 0.9]]"
        ) from error
    if not points or any(not (0 < w < math.inf and 0 < p <= 1) for w, p in points):
        raise UserError(f"{where}: widths must be above 0 and shares in (0, 1]")
    return points


@dataclass(frozen=True)
class Device:
    """A device's figures in base units: operations and bytes a second, bytes, watts, seconds."""

    peaks: Mapping[str, float]
    bandwidth: float
    memory: float
    storage: float | None = None
    cache: float = 0.0
    cache_bandwidth: float = 0.0
    power: float | None = None
    overhead: float = 0.0
    call: float = 0.0
    pad: int = 1
    supports: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    def ridge(self, kind: str) -> float:
        """Operations a byte at which computing and moving take equally long."""
        return self.peaks[kind] / self.bandwidth


@dataclass(frozen=True)
class Run:
    """How a device executes a layer.

    Attributes:
        type: of its arithmetic; empty where it can't.
        gain: operations are divided by this (2:4: 2; skipped zeros: their share).
        weight_bits: stored for an entry that is kept, with index or metadata.
        kept: entries of the weight that are stored.
        skips: whether zeros cost less than other weights.
        why: a sentence on what brings nothing here; empty if all is used.
    """

    type: str
    gain: float
    weight_bits: float
    kept: int
    skips: bool = False
    why: str = ""


def as_run(layer: Layer, device: Device) -> Run:
    """What a device makes of a layer's bits and zeros."""
    kind, why = _type(layer, device)
    if not kind:
        return Run("", 1.0, 0.0, 0, why=why)
    bits = TYPES[kind]
    if layer.pattern == "dense" or not layer.weights:
        return Run(kind, 1.0, bits, layer.weights, why=why)
    told = [why] if why else []
    if layer.pattern == "2:4":
        said = device.supports["2:4"]
        if said is True and kind != "fp32":
            return Run(kind, 2.0, bits + METADATA_BITS, layer.weights // 2, True, why)
        told.append(said if said is not True else "2:4 needs 16 or 8 bits here: fp32 runs dense")
    said = device.supports["unstructured"]
    if isinstance(said, float | int) and not isinstance(said, bool):
        if layer.density < said:
            gain = said / layer.density if layer.nonzero else math.inf
            return Run(kind, gain, bits + INDEX_BITS, layer.nonzero, True, "; ".join(told))
        told.append(f"zeros are skipped with profit below {100 * said:.0f} % density only")
    elif layer.pattern != "2:4":
        told.append(str(said))
    return Run(kind, 1.0, bits, layer.weights, why="; ".join(told))


def _type(layer: Layer, device: Device) -> tuple[str, str]:
    """The arithmetic that a layer runs in, and why not another."""
    floats = [k for k in ("fp32", "bf16", "fp16") if k in device.peaks]
    if layer.half:
        half = next((k for k in ("bf16", "fp16") if k in device.peaks), "")
        if half:
            return half, ""
        return (floats[0], "no 16-bit arithmetic: runs in fp32") if floats else ("", "only integers run here")
    if max(layer.weight_bits, layer.input_bits) <= 8 and layer.weights:
        said = device.supports["int8"]
        if layer.ranges == "dynamic" and not floats:
            return "", f"{layer.name}: ranges of each batch are taken in float, and only integers run here"
        if said is True and "int8" in device.peaks:
            fewer = layer.weight_bits < 8
            return "int8", f"{layer.weight_bits} bits run as 8" if fewer else ""
        return (floats[0], str(said)) if floats else ("", str(said))
    if not floats:
        return "", f"{layer.name} computes in float, and only integers run here: quantize weights and inputs"
    if layer.weight_bits < 32 or layer.input_bits < 32:
        both = layer.weight_bits < 32 and layer.input_bits < 32
        why = (
            "more than 8 bits have no integer arithmetic"
            if both
            else "weights and inputs must both be integers"
        )
        return floats[0], f"{why}: runs in float"
    return floats[0], ""


def unfit(work: Work, device: Device, batch: int) -> str:
    """Why weights and activations don't fit, or nothing."""
    runs = [as_run(layer, device) for layer in work.layers]
    weights = sum(run.kept * run.weight_bits / 8 for run in runs) + 4 * work.others
    bits = max((TYPES[run.type] for run in runs if run.type), default=32)
    held = work.activations * batch * bits / 8
    if device.storage is not None and weights > device.storage:
        return f"weights of {size(weights)} don't fit its storage of {size(device.storage)}"
    needed = held if device.storage is not None else held + weights
    if needed > device.memory:
        what = "activations" if device.storage is not None else "weights and activations"
        return f"{what} of {size(needed)} at batch {batch} don't fit its memory of {size(device.memory)}"
    return ""


def size(count: float) -> str:
    """Bytes in words."""
    for prefix, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {prefix}"
    return f"{count:.0f} B"


@dataclass(frozen=True)
class Roofline:
    """Prices a net's layers on a device."""

    work: Work
    device: Device

    def unfit(self, batch: int) -> str:
        """Why weights and activations don't fit, or nothing."""
        return unfit(self.work, self.device, batch)

    def __call__(self, batch: int) -> list[LayerTime]:
        """One entry a layer."""
        runs = [as_run(layer, self.device) for layer in self.work.layers]
        weights = sum(run.kept * run.weight_bits / 8 for run in runs)
        bits = max((TYPES[run.type] for run in runs), default=32)
        whole = weights + self.work.activations * batch * bits / 8
        resident = whole <= self.device.cache
        return [
            layer_time(layer, run, self.device, batch, resident)
            for layer, run in zip(self.work.layers, runs, strict=True)
        ]


def layer_time(layer: Layer, run: Run, device: Device, batch: int, resident: bool) -> LayerTime:
    """max(operations / peak, bytes / bandwidth) + overhead of one layer.

    Args:
        resident: whether the whole net lies in the cache; else only those activations do that fit it.
    """
    operations = 2 * layer.macs * batch * _padding(layer, device.pad) / run.gain
    peak = device.peaks[run.type] * share(layer, run.type, device)
    computing = operations / peak
    bits = TYPES[run.type]
    weights = run.kept * run.weight_bits / 8
    moved = (layer.inputs + layer.outputs) * batch * bits / 8
    near = (
        device.cache_bandwidth if device.cache and (resident or moved <= device.cache) else device.bandwidth
    )
    far = device.cache_bandwidth if resident and device.cache else device.bandwidth
    moving = weights / far + moved / near
    bound = "computing" if computing >= moving else "moving"
    longest = max(computing, moving)
    overhead = device.overhead * layer.calls
    if overhead > longest:
        bound = "overhead"
    return LayerTime(layer.name, longest + overhead, bound, run.type, run.why)


def _padding(layer: Layer, multiple: int) -> float:
    """Operations on channels rounded up, over those on the channels there are."""
    if multiple == 1 or not all(layer.channels):
        return 1.0
    return math.prod(-(-c // multiple) * multiple / c for c in layer.channels)


def share(layer: Layer, kind: str, device: Device) -> float:
    """The share of the peak that a layer of its width reaches in a type, straight between the fitted ones."""
    points = sorted(device.shares.get(f"{kind} {layer.kind}") or device.shares.get(layer.kind) or ())
    if not points:
        return 1.0
    wide = (
        layer.channels[1] if layer.kind == "depthwise" else math.sqrt(layer.channels[0] * layer.channels[1])
    )
    if wide <= points[0][0]:
        return points[0][1] * max(wide, 1) / points[0][0]
    for (low, one), (high, other) in itertools.pairwise(points):
        if wide <= high:
            return one + (wide - low) / (high - low) * (other - one)
    return points[-1][1]


def executes_nothing(name: str) -> Callable[[Tensor], object]:
    """What a modelled device runs: an error."""

    def run(*batch: Tensor) -> object:
        raise UserError(f"target {name} is modelled: it executes nothing")

    return run


def no_inputs(view: View) -> Inputs:
    """No examples, of the right shape."""
    return view.bench.task.blank(0)
