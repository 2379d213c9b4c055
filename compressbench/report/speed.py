"""Speed-ups as a report says them: the interval beside the figure, and faster, slower or not shown.

A speed-up of one seed is a median over turns with a 95 % interval. Of several seeds the figure is their mean, and the
interval reaches from the lowest end of any to the highest: it lies on one side of 1 only if every seed's does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from compressbench.declared import batch_of
from compressbench.report.numbers import MISSING, Spread, number, spread
from compressbench.report.panels import Panel, Point
from compressbench.report.tables import EMPTY, Cell
from compressbench.report.wording import each_once

FASTER, SLOWER, NOT_SHOWN = "faster", "slower", "not shown"
RUNS_DENSE = "no speed-up: runs dense"
NO_SPEED, DISTURBED = "no speed", "other processes took"
RULE = (
    "Faster, slower: the 95 % interval of the median ratio in turns lies on one side of 1, at every seed; not shown: "
    "neither, or zeros that run dense."
)
BRACKETS = (
    "Speed: the median ratio in turns, mean over seeds; in brackets the 95 % intervals of all seeds together."
)


@dataclass(frozen=True)
class Speed:
    """How many times faster than dense a point is, over its seeds.

    Attributes:
        figure: mean over the seeds that have a ratio; ``None`` where none has.
        ends: the lowest and the highest end of the seeds' intervals; ``None`` where a seed has none.
        dense: whether it only holds zeros that the target multiplies all the same.
        notes: what the probe had to say.
    """

    figure: Spread | None
    ends: tuple[float, float] | None
    dense: bool
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """``faster``, ``slower`` or ``not shown``; empty where there is no ratio."""
        if self.figure is None:
            return ""
        return NOT_SHOWN if self.dense else verdict(self.ends)


def verdict(ends: tuple[float, float] | None) -> str:
    """What an interval of a ratio shows; nothing where there is none."""
    if ends is None:
        return NOT_SHOWN
    low, high = ends
    return FASTER if low > 1 else SLOWER if high < 1 else NOT_SHOWN


def ends_of(metric: str) -> tuple[str, str]:
    """The metrics of a speed-up's interval: ``speedup_b1`` has ``speedup_low_b1`` and ``speedup_high_b1``."""
    stem, _, batch = metric.rpartition("_b")
    return f"{stem}_low_b{batch}", f"{stem}_high_b{batch}"


def whose_end(metric: str) -> str:
    """The speed-up that a metric is an end of the interval of; empty for all others."""
    hit = re.fullmatch(r"(.+)_(?:low|high)(_b\d+)", metric)
    return hit[1] + hit[2] if hit else ""


def speed_of(
    point: Point | None, metric: str, environment: str = "", probe: str = "cost", group: str = ""
) -> Speed | None:
    """A point's speed-up; ``None`` where the probe says nothing of it."""
    reading = point.reading(probe, metric, group, environment) if point else None
    if point is None or reading is None:
        return None
    modelled = reading.basis == "modelled"
    found = [reading if modelled else point.reading(probe, m, group, environment) for m in ends_of(metric)]
    low, high = (r.by_seed if r else {} for r in found)
    known = reading.by_seed
    whole = known and known.keys() <= low.keys() and known.keys() <= high.keys()
    ends = (min(low[s] for s in known), max(high[s] for s in known)) if whole else None
    dense = not modelled and any(RUNS_DENSE in note for note in reading.notes)
    return Speed(spread(known[s] for s in sorted(known)), ends, dense, reading.notes)


def speed_cell(
    point: Point | None,
    metric: str,
    environment: str = "",
    probe: str = "cost",
    group: str = "",
    notes: bool = True,
    brackets: bool = True,
) -> Cell:
    """A speed-up with its interval; ``no speed`` of a simulation."""
    found = speed_of(point, metric, environment, probe, group)
    if found is None:
        return EMPTY
    told = found.notes if notes else ()
    if found.figure is None:
        simulated = any(note.startswith(NO_SPEED) for note in found.notes)
        return Cell(NO_SPEED if simulated else MISSING, notes=found.notes if notes or simulated else ())
    beside = _bracketed(found) if brackets else ""
    return Cell(number(found.figure.mean, "x"), beside, found.figure.n, told)


def in_words(found: Speed) -> str:
    """``faster, 1.30× [1.25–1.36] (n = 3)``, ``not shown: runs dense``, or why there is no ratio."""
    if found.figure is None:
        return "; ".join(each_once(found.notes)) or "no ratio"
    told = figure_in_words(found)
    held = [note for note in each_once(found.notes) if DISTURBED in note]
    rest = f"; at other seeds {'; '.join(held)}" if held else ""
    if found.dense:
        return f"{NOT_SHOWN}: runs dense{rest}"
    return f"{found.verdict}, {told}{rest}"


def figure_in_words(found: Speed) -> str:
    """``1.30× [1.25–1.36] (n = 3)``."""
    if found.figure is None:
        return MISSING
    over = "one seed" if found.figure.n == 1 else f"n = {found.figure.n}"
    return f"{number(found.figure.mean, 'x')}×{_bracketed(found)} ({over})"


def _bracketed(found: Speed) -> str:
    if found.ends is None or found.ends[0] == found.ends[1]:
        return ""
    return f" [{number(found.ends[0], 'x')}–{number(found.ends[1], 'x')}]"


def batches(panel: Panel) -> list[int]:
    """Batch sizes that anything was timed at."""
    found = {batch_of(r.metric) for r in panel.rows if r.probe == "cost" and r.is_timing}
    return sorted(batch for batch in found if batch is not None)
