"""Deployed: what runtimes really compute for a state, beside what its simulation in torch says; accuracy and time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.hardware.exits import lower
from compressbench.hardware.target import HardwareTarget, Lowered, Timing, Unsupported
from compressbench.probes.speedups import speedup
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.views import View

FLAGGED = 0.2
PRETENDS = "no speed: this runtime simulates the rounding too"


def check_runtimes(runtimes: Any) -> None:
    """Refuses what is no mapping of names to hardware targets.

    Raises:
        UserError: see above.
    """
    if not isinstance(runtimes, Mapping) or not runtimes:
        raise UserError("runtimes: a mapping of names to hardware targets is wanted, e.g. of openvino")
    for name, target in runtimes.items():
        if not hasattr(target, "lower"):
            raise UserError(f"runtimes.{name}: not a hardware target; a spec with _target_ is wanted")


@dataclass(frozen=True)
class Deployed:
    """A state lowered to each runtime: its accuracy there, its speed against the runtime's own float baselines.

    Every figure of a runtime has its name as the group; a speed-up is always within one runtime, over the
    *reference* in fp32 there (and in bf16, where the runtime offers it). ``simulated_latency`` is that of the state
    in torch eager, which rounds in float: "pretending".

    Attributes:
        runtimes: hardware targets by name.
    """

    runtimes: Mapping[str, HardwareTarget]
    VERSION: ClassVar[int] = (
        # 2: the reference is timed once, casts count as float; 3: turns of several calls; 4: ratios by turn
        5  # 5: quantized nets with exits; answers that are no numbers agree with nothing
    )

    def __post_init__(self) -> None:
        check_runtimes(self.runtimes)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Figures of the subject on each runtime, on the whole test split."""
        from compressbench.metrics import percent

        simulated = 0.0
        if not subject.streams:
            simulated = percent(subject.right)
            yield Metric("simulated_top1", simulated, "%", n=len(subject.labels))
        for name, target in self.runtimes.items():
            lowered = lower(target, subject)
            if isinstance(lowered, Unsupported):
                yield Metric("deployed_top1", None, "%", group=name, note=lowered.why)
                continue
            if subject.streams:
                yield from _tokens(subject, lowered, name)
            else:
                yield from _accuracy(subject, lowered, name, simulated, bench)
            yield from _facts(lowered, name)
            yield from _times(subject, reference, target, lowered, name)


def logits(lowered: Lowered, bench: Bench, split: str = "test") -> Tensor:
    """(n, ...) logits that a lowered state computes for a whole split, in batches as the simulation is run in."""
    from compressbench.inputs import on
    from compressbench.views import BATCH
    from compressbench.walking import put_back, walk

    rows, parts, device = [], [], lowered.inputs[0].device
    for places, batch in walk(bench.task, bench.feed(split), BATCH):
        rows.append(places)
        result: Any = lowered.run(*on(bench.task.encode(batch), device))
        parts.append(result.detach().float().cpu())
    return put_back(rows, parts)


def _accuracy(subject: View, lowered: Lowered, name: str, simulated: float, bench: Bench) -> Iterable[Metric]:
    from compressbench.metrics import label_loyalty, percent
    from compressbench.outputs import Outputs

    found = bench.task.answers(Outputs(logits(lowered, bench)))
    n, top1 = len(found), percent(bench.task.right(found, subject.labels))
    gap = top1 - simulated
    flag = f"deployed and simulated are more than {FLAGGED} points apart" if abs(gap) > FLAGGED else ""
    yield Metric("deployed_top1", top1, "%", n=n, group=name, note=lowered.runtime)
    yield Metric("deployed_gap", gap, "points", n=n, group=name, note=flag)
    agreement = label_loyalty(found, subject.answers)
    yield Metric("deployed_agreement", agreement, "%", n=n, group=name)


