"""Targets: one state on many devices, those that are here measured and the others modelled, never mixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.hardware.exits import lower
from compressbench.hardware.target import (
    HardwareTarget,
    LayerTime,
    Lowered,
    Timing,
    Unsupported,
    unfit,
)
from compressbench.probes.cost import caution
from compressbench.probes.speedups import SIMULATED, speedup
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

SHOWN = 3


@dataclass(frozen=True)
class Targets:
    """Latency, speed-up over the reference on the same target, energy, and what each layer waits for.

    Every figure has its target's name as the group; one of a layer ``target/layer``. A target that can't execute the
    state says why instead of a figure.

    Attributes:
        targets: hardware targets by name.
        memory: whether peak memory is measured too: OpenVINO's and ONNX Runtime's, each in a process of its own; on a GPU
            that of one forward.
    """

    targets: Mapping[str, HardwareTarget]
    memory: bool = False
    VERSION: ClassVar[int] = 4  # 3: ratios by turn; 4: quantized nets with exits

    def __post_init__(self) -> None:
        if not isinstance(self.targets, Mapping) or not self.targets:
            raise UserError(
                "targets: a mapping of names to hardware targets is wanted, e.g. of raspberry_pi_4"
            )
        for name, target in self.targets.items():
            if not hasattr(target, "lower"):
                raise UserError(f"targets.{name}: not a hardware target; a spec with _target_ is wanted")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Figures of the subject on each target."""
        for place, (name, target) in enumerate(self.targets.items()):
            bench.progress.step(place, len(self.targets))
            lowered = lower(target, subject)
            if isinstance(lowered, Unsupported) or lowered.simulated:
                why = lowered.why if isinstance(lowered, Unsupported) else SIMULATED
                yield Metric(f"latency_b{target.batches[0]}", None, "ms", group=name, note=why)
                continue
            beside = lower(target, reference)
            yield from _facts(lowered, name)
            if self.memory and lowered.inputs[0].is_cuda:
                yield from _on_gpu(target, lowered, name)
            elif self.memory and lowered.artefact:
                yield from _memory(target, lowered, name)
            ready = [lowered, beside] if isinstance(beside, Lowered) else [lowered]
            for batch in target.batches:
                if why := unfit(ready, batch):
                    yield Metric(
                        f"latency_b{batch}",
                        None,
                        "ms",
                        "modelled",
                        group=name,
                        note=f"modelled {name}: {why}",
                    )
                    continue
                timings = target.time(ready, batch)
                yield from _times(timings[0], lowered, name)
                yield from _speedup(timings, subject, reference, lowered, beside, name)
                if batch == target.batches[0]:
                    yield from _layers(timings[0].layers, name)


def _facts(lowered: Lowered, name: str) -> Iterable[Metric]:
    """Of a state that really runs: seconds to make it ready, bytes of its file, joules of a forward at batch 1."""
    if lowered.price is not None:
        return
    from compressbench.hardware.energy import joules_of, joules_of_gpu
    from compressbench.hardware.torch_cuda import waited
    from compressbench.inputs import first

    note = lowered.runtime
    yield Metric("load_seconds", lowered.compile_seconds, "s", n=1, group=name, note=note)
    if lowered.artefact:
        yield Metric("file_bytes", len(lowered.artefact), "bytes", "on disk", group=name, note=note)
    one = first(lowered.inputs, 1)
    if one[0].is_cuda:
        joules, calls, said = joules_of_gpu(waited(lambda: lowered.run(*one)))
    else:
        joules, calls, said = joules_of(lambda: lowered.run(*one))
    yield Metric("energy_b1", None if joules is None else 1000 * joules, "mJ", n=calls, group=name, note=said)


