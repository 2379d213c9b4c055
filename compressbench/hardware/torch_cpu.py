"""This machine's processor, torch eager: the module folded and laid out as it is executed everywhere here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.hardware.target import (
    MIXTURE,
    Lowered,
    Timing,
    Unsupported,
    check_threads,
)
from compressbench.hardware.turns import Turns, in_turns, stopwatch, undisturbed

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.inputs import Inputs
    from compressbench.views import View

FEWEST = 10
FEWEST_OF_MANY = 3


@dataclass(frozen=True)
class TorchCPU:
    """torch eager on the CPU, fp32, dense kernels: zeros cost what other weights cost.

    Attributes:
        threads: of torch while timing.
        batches: sizes to time.
        seconds: of timing for each batch size, for all states in turns; at batch 1 at least 10 forwards of
            each, at larger ones 3, and five turns.
    """

    VERSION: ClassVar[int] = 2
    EXITS: ClassVar[bool] = True
    threads: int = 1
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5

    def __post_init__(self) -> None:
        check_batches(self.batches, self.seconds)
        check_threads(self.threads, "hardware: threads")

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state's module, prepared for inference (see ``compressbench.models.prepared``)."""
        import torch

        from compressbench.inputs import first, on
        from compressbench.models.build import module_of
        from compressbench.models.exits import ByPolicy, prepared_parts
        from compressbench.models.prepared import prepared
        from compressbench.models.quantized import quantized
        from compressbench.outputs import forward

        inputs = on(timed_inputs(view, max(self.batches)), "cpu")
        if view.bench.device == "cpu":
            module = view.fast
        elif view.leaves_early:
            module = ByPolicy(
                prepared_parts(module_of(view.state, "cpu"), *first(inputs, 8)), view.state.policies
            )
        else:
            module = prepared(module_of(view.state, "cpu"), *first(inputs, 8))

        def run(*batch: Tensor) -> object:
            with torch.inference_mode():
                return forward(module, *batch).logits

        simulated = bool(quantized(view.module))
        words = f"torch eager, fp32{', rounding simulated' if simulated else ''}{said(view)}"
        parts = tuple(module.parts) if isinstance(module, ByPolicy) else ()
        return Lowered(run, inputs, words, varies=view.leaves_early, parts=parts, simulated=simulated)

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Wall-clock seconds of forwards at one batch size, the states in turns."""
        return time_in_turns(lowered, batch, self.threads, self.seconds)


def time_in_turns(lowered: Sequence[Lowered], batch: int, count: int, seconds: float) -> list[Timing]:
    """Forwards on the CPU, the states in turns; torch has ``count`` threads meanwhile.

    With one thread they are compared by processor time, with more by the fastest forward of each turn.
    """
    with threads(count):
        runs, forwards = calls(lowered, batch)
        for run in runs:
            run()
        fewest = FEWEST if batch == 1 and forwards == 1 else FEWEST_OF_MANY
        timers = [stopwatch(run) for run in runs]
        taken, disturbed = undisturbed(lambda: in_turns(timers, seconds, fewest))
    return [timing(batch, turns, forwards, count == 1, disturbed) for turns in taken]


def timing(batch: int, turns: Turns, forwards: int, by_cpu: bool, disturbed: str) -> Timing:
    """The timing of turns whose calls are so many forwards each."""
    seconds = tuple(t / forwards for t in turns.seconds)
    return Timing(batch, seconds, tuple(t / forwards for t in turns.estimates(by_cpu)), disturbed)


def calls(lowered: Sequence[Lowered], batch: int) -> tuple[list[Callable[[], object]], int]:
    """(what is timed of each, how many forwards that is): one, or, if any has early exits, a pass through the mixture."""
    from compressbench.inputs import first

    if not any(x.varies for x in lowered):
        return [functools.partial(x.run, *first(x.inputs, batch)) for x in lowered], 1
    forwards = max(1, MIXTURE // batch)
    return [_pass(x, batch, forwards) for x in lowered], forwards


def _pass(one: Lowered, batch: int, forwards: int) -> Callable[[], None]:
    from compressbench.inputs import batches

    whole = [part for part in batches(one.inputs, batch) if len(part[0]) == batch]

    def run() -> None:
        for place in range(forwards):
            one.run(*whole[place % len(whole)])

    return run


def said(view: View) -> str:
    """What a runtime's words add of a state with early exits."""
    return f", early exits, mean of a pass over {MIXTURE} test examples" if view.leaves_early else ""


def timed_inputs(view: View, most: int) -> Inputs:
    """Encoded test examples: enough for a batch, or the mixture that a state with early exits is timed on."""
    return examples(view, max(most, MIXTURE) if view.leaves_early else most)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch with another number of threads, set back on leaving."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_batches(batches: Sequence[int], seconds: float = 1.0) -> None:
    """Refuses batch sizes that can't be timed.

    Raises:
        UserError: there are none, or one is below 1; or the seconds to time them aren't above 0.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise UserError(f"hardware: seconds is {seconds!r}, must be above 0")
    sizes = list(batches) if isinstance(batches, Sequence) and not isinstance(batches, str) else []
    if not sizes or any(type(b) is not int or b < 1 for b in sizes):
        raise UserError(
            f"hardware: batches is {batches!r}, must name whole sizes of at least 1, e.g. [1, 64]"
        )


def examples(view: View, count: int) -> Inputs:
    """``count`` encoded test examples, repeated if the split has fewer."""
    import torch

    feed = view.bench.feed("test")
    return view.bench.task.encode(feed.take(torch.arange(count, device=view.bench.device) % len(feed)))