def _tokens(subject: View, lowered: Lowered, name: str) -> Iterable[Metric]:
    """The same of a task that says something of every token: shares are of these, each given those before it."""
    from compressbench.hardware.agreement import tally

    found = tally(subject, lowered.run)  # type: ignore[arg-type]
    of, gap = f"of {found.n} tokens", found.right - found.own
    flag = f"deployed and simulated are more than {FLAGGED} points apart" if abs(gap) > FLAGGED else ""
    yield Metric("simulated_top1", found.own, "%", n=found.n, group=name, note=of)
    yield Metric("deployed_top1", found.right, "%", n=found.n, group=name, note=f"{lowered.runtime}; {of}")
    yield Metric("deployed_gap", gap, "points", n=found.n, group=name, note=flag)
    yield Metric("deployed_agreement", found.alike, "%", n=found.n, group=name, note=of)


def _facts(lowered: Lowered, name: str) -> Iterable[Metric]:
    note = f"in float: {', '.join(lowered.in_float)}" if lowered.in_float else ""
    yield Metric("layers_in_float", len(lowered.in_float), "1", "computed", group=name, note=note)
    yield Metric("compile_seconds", lowered.compile_seconds, "s", n=1, group=name)
    if lowered.artefact:
        yield Metric(
            "artefact_bytes",
            len(lowered.artefact),
            "bytes",
            "on disk",
            group=name,
            note="the ONNX file that the runtime reads",
        )


def _times(
    subject: View, reference: View, target: HardwareTarget, lowered: Lowered, name: str
) -> Iterable[Metric]:
    """Latencies in turns: the state, the reference in fp32 and bf16 on the same runtime, the simulation."""
    from compressbench.hardware.torch_cpu import TorchCPU

    same = subject.is_of_the_state_of(reference)
    arms: dict[str, Lowered | Unsupported] = {"deployed": lowered}
    for precision, baseline in baselines(target).items():
        itself = same and precision == "fp32"
        arms[f"reference_{precision}"] = lowered if itself else lower(baseline, reference)
    settings: Any = target
    if subject.bench.device == "cpu":
        arms["simulated"] = TorchCPU(getattr(settings, "threads", 1), tuple(settings.batches)).lower(subject)
    ready = {arm: x for arm, x in arms.items() if isinstance(x, Lowered)}
    each = list({id(x): x for x in ready.values()}.values())
    for batch in target.batches:
        found = dict(zip(map(id, each), target.time(each, batch), strict=True))
        timings = {arm: found[id(x)] for arm, x in ready.items()}
        for arm, x in arms.items():
            if isinstance(x, Lowered):
                yield from _latencies(f"{arm}_latency", timings[arm], name, x.runtime)
            else:
                yield Metric(f"{arm}_latency_b{batch}", None, "ms", group=name, note=x.why)
        for arm, timing in timings.items():
            if arm == "deployed":
                continue
            if lowered.simulated:
                yield Metric(f"{_SPEEDUPS[arm]}_b{batch}", None, "x", group=name, note=PRETENDS)
            else:
                yield from speedup(_SPEEDUPS[arm], timing, timings["deployed"], name)


_SPEEDUPS = {
    "reference_fp32": "deployed_speedup",
    "reference_bf16": "deployed_speedup_over_bf16",
    "simulated": "deployed_over_simulated",
}


def baselines(target: HardwareTarget) -> dict[str, Any]:
    """The same runtime with other precisions of what isn't quantized, where it offers them."""
    settings: Any = target
    if not hasattr(settings, "precision"):
        return {"fp32": settings}
    return {
        "fp32": dataclasses.replace(settings, precision="f32"),
        "bf16": dataclasses.replace(settings, precision="bf16"),
    }


def _latencies(stem: str, timing: Timing, group: str, runtime: str) -> Iterable[Metric]:
    """Median, and the fastest forward."""
    note = "; ".join(x for x in (runtime, timing.disturbed) if x)
    for name, seconds in ((stem, timing.median), (f"{stem}_min", timing.minimum)):
        n = len(timing.seconds)
        yield Metric(f"{name}_b{timing.batch}", 1000 * seconds, "ms", n=n, group=group, note=note)
