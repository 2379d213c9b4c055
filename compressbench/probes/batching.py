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

    All ways run the same test images and answer alike; the net without its exits (full depth) is timed beside them, in
    turns. The cost is what was really computed, in MACs, of all examples at full depth.

    Attributes:
        targets: hardware targets by name; modelled ones have no figures.
        batches: sizes.
        examples: test images in a pass.
        seconds: of timing for each batch size, for all ways in turns; at least 3 passes.
    """

    targets: Mapping[str, HardwareTarget]
    batches: tuple[int, ...] = (1, 4, 16, 64)
    examples: Count = 256
    seconds: Positive = 1.0
    VERSION: ClassVar[int] = 3  # 2: ratios by turn; 3: quantized nets with exits

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
        from compressbench.inputs import on
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
        inputs = on(examples(subject, self.examples), lowered.inputs[0].device)
        costs = of_exits(parts_of(subject.module), subject.bench.task.blank(1))
        count = getattr(target, "threads", 1)
        for batch in self.batches:
            ways = _ways(lowered.parts, policy, inputs, batch)
            runs: dict[str, Callable[[], Any]] = {FULL: _whole(whole.run, inputs, batch), **ways}
            timers = [stopwatch(run) for run in runs.values()]
            with threads(count):
                taken, disturbed = undisturbed(partial(in_turns, timers, self.seconds, FEWEST))
            by_cpu = count == 1 and not inputs[0].is_cuda
            timings = [timing(batch, turns, 1, by_cpu, disturbed) for turns in taken]
            note = "; ".join(x for x in (lowered.runtime, disturbed) if x)
            for way, own in zip(runs, timings, strict=True):
                group, rate, n = f"{name}/{way}", len(inputs[0]) / own.median, len(own.seconds)
                yield Metric(f"exit_throughput_b{batch}", rate, "examples/s", n=n, group=group, note=note)
                yield from speedup("exit_speedup", timings[0], own, group, "over full depth")
                if way in ways:
                    spent = 100 * _spent(ways[way](), costs) / (len(inputs[0]) * costs[-1])
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
