"""Dense nets that are no better than naming one class: nothing that compression does to them can be seen."""

from __future__ import annotations

import math

from compressbench.records import Records
from compressbench.report.numbers import Spread, number, spread
from compressbench.report.panels import Panel, Point, Series, panels
from compressbench.report.wording import title_of

ERRORS = 2  # standard errors of a share of n examples above chance that count as better


def at_chance(panel: Panel, point: Point | None) -> bool:
    """Whether a dense net's accuracy, on average over seeds, isn't above what naming the commonest class reaches.

    False where that isn't known: of records that hold neither it nor recalls per class.
    """
    reading = panel.main_reading(point)
    chance = _chance(point)
    if point is None or reading is None or reading.spread is None or chance is None or reading.unit != "%":
        return False
    n, share = min(reading.examples, default=0), min(max(chance.mean / 100, 0.0), 1.0)
    error = 100 * math.sqrt(share * (1 - share) / (n * reading.spread.n)) if n else 0.0
    return reading.spread.mean <= chance.mean + ERRORS * error


def unseen(panel: Panel, series: Series, moment: str) -> bool:
    """Whether what a series is compared with is at chance."""
    return at_chance(panel, panel.dense_of(series, moment))


def at_chance_in_words(panel: Panel, moment: str) -> list[str]:
    """A sentence for each dense net that is at chance."""
    told = []
    for label, series in panel.dense.items():
        point = next(iter(series.at(moment)), None)
        reading, chance = panel.main_reading(point), _chance(point)
        if panel.main and reading and reading.spread and chance and at_chance(panel, point):
            told.append(
                f"{label}: {title_of(panel.main[1])} {number(reading.spread.mean, '%')} % is no better than naming the "
                f"commonest class each time ({number(chance.mean, '%')} %): what "
                "is lost by compression can't be seen on it."
            )
    return told


def unseen_in_words(records: Records) -> list[str]:
    """The same for all records, each dense net at the first moment."""
    return [told for panel in panels(records) for told in at_chance_in_words(panel, panel.moments[0])]


def _chance(point: Point | None) -> Spread | None:
    known = point.reading("accuracy", "majority_top1") if point else None
    if known or point is None:
        return known.spread if known else None
    classes = {g for probe, metric, g in point.readings if (probe, metric) == ("forgetting", "recall") and g}
    return spread([100 / len(classes)]) if classes else None
