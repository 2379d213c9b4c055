"""Two families of states set side by side at equal bytes and at equal accuracy, read off their own curves.

A series' curve of one seed is (bytes of the shortest encoding, accuracy). Between two neighbouring states it is taken as
straight over the logarithm of bytes, and beyond its ends as unknown: no state is picked by its test accuracy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from compressbench.records import ENCODINGS
from compressbench.report.judged import judged
from compressbench.report.numbers import MISSING, grouped, spread
from compressbench.report.panels import Panel, Point, Series
from compressbench.report.styles import styles
from compressbench.report.tables import Cell, Columns, Row, Table, spread_cell
from compressbench.report.wording import difference_unit, moment_name, title_of

FACTORS = (2, 4, 8, 16, 32, 64)
DROPS = (0.5, 1.0, 2.0, 5.0)
SHARES = (1.0, 2.0, 5.0, 10.0)
"""Per cent of the dense figure, of what is no share of examples."""
Curve = Sequence[tuple[float, float]]


def at_bytes(curve: Curve, budget: float) -> float | None:
    """Accuracy at a number of bytes; ``None`` beyond the curve's ends."""
    points = sorted(curve)
    if not points or not points[0][0] <= budget <= points[-1][0]:
        return None
    for (low, one), (high, other) in itertools.pairwise(points):
        if low <= budget <= high and high > low:
            share = math.log(budget / low) / math.log(high / low)
            return one + share * (other - one)
    return next(accuracy for size, accuracy in reversed(points) if size == budget)


def at_accuracy(curve: Curve, wanted: float) -> tuple[float, bool] | None:
    """Bytes at which accuracy first falls below ``wanted`` on the way down, and whether it does so at all.

    Where it never does, these are the bytes of the smallest state. ``None`` where the largest is below already.
    """
    points = sorted(curve, reverse=True)
    if not points or points[0][1] < wanted:
        return None
    for (high, one), (low, other) in itertools.pairwise(points):
        if other < wanted:
            share = (one - wanted) / (one - other)
            return high * (low / high) ** share, True
    return points[-1][0], False


def trade_off_tables(panel: Panel, moment: str) -> list[Table]:
    """Tables at equal bytes and at equal accuracy; none without two series of several sizes, rounded ones among them."""
    curves = {series.label: _curves(panel, series, moment) for series in panel.series}
    curves = {label: found for label, found in curves.items() if found}
    rounds = any(
        point.reading("cost", "quantized_bytes") for series in panel.series for point in series.at(moment)
    )
    if len(curves) < 2 or not rounds or panel.main is None:
        return []
    chosen = [series for series in panel.series if series.label in curves]
    return [t for t in (_equal_bytes(panel, chosen, moment), _equal_accuracy(panel, chosen, moment)) if t]


def _curves(panel: Panel, series: Series, moment: str) -> dict[int, list[tuple[float, float]]]:
    """Seed -> curve; empty for a series of one size."""
    found: dict[int, list[tuple[float, float]]] = {}
    for point in series.at(moment):
        reading = panel.main_reading(point)
        for seed, accuracy in reading.by_seed.items() if reading else ():
            if size := _bytes(point, seed):
                found.setdefault(seed, []).append((size, accuracy))
    return {seed: curve for seed, curve in found.items() if len({size for size, _ in curve}) > 1}


def _bytes(point: Point, seed: int) -> float | None:
    readings = [point.reading("cost", metric) for metric in ENCODINGS]
    return min((r.by_seed[seed] for r in readings if r and seed in r.by_seed), default=None)


def _dense(panel: Panel, series: Series, moment: str) -> dict[int, tuple[float, float]]:
    """Seed -> bytes and accuracy of the dense model."""
    point = panel.dense_of(series, moment)
    reading = panel.main_reading(point)
    if point is None or reading is None:
        return {}
    return {s: (size, a) for s, a in reading.by_seed.items() if (size := _bytes(point, s))}


