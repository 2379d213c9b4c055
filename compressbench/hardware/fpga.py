"""An FPGA, "whatever you want": arithmetic is built for the bits that a state has, out of DSP blocks and lookup tables.

Multiply-accumulates a cycle = DSP blocks x those that one does at these bits + lookup tables / those that one takes.
Weights stay in block RAM where they fit at their own bits, else they are streamed. Each layer is given the whole chip in
turn: a net of several widths is priced as if its arithmetic were built anew for each. All of it is modelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.hardware.modelled import (
    UNVERIFIED,
    check_mappings,
    check_supports,
    executes_nothing,
    no_inputs,
    priced,
    size,
)
from compressbench.hardware.target import LayerTime, Lowered, Timing, Unsupported
from compressbench.hardware.torch_cpu import check_batches
from compressbench.hardware.units import SIZES, SPEEDS, quantity

if TYPE_CHECKING:
    from compressbench.hardware.work import Layer, Work
    from compressbench.views import View

FLOAT_DSP = 5  # blocks of a float32 multiplier and adder


@dataclass(frozen=True)
class Fpga:
    """An FPGA's resources and what is to be built of them.

    Attributes:
        name: of the device, in words.
        dsp: DSP blocks.
        lut: lookup tables.
        block_ram: on-chip memory, e.g. ``4.75 MB``.
        clock: e.g. ``300 MHz``.
        bandwidth: of the memory beside it.
        memory: its size.
        use: share of the DSP blocks and lookup tables that become arithmetic.
        supports: as of a modelled device; int8 has no say here, any width is built.
        sources: what the figures rest on.
        power: watts at work.
        overhead: seconds a layer.
        batches: sizes to price.
    """

    VERSION: ClassVar[int] = 1
    name: str
    dsp: int
    lut: int
    block_ram: Any
    clock: Any
    bandwidth: Any
    memory: Any
    supports: Mapping[str, Any]
    use: float = 0.8
    family: str = "fpga"
    sources: Mapping[str, str] = field(default_factory=dict)
    power: Any = None
    overhead: Any = "2 us"
    batches: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        check_batches(self.batches)
        where = f"target {self.name}"
        for what in ("dsp", "lut"):
            count = getattr(self, what)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise UserError(f"{where}: {what} is {count!r}, must be a whole number, 1 or more")
        if not 0 < self.use <= 1:
            raise UserError(f"{where}: use is {self.use!r}, must be above 0 and at most 1")
        check_mappings(where, supports=self.supports, sources=self.sources)
        check_supports(where, self.supports)
        self.figures  # noqa: B018 - reads and checks every quantity

    @property
    def figures(self) -> Mapping[str, float]:
        """Quantities in base units."""
        where = f"target {self.name}"
        read = {
            "block_ram": quantity(self.block_ram, f"{where}: block_ram", SIZES),
            "clock": quantity(self.clock, f"{where}: clock", ("Hz",)),
            "bandwidth": quantity(self.bandwidth, f"{where}: bandwidth", SPEEDS),
            "memory": quantity(self.memory, f"{where}: memory", SIZES),
            "overhead": quantity(self.overhead, f"{where}: overhead", ("s",), small=True),
        }
        return (
            read
            if self.power is None
            else read | {"power": quantity(self.power, f"{where}: power", ("W",), small=True)}
        )

    def peak(self, weight_bits: int, input_bits: int) -> float:
        """Operations a second of arithmetic built for these bits."""
        blocks, tables = self.use * self.dsp, self.use * self.lut
        parallel = blocks * per_dsp(weight_bits, input_bits)
        if max(weight_bits, input_bits) <= 8:
            parallel += tables / luts(weight_bits, input_bits)
        return 2 * parallel * self.figures["clock"]

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state's layers on arithmetic of their own bits; unsupported where it doesn't fit."""
        from compressbench.hardware.work import work_of

        work = work_of(view)
        price = _Price(self, work)
        if why := price.unfit(min(self.batches)):
            return Unsupported(f"modelled {self.name}: {why}")
        widths = sorted({f"{x.weight_bits}x{x.input_bits}" for x in work.layers if x.weights})
        built = f"built for {', '.join(widths)} bits; peaks: {self.sources.get('peaks', UNVERIFIED)}"
        words = f"modelled: {self.name}, {built}"
        return Lowered(
            executes_nothing(self.name),
            no_inputs(view),
            words,
            skips_zeros=any(self._skipped(x)[0] > 1 for x in work.layers),
            price=price,
        )

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Modelled seconds of a forward at one batch size."""
        return [priced(x, batch, self.figures.get("power")) for x in lowered]

    def layer_time(self, layer: Layer, batch: int, on_chip: bool) -> LayerTime:
        """One layer: max(operations / peak, bits / bandwidth) + overhead."""
        figures = self.figures
        gain, why = self._skipped(layer)
        computing = 2 * layer.macs * batch / gain / self.peak(layer.weight_bits, layer.input_bits)
        moved = (layer.inputs + layer.outputs) * batch * layer.input_bits / 8
        held = 0.0 if on_chip else bits_of(layer) / 8
        moving = (held + (0.0 if moved <= figures["block_ram"] else moved)) / figures["bandwidth"]
        bound = "computing" if computing >= moving else "moving"
        if figures["overhead"] * layer.calls > max(computing, moving):
            bound = "overhead"
        kind = (
            "fp32"
            if max(layer.weight_bits, layer.input_bits) > 16
            else f"{layer.weight_bits}x{layer.input_bits}"
        )
        return LayerTime(
            layer.name, max(computing, moving) + figures["overhead"] * layer.calls, bound, kind, why
        )

    def _skipped(self, layer: Layer) -> tuple[float, str]:
        """What zeros divide the operations by, and why not more."""
        if layer.pattern == "dense":
            return 1.0, ""
        if layer.pattern == "2:4" and self.supports["2:4"] is True:
            return 2.0, ""
        said = self.supports["unstructured"]
        if isinstance(said, float) and layer.density < said:
            return said / max(layer.density, 1e-9), ""
        return 1.0, str(self.supports["2:4"] if layer.pattern == "2:4" else said)


@dataclass(frozen=True)
class _Price:
    target: Fpga
    work: Work

    def unfit(self, batch: int) -> str:
        """Why weights and activations don't fit the memory beside the chip, or nothing."""
        bits = max((x.input_bits for x in self.work.layers), default=32)
        needed = sum(bits_of(x) for x in self.work.layers) / 8 + 4 * self.work.others
        needed += self.work.activations * batch * bits / 8
        memory = self.target.figures["memory"]
        if needed <= memory:
            return ""
        return f"weights and activations of {size(needed)} at batch {batch} don't fit its memory of {size(memory)}"

    def __call__(self, batch: int) -> list[LayerTime]:
        """One entry a layer."""
        held = sum(bits_of(x) for x in self.work.layers) / 8
        on_chip = held <= self.target.figures["block_ram"]
        return [self.target.layer_time(x, batch, on_chip) for x in self.work.layers]


def per_dsp(weight_bits: int, input_bits: int) -> float:
    """Multiply-accumulates of one DSP block a cycle: 4 at 4 bits, 2 at 8, 1 up to 18 x 27, a fifth in float."""
    widest = max(weight_bits, input_bits)
    if widest > 16:
        return 1 / FLOAT_DSP
    return 4.0 if widest <= 4 else 2.0 if widest <= 8 else 1.0


def luts(weight_bits: int, input_bits: int) -> int:
    """Lookup tables of one multiplier and its adder: the array of bits, and the sum's width."""
    return weight_bits * input_bits + 2 * (weight_bits + input_bits)


def bits_of(layer: Layer) -> float:
    """Bits that a layer's weight takes, zeros stored like others."""
    return layer.weights * layer.weight_bits
