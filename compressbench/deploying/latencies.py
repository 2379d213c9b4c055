"""Latencies on a target, read from records.

Those of what ran are compared by their ratios to a reference, taken in turns with it; those of different moments are not.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from compressbench.declared import batch_of
from compressbench.deploying.choice import Figure
from compressbench.deploying.elsewhere import APART, is_elsewhere
from compressbench.errors import UserError, nearest
from compressbench.hardware.turns import OTHERS
from compressbench.records import Record
from compressbench.specs.conf import conf_dir

BUSY = ("busy machine", OTHERS)
"""What notes of timings say that others disturbed: in records before version 0.2, and since."""
CLOCKS = {
    "cost": ("latency_median", "speedup"),
    "targets": ("latency", "speedup"),
    "deployed": ("deployed_latency", "deployed_speedup"),
}
"""Probe -> its latency of a state, its ratio of the reference's to that, both without their batch sizes."""


@dataclass(frozen=True)
class Clock:
    """How latencies on a target are read.

    Attributes:
        own: (key, machine) -> milliseconds of a state, where others didn't disturb that.
        lost: (key, machine) -> how they did.
    """

    probe: str
    target: str
    batch: int
    own: Mapping[tuple[str, str], float] = field(default_factory=dict)
    lost: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def of(self, row: Record, metric: str) -> bool:
        place = row.hardware if self.probe == "cost" else row.group
        return row.probe == self.probe and place == self.target and row.metric == f"{metric}_b{self.batch}"

    def any(self, row: Record) -> bool:
        return self.latency(row) or any(self.ratio(row, end) for end in ("", "_low", "_high"))

    def latency(self, row: Record) -> bool:
        return self.of(row, CLOCKS[self.probe][0])

    def ratio(self, row: Record, end: str = "") -> bool:
        return self.of(row, CLOCKS[self.probe][1] + end)


def targets_of(records: Iterable[Record]) -> list[str]:
    """Targets that ``choices`` knows: groups of ``targets`` and ``deployed``, hardware of ``cost``."""
    found: dict[str, None] = {}
    for r in records:
        if r.probe in ("targets", "deployed") and r.group and "/" not in r.group:
            found.setdefault(r.group)
        if r.probe == "cost" and r.metric.startswith("latency_median_b"):
            found.setdefault(r.hardware)
    return list(found)


def clock_of(rows: Sequence[Record], target: str, batch: int) -> Clock:
    known = targets_of(rows)
    if target not in known:
        hint = f"{nearest(target, known)}; " if known else ""
        raise UserError(f"--target: nothing was measured on {target!r}; {hint}{_adding(target)}")
    clocks = [Clock(probe, target, batch) for probe in CLOCKS]
    clock = next((c for c in clocks if any(c.latency(r) for r in rows)), None)
    if clock is None:
        sizes = sorted({b for c in clocks for r in rows if (b := _timed_at(c, r)) is not None})
        at = f"; it was at {', '.join(map(str, sizes))}" if sizes else ""
        raise UserError(f"--batch: {target} was not timed at batch {batch}{at}")
    timed = [r for r in rows if clock.latency(r) and r.value is not None]
    places = sorted({(r.basis, r.machine if r.basis == "measured" else "") for r in timed})
    if len(places) > 1:
        told = "; ".join(f"{basis} {machine}".strip() for basis, machine in places)
        raise UserError(f"--target: {target} has latencies of several kinds ({told}); give the runs of one")
    own: dict[tuple[str, str], list[float]] = {}
    for r in timed:
        if r.value is not None and not _disturbed(r):
            own.setdefault((r.key, r.machine), []).append(r.value)
    middle = {place: statistics.median(values) for place, values in own.items()}
    lost = {(r.key, r.machine): r.note for r in timed if _disturbed(r)}
    return Clock(clock.probe, target, batch, middle, lost)


def _adding(target: str) -> str:
    """How a run measures on a target."""
    shipped = (conf_dir() / "target" / f"{target}.yaml").is_file() if target.isidentifier() else False
    probe = "a run with +probe@evaluation.probes.targets=targets"
    named = f" +target@evaluation.probes.targets.targets.{target}={target}" if shipped else ""
    return f"{probe}{named} measures on {'it' if shipped else 'more'}"


def _disturbed(row: Record) -> bool:
    return any(words in row.note for words in BUSY)


def _timed_at(clock: Clock, row: Record) -> int | None:
    batch = batch_of(row.metric)
    return batch if batch and Clock(clock.probe, clock.target, batch).latency(row) else None


def latency_of(rows: Sequence[Record], clock: Clock) -> Figure:
    """Milliseconds a seed; with what they may be compared with, where they may."""
    values: dict[int, float] = {}
    within: dict[int, tuple[float, float]] = {}
    bases: dict[int, tuple[str, float]] = {}
    why: dict[int, str] = {}
    itself: dict[int, float] = {}
    exact: set[int] = set()  # or with an interval
    for seed in dict.fromkeys(r.seed for r in rows):
        own = [r for r in rows if r.seed == seed]
        timed = [r for r in own if clock.latency(r)]
        ratios = [r for r in own if clock.ratio(r)]
        if not timed:
            continue
        known = [r.value for r in timed if r.value is not None]
        steady = [r.value for r in timed if r.value is not None and not _disturbed(r)]
        first = timed[0]
        base = clock.own.get((first.reference, first.machine))
        quiet = _above_zero(r for r in ratios if not _disturbed(r))
        if not known:
            why[seed] = first.note
        elif first.basis == "modelled":
            values[seed] = statistics.median(known)
            within[seed], bases[seed] = (values[seed],) * 2, ("modelled", 1.0)
            exact.add(seed)
        elif not steady and not quiet:
            why[seed] = first.note
        elif not ratios or any(APART in r.note for r in ratios):
            if steady:
                values[seed] = statistics.median(steady)
            else:
                why[seed] = first.note
        elif base is None:
            lost = clock.lost.get((first.reference, first.machine), "not timed")
            why[seed] = lost if first.key == first.reference else f"its reference: {lost}"
        elif first.key == first.reference:
            values[seed], within[seed], bases[seed] = base, (base, base), (first.reference, base)
        elif not quiet:
            why[seed] = ratios[0].note or "it has no ratio in turns"
        else:
            values[seed], bases[seed] = base / statistics.median(quiet), (first.reference, base)
            if steady:
                itself[seed] = statistics.median(steady)
            ends = [_above_zero(r for r in own if clock.ratio(r, end)) for end in ("_low", "_high")]
            if all(ends):
                found = [values[seed], *(base / end for end in (*ends[0], *ends[1]))]
                within[seed] = min(found), max(found)
                exact.add(seed)
    abroad = [is_elsewhere(r) for r in rows if clock.latency(r) and r.value is not None]
    return Figure(
        values,
        within,
        bases,
        why,
        bare=frozenset(values) - exact,
        own=itself,
        elsewhere=bool(abroad) and all(abroad),
    )


def _above_zero(rows: Iterable[Record]) -> list[float]:
    return [r.value for r in rows if r.value is not None and r.value > 0]
