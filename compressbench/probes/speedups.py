"""Speed-ups as probes yield them: the median ratio in turns, and the ends of its interval as figures of their own."""

from __future__ import annotations

from collections.abc import Iterable

from compressbench.hardware.target import Timing
from compressbench.hardware.turns import is_disturbed, ratio
from compressbench.records import Metric

SIMULATED = "no speed: rounding is simulated here; deploy it (probe deployed) to time it"
COARSE = "no ratio: the clock is too coarse for so short a forward"


def speedup(
    stem: str, reference: Timing, subject: Timing, group: str = "", note: str = ""
) -> Iterable[Metric]:
    """``{stem}_b{batch}``, reference over subject, then ``{stem}_low_b{batch}`` and ``{stem}_high_b{batch}``.

    A ratio that others disturbed each time is withheld, and says why; where it isn't known whether they did it says that.
    A modelled one is exact and has no interval.
    """
    name, basis = f"{stem}_b{subject.batch}", subject.basis
    if basis == "modelled":
        value = reference.median / subject.median
        yield Metric(name, value, "x", basis, n=len(subject.seconds), group=group, note=note)
        return
    if is_disturbed(subject.disturbed):
        yield Metric(name, None, "x", group=group, note=_joined(f"no ratio: {subject.disturbed}", note))
        return
    found = ratio(reference.estimates, subject.estimates)
    if found is None:
        yield Metric(name, None, "x", group=group, note=_joined(COARSE, note))
        return
    n, unseen = found.rounds, subject.disturbed
    yield Metric(name, found.median, "x", basis, n=n, group=group, note=_joined(note, unseen))
    for end, value in (("low", found.low), ("high", found.high)):
        yield Metric(f"{stem}_{end}_b{subject.batch}", value, "x", basis, n=n, group=group, note=unseen)


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
