"""What a hardware target is: it lowers a state to what the device really executes, and prices that."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from compressbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.inputs import Inputs
    from compressbench.views import View


def check_threads(threads: object, where: str) -> None:
    """Refuses a number of threads that no machine like this one has any use for; libraries crash at very many.

    Args:
        where: the setting's name.

    Raises:
        UserError: no whole number from 1 to four times the processors (to 64, where that is more).
    """
    most = max(64, 4 * (os.cpu_count() or 1))
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most:
        raise UserError(
            f"{where}: {threads!r} is not a whole number from 1 to {most}; this machine has {os.cpu_count()}"
        )


@dataclass(frozen=True)
class Unsupported:
    """A target can't execute a state; ``why`` is a sentence for the reader."""

    why: str


@dataclass(frozen=True)
class LayerTime:
    """What one layer costs on a modelled device.

    Attributes:
        name: of the layer.
        seconds: of one forward.
        bound: what it waits for: ``computing``, ``moving`` (bytes) or ``overhead``.
        type: of its arithmetic.
        why: what brings nothing here, in words; empty if all is used.
    """

    name: str
    seconds: float
    bound: str
    type: str
    why: str = ""


@dataclass(frozen=True)
class Lowered:
    """What a device really executes for a state.

    Attributes:
        run: takes a batch on the device, an argument an input; its result is ready, or queued, when it returns.
        inputs: encoded examples on the device, at least as many as the largest batch.
        runtime: in words, e.g. ``torch eager, fp32``.
        skips_zeros: whether a zero weight costs less than another one here.
        compile_seconds: what making it took, which no latency contains.
        artefact: the file's content that the runtime loads; empty where there is none.
        in_float: quantized layers that the runtime computes in float all the same.
        price: of a modelled device, batch size -> its layers' times; None where ``run`` really runs.
        varies: whether what a forward takes depends on its inputs, as with early exits; they are then timed on the real
            mixture of all ``inputs``.
        parts: of a state with early exits, what runs each part on the device; see ``compressbench.exit_criteria.policy``.
        simulated: whether all rounding is only simulated, in float: what a forward takes says nothing of the state then.
        tokens: of an example of ``inputs``, padding counted; 0 where these have one size anyway.
    """

    run: Callable[..., object]
    inputs: Inputs
    runtime: str
    skips_zeros: bool = False
    compile_seconds: float = 0.0
    artefact: bytes = field(default=b"", repr=False)
    in_float: tuple[str, ...] = ()
    price: Price | None = None
    varies: bool = False
    parts: Sequence[Callable[..., Sequence[Tensor]]] = ()
    simulated: bool = False
    tokens: int = 0


@dataclass(frozen=True)
class Timing:
    """Latencies of one lowered state at one batch size.

    Attributes:
        batch: examples a forward.
        seconds: wall-clock, one entry a forward, in the order they ran; over a mixture of inputs, the mean of one pass
            through it.
        turns: seconds of a forward, one estimate a turn, by which those timed in turns are compared (see
            ``compressbench.hardware.turns``); where a target gives none, each forward is a turn.
        disturbed: in words, how others disturbed each try to time it: it has no speed-up then; or that this isn't known;
            empty if they didn't.
        basis: ``measured``, or ``modelled`` where no device ran.
        layers: of a modelled device, each layer's part.
        joules: of one forward, None where it isn't known.
    """

    batch: int
    seconds: tuple[float, ...]
    turns: tuple[float, ...] = ()
    disturbed: str = ""
    basis: str = "measured"
    layers: tuple[LayerTime, ...] = ()
    joules: float | None = None

    @property
    def estimates(self) -> tuple[float, ...]:
        """Seconds of a forward, one a turn."""
        return self.turns or self.seconds

    @property
    def minimum(self) -> float:
        """Seconds of the fastest forward."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """Seconds of the middle forward."""
        return statistics.median(self.seconds)

    @property
    def p90(self) -> float:
        """Seconds that nine forwards in ten stay within."""
        if len(self.seconds) == 1:
            return self.seconds[0]
        return statistics.quantiles(self.seconds, n=10, method="inclusive")[-1]


class Price(Protocol):
    """What a state costs on a modelled device."""

    def __call__(self, batch: int) -> Sequence[LayerTime]:
        """One entry a layer."""

    def unfit(self, batch: int) -> str:
        """Why it doesn't fit the device at this batch size; empty if it does."""


def unfit(lowered: Sequence[Lowered], batch: int) -> str:
    """Why one of these doesn't fit its modelled device at a batch size; empty where all do, or really run."""
    return next((why for x in lowered if x.price and (why := x.price.unfit(batch))), "")


class HardwareTarget(Protocol):
    """A device and the runtime on it. Settings only; found by its import path."""

    @property
    def batches(self) -> Sequence[int]:
        """Batch sizes to time."""

    def lower(self, view: View) -> Lowered | Unsupported:
        """What the device executes for this state, or why it can't."""

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Times several lowered states in turns, so that whatever slows the machine slows all alike."""


MIXTURE = 256
"""Test images that a state with early exits is timed on."""