def _equal_bytes(panel: Panel, chosen: Sequence[Series], moment: str) -> Table | None:
    assert panel.main is not None
    unit = next(r.unit for s in chosen for p in s.at(moment) if (r := panel.main_reading(p)))
    lead = next((s for s in chosen if not s.is_random), chosen[0])
    columns = Columns()
    names = {f: [_at_factor(panel, s, moment, f) for s in chosen] for f in FACTORS}
    shared = [f for f, found in names.items() if sum(map(bool, found)) > 1]
    size = {f: _budget(panel, lead, moment, f) for f in shared}
    for factor in shared:
        cells = [spread_cell(spread(found.values()), unit) for found in names[factor]]
        columns.add(
            f"{factor} × smaller",
            size[factor],
            cells,
            title_of(panel.main[1]) + (f", {unit}" if unit != "1" else ""),
        )
    for factor in shared:
        base = names[factor][chosen.index(lead)]
        cells = [
            spread_cell(spread(found[s] - base[s] for s in found if s in base), difference_unit(unit), True)
            if series is not lead
            else spread_cell(None, unit)
            for series, found in zip(chosen, names[factor], strict=True)
        ]
        columns.add(
            f"{factor} × smaller", "", cells, f"minus {lead.label}, {difference_unit(unit)}".rstrip(", ")
        )
    note = (
        "Read off each seed’s own curve, straight over the logarithm of bytes between neighbouring states: where these "
        "are far apart, no such state was made. Bytes of the shortest encoding that there is of a state."
    )
    return _table(panel, chosen, columns, f"At equal bytes, {moment_name(moment)}", note)


def _at_factor(panel: Panel, series: Series, moment: str, factor: int) -> dict[int, float]:
    dense = _dense(panel, series, moment)
    found = {
        seed: at_bytes(curve, dense[seed][0] / factor)
        for seed, curve in _curves(panel, series, moment).items()
        if seed in dense
    }
    return {seed: value for seed, value in found.items() if value is not None}


def _budget(panel: Panel, series: Series, moment: str, factor: int) -> str:
    sizes = [size for size, _ in _dense(panel, series, moment).values()]
    return f"{grouped(round(sum(sizes) / len(sizes) / factor))} bytes" if sizes else ""


def _equal_accuracy(panel: Panel, chosen: Sequence[Series], moment: str) -> Table | None:
    assert panel.main is not None
    columns, by = Columns(), judged(panel)
    sign = by.better
    for drop in DROPS if by.share else SHARES:

        def allowed(whole: float, drop: float = drop) -> float:
            return drop if by.share else abs(whole) * drop / 100

        cells = []
        for series in chosen:
            dense = _dense(panel, series, moment)
            found = {
                seed: at_accuracy(
                    [(s, sign * y) for s, y in curve], sign * dense[seed][1] - allowed(dense[seed][1])
                )
                for seed, curve in _curves(panel, series, moment).items()
                if seed in dense
            }
            cells.append(_times_smaller({s: dense[s][0] for s in found}, found))
        columns.add(f"dense − {drop:g}" if by.share else f"{drop:g} % worse", "× smaller", cells)
    title = f"At equal {by.name} ({title_of(panel.main[1])}), {moment_name(moment)}"
    far = "falls that far below" if by.share else "is that much worse than"
    note = (
        f"How many times smaller than the dense file the state is at which {by.name} first {far} the dense model’s of "
        f"the same seed; “–”: its largest state is {'below' if by.share else 'worse'} already."
    )
    return _table(panel, chosen, columns, title, note)


def _times_smaller(dense: Mapping[int, float], found: Mapping[int, tuple[float, bool] | None]) -> Cell:
    """No mean over the seeds that happen to reach the accuracy: all of them do, or it is said how many."""
    below = sum(hit is None for hit in found.values())
    if below:
        said = f"the largest state is below already at {below} of {len(found)} seeds"
        return Cell(MISSING, notes=(said,) if below < len(found) else ())
    hits = {seed: hit for seed, hit in found.items() if hit}
    ends = sum(not falls for _, falls in hits.values())
    notes = (f"at least: {ends} of {len(hits)} seeds never fall so low",) if ends else ()
    return spread_cell(spread(dense[seed] / size for seed, (size, _) in hits.items()), "x", notes=notes)


def _table(panel: Panel, chosen: Sequence[Series], columns: Columns, title: str, note: str) -> Table | None:
    if not columns.heads:
        return None
    looks = styles(panel)
    rows: list[Row] = []
    for place, series in enumerate(chosen):
        cells: tuple[Cell, ...] = columns.row(place)
        rows.append(Row(series.label, cells, looks[series.label].colour, first=True))
    return Table(
        title,
        "Method",
        tuple(columns.heads),
        tuple(rows),
        columns.spanning,
        (note,),
        remarks=tuple(columns.remarks),
    )
