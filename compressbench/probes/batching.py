"""Batching: what early exits bring when examples come in batches, by three ways of running them, on each target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.hardware.exits import lower
from compressbench.hardware.target import HardwareTarget, Unsupported
from compressbench.hardware.torch_cpu import check_batches, timing
from compressbench.hardware.turns import in_turns, stopwatch, undisturbed
from compressbench.probes.speedups import speedup
from compressbench.records import Metric
from compressbench.specs import Count, Positive, check_fields

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.exit_criteria.policy import Answers, Policy
    from compressbench.inputs import Inputs
    from compressbench.views import View

FEWEST = 3
FULL = "full depth"


@dataclass(frozen=True)
class Batching:
    """Throughput and cost against batch size: a batch waits, or finished rows leave it, or rows queue before each part.

    All ways run the same test images and answer alike; the net without its exits (full depth) is timed beside them,
    in turns. The cost is what was really computed, in MACs, of all examples at full depth. On a GPU a pass is over
    when the GPU is done with it; who leaves is decided on the processor, which waits for the GPU once for each part
    but the last that a batch is run through: the note says how often a pass does.

    Attributes:
        targets: hardware targets by name; modelled ones have no figures.
        batches: sizes.
        examples: test images in a pass; as many as a batch, where that is larger.
        seconds: of timing for each batch size, for all ways in turns; at least 3 passes.
    """

    targets: Mapping[str, HardwareTarget]
    batches: tuple[int, ...] = (1, 4, 16, 64)
    examples: Count = 256
    seconds: Positive = 1.0
    VERSION: ClassVar[int] = (
        4  # 2: ratios by turn; 3: quantized nets with exits; 4: a pass of a batch at least, GPUs waited for
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_batches(self.batches, self.seconds)
        if not isinstance(self.targets, Mapping) or not self.targets:
            raise UserError("targets: a mapping of names to hardware targets is wanted, e.g. of cpu_torch")
        for name, target in self.targets.items():
            if not hasattr(target, "lower"):
                raise UserError(f"targets.{name}: not a hardware target; a spec with _target_ is wanted")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject, beside its own last exit."""
        from compressbench.exit_criteria.policy import policy_of

        policy = policy_of(subject.state.policies)
        if policy is None:
            yield Metric("exit_cost_b1", None, "%", note="the state has no exit policy")
            return
        for place, (name, target) in enumerate(self.targets.items()):
            bench.progress.step(place, len(self.targets))
            yield from self._on(target, name, subject, policy)

    def _on(self, target: HardwareTarget, name: str, subject: View, policy: Policy) -> Iterable[Metric]:
        from compressbench.hardware.torch_cpu import examples, threads
        from compressbench.hardware.torch_cuda import waited
        from compressbench.inputs import first, on
        from compressbench.models.counting import of_exits
        from compressbench.models.exits import parts_of
        from compressbench.views import View

        lowered = lower(target, subject)
        whole = lower(target, View(replace(subject.state, policies={}, key=""), subject.bench))
        for one in (lowered, whole):
            if isinstance(one, Unsupported):
                yield Metric(
                    "exit_throughput_b1", None, "examples/s", group=f"{name}/compacted", note=one.why
                )
                return
        assert not isinstance(lowered, Unsupported)
        assert not isinstance(whole, Unsupported)
        ready = lowered.inputs
        costs = of_exits(parts_of(subject.module), subject.bench.task.blank(1))
        count, on_gpu = getattr(target, "threads", 1), ready[0].is_cuda
        for batch in self.batches:
            rows = max(self.examples, batch)
            few = len(ready[0]) < rows
            inputs = on(examples(subject, rows), ready[0].device) if few else first(ready, rows)
            ways = _ways(lowered.parts, policy, inputs, batch)
            runs: dict[str, Callable[[], Any]] = {FULL: _whole(whole.run, inputs, batch), **ways}
            timers = [stopwatch(waited(run) if on_gpu else run) for run in runs.values()]
            with threads(count):
                taken, disturbed = undisturbed(partial(in_turns, timers, self.seconds, FEWEST))
            timings = [timing(batch, turns, 1, count == 1 and not on_gpu, disturbed) for turns in taken]
            for way, own in zip(runs, timings, strict=True):
                answers = ways[way]() if way in ways else []
                stops = f"{_stops(answers, lowered.parts)} waits for the GPU to decide" if on_gpu else ""
                note = "; ".join(x for x in (lowered.runtime, stops, disturbed) if x)
                group, rate, n = f"{name}/{way}", len(inputs[0]) / own.median, len(own.seconds)
                yield Metric(f"exit_throughput_b{batch}", rate, "examples/s", n=n, group=group, note=note)
                yield from speedup("exit_speedup", timings[0], own, group, "over full depth")
                if way in ways:
                    spent = 100 * _spent(answers, costs) / (len(inputs[0]) * costs[-1])
                    yield Metric(f"exit_cost_b{batch}", spent, "%", "computed", n=len(inputs[0]), group=group,
                                 note="MACs, of all at the last exit, heads included")  # fmt: skip


def _ways(
    parts: Sequence[Any], policy: Policy, inputs: Inputs, batch: int
) -> dict[str, Callable[[], list[Answers]]]:
    import torch

    from compressbench.exit_criteria.policy import compacted, queued, waiting
    from compressbench.inputs import batches

    chunks = batches(inputs, batch)

    def inside(run: Callable[[], list[Answers]]) -> Callable[[], list[Answers]]:
        def inner() -> list[Answers]:
            with torch.inference_mode():
                return run()

        return inner

    return {
        "waiting": inside(lambda: [waiting(parts, policy, *c) for c in chunks]),
        "compacted": inside(lambda: [compacted(parts, policy, *c) for c in chunks]),
        "queued": inside(lambda: [queued(parts, policy, *inputs, batch=batch)]),
    }


def _whole(run: Callable[..., object], inputs: Inputs, batch: int) -> Callable[[], None]:
    from compressbench.inputs import batches

    chunks = batches(inputs, batch)

    def once() -> None:
        for chunk in chunks:
            run(*chunk)

    return once


def _spent(answers: Sequence[Answers], costs: Sequence[int]) -> float:
    """MACs of all parts that ran, for all rows that they ran on."""
    own = [cost - before for cost, before in zip(costs, [0, *costs], strict=False)]
    return float(sum(own[place] * rows for answer in answers for place, rows in answer.rows))


def _stops(answers: Sequence[Answers], parts: Sequence[Any]) -> int:
    """How often who leaves was decided on the processor."""
    return sum(place < len(parts) - 1 for answer in answers for place, _ in answer.rows)