def _memory(target: HardwareTarget, lowered: Lowered, name: str) -> Iterable[Metric]:
    from compressbench.hardware.memory import PROGRAMS, peak_bytes
    from compressbench.inputs import first

    runtime = next((r for r in PROGRAMS if r in type(target).__module__), "")
    if not runtime:
        return
    for batch in (target.batches[0], target.batches[-1]):
        found, said = peak_bytes(runtime, lowered.artefact, first(lowered.inputs, batch))
        yield Metric(f"peak_memory_b{batch}", found, "bytes", n=1, group=name, note=said)


def _on_gpu(target: HardwareTarget, lowered: Lowered, name: str) -> Iterable[Metric]:
    """Bytes that one forward has allocated at most; a recorded graph allocates nothing when it is replayed."""
    import torch

    from compressbench.hardware.torch_cuda import waited
    from compressbench.inputs import first

    recorded = getattr(target, "form", "") == "graph"
    told = (
        "a recorded graph keeps its memory"
        if recorded
        else "torch's, of one forward, its weights and inputs not counted"
    )
    for batch in (target.batches[0], target.batches[-1]):
        run = waited(partial(lowered.run, *first(lowered.inputs, batch)))
        run()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        peak = None if recorded else torch.cuda.max_memory_allocated() - held
        yield Metric(f"peak_memory_b{batch}", peak, "bytes", n=1, group=name, note=told)


def _times(timing: Timing, lowered: Lowered, name: str) -> Iterable[Metric]:
    n, b, basis = len(timing.seconds), timing.batch, timing.basis
    note = "; ".join(x for x in (lowered.runtime, timing.disturbed) if x)
    yield Metric(f"latency_b{b}", 1000 * timing.median, "ms", basis, n=n, group=name, note=note)
    if basis == "measured":
        yield Metric(f"latency_min_b{b}", 1000 * timing.minimum, "ms", basis, n=n, group=name, note=note)
        yield Metric(f"latency_p90_b{b}", 1000 * timing.p90, "ms", basis, n=n, group=name, note=note)
    yield Metric(f"throughput_b{b}", b / timing.median, "examples/s", basis, n=n, group=name, note=note)
    if lowered.tokens:
        rate = b * lowered.tokens / timing.median
        yield Metric(f"token_throughput_b{b}", rate, "tokens/s", basis, n=n, group=name, note=note)
    if timing.joules is not None:
        bound = f"{note}; its power times the time" if basis == "modelled" else note
        yield Metric(f"energy_b{b}", 1000 * timing.joules, "mJ", basis, n=n, group=name, note=bound)


def _speedup(
    timings: Sequence[Timing],
    subject: View,
    reference: View,
    lowered: Lowered,
    beside: Lowered | Unsupported,
    name: str,
) -> Iterable[Metric]:
    if isinstance(beside, Unsupported) or beside.simulated:
        why = beside.why if isinstance(beside, Unsupported) else SIMULATED
        basis, metric = timings[0].basis, f"speedup_b{timings[0].batch}"
        yield Metric(metric, None, "x", basis, group=name, note=f"reference: {why}")
        return
    ran = "" if lowered.price else lowered.runtime
    notes = [caution(subject, reference, lowered), *_reasons(timings[0].layers), ran]
    note = "; ".join(dict.fromkeys(x for x in notes if x))
    yield from speedup("speedup", timings[1], timings[0], name, note)


def _reasons(layers: Sequence[LayerTime]) -> list[str]:
    """Why layers are no faster, each reason once with how many it holds for."""
    counted: dict[str, int] = {}
    for layer in layers:
        if layer.why:
            counted[layer.why] = counted.get(layer.why, 0) + 1
    return [f"{why} ({count} of {len(layers)} layers)" for why, count in list(counted.items())[:SHOWN]]


def _layers(layers: Sequence[LayerTime], name: str) -> Iterable[Metric]:
    for layer in layers:
        note = "; ".join(x for x in (f"{layer.type}, waits for {layer.bound}", layer.why) if x)
        yield Metric(
            "layer_time", 1000 * layer.seconds, "ms", "modelled", group=f"{name}/{layer.name}", note=note
        )
