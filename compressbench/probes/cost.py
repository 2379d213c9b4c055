"""Cost in three columns that are never mixed: in theory, on disk, measured on the hardware target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.hardware.exits import lower
from compressbench.hardware.target import HardwareTarget, Lowered, Timing, Unsupported, unfit
from compressbench.probes.speedups import SIMULATED, speedup
from compressbench.probes.structure import parameters
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View

DENSE = "no speed-up: runs dense"
ROUNDED = "its zeros bring nothing: they run dense"
SMALLER = "by its smaller shape alone: its zeros run dense"


@dataclass(frozen=True)
class Cost:
    """Parameters and MACs; bytes dense, with zeros left out, and as codes; latency, throughput and speed-up."""

    VERSION: ClassVar[int] = (
        6  # 3: bytes of codes; 4: of half floats, words on zeros; 5: turns of several calls; 6: ratios by turn
    )

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject; speed-up is the median over turns of the reference's time over the subject's."""
        yield from _theoretical(subject, bench)
        yield from _on_disk(subject, reference)
        if bench.target is not None:
            yield from _measured(subject, reference, bench.target)


def _theoretical(subject: View, bench: Bench) -> Iterable[Metric]:
    from compressbench.models.build import prunable
    from compressbench.models.counting import count

    total, left = parameters(subject)
    counts = count(subject.module, bench.task.blank(1))
    density = {
        name: int(w.count_nonzero()) / w.numel() for name, w in prunable(subject.module).items() if w.numel()
    }
    yield Metric("parameters", total, "1", "theoretical")
    yield Metric("nonzero_parameters", left, "1", "theoretical")
    yield Metric("macs", counts.macs, "MACs", "theoretical", note=counts.said)
    free = counts.if_zeros_were_free(density)
    yield Metric("macs_nonzero", free, "MACs", "theoretical", note="if zeros were free")


def _on_disk(subject: View, reference: View) -> Iterable[Metric]:
    from compressbench.hardware.coding import encode, stored
    from compressbench.hardware.packing import dense_bytes, pack
    from compressbench.models.quantized import quantized

    weights = subject.state.weights
    tensors, coded = stored(subject.module, weights)
    sizes = {"dense": len(dense_bytes(weights)), "zeros left out": len(pack(weights))}
    yield Metric("dense_bytes", sizes["dense"], "bytes", "on disk")
    note = "zeros left out, not compressed"
    yield Metric("sparse_bytes", sizes["zeros left out"], "bytes", "on disk", note=note)
    if coded or quantized(subject.module):
        sizes["codes"] = len(encode(tensors, coded))
        sizes["Huffman codes"] = len(encode(tensors, coded, huffman=True))
        note = (
            "integers or codebook indices at their bits, with scales or values; zeros left out where shorter"
        )
        yield Metric("quantized_bytes", sizes["codes"], "bytes", "on disk", note=note)
        note = "the same, Huffman-coded, code tables counted"
        yield Metric("huffman_bytes", sizes["Huffman codes"], "bytes", "on disk", note=note)
    form = min(sizes, key=lambda name: sizes[name])
    ratio = len(dense_bytes(reference.state.weights)) / sizes[form]
    note = f"the reference's dense bytes over this state's shortest form: {form}"
    yield Metric("compression_ratio", ratio, "x", "on disk", note=note)


def _measured(subject: View, reference: View, target: HardwareTarget) -> Iterable[Metric]:
    same = subject.is_of_the_state_of(reference)
    lowered = [lower(target, view) for view in ([subject] if same else [subject, reference])]
    ready = [x for x in lowered if isinstance(x, Lowered)]
    refused = [x.why for x in lowered if isinstance(x, Unsupported)]
    for batch in target.batches:
        if not isinstance(lowered[0], Lowered):
            yield Metric(f"latency_median_b{batch}", None, "ms", note=refused[0])
            continue
        if why := SIMULATED if lowered[0].simulated else unfit(ready, batch):
            yield Metric(f"latency_median_b{batch}", None, "ms", note=why)
            if lowered[0].simulated:
                yield Metric(f"speedup_b{batch}", None, "x", note=why)
            continue
        timings = target.time(ready, batch)
        yield from _latencies(timings[0], lowered[0])
        name = f"speedup_b{batch}"
        if same:
            yield Metric(name, 1.0, "x", "computed", note="the reference itself")
        elif refused or ready[1].simulated:
            yield Metric(name, None, "x", note=f"reference: {refused[0] if refused else SIMULATED}")
        else:
            yield from speedup(
                "speedup", timings[1], timings[0], note=caution(subject, reference, lowered[0])
            )


def _latencies(timing: Timing, lowered: Lowered) -> Iterable[Metric]:
    n, b = len(timing.seconds), timing.batch
    note = "; ".join(x for x in (lowered.runtime, timing.disturbed) if x)
    basis = timing.basis
    for name, seconds in (("min", timing.minimum), ("median", timing.median), ("p90", timing.p90)):
        yield Metric(f"latency_{name}_b{b}", 1000 * seconds, "ms", basis, n=n, note=note)
    if b > 1:
        yield Metric(f"throughput_b{b}", b / timing.median, "examples/s", basis, n=n, note=note)
        if lowered.tokens:
            rate = b * lowered.tokens / timing.median
            yield Metric(f"token_throughput_b{b}", rate, "tokens/s", basis, n=n, note=note)


def caution(subject: View, reference: View, lowered: Lowered) -> str:
    """What is to be said of zero weights that the target multiplies by all the same; empty if there are none."""
    from compressbench.models.build import prunable

    if lowered.skips_zeros or all(
        int(w.count_nonzero()) == w.numel() for w in prunable(subject.module).values()
    ):
        return ""
    if any("quantize" in edit for edit in subject.state.edits):
        return ROUNDED
    smaller = any(kind in edit for edit in subject.state.edits for kind in ("cut", "drop"))
    smaller = smaller or subject.state.model != reference.state.model
    return SMALLER if smaller else DENSE
